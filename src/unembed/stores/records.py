"""Rows out of JSON that a server answered: numbers that are none, texts among other values, and what is left."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unembed.errors import DataError
from unembed.stores.names import SHORT_TEXTS, TEXTS, encoder, first, last
from unembed.stores.rows import WIDEST, Faults, Row, batched, json_object, metadata
from unembed.stores.store import Floats, Rows, Trace
from unembed.stores.traces import encoder_traces, text_trace

NODE = "_node_content"  # where LlamaIndex keeps a node as JSON, its text in it
KEYS = (*TEXTS, *SHORT_TEXTS, NODE)


@dataclass(frozen=True)
class Record:
    """A vector as JSON has it, with its id and all else that a store holds beside it."""

    id: Any
    vector: Any
    payload: Any


def text_key(payload: Mapping[str, Any]) -> str | None:
    """The key of a payload that holds the text, None where none is called so."""
    return first(KEYS, [key for key, value in payload.items() if isinstance(value, str)])


def text_of(payload: Mapping[str, Any], key: str | None) -> str | None:
    """The text that a payload has by a key."""
    text = None if key is None else payload[key]
    if key is not None and last(key) == NODE:
        text = json_object(text).get("text")
    return text if isinstance(text, str) and text else None


def rows_of_pages(
    pages: Iterable[Sequence[Record]], dimension: int | None, batch: int, name: str, notes: list[str]
) -> Iterator[Rows]:
    """Rows of all records, `batch` at most at once; those without a vector are left out.

    Args:
        dimension: None where the first vector tells it.
        name: of the collection, in messages.
        notes: get how many rows were left out, and how many were not read.

    Raises:
        DataError: there are too many dimensions.
    """
    faults = Faults(name)
    try:
        for page in pages:
            for record in page:
                if record.vector is None:
                    faults.add("rows without a vector, which are left out", record.id)
            records = [one for record in page if record.vector is not None for one in _single(record)]
            dimension = dimension or next((d for one in records if (d := dimension_of(one.vector))), None)
            if (dimension or 0) > WIDEST:
                raise DataError(f"{name}: has {dimension:,} dimensions, expected at most {WIDEST:,}")
            rows = (_row(record, dimension or 0, faults) for record in records)
            if dimension is None:
                deque(rows, 0)
            else:
                yield from batched(rows, dimension, batch)
    finally:
        faults.tell(notes)


def _row(record: Record, dimension: int, faults: Faults) -> Row:
    vector = numbers_of(record.vector)
    if vector is None or len(vector) != dimension:
        faults.add(f"rows without a vector of {f'{dimension:,} ' if dimension else ''}finite numbers", record.id)
    payload = record.payload if isinstance(record.payload, dict) else {}
    key = text_key(payload)
    rest = {name: value for name, value in payload.items() if name != key}
    return Row(str(record.id), vector, text_of(payload, key), metadata(rest))


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
    """The encoder that a sample of payloads names, "" where it names none, or several."""
    values: dict[str, list[Any]] = {}
    for payload in payloads:
        for name, value in payload.items() if isinstance(payload, dict) else ():
            values.setdefault(name, []).append(value)
    return encoder(values)


def dimension_of(vector: Any) -> int | None:
    """How many numbers a vector has, or the first of several; None where it is none."""
    if isinstance(vector, list) and vector and isinstance(vector[0], list):
        vector = vector[0]
    return len(vector) or None if isinstance(vector, list | np.ndarray) else None


def traces_of(payloads: Sequence[Any], rows: int | None, where: str) -> tuple[bool, str, list[Trace]]:
    """Whether a sample of payloads has texts, the encoder that it names, and what that gives away."""
    traces = []
    keys = {key for one in payloads if isinstance(one, dict) and (key := text_key(one))}
    named = encoder_of(payloads)
    if keys:
        traces.append(text_trace(f"{where}: {', '.join(sorted(keys))}", rows))
    return bool(keys), named, [*traces, *encoder_traces(named, where)]


def _single(record: Record) -> list[Record]:
    """A record of several vectors, as late interaction has them, as one of each; `ID/0` is the first."""
    if isinstance(record.vector, list) and record.vector and isinstance(record.vector[0], list):
        return [Record(f"{record.id}/{i}", one, record.payload) for i, one in enumerate(record.vector)]
    return [record]
