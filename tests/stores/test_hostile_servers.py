"""Servers of stores that fail, lie or attack: one line of error, bounded memory and time, and the key stays at home."""

import copy
import json
import random
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx2
import numpy as np
import pytest

from stores import store_contents
from stores.store_contents import KEYS, elastic, no_keys, pinecone_servers, qdrant, weaviate_server
from stores.store_servers import StoreServer, serving
from unembed.encoders import http_client
from unembed.errors import DataError, UnembedError
from unembed.stores import elasticsearch, server, weaviate
from unembed.stores.pinecone import Pinecone
from unembed.stores.qdrant import server as qdrant_server
from unembed.stores.server import HttpStore

__all__ = ["no_keys"]
pytestmark = pytest.mark.slow  # starts servers

# A server, its reader, the path of a page of rows, the collection in it, and how many pages hold all 250 rows.
STORES = {
    "qdrant": (qdrant, qdrant_server.QdrantServer, "/collections/plain/points/scroll", "plain"),
    "elasticsearch": (elastic, elasticsearch.Elasticsearch, "/main/_search", "main/meta.v"),
    "weaviate": (weaviate_server, weaviate.Weaviate, "/v1/objects", "Doc"),
    "pinecone": (lambda: None, Pinecone, "/vectors/fetch", "__default__"),
}
LISTS = {
    "qdrant": "/collections",
    "elasticsearch": "/_mapping",
    "weaviate": "/v1/schema",
    "pinecone": "/describe_index_stats",
}


class Case:
    """A server that can be spoilt, with its reader."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        make, self._reader, self.page, self.collection = STORES[name]
        self.list = LISTS[name]
        serve = lambda one: stack.enter_context(serving(one))  # noqa: E731
        if name == "pinecone":
            _, self.server = pinecone_servers(serve)
        else:
            self.server: StoreServer = make()
            serve(self.server)
        self.slept: list[float] = []
        self._stack = stack

    def open(self, **more: Any) -> HttpStore:
        store = self._reader(self.server.url, sleep=self.slept.append, **more)
        self._stack.callback(store.close)
        return store

    def spoil(self, path: str, answer: Any) -> None:
        """From now on a path has this answer: status and tree or bytes, or a function of the right tree."""

        def change(asked: str, right: Any) -> Any:
            if asked != path:
                return right
            return (200, answer(copy.deepcopy(right[1]))) if callable(answer) else answer

        self.server.change = change


@pytest.fixture(params=STORES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with ExitStack() as stack:
        yield Case(request.param, stack)


def failure(call: Any) -> str:
    """The one line with which something fails."""
    with pytest.raises(UnembedError) as raised:
        call()
    said = str(raised.value)
    assert said.isprintable()
    assert len(said) < 500
    return said


def rows(case: Case, batch: int = 100) -> Any:
    return list(case.open().rows(case.collection, batch))


@pytest.mark.parametrize(("status", "tries"), [(401, 1), (403, 1), (404, 1), (429, 6), (500, 6), (503, 6)])
def test_statuses(case: Case, status: int, tries: int) -> None:
    case.spoil(case.list, case.server.refusal(status, "<b>no\x1b]0;x\x07\u202e"))
    said = failure(lambda: case.open().collections())
    assert f"status {status} (<b>no\ufffd]0;x\ufffd\ufffd)" in said
    assert case.server.url in said
    assert ("its key is read from" in said) == (status in (401, 403))
    assert sum(path == case.list for _, path in case.server.asked) == tries
    assert len(case.slept) == tries - 1


def test_what_fails_once_is_asked_again(case: Case) -> None:
    failing = iter([429, 500, 502])

    def change(path: str, right: Any) -> Any:
        status = next(failing, None) if path == case.page else None
        return right if status is None else case.server.refusal(status, "later")

    case.server.change = change
    assert sum(map(len, rows(case))) == 250


NONE = {b"": "is not JSON", b"<html>": "is not JSON", b'{"a"': "is not JSON", b"\xff\xfe": "is not JSON"}
NONE |= {
    b"[" * 100_000: "is not JSON",
    b"9" * 10_000: "is not JSON",
    b'"x"': "has no",
    b"null": "has no",
    b"[1]": "has no",
}


@pytest.mark.parametrize(("content", "problem"), NONE.items())
def test_what_is_no_answer(case: Case, content: bytes, problem: str) -> None:
    case.spoil(case.list, (200, content))
    assert problem in failure(lambda: case.open().collections())
    case.spoil(case.page, (200, content))
    if (case.name, problem) == ("pinecone", "has no"):
        assert rows(case) == []  # what was listed and cannot be fetched was deleted in between
    else:
        assert problem in failure(lambda: rows(case))


def test_a_huge_answer_is_cut_off_and_smaller_pages_are_tried(case: Case) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        for _ in range(1 << 10):
            handler.wfile.write(bytes(1 << 20))

    case.server.change = lambda path, right: endless if path == case.list else right
    tracemalloc.start()
    said = failure(lambda: case.open().collections())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "the answer has more than 33,554,432 bytes" in said
    assert peak < 3 * server.ANSWER_BYTES


def test_pages_shrink_until_they_fit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(case)
    monkeypatch.setattr(server, "ANSWER_BYTES", 15_000)
    case.server.asked.clear()
    small = rows(case)
    assert max(map(len, small)) < 90
    assert [one for part in small for one in part.ids] == [one for part in whole for one in part.ids]
    monkeypatch.setattr(server, "ANSWER_BYTES", 50)
    assert "more than 50 bytes" in failure(lambda: rows(case))


def test_too_many_parts_are_refused(case: Case) -> None:
    case.spoil(case.list, (200, b"[" + b"{}," * (1 << 20) + b"{}]"))
    assert "more than 1,048,576 lists and objects" in failure(lambda: case.open().collections())


@pytest.mark.parametrize("where", ["body", "headers"])
def test_an_answer_that_drips_is_left(case: Case, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WHOLE", 0.3)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        if where == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(50):
            handler.wfile.write(b"1")
            handler.wfile.flush()
            time.sleep(0.02)

    case.server.change = lambda path, right: drip if path == case.list else right
    started = time.monotonic()
    assert "the answer was not whole after 0.3 s" in failure(lambda: case.open().collections())
    assert time.monotonic() - started < 2


def test_a_redirect_is_not_followed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, "sesame")
    other = Other()
    with serving(other) as elsewhere:

        def redirect(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(307)
            handler.send_header("Location", f"{elsewhere}/x?key=abc")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        case.server.change = lambda path, right: redirect if path == case.list else right
        said = failure(lambda: case.open().collections())
    assert f"status 307, a redirect to {elsewhere}/x?***; give that address where it is trusted" in said
    assert other.asked == []


class Other(StoreServer):
    """A server that nobody should ask."""

    def answer(self, *_: Any) -> Any:
        return 200, {}

    def refusal(self, status: int, message: str) -> Any:
        return status, {"error": message}


def test_vectors_that_are_none_are_nan(case: Case) -> None:
    bad = [
        "x",
        None,
        [],
        {},
        [1, "2", 3],
        [True] * 3,
        [float("nan")] * 8,
        [1e39] * 8,
        [1, 2],
        [[1], [2, 3]],
        [10**400],
        5,
    ]

    case.spoil(case.page, lambda tree: swap(tree, iter(bad * 3)))
    store = case.open()
    parts = list(store.rows(case.collection, 100))
    assert all(part.vectors.dtype == np.float32 for part in parts)
    held = np.concatenate([part.vectors for part in parts])
    assert np.isnan(held).any(1).sum() >= len(bad)
    assert np.isfinite(held).all(1).sum() > 0
    assert any("finite numbers" in note for note in store.notes)
    assert all(note.isprintable() for note in store.notes)


def swap(tree: Any, others: Iterator[Any]) -> Any:
    """The tree with other things in place of its lists of numbers, but for the first."""

    def walk(one: Any, seen: list[int]) -> Any:
        if isinstance(one, list) and one and isinstance(one[0], float):
            seen.append(1)
            return one if len(seen) == 1 else next(others, one)
        if isinstance(one, dict):
            return {key: walk(value, seen) for key, value in one.items()}
        return [walk(value, seen) for value in one] if isinstance(one, list) else one

    return walk(tree, [])


ROUNDS = 40
HOSTILE = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    "",
    "x\x1b[31m\u202e\ud800/..",
    [],
    {},
    [[1.0]],
    {"a": {"b": []}},
    "9" * 5000,
]


def mutated(tree: Any, chance: random.Random) -> Any:
    """The tree with one thing in it replaced, renamed or left out."""
    places: list[tuple[Any, Any]] = []

    def walk(one: Any) -> None:
        for key in one if isinstance(one, dict) else range(min(len(one), 4)) if isinstance(one, list) else ():
            places.append((one, key))
            walk(one[key])

    tree = copy.deepcopy(tree)
    walk(tree)
    if not places:
        return chance.choice(HOSTILE)
    holder, key = chance.choice(places)
    if isinstance(holder, dict) and chance.random() < 0.2:
        holder[chance.choice(["\x1b[31m", "", "\ud800"])] = holder.pop(key)
    else:
        holder[key] = chance.choice(HOSTILE)
    return tree


@pytest.mark.parametrize("name", STORES)
def test_answers_with_one_thing_changed_give_rows_or_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("X", "Y", "TEXTS"):
        monkeypatch.setattr(store_contents, one, getattr(store_contents, one)[:12])
    with ExitStack() as stack:
        case = Case(name, stack)
        chance = random.Random(5)
        failed = [changed_once(case, chance) for _ in range(ROUNDS)]
    assert sum(failed) < ROUNDS


def changed_once(case: Case, chance: random.Random) -> bool:
    """Whether reading all fails in one line, where one thing in one answer was changed."""
    left = [chance.randrange(1, 10)]

    def handler(asked: httpx2.Request) -> httpx2.Response:
        path = [part for part in asked.url.path.split("/") if part]
        query: dict[str, list[str]] = {}
        for name, value in asked.url.params.multi_items():
            query.setdefault(name, []).append(value)
        body = json.loads(asked.content or b"null")
        try:
            status, tree = case.server.answer(asked.method, path, query, body, asked.headers)
        except (KeyError, ValueError, TypeError, AssertionError, AttributeError):  # a name that was changed before
            status, tree = case.server.refusal(404, "no")
        left[0] -= 1
        return httpx2.Response(status, content=json.dumps(mutated(tree, chance) if left[0] == 0 else tree).encode())

    store = case.open(transport=httpx2.MockTransport(handler))
    try:
        for one in store.collections():
            assert one.rows is None or one.rows >= 0
            json.dumps(one.about)
            for part in store.rows(one.name, 128):
                json.dumps(part.metadata)
    except UnembedError as error:
        return str(error).isprintable()
    finally:
        store.close()
    assert all(note.isprintable() for note in store.notes)
    return False


def test_a_server_that_is_not_there(case: Case) -> None:
    case.server.url = "http://127.0.0.1:1"
    said = failure(lambda: case.open().collections())
    assert "cannot be reached" in said
    assert case.slept == []


def test_pages_that_do_not_go_on_end() -> None:
    with ExitStack() as stack:
        case = Case("qdrant", stack)
        case.spoil(case.page, lambda tree: {"result": tree["result"] | {"next_page_offset": 1}})
        assert "a page of the answer is followed by itself" in failure(lambda: rows(case))


def test_waits_are_bounded(case: Case) -> None:
    def later(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "86400")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    case.server.change = lambda path, right: later
    failure(lambda: case.open().collections())
    assert case.slept[0] == http_client.LONGEST_PAUSE


def test_a_collection_that_is_not_there(case: Case) -> None:
    with pytest.raises(DataError, match="no collection 'no\ufffd such', expected .*#NAME with one of"):
        next(case.open().rows("no\x1b such"))
