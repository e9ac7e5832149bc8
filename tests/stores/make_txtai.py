"""Make folders of txtai with its own library, and print what it gives back as JSON. The vectors are of this file."""

import json
import sys

import numpy as np
from txtai import Embeddings


def encode(texts: list[str]) -> np.ndarray:
    """Of each text a vector of its own; txtai makes their norms 1."""
    return np.array([np.random.default_rng([ord(c) for c in text]).standard_normal(16) for text in texts], np.float32)


texts = {f"key {n}": f"the text of row {n}" for n in range(30)}
settings = {"method": "external", "transform": encode}
more = {"vectors": {"api_base": "https://someone:pass-word@llm.internal/v1", "api_key": "sk-abcdefghijklmnopqrstuvwx"}}

index = Embeddings(**settings, **more, content=True, path=None)
index.index([(key, {"text": text, "n": n}, None) for n, (key, text) in enumerate(texts.items())])
index.delete(["key 4"])
index.upsert([("key 7", "another text", None)])
index.save(f"{sys.argv[1]}/texts")
index.close()

index = Embeddings(**settings, content=False)
index.index([(key, text, None) for key, text in texts.items()])
index.save(f"{sys.argv[1]}/ids")
index.close()

texts = {key: text for key, text in texts.items() if key != "key 4"} | {"key 7": "another text"}
vectors = encode(list(texts.values()))
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(json.dumps({"texts": texts, "vectors": dict(zip(texts, vectors.tolist(), strict=True))}))
