"""Make a Chroma store with its own client, in a process of its own, and print what the client gives back of it as JSON.

Called with a folder that does not exist. The client is asked on a copy, since it writes when it reads.
"""

import json
import shutil
import sys
from pathlib import Path

import chromadb
import numpy as np

DIMENSION = 8
OLD = chromadb.__version__ < "1"


def vectors(count: int, seed: int) -> np.ndarray:
    """Rows of norms around 8, which a store that normalises would not keep."""
    return (np.random.default_rng(seed).standard_normal((count, DIMENSION)) * 3).astype(np.float32)


def create(client, name: str, space: str, threshold: int, metadata: dict):
    if OLD:
        settings = {"hnsw:space": space, "hnsw:sync_threshold": threshold, "hnsw:batch_size": threshold}
        return client.create_collection(name, metadata=metadata | settings, embedding_function=None)
    settings = {"hnsw": {"space": space, "sync_threshold": threshold, "batch_size": threshold}}
    return client.create_collection(name, metadata=metadata or None, configuration=settings, embedding_function=None)


def fill(collection, rows: np.ndarray) -> None:
    for start in range(0, len(rows), 10):
        numbers = range(start, min(start + 10, len(rows)))
        collection.add(
            ids=[f"id {n}" for n in numbers],
            embeddings=rows[start : start + 10],
            documents=[f"text number {n}" for n in numbers],
            metadatas=[{"number": n, "half": n / 2, "even": n % 2 == 0, "word": "x"} for n in numbers],
        )


def make(folder: str) -> dict:
    """Collections in every state, and the vectors that were deleted from them."""
    client = chromadb.PersistentClient(folder)
    if not OLD:
        client.create_collection(
            "default-encoder", metadata={"note": "key sk-abcdefghijklmnopqrstuvwx at https://llm.internal:8443/v1"}
        )
    queued = create(client, "queued", "l2", 1000, {})
    fill(queued, vectors(12, 0))
    queued.delete(ids=["id 3"])
    queued.update(ids=["id 4"], metadatas=[{"number": 4, "db_password": "correct-horse"}])

    cosine = create(client, "cosine", "cosine", 20, {})
    fill(cosine, vectors(45, 1))
    cosine.delete(ids=["id 5", "id 6"])  # after the last sync
    cosine.update(ids=["id 7"], embeddings=vectors(1, 7), documents=["changed"])
    cosine.upsert(ids=["id 8", "new"], embeddings=vectors(2, 8))
    cosine.delete(ids=["id 9"])
    cosine.add(ids=["id 9"], embeddings=vectors(1, 9), documents=["again"])
    cosine.delete(ids=["id 39"])  # the last one that the index took, which the queue keeps

    synced = create(client, "synced", "ip", 10, {})
    fill(synced, vectors(30, 2))
    synced.delete(ids=[f"id {n}" for n in range(10)])  # itself a whole batch, so that the index takes it
    synced.add(ids=["id 4"], embeddings=vectors(1, 4))

    fill(create(client, "gone", "cosine", 10, {}), vectors(20, 3))
    client.delete_collection("gone")
    deleted = {
        "queued (deleted)": {"id 3": vectors(12, 0)[3].tolist()},
        "cosine (deleted)": {f"id {n}": vectors(45, 1)[n].tolist() for n in (5, 6, 39)},
        "synced (deleted)": {f"label {n + 1}": vectors(30, 2)[n].tolist() for n in range(10)},
        "gone": {f"id {n}": vectors(20, 3)[n].tolist() for n in range(20)},
    }
    client.clear_system_cache()
    return deleted


def ask(folder: str) -> dict:
    """All rows of all collections, by the client."""
    client, found = chromadb.PersistentClient(folder), {}
    for listed in client.list_collections():
        name = listed if isinstance(listed, str) else listed.name
        got = client.get_collection(name, embedding_function=None).get(include=["embeddings", "documents", "metadatas"])
        found[name] = {
            "ids": got["ids"],
            "vectors": np.asarray(got["embeddings"], np.float64).tolist(),
            "texts": got["documents"],
            "metadata": got["metadatas"],
        }
    client.clear_system_cache()
    return found


if __name__ == "__main__":
    target = Path(sys.argv[1])
    answer = {"deleted": make(str(target))}
    copy = target.with_name(f"{target.name} asked")
    shutil.copytree(target, copy)
    answer["rows"] = ask(str(copy))
    print(json.dumps(answer))
