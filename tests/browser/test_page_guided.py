"""Guided inversion on the page: rounds as they come and again, against the real server and one of canned answers."""

import re

import pytest
from fake_server import EASY, FakeServer
from playwright.sync_api import expect
from test_page_looks import OVERFLOW, violations
from visiting import Open, Visit

from fakes import tiny_texts

TEXT = tiny_texts(1, seed=3)[0]


def attack(page: Visit, attacker: str, rounds: int) -> None:
    """Choose an attacker that may ask."""
    page.choose("attacker", attacker)
    page.find("#rounds").fill(str(rounds))


def test_rounds_climb_and_can_be_seen_again(visit: Open, real: str) -> None:
    page = visit(real)
    page.embed(TEXT)
    page.invert()
    assert page.find("cosine-curve").is_hidden()
    assert page.find("[name=attacker][value=white-box]").count() == 0  # the tiny encoder gives no gradients
    attack(page, "black-box", 6)
    page.invert()
    assert page.text("pass-replay label") == "Round 6 of 6"
    assert page.text("#live").startswith("Done. Recovered:")
    assert page.text("#live").endswith("encoder calls.")
    seen = []
    for step in range(7):
        page.find("#pass").fill(str(step))
        found = re.match(r"cosine (\u2212?0\.\d{3}|1\.000) after (\d+) encoder calls", page.text(".curve-figure"))
        assert found
        cosine, calls = found.groups()
        assert page.text("text-comparison dd >> nth=0") == cosine
        text = page.text("cosine-curve .said")
        assert text == page.text("text-comparison .said >> nth=1")
        changed = page.find("cosine-curve ins").count()
        assert changed == page.find(".cell[data-changed=true]").count()
        note = page.text("pass-replay .replay-track .quiet")
        if step:
            assert (changed > 0) == (note != "nothing better found")
        seen.append((float(cosine.replace("\u2212", "-")), int(calls)))
    assert seen[-1][0] > seen[0][0]
    assert [calls for _, calls in seen] == sorted({calls for _, calls in seen})
    blind, guided = page.find("trial-table tbody tr").all()[::-1]
    assert "confidence, 8 passes" in blind.inner_text()
    assert f"black box, {seen[-1][1]} encoder calls" in guided.inner_text()
    assert page.find(".curve-line").get_attribute("d").count("H") == 6


def test_candidates_of_a_search(visit: Open, real: str) -> None:
    page = visit(real)
    page.find("#candidates").fill("3")
    attack(page, "black-box", 2)
    page.embed(TEXT)
    page.invert()
    cards = page.find(".candidate")
    assert cards.count() == 3
    for i in range(3):
        cards.nth(i).click()
        for selector in ("cosine-curve .said", "text-comparison .said >> nth=1"):
            assert page.text(selector) == page.text(f".candidate >> nth={i} >> .said")


def test_a_link_brings_the_attacker_back(visit: Open, real: str) -> None:
    page = visit(real)
    attack(page, "black-box", 12)
    expect(page.page).to_have_url(re.compile("attacker=black-box&rounds=12$"))
    page.find("#max-calls").fill("90")
    expect(page.page).to_have_url(re.compile("attacker=black-box&rounds=12&max_calls=90$"))
    other = visit(page.page.url)
    assert other.find("[name=attacker]:checked").input_value() == "black-box"
    assert other.find("#rounds").input_value() == "12"
    assert other.find("#max-calls").input_value() == "90"
    other.choose("attacker", "blind")
    expect(other.page).not_to_have_url(re.compile("rounds|max_calls"))
    assert other.find("#rounds").is_disabled()
    assert other.find("#max-calls").is_disabled()
    unknown = visit(f"{real}#attacker=white-box&rounds=400")  # this encoder gives no gradients: blind, as for any other
    assert unknown.find("[name=attacker]:checked").input_value() == "blind"


def test_a_limit_on_encoder_calls_ends_a_search(visit: Open, real: str) -> None:
    page = visit(real)
    page.embed(TEXT)
    attack(page, "black-box", 20)
    page.find("#max-calls").fill("31")
    page.invert()
    assert page.text("#live").endswith("31 encoder calls.")
    assert "black box, 31 encoder calls" in page.text("trial-table tbody tr")
    page.find("#max-calls").fill("-3")  # no limit that could be meant
    page.invert()
    assert not page.text("#live").endswith(" 31 encoder calls.")


def test_a_search_can_be_stopped_and_what_it_found_stays(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.embed()
    attack(page, "white-box", 20)
    canned.mood.hold_at = 7
    page.find("#invert").click()
    expect(page.find("pass-replay label")).to_have_text("Round 6 of 20")
    page.page.wait_for_timeout(1600)  # a screen reader hears of a round now and then
    canned.mood.hold_at = 8
    expect(page.find("#live")).to_contain_text("Round 7 of 20, cosine 0.")
    page.find("#invert").click()
    expect(page.find("#invert")).to_have_text("Invert")
    assert page.text(".curve-figure").endswith("after 127 encoder calls")
    assert "white box, 127 encoder calls, stopped" in page.text("trial-table tbody tr")
    assert page.text("trial-table tbody td >> nth=2") == page.text("text-comparison dd >> nth=0")
    assert page.text("trial-table tbody .said") == page.text("cosine-curve .said")
    page.find("#pass").fill("3")
    expect(page.find("pass-replay label")).to_have_text("Round 3 of 20")
    assert page.find("cosine-curve ins").count() > 0
    canned.mood.hold_at = None
    page.invert()
    request = canned.mood.requests[-1]
    assert (request["attacker"], request["rounds"], request["alternatives"]) == ("white-box", 20, 0)
    assert request["max_calls"] is None


def test_what_was_found_until_the_time_was_up_stays(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.embed()
    attack(page, "white-box", 20)
    canned.mood.fail_after = 5
    page.find("#invert").click()
    says = "The request took longer than 60 s. What was found until then stays."
    expect(page.find("#invert-error")).to_have_text(says)
    assert page.text("pass-replay label") == "Round 5 of 20"
    assert "93 encoder calls, stopped" in page.text("trial-table tbody tr")
    page.find("#pass").fill("0")
    expect(page.find("pass-replay label")).to_have_text("Blind start")


def test_a_broken_search_goes_on_where_it_broke(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.embed()
    attack(page, "black-box", 6)
    canned.mood.break_after = [3, 2]
    page.invert()
    assert len(canned.mood.requests) == 3
    page.find("#pass").fill("1")
    expect(page.find(".curve-figure")).to_contain_text("after 25 encoder calls")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_moves_while_rounds_arrive(visit: Open, canned: FakeServer, width: int) -> None:
    page = visit(canned.url, width=width)
    page.embed(EASY)
    attack(page, "white-box", 9)
    canned.mood.hold_at = 0
    page.find("#invert").click()
    expect(page.find("#invert")).to_have_text("Stop")
    before = page.settled()  # what moves at once was moved by the click
    for step in (1, 4, 8):
        canned.mood.hold_at = step
        expect(page.find(".curve-figure")).to_contain_text(f"after {17 * step - 9} encoder calls")
    assert page.shifts() - before < 0.001


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_a_search_is_accessible_and_fits(visit: Open, canned: FakeServer, width: int, scheme: str) -> None:
    page = visit(canned.url, width=width, scheme=scheme, reduced_motion="reduce")
    page.embed("Internationalisation of counterrevolutionaries notwithstanding, " + "x" * 120)
    attack(page, "white-box", 12)
    canned.mood.hold_at = 7
    page.find("#invert").click()
    expect(page.find("pass-replay label")).to_have_text("Round 6 of 12")
    assert violations(page.page) == []
    canned.mood.hold_at = None
    expect(page.find("trial-table tbody tr")).to_have_count(1)
    page.find(".cell").nth(1).click()
    assert "with all others in sight" in page.text("token-detail")
    page.find("#pass").fill("3")
    assert violations(page.page) == []
    assert page.page.evaluate(OVERFLOW) == 0


def test_the_keyboard_chooses_the_attacker(visit: Open, real: str) -> None:
    page = visit(real)
    page.find("[name=attacker]").first.focus()
    page.page.keyboard.press("ArrowRight")
    assert page.find("[name=attacker]:checked").input_value() == "black-box"
    page.page.keyboard.press("Tab")
    expect(page.find("#rounds")).to_be_focused()
    page.page.keyboard.press("Home")
    assert page.text("attacker-control output") == "1"


def test_a_blind_attacker_may_search_where_there_is_a_surrogate(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.embed()
    assert page.text("attacker-control output") == "none"
    attack(page, "blind", 6)
    assert page.find("#max-calls").is_disabled()
    assert "imitation of the encoder" in page.text("#attacker-note")
    expect(page.page).to_have_url(re.compile("attacker=blind&rounds=6$"))
    page.invert()
    request = canned.mood.requests[-1]
    assert (request["attacker"], request["rounds"], request["max_calls"]) == ("blind", 6, None)
    assert re.fullmatch(r"cosine 0\.\d{3} after 6 rounds, no encoder call", page.text(".curve-figure"))
    assert page.text("cosine-curve .axis-x").split() == ["0", "rounds", "6"]
    assert page.find(".curve-line").get_attribute("d").count("H") == 6
    assert "H100.00" in page.find(".curve-line").get_attribute("d")
    assert "blind, 6 rounds" in page.text("trial-table tbody tr")
    page.choose("attacker", "black-box")
    assert page.text("attacker-control output") == "20"
    page.choose("attacker", "blind")
    assert page.text("attacker-control output") == "6"  # each keeps its own
    page.page.evaluate("location.hash = 'text=another'")  # a link that asks for no search
    expect(page.find("attacker-control output")).to_have_text("none")
    page.find("#rounds").fill("0")
    page.invert()
    assert canned.mood.requests[-1]["rounds"] == 0
    assert page.find("cosine-curve").is_hidden()


def test_a_real_blind_search_and_a_model_without_a_surrogate(visit: Open, real: str) -> None:
    page = visit(f"{real}#model=other&attacker=blind&rounds=3")
    page.embed(TEXT)
    page.invert()
    assert page.text("#live").endswith("0 encoder calls.")
    assert page.text(".curve-figure").endswith("after 3 rounds, no encoder call")
    page.find("#model").select_option("tiny")
    assert page.find("#rounds").is_disabled()
    assert page.text("attacker-control output") == "none"
