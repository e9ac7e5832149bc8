"""Parquet, Feather and Arrow files as tables: batches of Arrow arrays, only of the columns that are asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unembed.errors import DataError, extra
from unembed.tables.streams import head_of, kind_of, reason
from unembed.tables.table import Batch

ROWS = 1024  # of a batch


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
            top = [column for column in file.schema_arrow.names if any(_within(name, column) for name in columns)]
            for batch in file.iter_batches(batch_size=ROWS, row_groups=groups, columns=top):
                yield from _batches(batch, columns, row, start)
                row += len(batch)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with extra("parquet", f"{self.name}: reading Parquet"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
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
            row = 0
            for batch in batches():
                for first in range(0, len(batch), ROWS):
                    part = batch.slice(first, ROWS)
                    yield from _batches(part, columns, row, start)
                    row += len(part)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Callable[[], Iterator[Any]]]]:
        with extra("parquet", f"{self.name}: reading Arrow"):
            import pyarrow as pa
        try:
            with pa.memory_map(str(self.path)) as source:
                if kind_of(head_of(self.path)) == "Arrow":
                    file = pa.ipc.open_file(source)
                    yield file.schema, lambda: map(file.get_batch, range(file.num_record_batches))
                else:
                    stream = pa.ipc.open_stream(source)
                    yield stream.schema, lambda: iter(stream)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.name}: cannot be read as Arrow ({reason(error)})") from error


def _within(name: str, column: str) -> bool:
    return name == column or name.startswith(f"{column}.")


def _names(fields: Any, prefix: str = "") -> list[str]:
    """The names of a schema's or a struct type's fields, and of those in them."""
    import pyarrow as pa

    found = []
    for field in fields:
        found.append(prefix + field.name)
        if pa.types.is_struct(field.type):
            found += _names(field.type, f"{prefix}{field.name}.")
    return found


def _batches(batch: Any, columns: Sequence[str], row: int, start: int) -> Iterator[Batch]:
    """The part of a record batch from row `start` on, if any; the batch begins at `row`."""
    late = max(0, start - row)
    if late < len(batch):
        yield Batch(row + late, {column: _column(batch, column).slice(late) for column in columns})


def _column(batch: Any, column: str) -> Any:
    import pyarrow.compute as pc

    place, top = next((place, name) for place, name in enumerate(batch.schema.names) if _within(column, name))
    values = batch.column(place)  # by its place: a name may stand for two
    return values if top == column else pc.struct_field(values, column.removeprefix(f"{top}.").split("."))
