"""A picture of the page at work: python tests/browser/screenshot.py URL FILE.png TEXT [WIDTH] [light|dark]"""

import sys
from typing import Literal

from playwright.sync_api import sync_playwright
from visiting import FLAGS, chromium


def shoot(url: str, path: str, text: str, width: str = "1280", scheme: Literal["light", "dark"] = "light") -> None:
    """Recover `text` on a running server, and save what is seen without scrolling; on a phone all of it.

    The address may carry settings, such as #encoder=without.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": int(width), "height": 1000}, color_scheme=scheme)
        page.set_default_timeout(400_000)
        page.goto(url)
        page.locator("html[data-ready]").wait_for()
        page.fill("#text", text)
        page.click("#invert")
        page.locator("trial-table tbody tr").first.wait_for()
        page.locator("label:has([name=colour][value=confidence])").click()
        page.locator(".cell").nth(1).click()
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=path, full_page=int(width) < 800)
        browser.close()


if __name__ == "__main__":
    shoot(*sys.argv[1:])  # type: ignore[arg-type]
