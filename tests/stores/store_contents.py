"""What the servers of stores hold in tests: three kinds of ids, vectors of every spelling, texts."""

import uuid
from typing import Any

import numpy as np
import pytest

from stores.store_servers import Elastic, Pinecone, Qdrant, Weaviate, packed

KEYS = ("QDRANT_API_KEY", "ELASTIC_API_KEY", "WEAVIATE_API_KEY", "PINECONE_API_KEY")
X = np.random.default_rng(0).standard_normal((250, 8)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((250, 3)).astype(np.float32)
TEXTS = [f"text {i}" for i in range(len(X))]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's environment has."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


def qdrant() -> Qdrant:
    """A plain collection with ids of both kinds, and one with a named, a multiple and a sparse vector."""
    plain, named = [], []
    for i, (x, y, text) in enumerate(zip(X, Y, TEXTS, strict=True)):
        point = i if i % 2 else str(uuid.UUID(int=i))
        plain.append({"id": point, "vector": x.tolist(), "payload": {"page_content": text, "n": 1}})
        vectors = {"a": x.tolist(), "b": [y.tolist(), y.tolist()], "s": {"indices": [1], "values": [1.0]}}
        named.append({"id": i, "vector": vectors})
    del named[3]["vector"]["a"]
    one = {"size": 8, "distance": "Cosine"}
    several = {"size": 3, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}
    both = {"vectors": {"a": one | {"datatype": "float16"}, "b": several}, "sparse_vectors": {"s": {}}}
    return Qdrant(
        {
            "plain": {"config": {"vectors": one}, "points": plain, "deleted": {"": 7}},
            "named": {"config": both, "points": named},
        }
    )


def elastic(words: bool = True) -> Elastic:
    """Fields of floats, one in an object; bits in both of their spellings and neither; vectors of passages."""
    docs: dict[str, Any] = {}
    for i, (x, y, text) in enumerate(zip(X, Y, TEXTS, strict=True)):
        docs[f"id{i:03}"] = {"text": text, "emb": x.tolist(), "meta": {"v": y.tolist(), "n": i}}
    docs["id007"]["emb"] = packed(X[7])
    dense = {"type": "dense_vector", "dims": 8, "similarity": "cosine", "index_options": {"type": "int8_hnsw"}}
    inner = {"properties": {"v": {"type": "dense_vector", "dims": 3}, "n": {"type": "long"}}}
    bits = {"type": "dense_vector", "dims": 16, "element_type": "bit"}
    parts = {"type": "nested", "properties": {"e": {"type": "dense_vector"}, "text": {"type": "text"}}}
    passages = [{"text": "one", "e": [1.0, 2.0]}, {"text": "two", "e": [3.0, 4.0]}]
    return Elastic(
        {
            "main": {"properties": {"text": {"type": "text"}, "emb": dense, "meta": inner}, "docs": docs, "deleted": 4},
            "bits": {
                "properties": {"b": bits, "sem": {"type": "semantic_text"}},
                "docs": {"a": {"b": [-1, 1]}, "c": {"b": "ff01", "body": "hex"}, "d": {"b": "no"}},
            },
            "late.1": {
                "properties": {"title": {"type": "text"}, "parts": parts},
                "docs": {"doc": {"title": "t", "parts": passages}, "none": {"title": "u"}},
            },
        },
        words,
    )


def weaviate_server() -> Weaviate:
    """A class with one vector, one with two that are named, and one with tenants."""
    ids = [str(uuid.UUID(int=i)) for i in range(len(X))]
    docs, named = [], []
    for i, x, y, text in zip(ids, X, Y, TEXTS, strict=True):
        docs.append({"class": "Doc", "id": i, "properties": {"content": text, "n": 1}, "vector": x.tolist()})
        named.append({"class": "Named", "id": i, "properties": {}, "vectors": {"a": x.tolist(), "b": [y.tolist()]}})
    openai = {"text2vec-openai": {"model": "text-embedding-3-small", "baseURL": "http://secret.example"}}
    doc = {"vectorizer": "text2vec-openai", "moduleConfig": openai, "vectorIndexType": "hnsw"}
    doc |= {"vectorIndexConfig": {"distance": "cosine", "pq": {"enabled": True}}}
    own = {"vectorizer": {"none": {}}, "vectorIndexConfig": {"distance": "dot"}}
    tenants = {"t1": "ACTIVE", "t2": "HOT", "t3": "INACTIVE"}
    held = {one: [{"id": ids[0], "properties": {"text": one}, "vector": [1.0, 2.0], "tenant": one}] for one in tenants}
    many = {"multiTenancyConfig": {"enabled": True}, "vectorizer": "none"}
    return Weaviate(
        {
            "Doc": {"schema": doc, "objects": {"": docs}},
            "Named": {"schema": {"vectorConfig": {"a": own, "b": own}}, "objects": {"": named}},
            "Many": {"schema": many, "tenants": tenants, "objects": held},
        }
    )


def pinecone_servers(serve: Any) -> tuple[Pinecone, Pinecone]:
    """A project with an index of two namespaces, a sparse one, and one whose host is somewhere else."""
    model = {
        "dimension": 8, "metric": "cosine", "vector_type": "dense", "status": {"ready": True, "state": "Ready"},
        "spec": {"serverless": {"cloud": "aws", "region": "us-east-1"}}, "embed": {"model": "multilingual-e5-large"},
    }  # fmt: skip
    records = {}
    for i, (x, text) in enumerate(zip(X, TEXTS, strict=True)):
        name = f"doc#{i:03}/&="
        records[name] = {"id": name, "values": x.tolist(), "metadata": {"chunk_text": text}}
    spaced = {name: {"id": name, "values": X[0].tolist()} for name in ("a b", "c")}
    index = Pinecone({"idx": {"model": model, "namespaces": {"": records, "other": spaced}}}, "idx")
    host = serve(index).removeprefix("http://")
    sparse, elsewhere = model | {"vector_type": "sparse", "host": host}, model | {"host": "x.svc.evil.example"}
    indexes = {"sp": sparse, "evil": elsewhere, "idx": model | {"host": host}}
    control = Pinecone({name: {"model": one} for name, one in indexes.items()})
    serve(control)
    return control, index
