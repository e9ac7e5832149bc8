"""The audit's report in a browser: it is whole without a network, fits the screen, and is accessible."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from audits import DEFENCES, DELETED, ENCODER, SECRET, TEXT, audited, report, untested
from unembed.audit.html import render


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a report can have, with a long name."""
    collections = (
        audited(traces=(TEXT, ENCODER, SECRET, DELETED)),
        audited("a-long-name" * 15, (), recovered=()),
        untested(),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(report(*collections, defences=DEFENCES, unread=("x",)), show_text=True), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_report_is_accessible_and_fits(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: problems.append(line.text))
    page.goto(page_file.as_uri())
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).display") == "block", "its style applies"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert problems == []
    assert asked == [page_file.as_uri()]
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()
    context.close()


def test_every_value_of_a_table_is_seen_on_a_narrow_screen(browser: Any, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    cut = """[...document.querySelectorAll('tbody :is(td, th)')].filter(one => {
        const box = one.getBoundingClientRect();
        return box.width < 40 || box.height < 10 || box.left < 0 || box.right > innerWidth;
    }).length"""
    assert page.evaluate(cut) == 0
    assert (
        page.evaluate("[...document.querySelectorAll('.scroll')].some(one => one.scrollWidth > one.clientWidth)")
        is False
    )
    label = "getComputedStyle(document.querySelector('#stores td'), '::before').content"
    assert page.evaluate(label) == '"What comes back"'
    keys = "[...document.querySelectorAll('.legend > span')].every(one => one.getClientRects()[0].height < 32)"
    assert page.evaluate(keys), "a mark stands beside its words"
    context.close()


def test_evidence_is_printed_and_no_table_is_cut(browser: Any, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 690, "height": 980})  # A4 within its margins
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    hidden = "[...document.querySelectorAll('details')].filter(one => one.getBoundingClientRect().height < 30).length"
    assert page.evaluate(hidden) == 0
    wide = (
        "[...document.querySelectorAll('table')].filter(one => one.getBoundingClientRect().right > innerWidth).length"
    )
    assert page.evaluate(wide) == 0
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    context.close()
