"""Rows of a reader in batches of bounded size, and notes of what could not be read."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from unembed.errors import DataError, printable
from unembed.stores.store import TEXT_BYTES, Floats, Rows
from unembed.tables.values import LONGEST, plain

BATCH_BYTES = 1 << 25  # of texts and metadata, at which a batch ends before it is full
VALUES = 1000  # in the metadata of a row; the rest is left out
WIDEST = 1 << 16  # dimensions
LISTED = 20  # names in a message
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
        [cut(row.id) for row in rows],
        vectors,
        texts,
        [row.metadata for row in rows],
        hashes if any(hashes) else None,
    )


def cut(text: str) -> str:
    """A text's first MiB as UTF-8, without half a character at its end; lone surrogates are question marks."""
    return text[:TEXT_BYTES].encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore")


def metadata(values: Mapping[Any, Any]) -> dict[str, Any]:
    """What a row holds beside its text, JSON-ready: its first values, each as `tables.values.plain` has it."""
    return {cut(str(key)[:LONGEST]): plain(value) for key, value in islice(values.items(), VALUES)}


def json_object(text: Any) -> dict[str, Any]:
    """A text of JSON that should be an object; empty where it is something else, or of more than 4 MiB."""
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= JSON_TEXT else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def note(notes: list[str], *lines: str) -> None:
    """Add lines to notes, each once."""
    notes += [line for line in dict.fromkeys(lines) if line not in notes]


def note_unread(notes: list[str], found: Sequence[Any], errors: Sequence[DataError]) -> None:
    """Note what could not be read of a store. Raises the first of the errors where nothing else was found."""
    if errors and not found:
        raise errors[0]
    note(notes, *(printable(str(error)) for error in errors))


class Faults:
    """Rows that could not be read: one note for each reason, however many rows."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: dict[str, list[Any]] = {}  # of each reason, how many rows and the first one

    def add(self, reason: str, row: object) -> None:
        """A row could not be read as it claims. reason: what such rows are, such as `rows without a vector`."""
        self._seen.setdefault(reason, [0, str(row)[:200]])[0] += 1

    def tell(self, notes: list[str]) -> None:
        """Add what was seen to `notes`."""
        for reason, (count, row) in self._seen.items():
            note(notes, printable(f"{self._where}: {reason}: {count:,}, the first: {row}"))


def chosen(found: Mapping[str, T], name: str, location: str) -> T:
    """What stands for a collection. Raises DataError: there is none of that name."""
    if name not in found:
        raise unknown(found, name, location)
    return found[name]


def unknown(found: Iterable[str], name: str, location: str) -> DataError:
    """The error of a collection that is not there, which asks for one of those that there are."""
    there = ", ".join(printable(one)[:100] for one in islice(found, LISTED))
    expected = f"expected {printable(location)}#NAME with one of {there}" if there else "it holds no vectors"
    return DataError(f"{printable(location)}: has no collection {printable(name)!r}, {expected}")
