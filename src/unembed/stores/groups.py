"""Files of one kind as one table: which of them hold vectors, in which columns, and their rows one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import DataError, printable
from unembed.stores import columns
from unembed.stores.columns import Columns, Vector
from unembed.stores.rows import note, note_unread
from unembed.stores.store import Rows
from unembed.tables import Batch, open_table
from unembed.tables.table import Reader, kind


@dataclass(frozen=True)
class Group:
    """Files with the same columns of vectors. readers: of each its name and reader, in order."""

    columns: Columns
    readers: tuple[tuple[str, Reader], ...]

    def rows(self, vector: Vector, where: str, notes: list[str], size: int) -> Iterator[Rows]:
        """All rows, at most `size` at once. Raises DataError."""
        return columns.rows(self._batches(vector), self.columns, vector, where, notes, size)

    def count(self) -> int | None:
        """How many rows there are, where the files' heads tell."""
        counts = [_count(Path(name)) for name, _ in self.readers]
        return None if None in counts else sum(one for one in counts if one is not None)

    def _batches(self, vector: Vector) -> Iterator[Batch]:
        before = 0
        for name, reader in self.readers:
            end = before
            for batch in reader.batches(self.columns.needed(vector, reader.names()), 0):
                yield replace(batch, first=before + batch.first, name=name)
                end = before + batch.first + len(batch)
            before = end


def group(files: Sequence[Path], notes: list[str]) -> Group | None:
    """Those of the files that hold vectors, by the columns of the first one; None where none does.

    What the others are is added to `notes`.
    """
    readers = []
    told = Columns()
    without: list[str] = []
    errors: list[DataError] = []
    for file in files:
        try:
            ((name, reader),) = open_table(str(file)).readers
            if not told.vectors:
                told = columns.find(_sample(reader))
            names = reader.names()
        except DataError as error:
            errors.append(error)
            continue
        if told.vectors and all(one.column in names for one in told.vectors):
            readers.append((name, reader))
        else:
            without.append(file.name)
    note_unread(notes, [*readers, *without], errors)
    if without:
        more = f" and {len(without) - 1:,} more" if len(without) > 1 else ""
        note(notes, f"{printable(without[0])}{more}: no rows with a column of vectors")
    if len(told.vectors) > 1 and not told.named:
        listed = ", ".join(printable(one.column) for one in told.vectors[:8])
        note(notes, f"columns {listed} may each hold vectors: choose one with #COLUMN")
    return Group(told, tuple(readers)) if readers else None


def _sample(reader: Reader) -> dict[str, Any]:
    """The first values of the columns, of those that can be read; none of a file without rows."""
    names = columns.looked_at(reader.names())
    try:
        first = next(reader.batches(names, 0), None)
        return _cut(first) if first is not None else {}
    except DataError:
        found: dict[str, Any] = {}
        for name in names:
            try:
                found |= _cut(first) if (first := next(reader.batches([name], 0), None)) is not None else {}
            except DataError:
                continue
        if names and not found:
            raise
        return found


def _cut(batch: Batch) -> dict[str, Any]:
    return {name: values[: columns.SAMPLE] for name, values in batch.columns.items()}


def _count(path: Path) -> int | None:
    """How many rows a file has, where its head tells. Raises DataError."""
    try:
        if kind(path) == "parquet":
            import pyarrow.parquet as pq

            return int(pq.read_metadata(path).num_rows)
        if kind(path) == "npy":
            return len(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # of a header that is read as Python's literals, and of Arrow's parser
        raise DataError(f"{printable(str(path))}: cannot be read ({printable(str(error))[:200]})") from error
    return None
