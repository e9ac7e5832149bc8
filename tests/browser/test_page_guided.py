"""The search on the page: what it reached as it comes and again, against the real server and one of canned answers."""

import re

import pytest
from fake_server import EASY, FakeServer
from playwright.sync_api import expect
from visiting import Open

from fakes import tiny_texts

TEXT = tiny_texts(1, seed=3)[0]


def test_one_press_shows_the_blind_passes_and_then_the_search(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.figures()
    canned.mood.hold_at = 3
    page.press(EASY)
    expect(page.find("pass-replay label")).to_have_text("Pass 2 of 8")
    assert page.text(".curve-figure") == "The search has not begun"
    canned.mood.hold_at, canned.mood.hold_round = None, 7
    expect(page.find("pass-replay label")).to_have_text("Round 6, 2.0 s")
    blind, facts = page.text(".blind .said"), page.text(".blind .facts")
    assert page.text(".outcome") == "With the encoder: 9 of 13 words so far, after 2.0 s (1,028 queries)."
    assert page.text(".verdict") == "0.89: the topic, about half of the words"
    assert page.text(".curve-figure") == "cosine 0.898 after 2.0 s, 1,028 queries"
    assert page.text(".curve-frame .axis-x").split() == ["0", "seconds", "5"]
    canned.mood.hold_round = None
    page.finished()
    assert page.text(".outcome") == "With the encoder: all 13 words, after 3.2 s (1,708 queries)."
    assert page.text(".answer") == page.text(".guided .said") == page.text(".original") != blind
    assert (page.text(".blind .said"), page.text(".blind .facts")) == (blind, facts)  # which stay beside it
    assert page.text("#live").startswith("Done. Recovered: the library opens")
    first, second = canned.mood.requests
    assert (first["alternatives"], first.get("seconds")) == (5, None)
    assert (second["seconds"], second.get("alternatives")) == (30, None)
    page.find("trial-table summary").click()
    rows = page.find("trial-table tbody tr").all_inner_texts()
    assert "with the encoder, 3.2 s, 1,708 queries" in rows[0]
    assert "without the encoder" in rows[1]


def test_a_real_search_climbs_and_can_be_seen_again(visit: Open, real: str) -> None:
    page = visit(f"{real}#seconds=3")
    page.invert(TEXT)
    page.figures()
    last = int(page.find("#pass").get_attribute("max"))
    assert last > 9
    seen = []
    for index in range(9, last + 1):
        page.find("#pass").fill(str(index))
        found = re.match(
            r"cosine (\u2212?0\.\d{3}|1\.000) after (\d+\.\d) s, ([\d,]+) queries", page.text(".curve-figure")
        )
        assert found
        assert page.text(".guided .facts").endswith(f"cosine {found[1]}")
        assert f"after {found[2]} s ({found[3]} queries)." in page.text(".outcome")
        assert page.text(".answer") == page.text(".guided .said")
        changed, note = page.find(".cell[data-changed=true]").count(), page.text("pass-replay .replay-track .quiet")
        assert index == 9 or (changed > 0) == (note != "nothing better found")
        seen.append([float(x.replace("\u2212", "-").replace(",", "")) for x in found.groups()])
    assert seen == sorted(seen)
    assert seen[-1][0] > seen[0][0]
    assert page.find(".curve-line").get_attribute("d").count("H") == last - 9
    page.find("#pass").fill("0")
    expect(page.find("pass-replay label")).to_have_text("Before the first pass")
    expect(page.find(".cell[data-state=m]")).to_have_count(16)


def test_a_search_can_be_stopped_and_what_it_found_stays(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    canned.mood.hold_round = 7
    page.press()
    expect(page.find("pass-replay label")).to_have_text("Round 6, 2.0 s")
    page.page.wait_for_timeout(1600)  # a screen reader hears of a round now and then
    canned.mood.hold_round = 8
    expect(page.find("#live")).to_contain_text("Round 7, 2.3 s, cosine 0.")
    page.find("#invert").click()
    page.finished()
    page.figures()
    assert page.text(".outcome") == "With the encoder: 9 of 13 words, after 2.3 s (1,198 queries)."
    expect(page.find("trial-table tbody tr").first).to_contain_text("with the encoder, 2.3 s, 1,198 queries, stopped")
    assert page.text("trial-table tbody .said >> nth=0") == page.text(".answer")
    assert page.text("trial-table tbody tr >> nth=0 >> td >> nth=1") == "9 of 13 words"
    page.find("#pass").fill("12")
    expect(page.find("pass-replay label")).to_have_text("Round 3, 1.1 s")
    canned.mood.hold_round = None
    page.invert()


def test_without_the_encoder_there_is_no_search(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.choose("encoder", "without")
    assert "no encoder is asked" in page.text("#encoder-note")
    assert page.find(".guided").is_hidden()
    page.invert()
    assert len(canned.mood.requests) == 1
    assert page.text(".outcome").startswith("Without the encoder: ")
    assert page.find("trial-table tbody tr").count() == 1


@pytest.mark.parametrize("lacks", [{"guided": False}, {"limits": {"seconds": 0}}])
def test_where_there_is_no_search_none_is_offered(visit: Open, canned: FakeServer, lacks: dict[str, object]) -> None:
    usual = canned.models[0]
    limits = usual["limits"] | lacks.get("limits", {})
    canned.models[0] = usual | lacks | {"limits": limits}
    try:
        page = visit(f"{canned.url}#encoder=with&seconds=20")
    finally:
        canned.models[0] = usual
    assert page.find("encoder-control").is_hidden()
    page.more()
    assert page.find("#seconds").is_hidden()
    page.invert()
    assert [request.get("seconds") for request in canned.mood.requests] == [None]


def test_candidates_of_a_search(visit: Open, real: str) -> None:
    page = visit(f"{real}#candidates=3&seconds=2")
    page.invert(TEXT)
    cards = page.find(".candidate")
    assert cards.count() == 3
    for i in range(3):
        cards.nth(i).click()
        assert page.text(".answer") == page.text(f".candidate >> nth={i} >> .said")


def test_a_link_brings_the_search_back(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.invert("cat")
    assert not re.search("encoder|seconds", page.page.url)
    page.more()
    page.find("#seconds").fill("12")
    page.invert()
    expect(page.page).to_have_url(re.compile("seconds=12$"))
    assert page.text("#seconds-value") == "12 s"
    assert visit(page.page.url).find("#seconds").input_value() == "12"
    page.choose("encoder", "without")
    page.invert()
    expect(page.page).to_have_url(re.compile("encoder=without$"))
    other = visit(page.page.url)
    assert other.find("[name=encoder]:checked").input_value() == "without"
    hostile = visit(f"{canned.url}#encoder=%22%5D&seconds=4000")
    assert hostile.find("[name=encoder]:checked").input_value() == "with"
    assert hostile.find("#seconds").input_value() == "60"


def test_words_are_counted_as_a_person_would(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    count = """([original, recovered]) => import("./static/compare.js")
      .then(({ compareWords, inWords }) => inWords(compareWords(original, recovered)))"""
    for original, recovered, said in (
        ("The caf\u00e9's open, isn't it?", "the cafe ' s open , isn ' t it", "all 5 words"),
        ("a cat saw a dog", "a dog saw a cat", "all 5 words in another order"),
        ("a cat saw a dog", "a cat saw a big red dog", "all 5 words and 2 more"),
        ("a cat saw a dog", "the cat saw a dog", "4 of 5 words"),
        ("a cat a cat", "a cat", "2 of 4 words"),
        ("cat", "", "0 of 1 word"),
        ("cat", "cats", "0 of 1 word"),
    ):
        assert page.page.evaluate(count, [original, recovered]) == said


def test_what_was_found_until_the_time_was_up_stays(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    canned.mood.fail_after = 5
    page.find("#invert").click()  # it may be over before anything could look at the button
    says = "The request took longer than 60 s. What was found until then stays."
    expect(page.find("#error")).to_have_text(says)
    page.finished()
    page.figures()
    assert page.text("pass-replay label") == "Round 5, 1.7 s"
    assert "858 queries, stopped" in page.text("trial-table tbody tr >> nth=0")


def test_a_broken_search_goes_on_where_it_broke(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    canned.mood.break_after = [20, 3, 2]  # the blind one not, the search twice
    page.invert()
    assert len(canned.mood.requests) == 4
    page.figures()
    page.find("#pass").fill("10")
    expect(page.find(".curve-figure")).to_contain_text("178 queries")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_moves_while_rounds_arrive(visit: Open, canned: FakeServer, width: int) -> None:
    page = visit(canned.url, width=width)
    canned.mood.hold_at, canned.mood.hold_round = 0, 0
    page.press(EASY)
    expect(page.find("vector-view .bars").first).to_have_attribute("d", re.compile("M"))
    before = page.settled()  # what moves at once was moved by the press
    canned.mood.hold_at = None
    expect(page.find("pass-replay label")).to_have_text("Pass 8 of 8")
    for step in (1, 4, 8):
        canned.mood.hold_round = step
        expect(page.find(".curve-figure")).to_contain_text(f"after {0.3 * step - 0.1:.1f} s")
    assert page.shifts() - before < 0.001


def test_the_keyboard_chooses_and_stops(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.more()
    page.find("[name=encoder]").first.focus()
    page.page.keyboard.press("ArrowRight")
    assert page.find("[name=encoder]:checked").input_value() == "without"
    page.page.keyboard.press("ArrowLeft")
    canned.mood.hold_round = 2
    page.find("#text").focus()
    page.page.keyboard.press("Enter")
    expect(page.find("pass-replay label")).to_have_text("Round 1, 0.5 s")
    page.find("#invert").focus()
    page.page.keyboard.press("Enter")
    page.finished()
