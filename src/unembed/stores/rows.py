"""Rows of a reader in batches: what is bounded, and how what cannot be read is told."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from unembed.errors import DataError, printable
from unembed.stores.store import TEXT_BYTES, Collection, Floats, Rows

BATCH_BYTES = 1 << 25  # of texts and metadata, at which a batch ends before it is full
VALUES = 10_000  # in the metadata of a row; the rest is left out
DEPTH = 16  # of lists in lists
JSON_TEXT = 1 << 22  # characters; as Python objects they take up to thirty times that

T = TypeVar("T")


@dataclass
class Row:
    """One row; a vector that could not be read is None."""

    id: str
    vector: Floats | None
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    hash: str | None = None


def pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items."""
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


def batched(rows: Iterable[Row], dimension: int, batch: int) -> Iterator[Rows]:
    """`Rows` of at most `batch` rows and about 32 MiB of text; a vector of another dimension becomes NaN."""
    kept: list[Row] = []
    held = 0
    for row in rows:
        kept.append(row)
        held += len(row.text or "") + len(str(row.metadata))
        if len(kept) >= batch or held >= BATCH_BYTES:
            yield _together(kept, dimension)
            kept, held = [], 0
    if kept:
        yield _together(kept, dimension)


def _together(rows: Sequence[Row], dimension: int) -> Rows:
    vectors = np.full((len(rows), dimension), np.nan, np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None and len(row.vector) == dimension:
            vectors[i] = row.vector
    hashes = [row.hash for row in rows]
    texts = [None if row.text is None else cut(row.text) for row in rows]
    return Rows(
        [row.id for row in rows],
        vectors,
        texts,
        [row.metadata for row in rows],
        hashes if any(hashes) else None,
    )


def cut(text: str) -> str:
    """Its first MiB as UTF-8."""
    return (
        text if len(text) <= TEXT_BYTES // 4 else text.encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore")
    )


def plain(metadata: dict[Any, Any]) -> dict[str, Any]:
    """Foreign values JSON-ready, with at most `VALUES` values and about 1 MiB of text; other types by their name."""
    left = [VALUES, TEXT_BYTES]

    def convert(value: Any, depth: int) -> Any:
        left[0] -= 1
        if isinstance(value, str):
            value = value[: max(left[1], 0)]
            left[1] -= len(value)
            return value
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if depth >= DEPTH or min(left) <= 0:
            return "..."
        if isinstance(value, dict):
            return {_key(key): convert(one, depth + 1) for key, one in value.items() if min(left) > 0}
        if isinstance(value, list | tuple):
            return [convert(one, depth + 1) for one in value if min(left) > 0]
        return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:1000]

    return {_key(key): convert(value, 0) for key, value in metadata.items() if min(left) > 0}


def _key(key: Any) -> str:
    return str(key)[:1000]


def json_object(text: Any) -> dict[str, Any]:
    """A text of JSON that should be an object; empty where it is something else, or of more than 4 MiB."""
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= JSON_TEXT else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Faults:
    """Rows that could not be read: one note for each reason, however many rows."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: dict[str, list[Any]] = {}  # of each reason, how many rows and the first one's id

    def add(self, reason: str, row: object) -> None:
        """A row could not be read as it claims."""
        self._seen.setdefault(reason, [0, str(row)[:100]])[0] += 1

    def tell(self, notes: list[str]) -> None:
        """Add what was seen to `notes`, once."""
        for reason, (count, first) in self._seen.items():
            rows = f"row {printable(first)!r}" if count == 1 else f"{count} rows, the first {printable(first)!r}"
            note = f"{self._where}: {rows}: {printable(reason)}"
            if note not in notes:
                notes.append(note)


def chosen(collections: Iterable[Collection], name: str, location: str) -> Collection:
    """The collection of that name. Raises DataError, which lists what there is."""
    found = {one.name: one for one in collections}
    if name not in found:
        names = printable(", ".join(list(found)[:20])) or "none"
        raise DataError(f"{printable(location)}: no collection {printable(name)!r}, it has: {names}")
    return found[name]
