"""A picture of the page at work: python tests/browser/screenshot.py URL FILE.png TEXT [WIDTH HEIGHT light|dark|card]

docs/page.png has the usual size, src/unembed/server/web/card.png is "1200 630 card".
"""

import io
import sys
from typing import Literal

from PIL import Image
from playwright.sync_api import sync_playwright
from visiting import FLAGS, chromium

COLOURS = 64  # a third of the bytes, and the eye sees no difference
# What a link's preview shows, large enough to be read there.
CARD = """
:is(.top, .row, details, .bench > section, trial-table, .explain, footer) { display: none !important; }
.intro, .bench { display: block !important; }
body { zoom: 1.4; } .intro p { display: none; } h1 { font-size: 2.25rem; } .flow { gap: 0.75rem; }
textarea { resize: none !important; height: 3.25rem; } .answer { min-height: 0; }
"""


def shoot(
    url: str,
    path: str,
    text: str,
    width: str = "1280",
    height: str = "900",
    look: Literal["light", "dark", "card"] = "light",
) -> None:
    """Recover `text` on a running server and save what is seen without scrolling."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        size = {"width": int(width), "height": int(height)}
        page = browser.new_page(viewport=size, color_scheme="dark" if look == "dark" else "light", bypass_csp=True)
        page.set_default_timeout(400_000)
        page.goto(url)
        page.locator("html[data-ready]").wait_for()
        page.fill("#text", text)
        page.press("#text", "Enter")
        page.locator("trial-table:not([hidden])").wait_for()
        page.locator("label:has([name=colour][value=confidence])").click()
        page.locator(".cell").nth(1).click()
        if look == "card":
            page.add_style_tag(content=CARD)
        page.evaluate("scrollTo(0, 0)")
        picture = page.screenshot(animations="disabled")
        browser.close()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    shoot(*sys.argv[1:])  # type: ignore[arg-type]
