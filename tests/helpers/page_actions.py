"""What users do in a page, with Playwright."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout


def act_with_reason(page: Page, title: str, reason: str) -> None:
    """Press a button, enter the reason that it asks for, and confirm."""
    page.get_by_role("button", name=title, exact=True).click()
    field = page.get_by_label("Reason (kept in the audit log)").locator("visible=true")
    field.fill(reason)
    field.press("Enter")
    page.get_by_role("button", name=f"Confirm: {title}").click()
    expect(field).to_have_count(0)


def select_option(page: Page, label: str, option: str) -> None:
    """Select an option; tries again if the list is closed by a change of its options."""
    field = page.get_by_role("combobox", name=label)
    for _ in range(20):
        field.click()
        try:
            page.get_by_role("option", name=option).click(timeout=1000)
        except PlaywrightTimeout:
            page.keyboard.press("Escape")
        else:
            return
    raise AssertionError(f"there is no option {option}")
