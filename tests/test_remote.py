"""A queried encoder: what it sends, what it believes, and what it does when the other side fails."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from fakes import fake_encoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.encoders.remote import KEY, RemoteEncoder
from unembed.errors import EncoderError, InputError
from unembed.inverter import Inverter

URL = "https://encoder.example/v1/embeddings"
FAKE = fake_encoder()
TEXTS = tiny_texts(5)

Handler = Callable[[httpx2.Request], httpx2.Response]


def answer(
    request: httpx2.Request, change: Callable[[list[dict[str, Any]]], Any] = lambda data: data
) -> httpx2.Response:
    """What an honest endpoint would say, last text first, changed."""
    vectors = FAKE.encode(json.loads(request.content)["input"])
    data = [{"index": index, "embedding": row.tolist()} for index, row in enumerate(vectors)]
    return httpx2.Response(200, json={"data": change(data[::-1])})


def remote(handler: Handler, slept: list[float] | None = None) -> RemoteEncoder:
    slept = [] if slept is None else slept
    return RemoteEncoder(URL, FAKE.recipe, FAKE.tokenizer, transport=httpx2.MockTransport(handler), sleep=slept.append)


def test_texts_come_back_in_their_order_and_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    requests: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return answer(request)

    encoder = remote(handler)
    found = encoder.encode([*TEXTS, TEXTS[0]], batch_size=2)
    np.testing.assert_allclose(found, FAKE.encode([*TEXTS, TEXTS[0]]), atol=1e-6)
    assert found.dtype == np.float32
    assert [len(json.loads(request.content)["input"]) for request in requests] == [2, 2, 1]
    assert requests[0].headers["Authorization"] == "Bearer secret"
    assert json.loads(requests[0].content)["model"] == "fake"
    assert encoder.calls == 5
    assert encoder.tokens == sum(len(ids) + 2 for ids in FAKE.tokenizer.encode_batch(TEXTS))  # [CLS] and [SEP]
    encoder.encode(TEXTS)
    assert len(requests) == 3
    assert encoder.encode([]).shape == (0, 16)
    rows = FAKE.tokenizer.encode_batch(TEXTS[:2])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    tokens = encoder.encode_tokens(ids, torch.tensor([len(row) for row in rows]))
    np.testing.assert_allclose(tokens.numpy(), found[:2], atol=1e-6)


@pytest.mark.parametrize("failure", [429, 500, 503, httpx2.ReadTimeout("slow"), httpx2.ConnectError("gone")])
def test_what_may_pass_is_tried_again(failure: int | Exception) -> None:
    failures = iter([failure, failure])
    slept: list[float] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        found = next(failures, None)
        if isinstance(found, Exception):
            raise found
        return answer(request) if found is None else httpx2.Response(found)

    assert remote(handler, slept).encode(TEXTS).shape == (5, 16)
    assert slept == [0.5, 1.0]


def test_it_waits_as_long_as_it_is_told() -> None:
    headers = iter(["7", "Wed, 21 Oct 2026 07:28:00 GMT", "9999", None])
    slept: list[float] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        after = next(headers)
        return answer(request) if after is None else httpx2.Response(429, headers={"Retry-After": after})

    remote(handler, slept).encode(TEXTS)
    assert slept == [7.0, 1.0, 60.0]


def test_it_gives_up_in_the_end() -> None:
    slept: list[float] = []
    with pytest.raises(EncoderError, match=r"no answer after 6 attempts, the last with status 503"):
        remote(lambda request: httpx2.Response(503), slept).encode(TEXTS)
    assert len(slept) == 5


def test_a_refusal_is_not_repeated() -> None:
    slept: list[float] = []
    with pytest.raises(EncoderError, match=r"refused with status 401 \(no such key\)"):
        remote(lambda request: httpx2.Response(401, text="no such\nkey"), slept).encode(TEXTS)
    assert slept == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[1:], "answered 4 embeddings, expected 5 numbered from 0"),
        (lambda data: [data[0], *data[:-1]], "answered 5 embeddings, expected 5 numbered from 0"),
        (lambda data: [{**entry, "embedding": [1.0] * 8} for entry in data], r"has shape \(8,\), expected \(16,\)"),
        (lambda data: [{**entry, "embedding": [0.0] * 16} for entry in data], "zero or not finite"),
        (lambda data: [{"embedding": entry["embedding"]} for entry in data], "not in the OpenAI shape"),
        (lambda data: [{**entry, "embedding": "text"} for entry in data], "not in the OpenAI shape"),
        (lambda data: None, "not in the OpenAI shape"),
    ],
)
def test_answers_are_not_trusted(change: Callable[[list[dict[str, Any]]], Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        remote(lambda request: answer(request, change)).encode(TEXTS)


def test_an_answer_that_is_no_json() -> None:
    with pytest.raises(EncoderError, match="the answer is not JSON"):
        remote(lambda request: httpx2.Response(200, text="<html>")).encode(TEXTS)
    with pytest.raises(InputError, match="expected http:// or https://"):
        RemoteEncoder("ftp://encoder", FAKE.recipe, FAKE.tokenizer)


def test_it_is_enough_to_search() -> None:
    encoder = remote(answer)
    inverter = Inverter(tiny_parts()._replace(surrogate=tiny_surrogate()), encoder)
    (found,) = inverter.invert(FAKE.encode(TEXTS[:1]), max_calls=60)
    assert 8 < found.encoder_calls == encoder.calls <= 60
    (again,) = inverter.invert(FAKE.encode(TEXTS[:1]), max_calls=60)
    assert (again.text, again.encoder_calls) == (found.text, found.encoder_calls)
    assert encoder.calls == found.encoder_calls  # every text was known
