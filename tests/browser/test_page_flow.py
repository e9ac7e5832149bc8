"""The whole way through the page, against the real server."""

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer
from playwright.sync_api import expect
from visiting import Open

from fakes import fake_encoder, tiny_texts

TEXT = tiny_texts(1, seed=3)[0]
SEEN = """
window.seen = [];
const label = document.querySelector("pass-replay label");
new MutationObserver(() => seen.push(label.textContent)).observe(label, {childList: true});
"""


def vector() -> list[float]:
    """An embedding that the page has no text for."""
    return fake_encoder().encode([TEXT])[0].tolist()


def test_text_goes_to_an_embedding_and_back(visit: Open, real: str) -> None:
    page = visit(real)
    assert page.text("#model-facts").startswith("16 numbers \u2192 up to 16 tokens")
    assert "1.2 % of the tokens" in page.text("#accuracy")
    page.choose("encoder", "without")
    assert page.text("#options-note") == "without the encoder, no defence"
    page.invert(TEXT)
    page.figures()
    facts = page.text("vector-view dl")
    assert re.search(r"Dimension 16 Min \u22120\.\d+ Max 0\.\d+ Norm 1\.000 Entropy \d\.\d+ bits", facts)
    assert page.find("vector-view .histogram .bars").get_attribute("d")
    assert page.text("pass-replay label") == "Pass 8 of 8"
    assert page.find(".cell").count() == 16
    assert page.find(".cell[data-state=m]").count() == 0
    assert page.text(".original") == TEXT
    assert page.text(".blind .said") == page.text(".answer")
    assert re.fullmatch(
        r"\d+ in place, \d+ moved, \d+ wrong of \d+ tokens?, cosine \u2212?\d\.\d{3}", page.text(".blind .facts")
    )
    assert re.fullmatch(r"Without the encoder: (all \d+ words.*|\d+ of \d+ words)\.", page.text(".outcome"))
    assert page.find(".guided").is_hidden()
    assert page.find("cosine-curve").is_hidden()
    assert "Done. Recovered:" in page.text("#live")


def test_dice_give_easy_and_hard_texts(visit: Open, real: str) -> None:
    page = visit(real)
    easy = page.find("#text").input_value()
    assert easy  # the page comes with one
    page.find("#text").fill("")
    page.find("#dice-hard").click()
    expect(page.find("#text")).not_to_have_value("")
    page.find("#text").fill("")
    page.find("#dice-easy").click()
    expect(page.find("#text")).not_to_have_value("")


def test_every_pass_can_be_seen_again(visit: Open, real: str) -> None:
    page = visit(real)
    page.more()
    page.find("#steps").fill("4")
    page.choose("encoder", "without")
    page.invert(TEXT)
    masked = page.find(".cell[data-state=m]")
    for step, left in ((0, 16), (1, 12), (3, 4), (4, 0)):
        page.find("#pass").fill(str(step))
        expect(masked).to_have_count(left)
    page.page.evaluate(SEEN)
    page.find("pass-replay button").click()
    page.page.wait_for_timeout(5 * 420)
    expect(page.find("pass-replay button")).to_have_accessible_name("Play it again")
    assert page.page.evaluate("seen") == ["Before the first pass", *(f"Pass {n} of 4" for n in range(1, 5))]


def test_a_token_shows_what_else_it_could_have_been(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    page.invert(TEXT)
    page.find(".cell").nth(2).hover()
    assert page.text("token-detail").startswith("Position 3: ")
    assert page.find("token-detail li").count() == 5
    shares = [int(share.split()[0]) for share in page.find("token-detail .share").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    page.choose("colour", "confidence")
    assert page.find(".cells[data-colour=confidence]").count() == 1


def test_a_defence_changes_the_vector_before_it_is_inverted(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    page.invert(TEXT)
    page.figures()
    e = np.array(vector())
    unprotected = page.find(".strip .bars").get_attribute("d")
    sent: list[Any] = []
    page.page.on("request", lambda request: sent.append(request.post_data_json) if "invert" in request.url else None)
    for kind in ("none", "noise", "rounding", "dropping", "rotation"):
        page.choose("defence", kind)
        if kind != "none":
            if kind != "rotation":  # which has no strength
                page.strength(100)
            expect(page.find("#defence-cost strong")).to_be_visible()
            assert -0.9 < float(page.text("#defence-cost strong").replace("\u2212", "-")) < 0.95
        assert (page.find(".strip .bars").get_attribute("d") == unprotected) == (kind == "none")
        with page.page.expect_request("**/v1/invert"):
            page.find("#invert").click()
        page.finished()
        assert (": cosine to the changed embedding" in page.text(".verdict")) == (kind != "none")
        given = np.array(sent[-1]["embeddings"])
        assert np.linalg.norm(given) == pytest.approx(1, abs=1e-5)
        kept = float(page.find("trial-table td.number").first.inner_text().replace("\u2212", "-"))
        assert e @ given == pytest.approx(kept, abs=2e-3)
        if kind == "rounding":  # the strongest leaves a single bit
            assert np.allclose(np.abs(given), 0.25)
        if kind == "dropping":
            assert np.count_nonzero(given) == 1
    assert page.find("#strength").is_disabled()


def test_an_inversion_right_after_a_change_has_the_new_defence(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    page.invert(TEXT)
    page.choose("defence", "rounding")
    page.strength(100)
    with page.page.expect_request("**/v1/invert") as sent:
        page.find("#invert").click()
    assert np.allclose(np.abs(sent.value.post_data_json["embeddings"]), 0.25)
    page.finished()


def test_only_the_last_of_many_strengths_is_asked_for_and_a_link_shows_the_same(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    page.invert(TEXT)
    page.choose("defence", "noise")
    expect(page.find("#defence-cost strong")).to_be_visible()
    asked: list[float] = []
    page.page.on("request", lambda one: "defences" in one.url and asked.append(one.post_data_json["amount"]))
    page.page.evaluate(
        """for (let i = 0; i <= 50; i++) {
          document.querySelector("#strength").value = i;
          document.querySelector("#strength").dispatchEvent(new Event("input"));
        }"""
    )
    expect(page.find("#defence-cost")).to_contain_text("Gaussian noise of 0.014 on each number. Similarity")
    assert asked == [pytest.approx(0.001 * 200**0.5)]
    page.invert()  # which asks for nothing that is known
    assert len(asked) == 1
    other = visit(page.page.url)
    other.finished()
    expect(other.find("trial-table tbody tr")).to_have_count(1)
    for shown in ("#defence-cost", "trial-table td.number >> nth=0", ".answer"):
        assert other.find(shown).text_content() == page.find(shown).text_content()
    assert other.find(".strip .bars").get_attribute("d") == page.find(".strip .bars").get_attribute("d")


def test_an_embedding_of_unknown_text_is_inverted(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    page.find("embedding-input summary").click()
    numbers = vector()
    npy = io.BytesIO()
    np.save(npy, np.array([numbers, numbers], np.float16))
    lines = "\n".join(json.dumps({"embedding": row}) for row in (numbers, numbers))
    for form, data in {"json": json.dumps(numbers).encode(), "jsonl": lines.encode(), "npy": npy.getvalue()}.items():
        page.find("#file").set_input_files({"name": f"v.{form}", "mimeType": "", "buffer": data})
        expect(page.find("#embedding-note")).to_contain_text(f"v.{form}")
        if form != "json":
            page.find("#row").fill("2")
            assert f"v.{form}, row 2" in page.text("#embedding-note")
    page.find("#paste").fill(json.dumps({"data": [{"embedding": numbers}]}))
    expect(page.find("#embedding-note")).to_have_text("(pasted)")
    page.figures()
    page.invert()
    assert page.text(".original") == "Not known: pasted"
    assert re.fullmatch(r"cosine \u2212?\d\.\d{3}", page.text(".blind .facts"))
    assert page.text(".outcome") == "Without the encoder."
    page.find("#text").fill(TEXT)  # what is typed later counts instead
    page.invert()
    assert page.text(".original") == TEXT


def test_a_dropped_file_is_taken(visit: Open, real: str) -> None:
    page = visit(real)
    drop = """([numbers]) => {
      const data = new DataTransfer();
      data.items.add(new File([JSON.stringify(numbers)], "dropped.json"));
      document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    page.figures()
    page.page.evaluate(drop, [vector()])
    expect(page.find("#embedding-note")).to_have_text("(dropped.json)")
    assert page.text(".original") == "Not known: dropped.json"


def test_candidates_stand_side_by_side(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without&candidates=3")
    page.invert(TEXT)
    cards = page.find(".candidate")
    assert cards.count() == 3
    assert page.find(".candidate .facts", has_text="surest").count() == 1
    for i in range(3):
        cards.nth(i).click()
        assert page.text(".answer") == page.text(f".candidate >> nth={i} >> .said")


def test_a_link_brings_text_and_settings_back(visit: Open, real: str) -> None:
    page = visit(real, permissions=["clipboard-read", "clipboard-write"])
    page.find("#text").fill("a cat & a <dog> #1")
    page.more()
    page.find("#strategy").select_option("two-stage")
    page.find("#steps").fill("12")
    page.find("#seed").fill("7")
    page.choose("defence", "rounding")
    page.strength(100)
    page.find("#share").click()
    expect(page.find("#invert-note")).to_have_text("Link copied")
    link = page.page.evaluate("navigator.clipboard.readText()")
    assert link == page.page.url
    other = visit(link)
    assert other.find("#text").input_value() == "a cat & a <dog> #1"
    assert other.find("#strategy").input_value() == "two-stage"
    assert other.find("#steps").input_value() == "12"
    assert other.find("#seed").input_value() == "7"
    assert other.find("[name=defence]:checked").input_value() == "rounding"
    assert other.find("#strength").input_value() == "100"


def test_steering_is_asked_for_as_it_is_set(visit: Open, canned: FakeServer) -> None:
    canned.models[1] = canned.models[1] | {"defaults": canned.models[1]["defaults"] | {"steering": 0.0}}
    page = visit(f"{canned.url}#encoder=without")
    page.more()
    assert "Steering draws it" in page.text("#strategy-note")
    page.invert(TEXT)
    page.find("#steering").fill("0")
    assert page.text("#steering-value") == "none"
    assert "Steering" not in page.text("#strategy-note")
    page.invert()
    page.find("#steering").fill("60")
    page.invert()
    assert "&steering=60&" in page.page.url
    other = visit(page.page.url)  # which runs by itself
    assert other.find("#steering").input_value() == "60"
    other.finished()
    page.find("#model").select_option("other")  # which cannot be steered
    assert page.find("#steering").is_hidden()
    page.invert()
    page.find("#model").select_option("all-MiniLM-L6-v2")
    assert page.text("#steering-value") == "60"
    assert [request["steering"] for request in canned.mood.requests] == [100, 0, 60, 60, 0]


def test_another_model_forgets_the_embedding(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    page.invert(TEXT)
    page.figures()
    page.find("#model").select_option("other")
    assert page.text(".original") == ""
    assert page.text(".answer").startswith("Nothing yet.")
    assert "no measured accuracy" in page.text("#accuracy")
    with page.page.expect_request("**/v1/embeddings") as asked:
        page.invert()
    assert asked.value.post_data_json["model"] == "other"


def test_the_keyboard_is_enough(visit: Open, real: str) -> None:
    page = visit(f"{real}#encoder=without")
    press = page.page.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(40):
            if page.find(f"{selector}:focus").count():
                return
            press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    press("Tab")
    press("Enter")  # the skip link
    tab_to("#text")
    press("Control+a")
    page.page.keyboard.type(TEXT)
    press("Enter")
    expect(page.find("trial-table tbody tr")).to_have_count(1)
    tab_to("#more > summary")
    press("Enter")
    tab_to("[name=defence]")
    press("ArrowRight")
    tab_to("#strength")
    press("ArrowRight")
    press("Shift+Tab")
    page.find("#invert").focus()
    press("Enter")
    expect(page.find("trial-table tbody tr")).to_have_count(2)
    tab_to("#pass")
    press("Home")
    expect(page.find(".cell[data-state=m]")).to_have_count(16)
    press("End")
    tab_to(".cell")
    press("ArrowRight")
    press("ArrowDown")
    assert page.text("token-detail").startswith("Position 10: ")
