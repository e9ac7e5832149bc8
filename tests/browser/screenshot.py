"""A picture of the page at work: python tests/browser/screenshot.py http://127.0.0.1:8080/ page.png "A sentence." """

import sys

from playwright.sync_api import sync_playwright
from visiting import FLAGS, chromium


def shoot(url: str, path: str, text: str) -> None:
    """Embed and invert `text` on a running server, and save what a person sees without scrolling."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(url)
        page.locator("html[data-ready]").wait_for()
        page.fill("#text", text)
        page.click("#embed")
        page.locator("#invert:enabled").click()
        page.locator("trial-table tbody tr").wait_for()
        page.locator("label:has([name=colour][value=confidence])").click()
        page.locator(".cell").nth(1).click()
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    shoot(*sys.argv[1:])
