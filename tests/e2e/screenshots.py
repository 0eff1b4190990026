"""Pictures of the running demo for the README.

    python tests/e2e/screenshots.py [FOLDER]

Needs the development set-up and chromium; writes PNG files into FOLDER (default: .github).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from e2e.running import Running, started
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


# Page → its picture's name, height in pixels, what to bring into view, in which theme.
PAGES = (
    ("Overview", "overview-light", 1330, None, "light"),
    ("Overview", "overview-dark", 1330, None, "dark"),
    ("Symbols", "symbols-light", 900, "One symbol", "light"),
    ("Jobs", "jobs-dark", 1330, None, "dark"),
)


def shoot(
    browser: Browser,
    demo: Running,
    file: Path,
    name: str,
    height: int,
    seen: str | None,
    theme: str,
) -> None:
    page = browser.new_page(
        viewport={"width": 1440, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
    )
    page.goto(demo.dashboard)
    page.get_by_role("link", name=name).click()
    expect(page.get_by_text("data as of").first).to_be_attached(timeout=30_000)
    expect(page.locator(".js-plotly-plot").first).to_be_attached()
    page.wait_for_timeout(3000)  # the charts' entrance
    if seen is not None:
        page.get_by_role("heading", name=seen).evaluate("found => found.scrollIntoView()")
        page.wait_for_timeout(500)
    page.screenshot(path=file)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / ".github")
    folder: Path = parser.parse_args().folder
    script = Path(sys.executable).with_name("enrichment")
    with (
        TemporaryDirectory() as elsewhere,
        started(script, "demo", Path(elsewhere)) as demo,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, file, height, seen, theme in PAGES:
            shoot(browser, demo, folder / f"{file}.png", name, height, seen, theme)
        browser.close()


if __name__ == "__main__":
    main()
