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


def shoot(browser: Browser, demo: Running, folder: Path, theme: str) -> None:
    page = browser.new_page(
        viewport={"width": 1440, "height": 1330},
        color_scheme="dark" if theme == "dark" else "light",
    )
    page.goto(demo.dashboard)
    expect(page.get_by_text("data as of")).to_be_attached(timeout=30_000)
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    page.wait_for_timeout(1500)  # the charts' entrance
    page.screenshot(path=folder / f"overview-{theme}.png")
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
        for theme in ("light", "dark"):
            shoot(browser, demo, folder, theme)
        browser.close()


if __name__ == "__main__":
    main()
