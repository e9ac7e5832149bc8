"""Guided inversion over HTTP: what the library gives, a round at a time, and never at the cost of the others."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from httpx2 import Client
from serving import Start, connect, events, post, tiny_inverter, wait_until

from fakes import fake_encoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.decoding.options import Decoding
from unembed.inverter import Inverter
from unembed.server.models import Models, Served, load_models

UNIT = [1.0] + [0.0] * 15


def stream(client: Client, headers: dict[str, str] | None = None, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/invert", json=body | {"stream": True}, headers=headers) as response:
        assert response.status_code == 200, response.read()
        return events(response.read().decode())


@pytest.mark.parametrize(
    "options",
    [
        {"max_calls": 40},
        {"max_calls": 30, "seconds": 50.0},
        {"max_calls": 21, "candidates": 3, "seed": 5, "steps": 2, "strategy": "two-stage", "temperature": 0.8},
        {"max_calls": 1, "steering": 30.0},
    ],
)
def test_an_answer_is_what_the_library_gives(client: Client, other: Served, options: dict[str, Any]) -> None:
    e_BD = other.inverter.encode(tiny_texts(2, 0))
    answer = client.post("/v1/invert", json={"embeddings": e_BD.tolist(), "model": "other", **options})
    assert answer.status_code == 200, answer.text
    tree = answer.json()
    expected = other.inverter.invert(e_BD, **options)
    assert tree["usage"]["passes"] == sum(inversion.passes for inversion in expected)
    for index, (found, inversion) in enumerate(zip(tree["data"], expected, strict=True)):
        assert found["index"] == index
        assert (found["text"], found["tokens"]) == (inversion.text, inversion.tokens)
        assert found["ids"] == inversion.ids[: len(inversion.tokens)]
        assert found["confidence"] == pytest.approx(inversion.confidence, abs=1e-3)
        assert found["cosine"] == pytest.approx(inversion.cosine, abs=1e-3)
        assert (found["passes"], found["encoder_calls"]) == (inversion.passes, inversion.encoder_calls)
        assert 0 < found["encoder_calls"] <= options["max_calls"]
        assert 0 < found["seconds"] < 50
        assert [one["text"] for one in found["candidates"]] == [one.text for one in inversion.candidates]


def test_a_blind_answer_has_no_rounds_and_no_seconds(client: Client) -> None:
    found = client.post("/v1/invert", json={"embeddings": UNIT, "model": "other"}).json()["data"][0]
    assert (found["rounds"], found["encoder_calls"], found["seconds"]) == (0, 0, None)


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_stream_shows_every_round_and_ends_with_the_answer(client: Client, other: Served, candidates: int) -> None:
    e_D = other.inverter.encode(["this letter is never cold."])[0]
    body = {"embeddings": e_D.tolist(), "model": "other", "max_calls": 50, "candidates": candidates}
    *rounds, last = stream(client, **body)
    expected = list(other.inverter.search(e_D, candidates=candidates, max_calls=50))
    assert [event["step"] for event in rounds] == list(range(len(expected)))
    assert len(rounds) > 2
    for event, inversion in zip(rounds, expected, strict=True):
        assert set(event) == {
            "type", "step", "total", "progress", "done", "seconds", "passes", "encoder_calls", "cosine", "candidates",
        }  # fmt: skip
        assert (event["type"], event["done"], event["total"]) == ("round", False, None)
        assert event["progress"] == pytest.approx(max(event["encoder_calls"] / 50, event["seconds"] / 60), abs=1e-3)
        assert (event["passes"], event["encoder_calls"]) == (inversion.passes, inversion.encoder_calls)
        assert event["cosine"] == event["candidates"][0]["cosine"]
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
    for key in ("progress", "seconds", "cosine"):
        assert [event[key] for event in rounds] == sorted(event[key] for event in rounds)
    assert rounds[-1]["progress"] == 1
    plain = client.post("/v1/invert", json=body).json()["data"][0]
    assert set(last) == {"type", "step", "total", "progress", "done", "model", "result"}
    assert (last["type"], last["step"], last["total"], last["done"]) == ("result", rounds[-1]["step"], None, True)
    assert untimed(last["result"]) == untimed(plain)
    assert plain["rounds"] == rounds[-1]["step"]


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    """A result without its seconds, its candidates likewise."""
    return {key: value for key, value in result.items() if key != "seconds"} | {
        "candidates": [untimed(one) for one in result.get("candidates", [])]
    }


def test_a_search_of_some_seconds_progresses_with_them(client: Client) -> None:
    *rounds, last = stream(client, embeddings=UNIT, model="other", seconds=0.8)
    assert len(rounds) > 1
    for event in rounds:
        assert event["progress"] == pytest.approx(min(1, event["seconds"] / 0.8), abs=1e-3)
    assert rounds[0]["progress"] < rounds[-1]["progress"] == 1
    assert last["result"]["seconds"] >= 0.8


def test_a_broken_stream_goes_on_where_it_was(client: Client, other: Served) -> None:
    e_D = other.inverter.encode(["we learn at night."])[0].tolist()
    body = {"embeddings": e_D, "model": "other", "max_calls": 60}
    whole = stream(client, **body)
    rest = stream(client, headers={"Last-Event-ID": "1"}, **body)
    assert [event["step"] for event in rest] == [event["step"] for event in whole[2:]]
    assert untimed(rest[-1]["result"]) == untimed(whole[-1]["result"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds: Input should be greater than 0"),
        ({"seconds": -1.5}, "seconds: Input should be greater than 0"),
        ({"seconds": "5"}, "seconds: Input should be a valid number"),
        ({"seconds": True}, "seconds: Input should be a valid number"),
        ({"seconds": 60.5}, "seconds is 60.5, expected at most 60"),
        ({"seconds": 1e300}, "seconds is 1e+300, expected at most 60"),
        ({"max_calls": 0}, "max_calls: Input should be greater than or equal to 1"),
        ({"max_calls": 1.5}, "max_calls: Input should be a valid integer"),
        ({"max_calls": True}, "max_calls: Input should be a valid integer"),
        ({"embeddings": [UNIT] * 4, "seconds": 50}, "4 embeddings of 50 s each exceed a request's limit of 180 s"),
        ({"seconds": 1, "model": "tiny"}, "this inverter has no surrogate"),
        ({"seconds": 1, "alternatives": 3}, "alternatives is 3, but a guided inversion has none"),
        ({"seconds": 1, "steps": 17}, "steps is 17"),
        ({"seconds": 1, "strategy": "magic"}, "magic"),
        ({"max_calls": 9, "candidates": 9}, "candidates is 9, expected 1 to 8"),
        ({"rounds": 1}, "rounds: Extra inputs are not permitted"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_impossible_searches_are_refused(client: Client, options: dict[str, Any], message: str, streamed: bool) -> None:
    """Before a stream begins, with a status and one line."""
    if "embeddings" in options and streamed:
        message = "a stream takes one embedding, found 4"
    body = {"embeddings": UNIT, "model": "other", "stream": streamed} | options
    answer = client.post("/v1/invert", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["type"] == "invalid_request"
    assert message in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_a_server_may_allow_less_or_no_guided_inversion(start: Start) -> None:
    client = start(max_seconds=7.5)
    tiny, other = client.get("/v1/models").json()["data"]
    assert (tiny["guided"], other["guided"]) == (False, True)  # for want of a surrogate
    assert tiny["limits"]["seconds"] == 7.5
    assert not {"attackers", "blind_search"} & set(tiny)
    assert tiny["defaults"]["steering"] == 0
    body = {"embeddings": UNIT, "model": "other"}
    assert "seconds is 8, expected at most 7.5" in client.post("/v1/invert", json=body | {"seconds": 8}).text
    client = start(max_seconds=0)
    assert client.get("/v1/models").json()["data"][1]["limits"]["seconds"] == 0
    for options in ({"seconds": 1}, {"max_calls": 1}):
        refused = client.post("/v1/invert", json=body | options)
        assert (refused.status_code, "allows no guided inversion" in refused.text) == (422, True)


def test_the_servers_time_bounds_a_search_that_only_counts_calls(start: Start, models: Models) -> None:
    client = start(models, max_seconds=0.5)
    *rounds, last = stream(client, embeddings=UNIT, model="other", max_calls=10**9)
    # Time also passes between a round's end and the next look at the clock, which may be the last.
    assert 0.25 < last["result"]["seconds"] < 10
    assert rounds[-1]["progress"] > 0.5


def test_the_packaged_inverter_is_searched_in_the_servers_thread(start: Start) -> None:
    """Which is in inference mode, unlike the one that the model was warmed in."""
    models = load_models([], "cpu")
    client = start(models)
    model = client.get("/v1/models").json()["data"][0]
    assert model["guided"]
    assert model["defaults"]["steering"] == Decoding.steering
    inverter = models.default.inverter
    e_D = inverter.encode(["The library opens at nine."])[0]
    body = {"embeddings": e_D.tolist(), "max_calls": 12, "steps": 2}
    found = client.post("/v1/invert", json=body, timeout=120).json()["data"][0]
    (expected,) = inverter.invert(e_D, max_calls=12, steps=2)
    assert (found["text"], found["encoder_calls"]) == (expected.text, expected.encoder_calls)
    body = {"embeddings": e_D.tolist(), "seconds": 6.0}
    assert client.post("/v1/invert", json=body, timeout=120).json()["data"][0]["encoder_calls"] > 0


def test_texts_are_embedded_over_http_while_a_search_runs(start: Start, slow: Callable[[float], Models]) -> None:
    client = start(slow(0.05))
    with client.stream("POST", "/v1/invert", json={"embeddings": UNIT, "seconds": 30, "stream": True}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines)[6:])["step"] == 0
        started = time.perf_counter()
        assert client.post("/v1/embeddings", json={"input": "a cat"}).status_code == 200
        assert client.post("/v1/invert", json={"embeddings": UNIT}).status_code == 200
        assert time.perf_counter() - started < 25  # and not the 30 that the search takes
        event = json.loads(next(lines)[6:])
        assert (event["type"], event["seconds"] < 30) == ("round", True)  # the search goes on


@pytest.mark.parametrize("streamed", [True, False])
def test_who_disconnects_frees_the_place_at_the_next_round(
    start: Start, slow: Callable[[float], Models], streamed: bool
) -> None:
    models = slow(0.1)
    client = start(models)
    encoder = models.default.inverter.encoder
    link = connect(
        client, post("/v1/invert", json.dumps({"embeddings": UNIT, "seconds": 60, "stream": streamed}).encode())
    )
    assert wait_until(lambda: encoder.calls > 20)
    link.close()
    assert wait_until(lambda: client.get("/queue").json() == {"active": 0, "waiting": 0}, 5.0)
    calls = encoder.calls
    time.sleep(0.5)
    assert encoder.calls == calls


def test_a_round_that_outlasts_the_time_limit_ends_in_words(start: Start, slow: Callable[[float], Models]) -> None:
    """Cut off without a word, the page would ask for it all again."""
    *_, last = stream(start(slow(2.0), time_limit=0.2), embeddings=UNIT, seconds=0.2)
    assert (last["type"], last["error"]["type"]) == ("error", "time_limit")


def test_a_server_that_ends_does_not_wait_for_a_search(start: Start, slow: Callable[[float], Models]) -> None:
    client = start(slow(0.1), drain_seconds=0.3)
    with client.stream("POST", "/v1/invert", json={"embeddings": UNIT, "seconds": 60, "stream": True}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines)[6:])["step"] == 0
        client.server.handle_exit(15, None)  # type: ignore[attr-defined]
        last = json.loads(list(lines)[-1][6:])
    assert (last["type"], last["error"]["type"]) == ("error", "shutting_down")


def test_an_encoder_that_fails_fails_its_search_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_inverter(0, tiny_surrogate())
    client = start(Models([Served("tiny", tiny, 1)]))
    body = {"embeddings": UNIT, "max_calls": 9}
    with monkeypatch.context() as patch:
        patch.setattr(tiny.encoder, "encode", lambda *_: np.full((1, 16), np.nan, np.float32))
        answer = client.post("/v1/invert", json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal error")
    assert client.post("/v1/invert", json=body).status_code == 200


def test_metrics_tell_rounds_and_encoder_calls(start: Start) -> None:
    parts = tiny_parts()._replace(surrogate=tiny_surrogate())
    client = start(Models([Served("tiny", Inverter(parts, fake_encoder()), 1)]))
    found = client.post("/v1/invert", json={"embeddings": UNIT, "max_calls": 30}).json()["data"][0]
    text = client.get("/metrics").text
    rounds = found["rounds"] + 1  # the blind candidates count as one
    assert f'unembed_round_seconds_count{{model="tiny"}} {rounds:.1f}' in text
    assert f'unembed_encoder_calls_total{{model="tiny"}} {found["encoder_calls"]:.1f}' in text
    assert f'unembed_passes_total{{model="tiny"}} {found["passes"]:.1f}' in text
