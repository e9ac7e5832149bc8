"""What the page does when the server is slow, busy, broken or gone."""

import re

from fake_server import FakeServer
from playwright.sync_api import Route, expect
from visiting import Open


def test_a_broken_stream_goes_on_where_it_broke(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    canned.mood.break_after = [3, 2]
    page.invert()
    assert len(canned.mood.requests) == 3
    assert page.text("pass-replay label") == "Pass 8 of 8"
    page.find("#pass").fill("2")  # frames from before the break are there still
    expect(page.find(".cell[data-state=m]")).to_have_count(24)


def test_a_busy_server_is_asked_again(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.expected = ("503",)
    canned.mood.busy = 2
    page.invert()
    assert page.find("#error").is_hidden()


def test_what_the_server_refuses_is_told_in_its_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.expected = ("422",)
    canned.mood.error = "steps is 99, expected 1 to 32"
    page.find("#invert").click()
    expect(page.find("#error")).to_have_text("Steps is 99, expected 1 to 32.")
    page.finished()
    canned.mood.error = ""
    page.invert()
    assert page.find("#error").is_hidden()


def test_a_running_inversion_can_be_stopped(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    canned.mood.hold_at = 3
    page.press()
    expect(page.find("pass-replay label")).to_have_text("Pass 2 of 8")
    page.find("#invert").click()
    page.finished()
    assert page.find("trial-table").is_hidden()
    canned.mood.hold_at = None
    page.invert()


def test_nothing_moves_while_passes_arrive(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url, width=360)
    canned.mood.hold_at, canned.mood.hold_round = 0, 0
    page.press()
    expect(page.find("#vector-view, vector-view .bars").first).to_have_attribute("d", re.compile("M"))
    before = page.settled()
    for step in (1, 3, 6, 9):
        canned.mood.hold_at = step
        expect(page.find("pass-replay label")).to_have_text(
            f"Pass {step - 1} of 8" if step > 1 else "Before the first pass"
        )
    assert page.shifts() - before < 0.001


def test_what_the_server_does_not_keep_is_told_and_asked_for_again(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    page.expected = ("429",)
    page.invert("a cat")
    too_many = '{"error": {"message": "more than 300 requests in a minute", "type": "rate_limited"}}'
    page.page.route("**/v1/defences", lambda route: route.fulfill(status=429, body=too_many))
    page.choose("defence", "noise")
    expect(page.find("#defence-cost")).to_have_text(
        "What is kept of it is not known. More than 300 requests in a minute."
    )
    assert page.find("#defence-cost.error").count() == 1
    page.find("#invert").click()
    expect(page.find("#error")).to_have_text("More than 300 requests in a minute.")
    page.finished()
    page.page.unroute("**/v1/defences")
    page.strength(50)
    expect(page.find("#defence-cost strong")).to_be_visible()
    assert page.find("#defence-cost.error").count() == 0
    page.invert()
    assert page.find("#error").is_hidden()


def test_a_late_answer_for_another_defence_is_dropped(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    page.invert("a cat")
    held: list[Route] = []
    page.page.route("**/v1/defences", lambda route: held.append(route))
    with page.page.expect_request("**/v1/defences"):
        page.choose("defence", "noise")
    page.choose("defence", "none")
    expect(page.find("#defence-cost")).to_have_text("As the encoder made it.")
    before = page.find(".strip .bars").get_attribute("d")
    held[0].continue_()
    page.page.wait_for_timeout(300)
    assert page.text("#defence-cost") == "As the encoder made it."
    assert page.find(".strip .bars").get_attribute("d") == before


def test_an_unreachable_server_is_told_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.expected = ("ERR_INTERNET_DISCONNECTED",)
    page.invert("a cat")
    page.page.context.set_offline(True)
    page.find("#text").fill("a dog")
    page.find("#invert").click()
    expect(page.find("#error")).to_contain_text("cannot be reached")
    expect(page.find("#stale")).to_contain_text("Out of date")


def test_what_is_no_embedding_is_told_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.find("embedding-input summary").click()
    for pasted, says in {
        "[1, 2, 3]": "It has 3 numbers; all-MiniLM-L6-v2 makes embeddings of 384.",
        "[1, null]": "Row 1, entry 2: a finite number within float32 is expected.",
        "[0, 0, 0]": "Row 1 is all zeros.",
        "[1e-60, 0]": "Row 1 is all zeros.",
        "[[], []]": "There is no embedding in it.",
        f"[0.5, {', '.join(['1e308'] * 383)}]": "Row 1, entry 2: a finite number within float32 is expected.",
        "0.5 -3.5e38": "Row 1, entry 2: a finite number within float32",
        "[0.1, NaN]": "Row 1, entry 2: a finite number within float32",
        "0.1, 0.2, Infinity": "Row 1, entry 3: a finite number within float32",
        "[[0.1, 0.2], [0.1, [0.2]]]": "Row 2, entry 2: a finite number within float32",
        '[0.1, {"a": [null]}]': "Row 1, entry 2: a finite number within float32",
        '["0.1", true]': "Row 1, entry 1: a finite number within float32",
        "[" * 50_000 + "1" + "]" * 50_000: "The JSON is nested too deeply.",
        '{"data":' * 50 + "[1]" + "}" * 50: "The JSON is nested too deeply.",
        "null": "The JSON has no numbers under",
        '{"weights": [1]}': "The JSON has no numbers under",
        "hello": "It is neither JSON",
        '{"embedding": "%%%"}': "The embedding is a text, but not base64.",
    }.items():
        page.find("#paste").fill(pasted)
        expect(page.find("embedding-input .error")).to_contain_text(says)
        assert "\n" not in page.find("embedding-input .error").inner_text()
    assert page.text("#embedding-note") == ""


def test_an_empty_text_is_told_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.find("#text").fill("   ")
    page.find("#invert").click()
    expect(page.find("#error")).to_contain_text("There is no text yet")


def test_hostile_text_stays_text(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    canned.mood.wrong_share = 0.0
    page.invert("<img src=x onerror=alert(1)> & <b>bold</b>")
    assert page.find("main img, main b:not(token-detail b)").count() == 0
    page.figures()
    assert "0 moved, 0 wrong of" in page.text(".blind .facts")
    assert page.text(".outcome") == "Without the encoder: all 9 words."


def test_moved_and_wrong_tokens_are_marked(visit: Open, canned: FakeServer) -> None:
    page = visit(f"{canned.url}#encoder=without")
    page.figures()
    canned.mood.wrong_share = 0.0001  # none wrong, two swapped
    page.invert("the cat sat on the red mat")
    assert page.text(".blind .facts").startswith("5 in place, 2 moved, 0 wrong of 7 tokens, cosine 0.")
    for said in (".blind .said", ".answer"):
        assert page.find(f"{said} .moved").all_inner_texts() == ["the", "on"]
    assert page.text(".outcome") == "Without the encoder: all 7 words in another order."


def test_what_is_typed_while_the_dice_roll_stays(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    held: list[Route] = []
    page.page.route("**/random?*", lambda route: held.append(route))
    with page.page.expect_request("**/random?*"):
        page.find("#dice-easy").click()
    page.find("#text").fill("typed meanwhile")
    with page.page.expect_response("**/random?*"):
        held[0].continue_()
    page.page.wait_for_timeout(200)  # the answer has come; what it does to the page comes right after
    expect(page.find("#text")).to_have_value("typed meanwhile")
    page.page.unroute("**/random?*")
    page.find("#dice-easy").click()
    expect(page.find("#text")).not_to_have_value("typed meanwhile")
