"""Qdrant, Elasticsearch, OpenSearch, Weaviate and Pinecone, read over HTTP from `store_servers`.

These are not the real servers. The stores' own clients read the same answers, where they are installed.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from stores.store_contents import (
    KEYS,
    TEXTS,
    X,
    Y,
    elastic,
    no_keys,
    pinecone_servers,
    qdrant,
    weaviate_server,
)
from stores.store_servers import Elastic, Qdrant, StoreServer, serving
from unembed.errors import DataError, InputError, UnembedError
from unembed.stores import elasticsearch, pinecone, weaviate
from unembed.stores.qdrant import server as qdrant_server
from unembed.stores.store import Collection, Rows, Store

__all__ = ["no_keys"]
pytestmark = pytest.mark.slow  # starts servers


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a server, and gives its address."""
    with ExitStack() as stack:
        yield lambda store: stack.enter_context(serving(store))


@pytest.fixture
def opened(serve: Any) -> Iterator[Any]:
    """Opens a store of an address, which is closed in the end."""
    with ExitStack() as stack:

        def call(reader: Any, url: str) -> Any:
            store = reader.open(url)
            stack.callback(store.close)
            return store

        yield call


def whole(store: Store, name: str, batch: int = 100) -> Rows:
    parts = [*store.rows(name, batch)]
    assert all(0 < len(part) <= batch for part in parts)
    assert len(parts) > 1 or len(parts[0]) < batch
    return Rows(
        [one for part in parts for one in part.ids],
        np.concatenate([part.vectors for part in parts]),
        [one for part in parts for one in part.texts],
        [one for part in parts for one in part.metadata],
    )


def listed(store: Store) -> dict[str, Collection]:
    return {one.name: one for one in store.collections()}


def traced(collection: Collection) -> dict[str, int | None]:
    return {trace.kind: trace.count for trace in collection.traces}


def reads_only(store: StoreServer) -> bool:
    """Whether nothing was asked that could change a store."""
    allowed = {"POST": ("scroll", "_search", "_count", "graphql", "describe_index_stats"), "DELETE": ("scroll",)}
    return all(how == "GET" or path.rpartition("/")[2] in allowed.get(how, ()) for how, path in store.asked)


def test_qdrant(serve: Any, opened: Any) -> None:
    server = qdrant()
    server.snapshots = 2
    store = opened(qdrant_server, serve(server))
    found = listed(store)
    assert {name: (one.rows, one.dimension, one.number, one.metric, one.has_text) for name, one in found.items()} == {
        "plain": (250, 8, "float32", "cosine", True),
        "named/a": (None, 8, "float16", "cosine", False),
        "named/b": (None, 3, "float32", "dot", False),
    }
    assert traced(found["plain"]) == {"text": 250, "deleted": 7, "copy": None, "readable": None}
    rows = whole(store, "plain")
    order = np.argsort([int(one) if one.isdigit() else uuid.UUID(one).int for one in rows.ids])
    np.testing.assert_array_equal(rows.vectors[order], X)
    assert [rows.texts[i] for i in order] == TEXTS
    assert rows.metadata[0] == {"n": 1}
    np.testing.assert_array_equal(whole(store, "named/a").vectors, np.delete(X, 3, 0))
    several = whole(store, "named/b")
    assert several.ids[:3] == ["0/0", "0/1", "1/0"]
    np.testing.assert_array_equal(several.vectors, np.repeat(Y, 2, 0))
    assert store.notes == [
        "named/s: sparse vectors are not read",
        f"{store.location}: named/a: rows without a vector, which are left out: 1, the first: 3",
    ]
    assert reads_only(server)
    with pytest.raises(DataError, match="no collection 'none', expected .*#NAME with one of plain, named/a, named/b"):
        next(store.rows("none"))


def test_qdrants_own_client_reads_the_same(serve: Any, opened: Any) -> None:
    client = pytest.importorskip("qdrant_client")
    theirs = client.QdrantClient(url=serve(qdrant()), check_compatibility=False)
    assert theirs.get_collection("named").config.params.vectors["b"].size == 3
    offset, ids, vectors = None, [], []
    while True:
        points, offset = theirs.scroll("plain", limit=70, offset=offset, with_vectors=True)
        ids += [str(point.id) for point in points]
        vectors += [point.vector for point in points]
        if offset is None:
            break
    store = opened(qdrant_server, serve(qdrant()))
    rows = whole(store, "plain")
    assert rows.ids == ids
    np.testing.assert_array_equal(rows.vectors, np.array(vectors, np.float32))
    theirs.close()


@pytest.mark.parametrize("words", [True, False])
def test_elasticsearch(serve: Any, opened: Any, words: bool) -> None:
    server = elastic(words=words)
    store = opened(elasticsearch, serve(server))
    found = listed(store)
    assert {name: (one.rows, one.dimension, one.number, one.metric, one.has_text) for name, one in found.items()} == {
        "bits/b": (3, 16, "bit", "", True),
        "late.1/parts.e": (None, None, "float32", "", True),
        "main/emb": (250, 8, "float32", "cosine", True),
        "main/meta.v": (250, 3, "float32", "", True),
    }
    assert traced(found["main/emb"]) == {"text": 250, "deleted": 4, "readable": None}
    rows = whole(store, "main/emb")
    np.testing.assert_array_equal(rows.vectors, X)
    assert rows.texts == TEXTS
    assert (rows.ids[7], rows.metadata[7]) == ("id007", {"meta": {"n": 7}})
    np.testing.assert_array_equal(whole(store, "main/meta.v").vectors, Y)
    bits = whole(store, "bits/b")
    ones = [1] * 8 + [-1] * 7 + [1]
    assert bits.vectors[:2].tolist() == [ones, ones]
    assert np.isnan(bits.vectors[2]).all()
    late = whole(store, "late.1/parts.e")
    assert (late.ids, late.texts) == (["doc/0", "doc/1"], ["one", "two"])
    assert late.vectors.tolist() == [[1, 2], [3, 4]]
    assert late.metadata[0] == {"title": "t"}
    assert store.notes == [
        "bits/sem: fields of type semantic_text are not read",
        f"{store.location}: bits/b: rows without a vector of 16 finite numbers: 1, the first: d",
    ]
    assert server.open == {}  # every search was closed
    next(store.rows("main/emb", 10))
    assert server.open == {}
    assert reads_only(server)


def test_opensearch_fields(serve: Any, opened: Any) -> None:
    held = {
        "one": {"type": "knn_vector", "dimension": 3, "method": {"name": "hnsw", "space_type": "innerproduct"}},
        "two": {"type": "knn_vector", "dimension": 8, "data_type": "binary", "space_type": "hamming"},
    }
    server = Elastic({"i": {"properties": held, "docs": {"a": {"one": [1, 2, 3], "two": [5]}}}}, False)
    store = opened(elasticsearch, serve(server))
    found = listed(store)
    assert [(one.dimension, one.number, one.metric) for one in found.values()] == [
        (3, "float32", "innerproduct"),
        (8, "bit", "hamming"),
    ]
    assert whole(store, "i/two").vectors.tolist() == [[-1, -1, -1, -1, -1, 1, -1, 1]]


def test_elasticsearchs_own_client_reads_the_same(serve: Any, opened: Any) -> None:
    client = pytest.importorskip("elasticsearch")
    helpers = pytest.importorskip("elasticsearch.helpers")
    theirs = client.Elasticsearch(serve(elastic()))
    query = {"query": {"exists": {"field": "meta.v"}}, "_source": {"exclude_vectors": False}, "track_total_hits": False}
    hits = [*helpers.scan(theirs, query=query, index="main", size=70)]
    store = opened(elasticsearch, serve(elastic()))
    rows = whole(store, "main/meta.v")
    assert rows.ids == [hit["_id"] for hit in hits]
    np.testing.assert_array_equal(rows.vectors, np.array([hit["_source"]["meta"]["v"] for hit in hits], np.float32))
    theirs.close()


def test_weaviate(serve: Any, opened: Any) -> None:
    server = weaviate_server()
    store = opened(weaviate, serve(server))
    found = listed(store)
    assert {name: (one.rows, one.dimension, one.metric, one.encoder) for name, one in found.items()} == {
        "Doc": (250, 8, "cosine", "text-embedding-3-small"),
        "Named/a": (250, 8, "dot", ""),
        "Named/b": (250, 3, "dot", ""),
        "Many/@t1": (1, 2, "", ""),
        "Many/@t2": (1, 2, "", ""),
    }
    assert traced(found["Doc"]) == {"text": 250, "encoder": None, "endpoint": None, "readable": None}
    assert found["Doc"].about["quantizers"] == ["pq"]
    assert "secret.example" not in str(found)
    rows = whole(store, "Doc")
    np.testing.assert_array_equal(rows.vectors, X)
    assert (rows.texts, rows.metadata[0]) == (TEXTS, {"n": 1})
    np.testing.assert_array_equal(whole(store, "Named/a").vectors, X)
    np.testing.assert_array_equal(whole(store, "Named/b").vectors, Y)
    assert whole(store, "Many/@t2").texts == ["t2"]
    assert store.notes == ["Many: 1 tenants are not active and are not read"]
    assert reads_only(server)


def test_pinecone(serve: Any, opened: Any) -> None:
    control, index = pinecone_servers(serve)
    store = opened(pinecone, control.url)
    found = listed(store)
    assert {name: (one.rows, one.dimension, one.metric, one.encoder) for name, one in found.items()} == {
        "idx/__default__": (250, 8, "cosine", "multilingual-e5-large"),
        "idx/other": (2, 8, "cosine", "multilingual-e5-large"),
    }
    rows = whole(store, "idx/__default__", 90)
    np.testing.assert_array_equal(rows.vectors, X)
    assert rows.texts == TEXTS
    assert rows.ids[0] == "doc#000/&="
    assert whole(store, "idx/other").ids == ["c"]
    assert store.notes == [
        "sp: sparse vectors are not read",
        "evil: its host 'x.svc.evil.example' is not below pinecone.io, and gets no key",
        "other: ids with spaces cannot be fetched, and are not read",
    ]
    assert reads_only(control)
    assert reads_only(index)
    alone = opened(pinecone, index.url)
    assert [one.name for one in alone.collections()] == ["__default__", "other"]
    np.testing.assert_array_equal(whole(alone, "__default__").vectors, X)


def test_pinecones_own_client_reads_the_same(serve: Any, opened: Any) -> None:
    client = pytest.importorskip("pinecone")
    _, index = pinecone_servers(serve)
    theirs = client.Pinecone(api_key="key").Index(host=index.url)
    assert theirs.describe_index_stats().total_vector_count == 252
    ids, vectors = [], []
    for page in theirs.list(limit=90):
        ids += [getattr(one, "id", one) for one in page]
        held = theirs.fetch(ids=ids[len(vectors) :]).vectors
        vectors += [held[one].values for one in ids[len(vectors) :]]
    rows = whole(opened(pinecone, index.url), "__default__")
    assert rows.ids == ids
    np.testing.assert_array_equal(rows.vectors, np.array(vectors, np.float32))
    theirs.close()


HOSTS = (
    "evil.example", "evil.example/.pinecone.io", "a.pinecone.io@evil.example", "evil.example#.pinecone.io",
    "pinecone.io.evil.example", "evil.example\\@x.pinecone.io", "xpinecone.io", "http://evil.example", "",
    "x.pinecone.io?@evil.example", "a\x1b[1m.pinecone.io",
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_pinecones_key_goes_to_its_hosts_only(host: str, opened: Any) -> None:
    store = opened(pinecone, "https://api.pinecone.io")
    with pytest.raises(InputError, match="gets no key") as raised:
        store._server_of(host)
    assert str(raised.value).isprintable()
    assert store._server_of("idx-abc.svc.aped-1.pinecone.io").shown == "https://idx-abc.svc.aped-1.pinecone.io"


@pytest.mark.parametrize(
    ("make", "reader", "variable"),
    [(qdrant, qdrant_server, KEYS[0]), (elastic, elasticsearch, KEYS[1]), (weaviate_server, weaviate, KEYS[2])],
)
def test_keys_come_from_the_environment(
    serve: Any, opened: Any, make: Any, reader: Any, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make()
    server.key = "sesame-key"
    url = serve(server)
    with pytest.raises(UnembedError, match=f"status 401 .*; its key is read from {variable}"):
        opened(reader, url).collections()
    monkeypatch.setenv(variable, "sesame-key")
    store = opened(reader, url)
    (first, *_) = store.collections()
    assert "readable" not in traced(first)
    assert "sesame" not in store.location + repr(first)
    monkeypatch.setenv(variable, "wrong-sesame")
    with pytest.raises(UnembedError, match="status 401") as raised:
        opened(reader, url).collections()
    assert "sesame" not in str(raised.value)
    monkeypatch.setenv(variable, "séame")
    with pytest.raises(InputError, match=f"{variable} holds characters"):
        reader.open(url)


def test_a_path_below_which_a_store_lies_is_kept(serve: Any, opened: Any) -> None:
    class Below(Qdrant):
        def answer(self, method: str, path: list[str], *rest: Any) -> Any:
            return super().answer(method, path[1:], *rest) if path[0] == "db" else (404, {})

    store = opened(qdrant_server, f"{serve(Below(qdrant().collections))}/db/")
    assert len(whole(store, "plain")) == 250
    with pytest.raises(InputError, match="expected none with a question mark"):
        qdrant_server.open("http://h/?key=sesame")
