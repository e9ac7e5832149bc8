"""Malformed and hostile input: a clear 4xx each time, no crash, nothing that stays behind."""

import json
import time
from typing import Any

import pytest
from httpx2 import Client
from serving import Start, connect, post, wait_until

from unembed.server import batching

UNIT = [1.0] + [0.0] * 15


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/encode", b"", 422),
        ("/encode", b"{", 400),
        ("/encode", b"null", 422),
        ("/encode", b"[]", 422),
        ("/encode", b'"text"', 422),
        ("/encode", b"\xff\xfe{}", 400),
        ("/encode", b"[" * 2_000, 400),
        ("/encode", b"[" * 100_000, 413),
        ("/encode", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 413),
        ("/encode", b'{"text": ' + b"9" * 5_000 + b"}", 400),
        ("/encode", b'{"text": 5}', 422),
        ("/encode", b'{"text": ""}', 422),
        ("/encode", b'{"text": " \\n\\t "}', 422),
        ("/encode", b'{"text": "\\u200b"}', 422),
        ("/encode", b'{"text": "a", "model": 3}', 422),
        ("/encode", json.dumps({"text": "a" * 10_001}).encode(), 422),
        ("/decode", b'{"embedding": []}', 422),
        ("/decode", b'{"embedding": "abc"}', 422),
        ("/decode", b'{"embedding": {"a": 1}}', 422),
        ("/decode", b'{"embedding": null}', 422),
        ("/decode", json.dumps({"embedding": [0.0] * 16}).encode(), 422),
        ("/decode", json.dumps({"embedding": [0.1] * 15}).encode(), 422),
        ("/decode", json.dumps({"embedding": [0.1] * 15 + [float("nan")]}).encode(), 422),
        ("/decode", json.dumps({"embedding": [0.1] * 15 + [float("inf")]}).encode(), 422),
        ("/decode", json.dumps({"embedding": [0.1] * 15 + [1e39]}).encode(), 422),
        ("/decode", b'{"embedding": [' + b"1e999," * 15 + b"1]}", 422),
        ("/decode", json.dumps({"embedding": [10**400] * 16}).encode(), 422),
        ("/decode", json.dumps({"embedding": ["1"] * 16}).encode(), 422),
        ("/decode", json.dumps({"embedding": [True] * 16}).encode(), 422),
        ("/decode", json.dumps({"embedding": [None] * 16}).encode(), 422),
        ("/decode", json.dumps({"embedding": [[0.1] * 16] * 2}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steps": 0}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steps": -1}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steps": 17}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steps": 1.5}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steps": 10**30}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "strategy": "magic"}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "temperature": float("nan")}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "guidance": 1e300}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steering": -0.1}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steering": float("nan")}).encode(), 422),
        ("/decode", json.dumps({"embedding": UNIT, "steering": 1e300}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "stepz": 3}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "\ud800" * 9999: 3}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": [[1.0], [1.0, 2.0]]}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": [[[1.0] * 16]]}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": [[]]}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": []}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": 5}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": ""}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": "!!!"}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": "AAAA"}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": ["A" * 88, UNIT]}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": "A" * 86 + "=="}).encode(), 422),  # zeros
        ("/v1/invert", json.dumps({"embeddings": [UNIT] * 65}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": [UNIT] * 2, "stream": True}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "candidates": 9}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "alternatives": 11}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "balance": -0.1}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "steering": -0.1}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "steering": float("nan")}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "steering": 10_001}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "seconds": 1, "steering": -0.1}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "steps": 32}).encode(), 422),
        ("/v1/invert", json.dumps({"embeddings": UNIT, "model": "gpt"}).encode(), 404),
        ("/v1/defences", json.dumps({"embeddings": UNIT}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "noise"}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "noise", "amount": 0}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "noise", "amount": 1.1}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "noise", "amount": float("nan")}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "rounding", "amount": 2.5}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "rounding", "amount": 1e300}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "dropping", "amount": -0.5}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "rotation", "amount": 1}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "magic", "amount": 1}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "rotation", "seed": 1}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": [UNIT] * 65, "kind": "rotation"}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": [0.0] * 16, "kind": "rotation"}).encode(), 422),
        ("/v1/defences", json.dumps({"embeddings": UNIT, "kind": "rotation", "model": "gpt"}).encode(), 404),
        ("/v1/embeddings", json.dumps({"input": []}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": ["a"] * 65}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": ["a", ""]}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": [1, 2]}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": "a", "dimensions": 8}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": [None] * 64}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": {"a": 1}}).encode(), 422),
        ("/v1/embeddings", json.dumps({"input": "a", "encoding_format": "int8"}).encode(), 422),
    ],
)
def test_bad_bodies_get_a_clear_4xx(client: Client, path: str, body: bytes, status: int) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert isinstance(message, str)
    assert 5 < len(message) < 410
    assert "\n" not in message
    assert "Traceback" not in answer.text


def test_hostile_text_is_only_text(client: Client) -> None:
    for text in ("[MASK] [SEP] [PAD] </s>", "<script>alert(1)</script>", "a\x00b", "\ud800", "\u202eabc", "cat" * 3000):
        body = json.dumps({"text": text}).encode()
        answer = client.post("/encode", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 422), text
        assert answer.headers["content-type"] == "application/json"


def test_other_bodies_methods_and_paths(client: Client) -> None:
    assert client.post("/encode", data={"text": "a"}).status_code == 415
    assert client.post("/encode", content=b'{"text": "a"}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.get("/encode").status_code == 405
    assert client.get("/v1/nowhere").json()["error"]["type"] == "not_found"
    assert client.get("/nowhere").json() == {"error": "Not Found"}
    assert client.get("/random?hard=perhaps").status_code == 422
    assert client.request("TRACE", "/queue").status_code == 405


def test_a_body_of_another_kind_is_refused_after_its_last_byte(client: Client) -> None:
    with connect(client, post("/encode", b"text", length=8, kind="text/plain")) as link:
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):  # a server that closed here would lose its answer to the bytes still coming
            link.recv(4096)
        link.sendall(b"=abc")
        link.settimeout(20)
        assert b" 415 " in link.recv(4096)


def test_a_huge_body_is_refused_before_it_is_read(start: Start) -> None:
    client = start(max_body=1000)
    with connect(client, post("/encode", b"{", length=10**12)) as link:
        assert b" 413 " in link.recv(4096)

    def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100

    answer = client.post("/encode", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert client.post("/encode", json={"text": "a cat."}).status_code == 200


def test_a_slow_body_is_cut_off_and_costs_no_place(start: Start) -> None:
    client = start(body_seconds=0.3)
    with connect(client, post("/encode", b'{"text"', length=20)) as link:
        assert client.get("/queue").json() == {"active": 0, "waiting": 0}
        assert b" 408 " in link.recv(4096)


def test_nonsense_instead_of_http(client: Client) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with connect(client, data) as link:
            assert link.recv(4096).split()[1] in (b"400", b"421")
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/decode", {"embedding": UNIT, "steps": 16}),
        ("/v1/invert", {"embeddings": UNIT, "steps": 16, "stream": True}),
        ("/v1/invert", {"embeddings": [UNIT] * 64, "steps": 16}),
    ],
)
def test_who_disconnects_frees_the_place(start: Start, monkeypatch: pytest.MonkeyPatch, path: str, body: Any) -> None:
    """In the middle of a stream, or while waiting for a whole answer."""
    passes = []

    def slow(asked: Any) -> Any:
        passes.append(len(asked))
        time.sleep(0.1)
        return real(asked)

    real = batching.predict
    client = start()
    monkeypatch.setattr(batching, "predict", slow)
    link = connect(client, post(path, json.dumps(body).encode()))
    assert wait_until(lambda: len(passes) > 2)
    link.close()
    assert wait_until(lambda: client.get("/queue").json() == {"active": 0, "waiting": 0}, 1.0)
    assert len(passes) < 16


def test_a_client_that_does_not_read_is_cut_off(start: Start) -> None:
    client = start(time_limit=0.2)
    body = json.dumps({"embeddings": UNIT, "steps": 16, "stream": True}).encode()
    links = [connect(client, post("/v1/invert", body)) for _ in range(8)]
    assert wait_until(lambda: client.get("/queue").json()["active"] == 0)
    for link in links:
        link.close()


def test_the_time_limit_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    real = batching.predict
    client = start(time_limit=0.3)
    monkeypatch.setattr(batching, "predict", lambda asked: (time.sleep(0.1), real(asked))[1])
    answer = client.post("/v1/invert", json={"embeddings": UNIT, "steps": 16})
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "time_limit"
    with client.stream("POST", "/decode", json={"embedding": UNIT, "steps": 16}) as stream:
        assert stream.status_code == 200
        assert stream.read().decode().split("\n\n")[-2] == 'data: {"error": "the request took longer than 0.3 s"}'


@pytest.mark.parametrize("unit", [b",1", b",null", b",[]", b",{}", b',""', b",[1,[2]]", rb',"\\"', rb',"\""'])
@pytest.mark.parametrize("head", [b'{"input": [1', b'{"embeddings": [1'])
def test_a_body_of_small_values_costs_little(client: Client, head: bytes, unit: bytes) -> None:
    """Four megabytes of them are refused before they are parsed: the event loop answers others meanwhile."""
    body = head + unit * ((4 * 2**20 - 64) // len(unit)) + b"]}"
    path = "/v1/embeddings" if b"input" in head else "/v1/invert"
    started = time.perf_counter()
    json.loads(body)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "values" in answer.text) == (413, True)
    assert time.perf_counter() - started < 1 + 3 * alone  # validated they would take a hundred times as long


def test_commas_in_texts_are_no_values(client: Client) -> None:
    texts = ["a child, [a {king,]}" * 400] * 16
    assert client.post("/v1/embeddings", json={"input": texts}).status_code == 200


def test_as_many_values_as_are_allowed_are_refused_quickly(client: Client) -> None:
    for body in ({"embeddings": [{}] * 1000}, {f"key{n}": n for n in range(2000)}, {"input": [[]] * 1000}):
        for path in ("/v1/invert", "/v1/embeddings"):
            started = time.perf_counter()
            assert client.post(path, json=body).status_code == 422
            assert time.perf_counter() - started < 2


def test_a_reused_connection_does_not_wait(client: Client) -> None:
    """Nagle's algorithm and a delayed acknowledgement cost 40 ms on each answer."""
    seconds = []
    for _ in range(15):
        started = time.perf_counter()
        client.get("/static/app.js")
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[3] < 0.03
