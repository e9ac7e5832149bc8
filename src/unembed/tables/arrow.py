"""Parquet, Feather and Arrow files as tables: batches of Arrow arrays, only of the columns that are asked for."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unembed.errors import DataError, extra
from unembed.tables.arrow_buffers import check_buffers
from unembed.tables.arrow_values import check_type, parts
from unembed.tables.parquet_pages import rows_at_once
from unembed.tables.streams import Allowance, head_of, kind_of, reason
from unembed.tables.table import LONGEST_NAME, Batch

ROWS = 1024  # of a batch
DEEPEST = 16  # structs within structs whose fields have names
MAGIC = 8  # bytes before the stream that an Arrow file holds


class ParquetRows:
    """A Parquet file; columns within a struct have names with dots."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def names(self) -> list[str]:
        with self._opened() as file:
            return _names(file.schema_arrow)

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        with self._opened() as file:
            row, groups = 0, list(range(file.num_row_groups))
            while groups and row + file.metadata.row_group(groups[0]).num_rows <= start:
                row += file.metadata.row_group(groups.pop(0)).num_rows
            count = rows_at_once(file, self.path, self.name, columns, ROWS)
            allowance = Allowance(self.path, self.name)
            for batch in file.iter_batches(batch_size=count, row_groups=groups, columns=[*columns]):
                yield from _batches(batch, columns, row, start, allowance)
                row += len(batch)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with extra("parquet", f"{self.name}: reading Parquet"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                yield file
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise DataError(f"{self.name}: cannot be read as Parquet ({reason(error)})") from error


class ArrowRows:
    """A Feather or Arrow file, or Arrow's stream format, as `datasets` saves it."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def names(self) -> list[str]:
        with self._opened() as (schema, _):
            return _names(schema)

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        with self._opened() as (_, batches):
            row, allowance = 0, Allowance(self.path, self.name)
            for batch in batches():
                for first in range(0, len(batch), ROWS):
                    part = batch.slice(first, ROWS)
                    yield from _batches(part, columns, row, start, allowance)
                    row += len(part)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Callable[[], Iterator[Any]]]]:
        with extra("parquet", f"{self.name}: reading Arrow"):
            import pyarrow as pa
        try:
            with pa.memory_map(str(self.path)) as source:
                count, begin = None, 0
                if kind_of(head_of(self.path)) == "Arrow":  # a stream between a beginning and an end
                    count, begin = pa.ipc.open_file(source).num_record_batches, MAGIC
                source.seek(begin)
                check_buffers(_messages(source, count), self.name)
                source.seek(begin)
                stream = pa.ipc.open_stream(source)
                yield stream.schema, lambda: itertools.islice(stream, count)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise DataError(f"{self.name}: cannot be read as Arrow ({reason(error)})") from error


def _messages(source: Any, batches: int | None) -> Iterator[Any]:
    """The messages of a stream up to so many batches of rows; without a number, up to its end."""
    import pyarrow as pa

    reader = pa.ipc.MessageReader.open_stream(source)
    while batches is None or batches > 0:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        yield message
        if batches is not None and message.type == "record batch":
            batches -= 1


def _within(name: str, column: str) -> bool:
    return name == column or name.startswith(f"{column}.")


def _names(fields: Any, prefix: str = "", depth: int = 0) -> list[str]:
    """The names of a schema's or a struct type's fields, and of those in them."""
    import pyarrow as pa

    found = []
    for field in fields:
        if len(prefix) + len(field.name) > LONGEST_NAME:
            continue
        found.append(prefix + field.name)
        if pa.types.is_struct(field.type) and depth < DEEPEST:
            found += _names(field.type, f"{prefix}{field.name}.", depth + 1)
    return found


def _batches(batch: Any, columns: Sequence[str], row: int, start: int, allowance: Allowance) -> Iterator[Batch]:
    """The part of a record batch from row `start` on, if any, in batches of little memory; it begins at `row`."""
    late = max(0, start - row)
    if late >= len(batch):
        allowance.take(0, len(batch))
        return
    found = {column: _column(batch, column).slice(late) for column in columns}
    for column, values in found.items():
        check_type(values.type, f"{allowance.name}: column {column!r}")
        values.validate(full=True)  # offsets and lengths may point anywhere, and text need not be UTF-8
    for first, last, size in parts(found, row + late, allowance.name):
        allowance.take(size, last - first)
        yield Batch(row + late + first, {column: values.slice(first, last - first) for column, values in found.items()})


def _column(batch: Any, column: str) -> Any:
    import pyarrow.compute as pc

    place, top = next((place, name) for place, name in enumerate(batch.schema.names) if _within(column, name))
    values = batch.column(place)  # by its place: a name may stand for two
    return values if top == column else pc.struct_field(values, column.removeprefix(f"{top}.").split("."))
