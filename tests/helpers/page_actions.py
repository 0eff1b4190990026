"""Acting in a page as a person does."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as NotInTime


def with_reason(page: Page, label: str, reason: str) -> None:
    """Act behind a question, by the keyboard where a person would use it."""
    page.get_by_role("button", name=label, exact=True).click()
    field = page.get_by_label("Reason, kept in the audit").locator("visible=true")
    field.fill(reason)
    field.press("Enter")
    page.get_by_role("button", name=f"{label}: yes").click()
    expect(field).to_have_count(0)


def choose(page: Page, label: str, name: str) -> None:
    """Choose from a list, again if it changed meanwhile and closed."""
    field = page.get_by_role("combobox", name=label)
    for _ in range(20):
        field.click()
        try:
            page.get_by_role("option", name=name).click(timeout=1000)
        except NotInTime:
            page.keyboard.press("Escape")
        else:
            return
    raise AssertionError(f"{name} is not offered")
