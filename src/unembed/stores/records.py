"""Rows out of JSON that a server answered: numbers that are none, texts among other values, and what is left."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError, printable
from unembed.stores.columns import ENCODER, ENCODERS, MODELS, TEXTS, WIDEST
from unembed.stores.store import TEXT_BYTES, Rows, Trace
from unembed.tables.values import plain

NODE = "_node_content"  # where LlamaIndex keeps a node as JSON, its text in it

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Record:
    """A vector as JSON has it, with its id and all else that a store holds beside it."""

    id: Any
    vector: Any
    payload: Any


def text_key(payload: Mapping[str, Any]) -> str | None:
    """The key of a payload that holds the text, None where none is called so."""
    lower = {key.lower(): key for key, value in payload.items() if isinstance(value, str)}
    return next((lower[name] for name in (*TEXTS, NODE) if name in lower), None)


def text_of(payload: Mapping[str, Any]) -> str | None:
    """The text of a payload, cut at `TEXT_BYTES`."""
    key = text_key(payload)
    if key is None:
        return None
    text: Any = payload[key]
    if key.lower() == NODE:
        try:
            text = json.loads(text).get("text")
        except (ValueError, AttributeError, RecursionError):
            text = None
    return cut(text) if isinstance(text, str) and text else None


def cut(text: str) -> str:
    """A text's first `TEXT_BYTES`, without half a character; lone surrogates are question marks."""
    return text.encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore")


def rows_of_pages(
    pages: Iterable[Sequence[Record]], dimension: int | None, batch: int, name: str, note: Callable[[str], None]
) -> Iterator[Rows]:
    """Rows of all records, `batch` at most at once; those without a vector are left out.

    Args:
        dimension: None where the first vector tells it.
        name: of the collection, in messages.
        note: takes how many rows were left out, and how many were not read.

    Raises:
        DataError: there are too many dimensions.
    """
    unread = absent = 0
    try:
        for page in pages:
            absent += sum(record.vector is None for record in page)
            records = [one for record in page if record.vector is not None for one in _single(record)]
            dimension = dimension or next((d for one in records if (d := dimension_of(one.vector))), None)
            if dimension is None:
                unread += len(records)
                continue
            if dimension > WIDEST:
                raise DataError(f"{name}: has {dimension:,} dimensions, expected at most {WIDEST:,}")
            for start in range(0, len(records), batch):
                rows = rows_of(records[start : start + batch], dimension)
                unread += int(np.isnan(rows.vectors).any(1).sum())
                yield rows
    finally:
        if unread:
            note(f"{name}: {unread:,} rows do not hold {dimension or 0:,} finite numbers")
        if absent:
            note(f"{name}: {absent:,} rows have no vector and are left out")


def rows_of(records: Sequence[Record], dimension: int) -> Rows:
    """Rows of records; a vector that is none, or of another dimension, is NaN."""
    vectors = np.full((len(records), dimension), np.nan, np.float32)
    texts: list[str | None] = []
    metadata: list[dict[str, Any]] = []
    for row, record in zip(vectors, records, strict=True):
        if (numbers := numbers_of(record.vector)) is not None and len(numbers) == dimension:
            row[:] = numbers
        payload = record.payload if isinstance(record.payload, dict) else {}
        texts.append(text_of(payload))
        key = text_key(payload)
        metadata.append({cut(name): plain(value) for name, value in payload.items() if name != key})
    return Rows([cut(str(record.id)) for record in records], vectors, texts, metadata)


def numbers_of(vector: Any) -> Floats | None:
    """The numbers (d,) of a JSON list, None where it is none of finite ones."""
    if isinstance(vector, list) and not {*map(type, vector)} <= {int, float}:
        return None
    if not isinstance(vector, list | np.ndarray):
        return None
    try:
        numbers = np.asarray(vector, None if isinstance(vector, np.ndarray) else np.float64)
    except OverflowError:  # an integer beyond all floats
        return None
    if numbers.ndim != 1 or not len(numbers):
        return None
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    return found if np.isfinite(found).all() else None


def encoder_of(payloads: Sequence[Any]) -> str:
    """What a key that is called so names as the encoder, where it names only one; of any model, only an encoder."""
    for name in (*ENCODERS, *MODELS):
        found = [one[name] for one in payloads if isinstance(one, dict) and name in one]
        told = found[0] if found and all(one == found[0] for one in found) else None
        if isinstance(told, str) and told and (name in ENCODERS or ENCODER.search(told[:200])):
            return told[:200]
    return ""


def dimension_of(vector: Any) -> int | None:
    """How many numbers a vector has, or the first of several; None where it is none."""
    if isinstance(vector, list) and vector and isinstance(vector[0], list):
        vector = vector[0]
    return len(vector) or None if isinstance(vector, list | np.ndarray) else None


def traces_of(payloads: Sequence[Any], rows: int | None, where: str) -> tuple[bool, str, list[Trace]]:
    """Whether a sample of payloads has texts, the encoder that it names, and what that gives away."""
    traces = []
    keys = {key for one in payloads if isinstance(one, dict) and (key := text_key(one))}
    encoder = encoder_of(payloads)
    if keys:
        shown = printable(", ".join(sorted(keys)))
        traces.append(Trace("text", f"Text in clear is beside the vectors, in {shown}.", where, rows))
    if encoder:
        traces.append(Trace("encoder", f"The encoder is named: {printable(encoder)}", where))
    return bool(keys), encoder, traces


def _single(record: Record) -> list[Record]:
    """A record of several vectors, as late interaction has them, as one of each; `ID/0` is the first."""
    if isinstance(record.vector, list) and record.vector and isinstance(record.vector[0], list):
        return [Record(f"{record.id}/{i}", one, record.payload) for i, one in enumerate(record.vector)]
    return [record]
