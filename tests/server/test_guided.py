"""Guided inversion over HTTP: what the library gives, a round at a time, and never at the cost of the others."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from httpx2 import Client
from serving import Seen, Start, connect, events, post, tiny_inverter, wait_until, working

from fakes import FakeEncoder, fake_encoder, tiny_parts, tiny_texts
from unembed.inverter import Inversion, Inverter
from unembed.server.batching import Done
from unembed.server.faults import Fault
from unembed.server.guided import Reached, cost, search
from unembed.server.models import Models, Served, load_models
from unembed.server.work import invert
from unembed.strategies import STEERING, Options

UNIT = [1.0] + [0.0] * 15


class SlowEncoder(FakeEncoder):
    """Takes its time for each batch, so that a round is long."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        time.sleep(self.seconds)
        return super().encode(texts, batch_size)


def slow(seconds: float = 0.1) -> Models:
    """A model whose rounds take at least so long."""
    return Models([Served("slow", Inverter(tiny_parts(), SlowEncoder(seconds)), 1)])


def stream(client: Client, headers: dict[str, str] | None = None, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/invert", json=body | {"stream": True}, headers=headers) as response:
        assert response.status_code == 200, response.read()
        return events(response.read().decode())


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 3},
        {"rounds": 2, "candidates": 3, "seed": 5, "steps": 4, "attacker": "black-box"},
        {"rounds": 20, "max_calls": 11},
        {"rounds": 3, "proposals": 4},
        {"rounds": 0, "attacker": "black-box", "candidates": 4},
    ],
)
def test_an_answer_is_what_the_library_gives(client: Client, served: Served, options: dict[str, Any]) -> None:
    e_BD = served.inverter.encode(tiny_texts(3, 0))
    answer = client.post("/v1/invert", json={"embeddings": e_BD.tolist(), **options})
    assert answer.status_code == 200, answer.text
    tree = answer.json()
    expected = served.inverter.invert(e_BD, **options)
    assert tree["usage"]["passes"] == sum(inversion.passes for inversion in expected)
    for index, (found, inversion) in enumerate(zip(tree["data"], expected, strict=True)):
        assert found["index"] == index
        assert (found["text"], found["tokens"]) == (inversion.text, inversion.tokens)
        assert found["ids"] == inversion.ids[: len(inversion.tokens)]
        assert found["confidence"] == pytest.approx(inversion.confidence, abs=1e-3)
        assert found["cosine"] == pytest.approx(inversion.cosine, abs=1e-3)
        assert (found["passes"], found["encoder_calls"]) == (inversion.passes, inversion.encoder_calls)
        assert 0 < found["encoder_calls"] <= options.get("max_calls", 10**6)
        assert 0 <= found["rounds"] <= options["rounds"]
        assert [one["text"] for one in found["candidates"]] == [one.text for one in inversion.candidates]


def test_the_starts_of_a_search_are_steered_as_the_library_steers_them(client: Client, models: Models) -> None:
    inverter = models.find("other").inverter
    e_D = inverter.encode(tiny_texts(1, 0))[0]
    starts = []
    for steering in (0.0, 30.0):
        body = {"embeddings": e_D.tolist(), "model": "other", "rounds": 1, "steering": steering}
        *rounds, _ = stream(client, **body)
        expected = [inversion.text for inversion in inverter.search(e_D, 1, steering=steering)]
        assert [event["candidates"][0]["text"] for event in rounds] == expected
        starts.append(expected[0])
    assert starts[0] != starts[1]


def test_a_blind_answer_has_no_rounds(client: Client) -> None:
    found = client.post("/v1/invert", json={"embeddings": UNIT, "attacker": "blind"}).json()["data"][0]
    assert (found["rounds"], found["encoder_calls"]) == (0, 0)


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_stream_shows_every_round_and_ends_with_the_answer(client: Client, served: Served, candidates: int) -> None:
    e_D = served.inverter.encode(["this letter is never cold."])[0]
    body = {"embeddings": e_D.tolist(), "rounds": 5, "candidates": candidates}
    *rounds, last = stream(client, **body)
    expected = list(served.inverter.search(e_D, 5, candidates))
    assert [event["step"] for event in rounds] == [0, 1, 2, 3, 4, 5]
    for event, inversion in zip(rounds, expected, strict=True):
        assert set(event) == {
            "type", "step", "total", "progress", "done", "passes", "encoder_calls", "candidates",
        }  # fmt: skip
        assert (event["type"], event["done"], event["total"]) == ("round", False, 5)
        assert event["progress"] == event["step"] / 5
        assert (event["passes"], event["encoder_calls"]) == (inversion.passes, inversion.encoder_calls)
        several = inversion.candidates or [inversion]
        for candidate, one in zip(event["candidates"], several, strict=True):
            assert set(candidate) == {"text", "cosine", "tokens"}
            assert (candidate["text"], candidate["cosine"]) == (one.text, pytest.approx(one.cosine, abs=1e-4))
            content, end = candidate["tokens"][: len(one.tokens)], candidate["tokens"][len(one.tokens) :]
            assert [token["t"] for token in content] == one.tokens
            assert [token["p"] for token in content] == pytest.approx(one.confidence, abs=1e-4)
            assert [token["id"] for token in content + end] == one.ids
            assert {token["s"] for token in content + end} <= ({"c", "u"} if event["step"] else {"u"})
            assert all(token["end"] and token["t"] == "" and token["p"] is None for token in end)
    plain = client.post("/v1/invert", json=body).json()["data"][0]
    assert set(last) == {"type", "step", "total", "progress", "done", "model", "result"}
    assert (last["type"], last["step"], last["done"], last["result"]) == ("result", 5, True, plain)
    assert plain["rounds"] == 5


def test_a_token_is_changed_where_it_was_not_taken_over(served: Served) -> None:
    """By alignment, not by position: one more word in front changes one token."""
    one = served.inverter.invert(np.array(UNIT, np.float32))[0]

    def texts() -> Iterator[Inversion]:
        for words in (["a", "cat"], ["the", "a", "cat"], ["the", "a", "cat"], ["the", "a", "dog"]):
            yield replace(one, tokens=words)

    found: list[Reached] = []

    async def follow() -> None:
        async with working() as batcher:
            await batcher.submit(served, 1, lambda _: search([texts()], 3, found.append)).result()

    asyncio.run(follow())
    assert [reached.step for reached in found] == [0, 1, 2, 3]
    assert [reached.changed[0] for reached in found] == [
        [False, False], [True, False, False], [False, False, False], [False, False, True],
    ]  # fmt: skip


def test_a_broken_stream_goes_on_where_it_was(client: Client, served: Served) -> None:
    body = {"embeddings": served.inverter.encode(["we learn at night."])[0].tolist(), "rounds": 4}
    whole = stream(client, **body)
    assert stream(client, headers={"Last-Event-ID": "2"}, **body) == whole[3:]


def test_best_of_several_is_a_stream_of_one_round(client: Client) -> None:
    only, last = stream(client, embeddings=UNIT, attacker="black-box")
    assert (only["step"], only["total"], only["progress"]) == (0, 0, 1.0)
    assert last["result"]["text"] == only["candidates"][0]["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "rounds: Input should be greater than or equal to 0"),
        ({"rounds": 51}, "rounds is 51, expected 0 to 50"),
        ({"rounds": 10**30}, "expected 0 to 50"),
        ({"rounds": 1.5}, "rounds: Input should be a valid integer"),
        ({"rounds": True}, "rounds: Input should be a valid integer"),
        ({"rounds": 1, "attacker": "red"}, "attacker: Input should be 'blind', 'black-box' or 'white-box'"),
        ({"rounds": 1, "attacker": "blind"}, "this inverter has no surrogate to judge a blind search"),
        ({"rounds": 1, "attacker": "white-box"}, "tiny gives no gradients: expected blind, black-box"),
        ({"rounds": 1, "proposals": 129}, "proposals is 129, expected 1 to 128"),
        ({"rounds": 1, "proposals": 0}, "proposals: Input should be greater than or equal to 1"),
        ({"rounds": 1, "max_calls": 0}, "max_calls: Input should be greater than or equal to 1"),
        ({"max_calls": 5}, "max_calls is 5, but a blind inversion makes no encoder calls"),
        ({"rounds": 1, "alternatives": 3}, "alternatives is 3, but a guided inversion has none"),
        ({"rounds": 1, "steps": 17}, "steps is 17"),
        ({"rounds": 1, "strategy": "magic"}, "magic"),
        ({"rounds": 1, "candidates": 9}, "candidates is 9, expected 1 to 8"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_impossible_searches_are_refused(client: Client, options: dict[str, Any], message: str, streamed: bool) -> None:
    """Before a stream begins, with a status."""
    answer = client.post("/v1/invert", json={"embeddings": UNIT, "stream": streamed, **options})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["type"] == "invalid_request"
    assert message in answer.json()["error"]["message"]


def test_models_tell_what_attackers_and_rounds_there_are(start: Start) -> None:
    client = start(max_rounds=7, max_proposals=20)
    model = client.get("/v1/models").json()["data"][0]
    assert (model["attackers"], model["limits"]["rounds"]) == (["blind", "black-box"], 7)
    assert model["defaults"]["rounds"] == 0
    assert not model["blind_search"]  # for want of a surrogate
    assert model["defaults"]["steering"] == 0
    refused = client.post("/v1/invert", json={"embeddings": UNIT, "rounds": 8})
    assert "rounds is 8, expected 0 to 7" in refused.text
    assert model["limits"]["proposals"] == 20
    refused = client.post("/v1/invert", json={"embeddings": UNIT, "rounds": 1, "proposals": 21})
    assert "proposals is 21, expected 1 to 20" in refused.text


def test_a_white_box_takes_gradients_in_the_servers_thread(start: Start) -> None:
    """With the packaged inverter: the thread is in inference mode, in which there are none."""
    models = load_models([], "cpu", warm=False)
    assert models.default.attackers == ["blind", "black-box", "white-box"]
    client = start(models)
    model = client.get("/v1/models").json()["data"][0]
    assert model["blind_search"]
    assert model["defaults"]["steering"] == STEERING
    inverter = models.default.inverter
    e_D = inverter.encode(["The library opens at nine."])[0]
    body = {"embeddings": e_D.tolist(), "rounds": 1, "steps": 2, "candidates": 2}
    found = client.post("/v1/invert", json=body, timeout=120).json()["data"][0]
    (expected,) = inverter.invert(e_D, rounds=1, steps=2, candidates=2, attacker="white-box")
    assert (found["text"], found["encoder_calls"]) == (expected.text, expected.encoder_calls)


def test_a_blind_request_is_done_while_long_searches_run() -> None:
    """Three searches of 50 slow rounds: 16 passes must not wait for more than a few of them."""
    models = slow(0.05)
    inverter = models.default.inverter
    e_BD = inverter.encode(tiny_texts(4, 1))
    seen = Seen()

    async def together() -> int:
        async with working(seen) as batcher:
            searches = [
                batcher.submit(models.default, 1, lambda t, e=e_D: search([inverter.search(e, 50)], 50, t.emit))
                for e_D in e_BD[:3]
            ]
            for ticket in searches:
                assert (await ticket.event()).step == 0
            before = len(seen.rounds)
            plain = batcher.submit(models.default, 1, lambda _: invert(models.default, e_BD[3:], Options(steps=16)))
            assert len(await plain.result()) == 1
            rounds = len(seen.rounds) - before
            for ticket in searches:
                assert not isinstance(await ticket.event(), Done)
                ticket.leave()
            return rounds

    assert asyncio.run(together()) <= 8


def test_searches_take_turns_and_are_counted(served: Served) -> None:
    seen, order = Seen(), list[str]()

    async def together() -> None:
        gate = threading.Event()
        async with working(seen, max_batch=2) as batcher:
            tickets = []
            for number, e_D in enumerate(served.inverter.encode(tiny_texts(3, 2))):
                watch = lambda reached, n=number: (gate.wait(20), order.append(f"{n}.{reached.step}"))  # noqa: E731
                searches = [served.inverter.search(e_D, 2)]
                tickets.append(
                    batcher.submit(
                        served, 1, lambda _, s=searches, w=watch: search(s, 2, w), cost(2, 1, None, 16), True
                    )
                )
            gate.set()
            found = [await ticket.result() for ticket in tickets]
            assert sum(calls for _, calls in seen.rounds) == sum(f[0].inversions[0].encoder_calls for f in found)
            assert sum(passes for passes, _ in seen.rounds) == sum(f[0].passes for f in found)
            assert batcher.seconds_for(1) > 0  # rounds set the pace too

    asyncio.run(together())
    assert sorted(order) == [f"{number}.{step}" for number in range(3) for step in range(3)]
    assert {name[0] for name in order[:3]} == {"0", "1", "2"}  # although there is room for two at a time


def test_long_searches_are_no_reason_to_refuse_a_blind_request(served: Served) -> None:
    """It shares the thread with them and does not wait for their end; a further search does."""
    inverter = served.inverter
    e_BD = inverter.encode(tiny_texts(2, 1))

    async def fill() -> None:
        gate = threading.Event()
        async with working(time_limit=20.0) as batcher:
            await batcher.submit(served, 1, lambda _: invert(served, e_BD, Options(steps=8)), cost=16).result()
            alone = batcher.seconds_for(8)
            most = int(20 / batcher.seconds_for(1))
            make = lambda _: search([inverter.search(e_BD[0], 1)], 1, lambda _: gate.wait(20))  # noqa: E731
            first = batcher.submit(served, 1, make, 10 * most, guided=True)
            assert batcher.seconds_for(8) == pytest.approx(2 * alone)
            with pytest.raises(Fault, match="longer than the limit of 20 s"):
                batcher.submit(served, 1, make, 10, guided=True)
            blind = batcher.submit(served, 1, lambda _: invert(served, e_BD[1:], Options(steps=8)), 8)
            gate.set()
            assert len(await blind.result()) == len(await first.result()) == 1

    asyncio.run(fill())


@pytest.mark.parametrize("streamed", [True, False])
def test_who_disconnects_frees_the_place_at_the_next_round(start: Start, streamed: bool) -> None:
    models = slow()
    client = start(models)
    encoder = models.default.inverter.encoder
    link = connect(
        client, post("/v1/invert", json.dumps({"embeddings": UNIT, "rounds": 50, "stream": streamed}).encode())
    )
    assert wait_until(lambda: encoder.calls > 20)
    link.close()
    assert wait_until(lambda: client.get("/queue").json() == {"active": 0, "waiting": 0}, 3.0)
    calls = encoder.calls
    time.sleep(0.3)
    assert encoder.calls == calls


def test_the_time_limit_ends_a_search(start: Start) -> None:
    client = start(slow(), time_limit=0.5)
    answer = client.post("/v1/invert", json={"embeddings": UNIT, "rounds": 50})
    assert (answer.status_code, answer.json()["error"]["type"]) == (504, "time_limit")
    *rounds, last = stream(client, embeddings=UNIT, rounds=50)
    assert rounds[0]["step"] == 0
    assert (last["type"], last["error"]["type"]) == ("error", "time_limit")


def test_a_round_that_outlasts_the_time_limit_ends_in_words(start: Start) -> None:
    """Cut off without a word, the page would ask for it all again."""
    *_, last = stream(start(slow(3.0), time_limit=0.2), embeddings=UNIT, rounds=50)
    assert (last["type"], last["error"]["type"]) == ("error", "time_limit")


def test_a_server_that_ends_does_not_wait_for_a_search(start: Start) -> None:
    client = start(slow(), drain_seconds=0.3)
    with client.stream("POST", "/v1/invert", json={"embeddings": UNIT, "rounds": 50, "stream": True}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines)[6:])["step"] == 0
        client.server.handle_exit(15, None)  # type: ignore[attr-defined]
        last = json.loads(list(lines)[-1][6:])
    assert (last["type"], last["error"]["type"]) == ("error", "shutting_down")


def test_an_encoder_that_fails_fails_its_search_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_inverter(0)
    client = start(Models([Served("tiny", tiny, 1)]))
    with monkeypatch.context() as patch:
        patch.setattr(tiny.encoder, "encode", lambda *_: np.full((1, 16), np.nan, np.float32))
        answer = client.post("/v1/invert", json={"embeddings": UNIT, "rounds": 2})
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal error")
    assert client.post("/v1/invert", json={"embeddings": UNIT, "rounds": 2}).status_code == 200


def test_metrics_tell_rounds_and_encoder_calls(start: Start) -> None:
    client = start(Models([Served("tiny", Inverter(tiny_parts(), fake_encoder()), 1)]))
    found = client.post("/v1/invert", json={"embeddings": UNIT, "rounds": 2}).json()["data"][0]
    text = client.get("/metrics").text
    assert 'unembed_round_seconds_count{model="tiny"} 3.0' in text  # the starts count as one
    assert f'unembed_encoder_calls_total{{model="tiny"}} {found["encoder_calls"]:.1f}' in text
    assert f'unembed_passes_total{{model="tiny"}} {found["passes"]:.1f}' in text
