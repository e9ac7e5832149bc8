"""What a person sees without scrolling or opening anything: the answer, what it means, whether it is out of date."""

import json
import re

import numpy as np
import pytest
from fake_server import EASY, HARD, FakeServer
from playwright.sync_api import expect
from visiting import Open, Visit

SIZES = [(1280, 900), (390, 844), (768, 1024), (1920, 1080)]
COLOUR = "element => getComputedStyle(element).color"
OPACITY = "cells => cells.map((cell) => Number(getComputedStyle(cell).opacity))"


def asked(page: Visit) -> list[str]:
    """Addresses of the inversions that the page asks for from now on."""
    found: list[str] = []
    page.page.on("request", lambda request: "invert" in request.url and found.append(request.url))
    return found


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_answer_is_in_sight_and_nothing_jumps(visit: Open, canned: FakeServer, width: int, height: int) -> None:
    page = visit(canned.url, width=width, height=height)
    for text in (EASY, HARD):
        page.invert(text)
        assert page.page.evaluate("scrollY") == 0
        button, answer, verdict = (page.find(each).bounding_box() for each in ("#invert", ".answer", ".verdict"))
        assert 0 < answer["y"] - (button["y"] + button["height"]) < 90
        assert answer["x"] == button["x"]
        assert verdict["y"] + verdict["height"] <= height
    assert page.settled() < 0.05
    for folded in ("#strategy", "#steps", "#candidates", "#seed", "#seconds", ".original", ".histogram"):
        assert page.find(folded).is_hidden()


def test_the_numbers_of_the_headings_are_the_order_of_the_page(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    headings = page.find("h2:has(.ordinal)")
    names = [" ".join(text.split()) for text in headings.all_inner_texts()]
    assert names == ["1 Text or embedding", "2 What is sent", "3 What came back"]
    for width, height in SIZES:
        page.page.set_viewport_size({"width": width, "height": height})
        boxes = [heading.bounding_box() for heading in headings.all()]
        assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"]
        assert boxes[0]["x"] == boxes[1]["x"] == boxes[2]["x"]


def test_a_cosine_is_said_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    for cosine, says in (
        (0.99999997, "1.00: the same text to the encoder"),
        (0.99999, "0.99: very close, but not the text"),
        (0.931, "0.93: nearly the same meaning"),
        (0.9199, "0.91: the topic, about half of the words"),
        (0.6, "0.60: at best the topic"),
        (-0.104, "\u22120.11: hardly anything"),
    ):
        page.page.evaluate("cosine => document.querySelector('recovered-text').judge(cosine, false)", cosine)
        assert page.text(".verdict") == says


def test_padding_is_dimmed(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    page.invert("the cat sat")
    opacity = page.find(".cell").evaluate_all(OPACITY)
    assert opacity[:4] == [1] * 4  # three words and the end
    assert len(opacity[4:]) == 28
    assert max(opacity[4:]) < 0.5
    expect(page.find(".cell").nth(4)).to_have_accessible_name(re.compile("Position 5: padding"))


def test_results_are_marked_once_the_input_has_changed(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    stale, answer = page.find("#stale"), page.find(".answer")
    assert stale.get_attribute("role") == "status"
    page.find("#text").fill("a text")  # before anything came back nothing can be out of date
    expect(stale).to_be_empty()
    page.invert(EASY)
    fresh = answer.evaluate(COLOUR)
    page.more()
    for change, back in (
        (lambda: page.find("#text").fill(EASY + "!"), lambda: page.find("#text").fill(EASY)),
        (lambda: page.find("#steps").fill("4"), lambda: page.find("#steps").fill("8")),
        (lambda: page.choose("encoder", "with"), lambda: page.choose("encoder", "without")),
        (lambda: page.choose("defence", "noise"), lambda: page.choose("defence", "none")),
    ):
        change()
        expect(stale).to_have_text("Out of date: the text or an option has changed")
        assert answer.evaluate(COLOUR) != fresh
        back()
        expect(stale).to_be_empty()
        assert answer.evaluate(COLOUR) == fresh
    page.find("#text").fill("another text")
    assert page.text("#embedding-note") == "(of the text before)"
    page.invert()
    expect(stale).to_be_empty()
    assert page.text("#embedding-note") == ""


def test_an_embedding_given_later_and_a_text_typed_after_it(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    page.invert(EASY)
    page.find("embedding-input summary").click()
    page.find("#paste").fill(json.dumps(canned.embed(HARD, 384).tolist()))
    assert page.text(".answer").startswith("Nothing yet.")
    page.invert()
    expect(page.find("#stale")).to_be_empty()
    page.find("#text").press_sequentially("x")
    expect(page.find("#stale")).to_contain_text("Out of date")


def test_enter_inverts_and_shift_enter_begins_a_line(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    text, found = page.find("#text"), asked(page)
    text.fill("a cat")
    text.press("Shift+Enter")
    expect(text).to_have_value("a cat\n")
    for event in ({"isComposing": True}, {"keyCode": 229}):  # an input method takes a word over
        text.dispatch_event("keydown", {"key": "Enter", "bubbles": True, "cancelable": True} | event)
    page.find("embedding-input summary").click()
    page.find("#paste").press("Enter")
    expect(page.find("#paste")).to_have_value("\n")
    assert not found
    text.press("Enter")
    expect(page.find("#live")).to_contain_text("Done. Recovered")
    expect(text).to_have_value("a cat\n")
    assert len(found) == 1


def test_enter_while_it_runs_begins_anew_only_with_what_has_changed(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    canned.mood.hold_at = 3
    page.press("a cat")
    expect(page.find("pass-replay label")).to_have_text("Pass 2 of 8")
    found = asked(page)
    page.find("#text").press("Enter")
    page.find("#text").fill("a dog")
    expect(page.find("#stale")).to_contain_text("Out of date")
    assert not found
    canned.mood.hold_at = None
    page.find("#text").press("Enter")
    expect(page.find("#live")).to_contain_text("Done. Recovered")
    page.finished()
    expect(page.find("#stale")).to_be_empty()
    assert len(found) == 1
    page.figures()
    assert page.text(".original") == "a dog"


def test_a_copied_link_runs_by_itself(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url, permissions=["clipboard-read", "clipboard-write"])
    page.find("#text").fill("a cat & a <dog> #1")
    page.more()
    page.find("#steps").fill("3")
    page.find("#share").click()
    expect(page.find("#invert-note")).to_have_text("Link copied")
    link = page.page.evaluate("navigator.clipboard.readText()")
    assert not canned.mood.requests
    other = visit(link)
    expect(other.find("#live")).to_contain_text("Done. Recovered")
    other.finished()
    assert [request["steps"] for request in canned.mood.requests] == [3, 3]
    other.figures()
    assert other.text(".original") != ""
    assert other.find("#text").input_value() == "a cat & a <dog> #1"
    other.page.evaluate("location.hash = 'text=another&encoder=without'")  # a link pasted into the same window
    expect(other.find("#text")).to_have_value("another")
    expect(other.find(".answer")).to_contain_text("another")


def test_a_link_that_cannot_be_followed_does_not_run(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#text=a+cat&model=gone")
    expect(page.find("#page-error")).to_have_text("The link asks for the model gone, which is not served here.")
    assert page.find("#text").input_value() == "a cat"
    assert page.text("#invert") == "Recover the text"
    assert not canned.mood.requests


def test_a_link_says_that_it_lacks_the_embedding(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url, permissions=["clipboard-read", "clipboard-write"])
    page.find("embedding-input summary").click()
    page.find("#paste").fill(json.dumps(np.eye(384)[0].tolist()))
    page.find("#share").click()
    expect(page.find("#invert-note")).to_have_text("Link copied, without the embedding")
    assert "text" not in page.page.evaluate("navigator.clipboard.readText()")


def test_what_is_hard_for_the_inverter_is_said(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    note, english = page.find("#text-note"), "The packaged inverter was trained on English."
    page.find("#text").fill("\u041e\u043d\u0430 \u043a\u0443\u043f\u0438\u043b\u0430 \u0431\u0438\u043b\u0435\u0442.")
    expect(note).to_have_text(f"Much of it is not in Latin letters. {english}")
    page.find("#text").fill("na\u00efve caf\u00e9s")
    expect(note).to_be_empty()
    page.invert("a \U0001f600 and a \U0001f984")
    expect(note).to_have_text("2 tokens are unknown to the encoder and cannot come back.")
    page.invert("Donaudampfschiff Rechtsschutzversicherung")
    expect(note).to_have_text(f"The encoder splits many of its words: rare ones, or not English? {english}")
    page.invert(EASY)
    expect(note).to_be_empty()
