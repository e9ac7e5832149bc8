"""A picture of the page at work: python tests/browser/screenshot.py URL FILE.png TEXT [WIDTH] [HEIGHT] [light|dark]"""

import io
import sys
from typing import Literal
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import sync_playwright
from visiting import FLAGS, chromium

COLOURS = 64  # a third of the bytes, and the eye sees no difference


def shoot(
    url: str, path: str, text: str, width: str = "1280", height: str = "900", scheme: Literal["light", "dark"] = "light"
) -> None:
    """Recover `text` on a running server by a link to it, and save what is seen without scrolling."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": int(width), "height": int(height)}, color_scheme=scheme)
        page.set_default_timeout(400_000)
        page.goto(f"{url}#text={quote(text)}")
        page.locator("#invert:has-text('Recover')").wait_for()
        page.locator("trial-table:not([hidden])").wait_for()
        page.locator("label:has([name=colour][value=confidence])").click()
        page.locator(".cell").nth(1).click()
        page.evaluate("scrollTo(0, 0)")
        picture = page.screenshot(animations="disabled")
        browser.close()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    shoot(*sys.argv[1:])  # type: ignore[arg-type]
