"""Redis, read and compared with what was stored. A real server, where `redis-server` is installed.

Vector sets need Redis 8, and are skipped on an older one. The search and JSON modules are in few builds: before the
real server stands one that answers their commands, FT.INFO as Redis Stack 7.4.1 answers it.
"""

import json
import os
import shutil
import socket
import socketserver
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from threading import Thread
from typing import Any

import numpy as np
import pytest

redis_package = pytest.importorskip("redis")

from unembed.errors import DataError, InputError, UnembedError  # noqa: E402
from unembed.stores import redis  # noqa: E402
from unembed.stores.redis import reader as redis_reader  # noqa: E402
from unembed.stores.store import Rows, Store  # noqa: E402

pytestmark = pytest.mark.slow  # starts a server
X = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
READS = {
    "ping", "client|no-touch", "client|setinfo", "info", "scan", "type", "memory|usage", "hgetall", "vinfo", "vemb",
    "vrange", "vcard", "vrandmember", "vgetattr", "hello", "select", "auth", "ft._list", "command", "config|resetstat",
}  # fmt: skip


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of this machine's Redis, with a password beside the default user."""
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, "--databases", 4]
    options += [
        "--user",
        "default",
        "on",
        "nopass",
        "~*",
        "&*",
        "+@all",
        "--user",
        "keyed",
        "on",
        ">se#s/ame",
        "~*",
        "+@all",
    ]
    with subprocess.Popen([program, *map(str, options)], stdout=subprocess.DEVNULL) as process:
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
        process.terminate()


@pytest.fixture
def db(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.delenv("REDISCLI_AUTH", raising=False)
    with redis_package.Redis(port=port, protocol=2) as client:
        client.flushall()
        client.config_resetstat()
        yield client


@pytest.fixture
def uri(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def whole(store: Store, name: str, batch: int = 100) -> Rows:
    parts = [*store.rows(name, batch)]
    assert all(0 < len(part) <= batch for part in parts)
    return Rows(
        [one for part in parts for one in part.ids],
        np.concatenate([part.vectors for part in parts]),
        [one for part in parts for one in part.texts],
        [one for part in parts for one in part.metadata],
    )


def filled(db: Any) -> None:
    for i, x in enumerate(X):
        db.hset(f"doc:{i:03}", mapping={"text": f"text {i}", "vec": x.tobytes(), "n": i, "bin": b"\xff\xfe"})
        db.hset(f"docs:{i:03}", mapping={"content": "other", "vec": x[:32].tobytes()})
    db.set("doc:string", "x")
    db.hset("doc:no", mapping={"text": "no vector"})


def test_hashes_without_a_module(db: Any, uri: str) -> None:
    filled(db)
    db.delete("doc:no")
    with closing(redis.open(uri)) as store:
        (only,) = store.collections()
        assert (only.name, only.rows, only.dimension, only.number, only.has_text) == (
            "doc::vec",
            300,
            64,
            "float32",
            True,
        )
        assert {trace.kind for trace in only.traces} == {"text", "readable"}
        rows = whole(store, "doc::vec")
        order = np.argsort(rows.ids)
        np.testing.assert_array_equal(rows.vectors[order], X)
        assert [rows.texts[i] for i in order] == [f"text {i}" for i in range(300)]
        assert rows.metadata[order[7]] == {"n": "7"}
        assert rows.ids == whole(store, "doc::vec", 300).ids  # always in the same order
        assert len(whole(store, "docs:vec")) == 300  # any prefix can be named
        both = whole(store, "doc:vec")
        assert np.isnan(both.vectors).any(1).sum() in (0, 300)  # of two dimensions, by which comes first
        assert [*store.rows("nothing:vec")] == []
        with pytest.raises(
            DataError, match="no collection 'no\ufffd', expected PREFIX:FIELD, a vector set, or one of doc::vec"
        ):
            next(store.rows("no\x1b"))


def test_json_lists_and_wrong_values_in_hashes(db: Any, uri: str) -> None:
    values = {
        "json": json.dumps([1.5, 2, 3]),
        "odd": b"12345",
        "nan": np.full(3, np.nan, "<f4").tobytes(),
        "words": '["a"]',
    }
    for name, value in values.items():
        db.hset(f"{name}[1]*:x", mapping={"v": value})
        db.hset(f"{name}1:y", mapping={"v": value})
    with closing(redis.open(uri)) as store:
        rows = whole(store, "json[1]*::v")  # which is no pattern
        assert (rows.ids, rows.vectors.tolist()) == (["json[1]*:x"], [[1.5, 2, 3]])
        assert [*store.rows("odd[1]*::v")] == []
        assert np.isnan(whole(store, "nan[1]*::v").vectors).all()
        assert np.isnan(whole(store, "words[1]*::v").vectors).all()
        unread = "odd[1]*::v: rows without a vector of finite numbers: 1, the first: odd[1]*:x"
        assert store.notes[0] == f"{store.location}: {unread}"


def test_values_that_are_too_large_are_left_out(db: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        db.hset(f"d:{i:02}", mapping={"v": X[i].tobytes(), "text": "x" * (200_000 if i == 7 else 20_000)})
    monkeypatch.setattr(redis_reader, "LARGEST_VALUE", 100_000)
    monkeypatch.setattr(redis_reader, "PAGE_BYTES", 100_000)
    with closing(redis.open(uri)) as store:
        parts = list(store.rows("d::v"))
        assert sum(map(len, parts)) == 29
        assert max(map(len, parts)) <= 5
        assert any(note.startswith("d:07: takes 2") and note.endswith("not read") for note in store.notes)


def test_only_reads_are_sent_and_nothing_changes(db: Any, uri: str) -> None:
    filled(db)
    time.sleep(1.1)
    before = {key: db.dump(key) for key in db.scan_iter()}
    idle = db.object("idletime", "doc:001")
    db.config_resetstat()
    with closing(redis.open(uri)) as store:
        store.collections()
        assert len(whole(store, "doc::vec")) == 300
    sent = {name.removeprefix("cmdstat_") for name in db.info("commandstats")}
    assert sent <= READS
    if tuple(map(int, db.info("server")["redis_version"].split(".")[:2])) >= (7, 2):
        assert db.object("idletime", "doc:001") >= idle
    assert {key: db.dump(key) for key in db.scan_iter()} == before


def test_vector_sets(db: Any, uri: str) -> None:
    try:
        for i, x in enumerate(X):
            more = ["SETATTR", json.dumps({"text": f"text {i}", "n": i})] if i % 2 else []
            db.execute_command("VADD", "exact", "FP32", x.tobytes(), f"e{i:03}", "NOQUANT", *more)
            db.execute_command("VADD", "q8", "FP32", x.tobytes(), f"e{i:03}")
    except redis_package.ResponseError:
        pytest.skip("this Redis has no vector sets")
    with closing(redis.open(uri)) as store:
        found = {one.name: one for one in store.collections()}
        assert {name: (one.rows, one.dimension, one.number, one.lossy) for name, one in found.items()} == {
            "exact": (300, 64, "float32", False), "q8": (300, 64, "int8", True)
        }  # fmt: skip
        rows = whole(store, "exact")
        assert rows.ids == [f"e{i:03}" for i in range(300)]
        np.testing.assert_allclose(rows.vectors, X, atol=1e-5)
        assert rows.texts[:2] == [None, "text 1"]
        assert rows.metadata[1] == {"n": 1}
        near = whole(store, "q8").vectors
        assert 0 < np.abs(near - X).max() < 0.05


def test_passwords(db: Any, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = f"redis://keyed:se%23s%2Fame@127.0.0.1:{port}/1"
    with closing(redis.open(given)) as store:
        assert "ame" not in store.location
    for wrong in (given.replace("ame@", "ame2@"), given.replace("keyed", "nobody")):
        with pytest.raises(UnembedError, match="AuthenticationError|WRONGPASS") as raised:
            redis.open(wrong)
        assert str(raised.value).isprintable()
        assert "ame" not in str(raised.value).replace("username", "")
    monkeypatch.setenv("REDISCLI_AUTH", "se#s/ame")
    with closing(redis.open(given.replace(":se%23s%2Fame", ""))) as store:
        store.collections()


@pytest.mark.parametrize(
    "location", ["redis://u:sesame@h:x/0", "http://u:sesame@h", "redis://u:ses/ame@h:1", "nothing"]
)
def test_what_is_no_address_is_said_without_its_password(location: str) -> None:
    with pytest.raises(UnembedError) as raised:
        redis.open(location)
    assert "ame" not in str(raised.value).replace("name", "")
    if "h:1" not in location:
        assert isinstance(raised.value, InputError)


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UnembedError, match="redis://127.0.0.1:1/0: ConnectionError") as raised:
        redis.open("redis://127.0.0.1:1/0")
    assert str(raised.value).isprintable()


class Modules(socketserver.ThreadingTCPServer):
    """What the search and JSON modules answer, before a server that has none. Speaks RESP 2."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port: int, indices: dict[str, Any], documents: dict[str, Any], elements: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), self._handler(port))
        self.indices, self.documents = indices, documents
        self.elements = elements  # of the vector set `set`, as Redis 8.4 gives them

    def answer(self, behind: Any, command: list[bytes]) -> Any:
        name, *words = [word.decode("utf-8", "replace") for word in command]
        match name.upper(), words:
            case "FT._LIST", _:
                return [one.encode() for one in self.indices]
            case "FT.INFO", [index]:
                return self.indices[index]
            case "JSON.GET", [key]:
                return json.dumps(self.documents[key]).encode()
            case "JSON.GET", [key, path]:  # of the paths that the tests have
                held = self.documents[key]
                found = [one["e"] for one in held["parts"]] if "*" in path else [held[path[2:]]]
                return json.dumps(found).encode()
            case "SCAN", _ if "ReJSON-RL" in words:
                return [b"0", [one.encode() for one in self.documents]]
            case "MEMORY", [_, key] if key in self.documents:
                return 1000
            case "TYPE", ["set"]:
                return b"vectorset"
            case "VEMB", ["set", element]:
                return [str(number) for number in self.elements[element]]
            case "VRANGE", ["set", start, "+", count]:
                rest = [one for one in sorted(self.elements) if start == "-" or one > start.removeprefix("(")]
                return [one.encode() for one in rest[: int(count)]]
        return behind.execute_command(*command)

    def _handler(self, port: int) -> Any:
        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with redis_package.Redis(port=port, protocol=2) as behind, suppress(OSError, ValueError):
                    behind.response_callbacks.clear()
                    while line := self.rfile.readline():
                        command = []
                        for _ in range(int(line[1:])):
                            length = int(self.rfile.readline()[1:])
                            command.append(self.rfile.read(length + 2)[:-2])
                        try:
                            found = self.server.answer(behind, command)  # type: ignore[attr-defined]
                        except redis_package.ResponseError as error:
                            found = error
                        self.wfile.write(said(found))

        return Handler


def said(value: Any) -> bytes:
    """A value as RESP 2 has it."""
    if isinstance(value, Exception):
        return b"-ERR %s\r\n" % str(value).encode()
    if isinstance(value, int):
        return b":%d\r\n" % value
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, list):
        return b"*%d\r\n%s" % (len(value), b"".join(map(said, value)))
    value = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%s\r\n" % (len(value), value)


def ft_info(kind: str, prefixes: list[str], fields: dict[str, tuple[str, str, int]], count: int) -> list[Any]:
    """FT.INFO of Redis Stack 7.4.1, shortened after the number of documents."""
    attributes = [["identifier", "text", "attribute", "text", "type", "TEXT", "WEIGHT", "1"]]
    for path, (name, number, dimension) in fields.items():
        more = ["algorithm", "HNSW", "data_type", number, "dim", dimension, "distance_metric", "COSINE", "M", 16]
        attributes.append(["identifier", path, "attribute", name, "type", "VECTOR", *more])  # type: ignore[list-item]
    definition = ["key_type", kind, "prefixes", prefixes, "default_score", "1"]
    return [
        "index_name",
        "x",
        "index_options",
        [],
        "index_definition",
        definition,
        "attributes",
        attributes,
        "num_docs",
        count,
    ]


@pytest.fixture
def modules(db: Any, port: int) -> Iterator[Any]:
    servers = []

    def start(indices: dict[str, Any], documents: dict[str, Any], elements: Any = None) -> str:
        servers.append(Modules(port, indices, documents, elements or {}))
        Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"redis://127.0.0.1:{servers[-1].server_address[1]}/0"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_indices_of_the_search_module(db: Any, modules: Any) -> None:
    filled(db)
    for i, x in enumerate(X[:50]):
        db.hset(f"d64:{i:02}", mapping={"w": x.astype("<f8").tobytes()})
    documents = {
        f"j:{i}": {"text": f"j{i}", "emb": x.tolist(), "parts": [{"e": [1.0, i]}, {"e": [2.0, i]}]}
        for i, x in enumerate(X[:20])
    }
    indices = {
        "idx:docs": ft_info("HASH", ["doc:", "doc:0"], {"vec": ("v", "FLOAT32", 64)}, 300),
        "wide": ft_info("HASH", ["d64:"], {"w": ("w", "FLOAT64", 64)}, 50),
        "json": ft_info("JSON", ["j:"], {"$.emb": ("emb", "FLOAT32", 64), "$.parts[*].e": ("parts", "FLOAT32", 2)}, 20),
        "odd": ft_info("HASH", ["x:"], {"v": ("v", "BFLOAT16", 64)}, 0),
    }
    with closing(redis.open(modules(indices, documents))) as store:
        found = {one.name: one for one in store.collections()}
        assert {name: (one.rows, one.dimension, one.number, one.metric) for name, one in found.items()} == {
            "idx:docs:v": (300, 64, "float32", "cosine"), "wide:w": (50, 64, "float64", "cosine"),
            "json:emb": (20, 64, "float32", "cosine"), "json:parts": (20, 2, "float32", "cosine"),
        }  # fmt: skip
        rows = whole(store, "idx:docs:v")
        np.testing.assert_array_equal(rows.vectors[np.argsort(rows.ids)], X)
        wide = whole(store, "wide:w")
        np.testing.assert_array_equal(wide.vectors[np.argsort(wide.ids)], X[:50])
        emb = whole(store, "json:emb", 8)
        np.testing.assert_array_equal(emb.vectors, X[:20])
        assert emb.texts[3] == "j3"
        assert {*emb.metadata[0]} == {"parts"}
        parts = whole(store, "json:parts")
        assert (parts.ids[:2], parts.vectors[2:4].tolist()) == (["j:0/0", "j:0/1"], [[1, 1], [2, 1]])
        assert store.notes == ["odd:v: BFLOAT16 in hash is not read"]


def test_a_vector_set_that_is_read_by_parts(db: Any, modules: Any) -> None:
    """VRANGE of Redis 8.4, after redis.io/commands/vrange."""
    held = {f"e{i:03}": x.tolist() for i, x in enumerate(X)}
    with closing(redis.open(modules({}, {}, held))) as store:
        rows = whole(store, "set", 100)
        assert rows.ids == [*held]
        np.testing.assert_allclose(rows.vectors, X, rtol=1e-6)


def test_answers_of_wrong_types_are_one_line_or_nothing(db: Any, modules: Any) -> None:
    filled(db)
    bad = [
        5,
        b"x\x1b[31m",
        [],
        [b"attributes"],
        [b"attributes", 7],
        [b"attributes", [7, [b"type", b"VECTOR", b"dim", b"-3"]]],
        None,
    ]
    good = ft_info("HASH", ["doc:"], {"vec": ("v\x1b[31m", "FLOAT32", 64)}, 10**30)
    good[5] = ["key_type", "HASH", "prefixes", 7]
    with closing(redis.open(modules({f"i{i}": one for i, one in enumerate([*bad, good])}, {}))) as store:
        for one in store.collections():
            assert one.rows is None or one.rows >= 0
        assert all(note.isprintable() for note in store.notes)
    documents = {
        "j:1": 5,
        "j:2": {"emb": "x"},
        "j:3": {"emb": [1, "a"]},
        "j:4": {"emb": []},
        "j:5": {"emb": [1.0, 2.0]},
    }
    held = {"json": ft_info("JSON", ["j:"], {"$.emb": ("emb", "FLOAT32", 2)}, 5)}
    del documents["j:1"]
    with closing(redis.open(modules(held, documents))) as store:
        rows = whole(store, "json:emb")
        assert rows.vectors[rows.ids.index("j:5")].tolist() == [1, 2]
        assert np.isfinite(rows.vectors).all(1).sum() == 1
