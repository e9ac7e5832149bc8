"""Make a folder of the Qdrant client's local mode, and print what the client gives back of it as JSON."""

import json
import shutil
import sys
import uuid
from datetime import datetime

import numpy as np
from qdrant_client import QdrantClient, models

folder = sys.argv[1]
rows = np.random.default_rng(0).standard_normal((30, 8)) * 3
size = {"size": 8}


def space(distance: str, **more: object) -> models.VectorParams:
    return models.VectorParams(size=8, distance=distance, **more)


client = QdrantClient(path=folder)
client.create_collection("cosine", vectors_config=space("Cosine"))
client.upsert(
    "cosine",
    [
        models.PointStruct(
            id=n, vector=rows[n].tolist(), payload={"document": f"text {n}", "n": n, "deep": {"a": [1, None]}}
        )
        for n in range(20)
    ],
)
client.upsert("cosine", [models.PointStruct(id=str(uuid.UUID(int=7)), vector=rows[20].tolist())])
client.upsert("cosine", [models.PointStruct(id=50, vector=rows[21].tolist(), payload={"at": datetime(2026, 1, 2)})])
client.delete("cosine", points_selector=[3])
client.set_payload("cosine", {"more": "new"}, points=[4])
client.update_vectors("cosine", [models.PointVectors(id=5, vector=rows[22].tolist())])
multi = models.MultiVectorConfig(comparator="max_sim")
client.create_collection(
    "named",
    vectors_config={"first": space("Dot"), "second": space("Euclid"), "many": space("Dot", multivector_config=multi)},
    sparse_vectors_config={"words": models.SparseVectorParams()},
)
sparse = models.SparseVector(indices=[1, 5], values=[0.5, 0.25])
vectors = {"first": rows[0].tolist(), "second": rows[1].tolist(), "many": [rows[2].tolist()] * 2, "words": sparse}
client.upsert("named", [models.PointStruct(id=1, vector=vectors, payload={"page_content": "some words"})])
client.upsert("named", [models.PointStruct(id=2, vector={"first": rows[3].tolist()})])
client.close()

shutil.copytree(folder, f"{folder} asked")
client, found = QdrantClient(path=f"{folder} asked"), {}
for name in ("cosine", "named"):
    points, _ = client.scroll(name, limit=100, with_vectors=True, with_payload=True)
    found[name] = {
        str(one.id): {"vector": one.model_dump()["vector"], "payload": one.model_dump(mode="json")["payload"]}
        for one in points
    }
client.close()
print(json.dumps({"found": found, "given": rows.tolist()}))
