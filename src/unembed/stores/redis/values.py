"""What Redis answers, as values: its bytes as text, numbers, vectors and JSON; wrong ones as nothing."""

import json
from typing import Any

import numpy as np

from unembed.stores.records import Record
from unembed.stores.rows import cut

NUMBERS = {"FLOAT32": "<f4", "FLOAT64": "<f8", "FLOAT16": "<f2", "INT8": "i1", "UINT8": "u1"}  # of an index' fields
MOST = 1 << 16  # lists and objects in one JSON value


def text(value: Any) -> str:
    """Bytes as text, with a mark for what is not UTF-8; "" for anything else."""
    return cut(value.decode("utf-8", "replace")) if isinstance(value, bytes) else ""


def readable(fields: dict[bytes, bytes]) -> dict[str, str]:
    """The fields of a hash that are text."""
    found = {}
    for name, value in fields.items():
        try:
            found[text(name)] = cut(value.decode())
        except UnicodeDecodeError:
            continue
    return found


def count(value: Any) -> int | None:
    """A number of things, None where it is none."""
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if 0 <= found < 1 << 63 else None


def items(value: Any) -> list[Any]:
    """A list, an empty one where there is none."""
    return value if isinstance(value, list) else []


def pairs(value: Any) -> dict[str, Any]:
    """An answer of names and values by turns, as an object."""
    flat = items(value)
    return {text(name): one for name, one in zip(flat[::2], flat[1::2], strict=False)}


def tree(value: Any) -> Any:
    """A JSON value, None where it is none, or has too many parts."""
    if not isinstance(value, bytes) or value.count(b"[") + value.count(b"{") > MOST:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def vector(value: bytes, number: str) -> Any:
    """A field of a hash: little-endian numbers, or a JSON list of them. An empty list where it is neither."""
    if value[:1] == b"[" and isinstance(found := tree(value), list):
        return found
    kind = np.dtype(number)
    return np.frombuffer(value, kind).astype(np.float32) if len(value) % kind.itemsize == 0 else []


def numbers(value: Any) -> Any:
    """What VEMB answers."""
    try:
        return [float(one) for one in value]
    except (TypeError, ValueError):
        return []


def of_document(key: str, document: Any, path: str, found: Any) -> list[Record]:
    """A JSON document and what is at a path in it: one vector, or several."""
    payload, found = tree(document), tree(found)
    if not isinstance(found, list):
        return []
    if isinstance(payload, dict):
        payload.pop(path.removeprefix("$."), None)  # the vector itself
    if not found or not isinstance(found[0], list):  # a path of the older kind answers with the value itself
        found = [found] if found else []
    return [Record(key if len(found) == 1 else f"{key}/{place}", one, payload) for place, one in enumerate(found)]


def pattern(prefix: bytes) -> bytes:
    """What SCAN matches keys that begin so with."""
    return (
        b"".join(b"\\" + one if one in b"*?[]^\\-" else one for one in (prefix[i : i + 1] for i in range(len(prefix))))
        + b"*"
    )
