"""Embeddings out of the answers that endpoints give, in whichever shape.

    {"data": [{"index": 0, "embedding": [...]}, ...]}    OpenAI, and what is made after it; without index, in order
    {"embeddings": [[...], ...]}, {"embedding": [...]}   ollama's /api/embed and /api/embeddings
    [[...], ...]                                         text-embeddings-inference's /embed
    [{"index": 0, "embedding": [[...]]}, ...]            llama.cpp's /embeddings

An embedding is a list of numbers, or base64 of little-endian float32.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.config import Recipe

NUMBER_BYTES = 64  # that a number may take in JSON, with its indentation
REST_BYTES = 2**20  # that the rest of an answer may take
OTHER_MODEL = "is it another model? --encoder-model (in Python: model) names one"

Floats = NDArray[np.float32]


def most_bytes(count: int, dimension: int) -> int:
    """The size that an answer with so many embeddings may have."""
    return REST_BYTES + NUMBER_BYTES * count * dimension


def takes_one(path: str) -> bool:
    """Whether an address with this path takes one text at a time: ollama's older one."""
    return path.endswith("/api/embeddings")


def request(path: str, model: str, texts: Sequence[str], recipe: Recipe) -> dict[str, Any]:
    """What an address with this path is sent."""
    if takes_one(path):
        return {"model": model, "prompt": texts[0]}
    body: dict[str, Any] = {"model": model, "input": list(texts)}
    if path in ("", "/") or (path.endswith("/embed") and not path.endswith("/api/embed")):
        # text-embeddings-inference: it ignores what it does not know; other servers with this path know `input`
        body |= {"inputs": body["input"], "normalize": recipe.normalize, "truncate": True}
    return body


def vectors(tree: Any, count: int, recipe: Recipe) -> Floats:
    """Embeddings (count, d) float32 of an answer, in the order of the request, to unit length where the recipe says so.

    Raises:
        ValueError: the answer holds something else; the message says what, and shows nothing of its text.
    """
    found = _ordered(_entries(tree), count)
    if len(found) != count:
        raise ValueError(f"answered {len(found):,} embeddings, expected {count:,}")
    rows = np.stack([_numbers(one, recipe) for one in found])
    with np.errstate(all="ignore"):  # what comes of it is not finite
        if recipe.normalize:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        embeddings = rows.astype(np.float32)
    bad = ~np.isfinite(embeddings).all(1) | ~embeddings.any(1)
    if bad.any():
        raise ValueError(f"embedding {int(bad.argmax())} of {count:,} is zero or not finite")
    return embeddings


def _entries(tree: Any) -> list[Any]:
    """The list of embeddings, or of objects that hold one each."""
    if isinstance(tree, dict):
        if isinstance(tree.get("embedding"), list | str):
            return [tree["embedding"]]
        tree = tree.get("data", tree.get("embeddings"))
    if not isinstance(tree, list):
        raise ValueError("the answer has none of the shapes of embeddings endpoints; check the address")
    return tree


def _ordered(entries: list[Any], count: int) -> list[Any]:
    """The embeddings in the order of the request: by `index`, or as they come where they are not numbered."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    if not objects:
        return entries
    if len(objects) < len(entries) or not all("embedding" in entry for entry in objects):
        raise ValueError("the answer has entries without an embedding; check the address")
    numbers = [entry.get("index") for entry in objects]
    if any(numbers):  # neither left out nor all 0
        if sorted(numbers, key=str) != sorted(range(len(objects)), key=str):
            raise ValueError(f"answered {len(objects):,} embeddings not numbered from 0 on, expected {count:,}")
        objects.sort(key=lambda entry: int(entry["index"]))
    return [entry["embedding"] for entry in objects]


def _numbers(value: Any, recipe: Recipe) -> NDArray[np.float64]:
    """One embedding (d,)."""
    d = recipe.dimension
    if isinstance(value, str):
        try:
            held = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("an embedding is text, expected numbers or base64 of float32") from None
        if len(held) != 4 * d:
            wide = f"float64, or {2 * d:,} dimensions of float32: " if len(held) == 8 * d else ""
            raise ValueError(
                f"an embedding is base64 of {len(held):,} bytes ({wide}expected {4 * d:,}, {d:,} numbers of float32); "
                f"{OTHER_MODEL}"
            )
        return np.frombuffer(held, "<f4").astype(np.float64)
    try:
        row = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("an embedding is not a list of numbers") from None
    if row.ndim == 2 and len(row) == 1:
        row = row[0]
    if row.ndim != 1:
        raise ValueError(f"an embedding has the shape {row.shape}, expected {d:,} numbers")
    if len(row) != d:
        raise ValueError(
            f"an embedding has {len(row):,} dimensions, expected {d:,} as {recipe.encoder} gives; {OTHER_MODEL}"
        )
    return row
