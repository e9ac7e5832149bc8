"""What the page does when the server is slow, busy, broken or gone."""

from fake_server import FakeServer
from playwright.sync_api import Route, expect
from visiting import Open


def test_a_broken_stream_goes_on_where_it_broke(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.embed()
    canned.mood.break_after = [3, 2]
    page.invert()
    assert len(canned.mood.requests) == 3
    assert page.text("pass-replay label") == "Pass 8 of 8"
    page.find("#pass").fill("2")  # frames from before the break are there still
    expect(page.find(".cell[data-state=m]")).to_have_count(24)


def test_a_busy_server_is_asked_again(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.expected = ("503",)
    page.embed()
    canned.mood.busy = 2
    page.invert()
    assert page.find("#invert-error").is_hidden()


def test_what_the_server_refuses_is_told_in_its_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.expected = ("422",)
    page.embed()
    canned.mood.error = "steps is 99, expected 1 to 32"
    page.find("#invert").click()
    expect(page.find("#invert-error")).to_have_text("Steps is 99, expected 1 to 32.")
    assert page.find("#invert").inner_text() == "Invert"
    canned.mood.error = ""
    page.invert()
    assert page.find("#invert-error").is_hidden()


def test_a_running_inversion_can_be_stopped(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.embed()
    canned.mood.hold_at = 3
    page.find("#invert").click()
    expect(page.find("pass-replay label")).to_have_text("Pass 2 of 8")
    expect(page.find("#invert")).to_have_text("Stop")
    page.find("#invert").click()
    expect(page.find("#invert")).to_have_text("Invert")
    canned.mood.hold_at = None
    page.invert()


def test_nothing_moves_while_passes_arrive(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url, width=360)
    page.embed()
    canned.mood.hold_at = 0
    page.find("#invert").click()
    expect(page.find("pass-replay label")).to_have_text("Before the first pass")
    before = page.shifts()
    for step in (3, 6, 9):
        canned.mood.hold_at = step
        expect(page.find("pass-replay label")).to_have_text(f"Pass {step - 1} of 8")
    assert page.shifts() - before < 0.001


def test_an_unreachable_server_is_told_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.expected = ("ERR_INTERNET_DISCONNECTED",)
    page.page.context.set_offline(True)
    page.find("#embed").click()
    expect(page.find("#text-error")).to_contain_text("cannot be reached")


def test_what_is_no_embedding_is_told_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.find("summary").click()
    for pasted, says in {
        "[1, 2, 3]": "It has 3 numbers; all-MiniLM-L6-v2 makes embeddings of 384.",
        "[1, null]": "Row 1 is not a list of finite numbers.",
        "[0, 0, 0]": "Row 1 is all zeros.",
        '{"weights": [1]}': "The JSON has no numbers under",
        "hello": "It is neither JSON",
        '{"embedding": "%%%"}': "The embedding is a text, but not base64.",
    }.items():
        page.find("#paste").fill(pasted)
        expect(page.find("embedding-input .error")).to_contain_text(says)
    assert page.find("#invert").is_disabled()


def test_an_empty_text_is_told_in_words(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    page.find("#text").fill("   ")
    page.find("#embed").click()
    expect(page.find("#text-error")).to_contain_text("There is no text yet")


def test_hostile_text_stays_text(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    canned.mood.wrong_share = 0.0
    page.embed("<img src=x onerror=alert(1)> & <b>bold</b>")
    page.invert()
    assert page.find("main img, main b:not(token-detail b)").count() == 0
    assert page.text("text-comparison dd >> nth=1") == "100 %"
    assert page.text("text-comparison dd >> nth=2") == "yes"


def test_moved_and_wrong_tokens_are_marked(visit: Open, canned: FakeServer) -> None:
    page = visit(canned.url)
    canned.mood.wrong_share = 0.0001  # none wrong, two swapped
    page.embed("the cat sat on the red mat")
    page.invert()
    assert page.text("text-comparison .summary") == "5 in place, 2 moved, 0 wrong of 7."
    assert page.find("text-comparison .said >> nth=1 >> .moved").all_inner_texts() == ["the", "on"]
    assert page.text("text-comparison dd >> nth=1") == "71 %"


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
