"""Tables of sqlite-vec (`vec0`, versions 0.1.x) in a SQLite file, read without the extension.

A table's vectors are in chunks of (usually) 1024 slots. A chunk says which slots are in use (a bit each) and the row
number of each; the row numbers lead to keys, metadata and auxiliary columns. Version 0.1.6 leaves a deleted row's
vector in its slot (0.1.9 writes zeros): such rows are a collection `NAME (deleted)`. Bits are read as -1 and +1.
Source of the layout: sqlite-vec's ARCHITECTURE.md, and files written by it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError, printable
from unembed.stores import traces
from unembed.stores.names import SAMPLE, text_field
from unembed.stores.rows import WIDEST, Faults, Row, batched, metadata, note, unknown
from unembed.stores.sqlite_files import VEC0, Database, quoted
from unembed.stores.store import BATCH, Collection, Floats, Rows, Trace
from unembed.stores.vec0_schema import Schema, Vector, parse

SLOTS = 1 << 16  # of a chunk; sqlite-vec's own limit is 4096


@dataclass(frozen=True)
class Column:
    """A column of vectors: the table it is in, and its number among them."""

    table: str
    number: int
    vector: Vector
    schema: Schema

    @property
    def name(self) -> str:
        """As after `#` in a URI: `TABLE`, or `TABLE/COLUMN` where it has several."""
        return f"{self.table}/{self.vector.name}" if len(self.schema.vectors) > 1 else self.table

    @property
    def chunks(self) -> str:
        """The table with its vectors."""
        return f"{self.table}_vector_chunks{self.number:02d}"


@dataclass(frozen=True)
class Slots:
    """Slots of a chunk: their places in it, and their row numbers."""

    chunk: int
    places: NDArray[np.int64]
    rows: NDArray[np.int64]


class SqliteVec:
    """A SQLite file with tables of sqlite-vec; see `Store`."""

    kind = "sqlite-vec"

    def __init__(self, location: str) -> None:
        self.location, self.notes = location, list[str]()
        self._database = Database(Path(location), self.notes)
        try:
            found = {name: parse(sql) for name, sql in self._database.virtual.items() if VEC0.search(sql)}
            if not found:
                raise DataError(f"{location}: has no table of sqlite-vec; {self._database.contents()}")
            self._columns = [
                Column(table, i, vector, schema)
                for table, schema in found.items()
                for i, vector in enumerate(schema.vectors)
                if self._readable(table, i, schema)
            ]
        except BaseException:
            self._database.close()
            raise

    def _readable(self, table: str, number: int, schema: Schema) -> bool:
        vector = schema.vectors[number]
        partitions = [f"partition{i:02d}" for i in range(len(schema.partitions))]
        needed = {
            f"{table}_chunks": ["chunk_id", "validity", "rowids", *partitions],
            f"{table}_rowids": ["rowid", "id"],
            f"{table}_vector_chunks{number:02d}": ["rowid", "vectors"],
        }
        for i, (_, sort) in enumerate(schema.metadata):
            needed[f"{table}_metadatachunks{i:02d}"] = ["rowid", "data"]
            needed |= {f"{table}_metadatatext{i:02d}": ["rowid", "data"]} if sort == "text" else {}
        if schema.auxiliary:
            needed[f"{table}_auxiliary"] = ["rowid", *(f"value{i:02d}" for i in range(len(schema.auxiliary)))]
        try:
            if not 0 < vector.dimension <= WIDEST or (vector.number == "bit" and vector.dimension % 8):
                raise DataError(f"{vector.dimension} is no dimension")
            self._database.need("sqlite-vec", **needed)
        except DataError as error:
            note(self.notes, printable(f"{table}/{vector.name}: is not read ({error})"))
            return False
        return True

    def collections(self) -> list[Collection]:
        """See `Store`. Each column of vectors is one."""
        common = [*self._database.traces(), *traces.of_store(self._database.path)]
        found: list[Collection] = []
        for column in self._columns:
            rows = sum(len(slots.rows) for slots in self._slots(column, used=True))
            left = sum(1 for _ in self._deleted(column))
            sample = [values for _, values in zip(range(SAMPLE), self._metadata(column), strict=False)]
            field = text_field(sample)
            secrets = traces.secrets(one for each in sample for one in traces.assignments(each, column.table))
            own = [*self._texts(column, field, rows), *secrets]
            if left:
                own.append(Trace("deleted", "Deleted rows still have their vectors.", column.chunks, left))
            found.append(self._described(column, column.name, rows, bool(field), (*own, *common)))
            if left:
                found.append(self._described(column, f"{column.name} (deleted)", left, False, ()))
        self._database.check_unchanged()
        return found

    def _described(self, column: Column, name: str, rows: int, has_text: bool, found: tuple[Trace, ...]) -> Collection:
        return Collection(
            name=name,
            rows=rows,
            dimension=column.vector.dimension,
            number=column.vector.number,
            metric=column.vector.metric,
            has_text=has_text,
            traces=found,
            about={"bits": "-1 and +1"} if column.vector.number == "bit" else {},
        )

    def _texts(self, column: Column, field: str, rows: int) -> Iterator[Trace]:
        """Text in the table itself, or in another table by the same numbers, as is usual."""
        if field:
            yield traces.text_trace(f"{column.table}.{field}", rows)
        for table in [] if field else self._database.tables:
            if any(table.startswith(f"{name}_") for name in self._database.virtual):
                continue
            names = self._database.columns(table)
            first = self._database.scan(table, names) if names else iter(())
            other = text_field(dict(zip(names, row[1:], strict=True)) for row in first)
            numbers = f"SELECT rowid FROM {quoted(f'{column.table}_rowids')}"
            count = other and self._database.one(f"SELECT count(*) FROM {quoted(table)} WHERE _rowid_ IN ({numbers})")
            if other and isinstance(count, int) and 2 * count > rows:
                detail = "Rows of another table have the same numbers, and what looks like text."
                yield Trace("text", detail, f"{printable(table)}.{printable(other)}", count)

    def _slots(self, column: Column, used: bool) -> Iterator[Slots]:
        """The slots of each chunk that are in use, or not."""
        for chunk, bits, numbers in self._database.scan(f"{column.table}_chunks", ["validity", "rowids"]):
            if not isinstance(bits, bytes) or not isinstance(numbers, bytes):
                note(self.notes, f"{column.table}_chunks: chunk {chunk} is not read, it is damaged")
                continue
            rows = np.frombuffer(numbers[: len(numbers) // 8 * 8], "<i8")[:SLOTS]
            valid = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[: len(rows)].astype(bool)
            places = np.flatnonzero(valid == used)
            yield Slots(chunk, places, rows[places])

    def _vectors(self, column: Column, slots: Slots) -> Iterator[tuple[int, bytes]]:
        """Row numbers and the bytes of their vectors, none where they are missing."""
        table, size = column.chunks, column.vector.size
        row = self._database.one(f"SELECT _rowid_ FROM {quoted(table)} WHERE rowid = ?", (slots.chunk,))
        if not isinstance(row, int):
            yield from ((number, b"") for number in slots.rows.tolist())
            return
        with self._database.blob(table, "vectors", row) as piece:
            for place, number in zip(slots.places.tolist(), slots.rows.tolist(), strict=True):
                yield number, piece(place * size, size)

    def _deleted(self, column: Column) -> Iterator[Row]:
        for slots in self._slots(column, used=False):
            for number, data in self._vectors(column, slots):
                if any(data) and len(data) == column.vector.size:
                    yield Row(f"row {number}" if number else "row lost", _decode(column.vector, data))

    def _metadata(self, column: Column) -> Iterator[dict[str, Any]]:
        for slots in self._slots(column, used=True):
            yield from self._metadata_of(column, slots)

    def _metadata_of(self, column: Column, slots: Slots) -> Iterator[dict[str, Any]]:
        """Metadata, auxiliary columns and partitions of slots."""
        table, schema = column.table, column.schema
        chunks = quoted(f"{table}_chunks")
        shared = {
            name: self._database.one(f"SELECT partition{i:02d} FROM {chunks} WHERE chunk_id = ?", [slots.chunk])
            for i, name in enumerate(schema.partitions)
        }
        blocks = [
            self._database.one(
                f"SELECT data FROM {quoted(f'{table}_metadatachunks{i:02d}')} WHERE rowid = ?", [slots.chunk]
            )
            for i in range(len(schema.metadata))
        ]
        for place, number in zip(slots.places.tolist(), slots.rows.tolist(), strict=True):
            values = dict(shared)
            for i, (name, sort) in enumerate(schema.metadata):
                values[name] = _value(blocks[i], sort, place)
                if values[name] is ...:
                    long = f"SELECT data FROM {quoted(f'{table}_metadatatext{i:02d}')} WHERE rowid = ?"
                    values[name] = self._database.one(long, [number])
            if schema.auxiliary:
                names = ", ".join(f"value{i:02d}" for i in range(len(schema.auxiliary)))
                sql = f"SELECT {names} FROM {quoted(f'{table}_auxiliary')} WHERE rowid = ?"
                row = next(self._database.read(sql, [number]), None)
                values |= zip(schema.auxiliary, row or [], strict=False)
            yield values

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """See `Store`. Rows come in the order of the chunks."""
        for column in self._columns:
            if name in (column.name, f"{column.name} (deleted)"):
                faults = Faults(name)
                found = self._rows(column, faults) if name == column.name else self._deleted(column)
                try:
                    yield from batched(found, column.vector.dimension, batch)
                finally:
                    faults.tell(self.notes)
                    self._database.check_unchanged()
                return
        raise unknown((one.name for one in self.collections()), name, self.location)

    def _rows(self, column: Column, faults: Faults) -> Iterator[Row]:
        field = text_field(self._metadata(column))
        keys = f"SELECT id FROM {quoted(f'{column.table}_rowids')} WHERE rowid = ?"
        for slots in self._slots(column, used=True):
            pairs = zip(self._vectors(column, slots), self._metadata_of(column, slots), strict=True)
            for (number, data), values in pairs:
                key = self._database.one(keys, [number])
                vector = _decode(column.vector, data)
                if vector is None:
                    faults.add("rows whose vector is not in its chunk", number)
                text = values.pop(field, None) if field else None
                name = str(number if key is None else key)
                yield Row(name, vector, text if isinstance(text, str) else None, metadata(values))

    def close(self) -> None:
        """See `Store`."""
        self._database.close()


def _decode(vector: Vector, data: bytes) -> Floats | None:
    if len(data) != vector.size:
        return None
    if vector.number == "bit":
        return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(np.float32) * 2 - 1
    return np.frombuffer(data, "<f4" if vector.number == "float32" else "<i1").astype(np.float32)


def _value(block: Any, sort: str, place: int) -> Any:
    """A slot's value in a chunk of metadata; `...` for a text that is too long for the chunk."""
    size = {"text": 16, "bool": 0, "int": 8, "float": 8}[sort]
    data = block[place * size : (place + 1) * size] if isinstance(block, bytes) else b""
    if sort == "bool":
        return (
            bool(block[place // 8] >> place % 8 & 1) if isinstance(block, bytes) and place // 8 < len(block) else None
        )
    if len(data) < size:
        return None
    if sort == "text":
        length = int.from_bytes(data[:4], "little")
        return data[4 : 4 + length].decode("utf-8", "replace") if length <= 12 else ...
    return np.frombuffer(data, "<i8" if sort == "int" else "<f8")[0].item()


def open(location: str) -> SqliteVec:  # noqa: A001  (the name of a reader's function)
    """A SQLite file with tables of sqlite-vec. Raises DataError."""
    return SqliteVec(location)
