"""The page at every width and in both colour schemes: nothing overflows, and axe finds no violation."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from fake_server import FakeServer
from playwright.sync_api import expect
from visiting import Open

LONG = "Internationalisation of counterrevolutionaries notwithstanding, " + "x" * 120
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def violations(page: object) -> list[str]:
    """What axe finds, a line each."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_is_accessible_and_fits(visit: Open, canned: FakeServer, width: int, scheme: str) -> None:
    page = visit(canned.url, width=width, scheme=scheme, reduced_motion="reduce")
    assert violations(page.page) == []
    page.more()
    page.figures()
    page.find("#candidates").fill("3")
    page.find("embedding-input summary").click()
    canned.mood.hold_at = 5
    page.press(LONG)
    expect(page.find("pass-replay label")).to_have_text("Pass 4 of 8")
    assert violations(page.page) == []
    canned.mood.hold_at, canned.mood.hold_round = None, 5
    expect(page.find("pass-replay label")).to_have_text("Round 4, 1.4 s")
    assert violations(page.page) == []
    canned.mood.hold_round = None
    expect(page.find("trial-table tbody tr")).to_have_count(2)
    page.choose("defence", "dropping")  # and what came back is out of date
    page.find("trial-table summary").click()
    page.choose("colour", "confidence")
    page.find(".cell").nth(1).click()
    assert "with all others in sight" in page.text("token-detail")
    page.find("#text").fill("")
    page.find("#invert").click()
    assert violations(page.page) == []
    assert page.page.evaluate(OVERFLOW) == 0


@pytest.mark.parametrize("width", [320, 768, 1024])
def test_nothing_overflows(visit: Open, canned: FakeServer, width: int) -> None:
    page = visit(canned.url, width=width)
    page.invert(LONG)
    assert page.page.evaluate(OVERFLOW) == 0
