"""Rows of a Chroma collection: those it has, and those that were deleted and are still in its files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.stores.chroma.vectors import DELETE, PARAMETERS, Vectors, synced
from unembed.stores.rows import BATCH_BYTES, Faults, Row, json_object, metadata, pages
from unembed.stores.sqlite_files import Database, TooLargeError

DOCUMENT = "chroma:document"
Metadata = dict[str, Any]
Listed = list[tuple[int, str]]


def live_rows(database: Database, segment: str, vectors: Vectors, faults: Faults, rest: "Rest") -> Iterator[Row]:
    """Rows of the table `embeddings` with their newest vectors, in the order in which they were added."""
    for page in pages(_listed(database, segment), PARAMETERS):
        found = dict(zip((number for number, _ in page), vectors.of([name for _, name in page]), strict=True))
        for number, name, text, more in _with_metadata(database, page, faults):
            if found[number] is None and vectors.damaged:
                faults.add("rows whose vector is lost, since the file of the index is cut short or damaged", name)
            elif found[number] is None:
                faults.add("rows whose vector is neither in the index nor in the queue", name)
            yield Row(name, found[number], text, more)
    yield from queue_rows(database, vectors, rest.pending)


def _listed(database: Database, segment: str) -> Iterator[tuple[int, str]]:
    # "+" keeps SQLite from the index on segment_id: in the order of that one it would sort all rows.
    for number, name in database.scan("embeddings", ["embedding_id"], "+segment_id = ?", (segment,)):
        yield number, name if isinstance(name, str) else str(name)


def _with_metadata(database: Database, page: Listed, faults: Faults) -> Iterator[tuple[int, str, str | None, Metadata]]:
    """Number, id, text and metadata of rows. A row that is too large has neither of the last two."""
    try:
        held = _metadata_of(database, [number for number, _ in page])
    except TooLargeError as error:
        if len(page) == 1:
            faults.add(f"rows without text and metadata, as {error}", page[0][1])
            yield (*page[0], None, {})
            return
        half = len(page) // 2
        yield from _with_metadata(database, page[:half], faults)
        yield from _with_metadata(database, page[half:], faults)
        return
    for number, name in page:
        yield (number, name, *_parted(held.get(number, {})))


def _metadata_of(database: Database, numbers: Sequence[int]) -> dict[int, Metadata]:
    """All values of rows by their number. Raises TooLargeError where they are too much to be held at once."""
    rows: dict[int, dict[str, Any]] = {}
    marks, left = ", ".join("?" * len(numbers)), BATCH_BYTES
    for table in ("embedding_metadata", "embedding_metadata_array"):
        columns = [one for one in VALUES if one in database.columns(table)]
        if not columns:
            continue
        sql = f"SELECT id, key, {', '.join(columns)} FROM {table} WHERE id IN ({marks})"
        for number, key, *values in database.read(sql, numbers):
            value = _value(dict(zip(columns, values, strict=True)))
            left -= 100 + (len(value) if isinstance(value, str | bytes) else 0)
            if left < 0:
                raise TooLargeError(f"these are larger than {BATCH_BYTES >> 20} MiB")
            row = rows.setdefault(number, {})
            if table == "embedding_metadata":
                row[key] = value
            elif isinstance(kept := row.setdefault(key, []), list):
                kept.append(value)
    return rows


VALUES = ("string_value", "int_value", "float_value", "bool_value")


def _value(values: Metadata) -> Any:
    if values.get("bool_value") is not None:
        return bool(values["bool_value"])
    return next((one for one in values.values() if one is not None), None)


def _parted(row: dict[Any, Any]) -> tuple[str | None, Metadata]:
    text = row.pop(DOCUMENT, None)
    return (text if isinstance(text, str) else None), metadata(row)


@dataclass
class Rest:
    """What the files hold beside the rows of a collection.

    Attributes:
        slots: rows of the index whose label has no row in the table `embeddings`.
        names: ids of these slots, of which the index still knows some.
        dropped: ids without a row, and the place of their newest vector in the queue.
        pending: ids that were written, whose row another run of Chroma has yet to make; the same.
    """

    slots: NDArray[np.int64]
    names: dict[int, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Deleted rows that can be read."""
        return len(self.slots) + len(self.dropped.keys() - self.names.values())


def rest_of(database: Database | None, segment: str, topic: str, vectors: Vectors) -> Rest:
    """Compare the index and the queue with the table `embeddings`."""
    used = np.zeros(vectors.index.count if vectors.index else 0, bool)
    if database is not None:
        for page in pages(_listed(database, segment), 8192):
            slots = vectors.slots([name for _, name in page])
            used[slots[slots >= 0]] = True
    rest = Rest(np.flatnonzero(~used))
    if vectors.index and len(rest.slots):
        unused = dict(zip(vectors.index.labels[rest.slots].tolist(), rest.slots.tolist(), strict=True))
        rest.names = {unused[label]: name for name, label in vectors.labels.items() if label in unused}
    if database is not None and topic:
        _look_in_queue(database, segment, topic, rest)
    return rest


def _look_in_queue(database: Database, segment: str, topic: str, rest: Rest) -> None:
    seen = synced(database, segment)
    columns = ["operation", "id", "encoding"]
    there = "SELECT 1 FROM embeddings WHERE segment_id = ? AND embedding_id = ?"
    for place, operation, name, encoding in database.scan("embeddings_queue", columns, "topic = ?", (topic,)):
        if not isinstance(name, str) or database.one(there, (segment, name)):
            continue
        if operation == DELETE and name in rest.pending:
            rest.dropped[name] = rest.pending.pop(name)
        elif encoding and place > seen:
            rest.pending[name] = place
            rest.dropped.pop(name, None)
        elif encoding:
            rest.dropped[name] = place


def queue_rows(database: Database, vectors: Vectors, places: dict[str, int]) -> Iterator[Row]:
    """Rows of the queue, with the text that was given with them."""
    for page in pages(places.items(), PARAMETERS):
        found = vectors.at([place for _, place in page])
        for name, place in page:
            text, more = queued_text(database, place)
            yield Row(name, found.get(place), text, more)


def queued_text(database: Database, place: int) -> tuple[str | None, Metadata]:
    """Text and metadata that an entry of the queue holds as JSON."""
    try:
        return _parted(json_object(database.one("SELECT metadata FROM embeddings_queue WHERE seq_id = ?", (place,))))
    except TooLargeError:
        return None, {}


def deleted_rows(database: Database | None, vectors: Vectors, rest: Rest) -> Iterator[Row]:
    """Rows that are still in the index, then those only in the queue."""
    assert vectors.index or not len(rest.slots)
    for page in pages(rest.slots.tolist(), PARAMETERS):
        found = vectors.at_slots(np.array(page))
        for slot, vector in zip(page, found, strict=True):
            name = rest.names.get(slot, "")
            label = vectors.index.labels[slot] if vectors.index else 0
            text, more = None, Metadata()
            if database is not None and name in rest.dropped:
                text, more = queued_text(database, rest.dropped[name])
            yield Row(name or f"label {label}", vector, text, more)
    if database is not None:
        known = set(rest.names.values())
        yield from queue_rows(database, vectors, {name: at for name, at in rest.dropped.items() if name not in known})
