"""Embeddings out of a table's column, and into `.npy` files.

Unusual here: nothing is held in memory but a batch, so a file is as large as the disk allows. `scan` reads all of it
once before any work is done: a bad row at the end of a million is found in seconds, not after hours, and the rows' hash
says later whether a result belongs to them.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unembed.config import Recipe
from unembed.encoders.checks import NAMED, check_rows, refusal
from unembed.errors import DataError, EmbeddingError
from unembed.files.atomic import atomic_file
from unembed.tables import Batch, Table, open_table
from unembed.tables.documents import ITSELF, VECTORS
from unembed.tables.table import listed
from unembed.tables.values import listed_values, plain

IDS = ("id", "_id", "ids", "custom_id")  # columns that hold ids by their names
BLOCK = 4096  # rows checked at once
REASONS = 100_000  # values that are no rows, of which is kept why

Array = NDArray[Any]
Label = dict[str, Any]


@dataclass(frozen=True)
class Vectors:
    """A column of a table, read as rows of numbers; not yet checked (see `scan`).

    dimension: of the embeddings, where it is known. Values that are bytes are read by it, and a value that is no row of
        so many numbers becomes a row of NaN, of which `unread` says why.
    id_column, keep: further columns, whose values are copied into the results.
    """

    table: Table
    column: str
    dimension: int | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    unread: dict[int, str] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What messages call them."""
        return self.table.name

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield (number of the first row, array (size, d)), the last one maybe shorter; no other column is read.

        Raises:
            DataError: the file cannot be read as it claims, or a value is no row of numbers.
            EmbeddingError: a row has another number of values than those before it.
        """
        alone = replace(self, id_column=None, keep=())
        return ((row, array) for row, array, _ in alone.labelled(size, start))

    def labelled(self, size: int, start: int = 0) -> Iterator[tuple[int, Array, list[Label]]]:
        """As `batches`, and of each row what its result should say of it: `id`, and `keep` by the columns' names.

        Values are JSON-ready (`tables.values.plain`); without such columns the labels are empty.
        """
        held: list[Array] = []
        labels: list[Label] = []
        row = start
        kept = [*([self.id_column] if self.id_column else []), *self.keep]
        for batch in self.table.batches([self.column, *kept], start):
            block, unread = numbers(batch, self.column, self.name, self.dimension)
            if len(self.unread) < REASONS:
                self.unread.update((batch.first + number, why) for number, why in unread.items())
            if held and block.shape[1] != held[0].shape[1]:
                raise _uneven(place(batch, 0, self.name), block.shape[1], held[0].shape[1])
            held.append(block)
            labels += self._labels(batch, kept)
            while len(labels) >= size:
                joined = held[0] if len(held) == 1 else np.concatenate(held)
                yield row, joined[:size], labels[:size]
                held, labels, row = [joined[size:]], labels[size:], row + size
        if labels:
            yield row, np.concatenate(held), labels

    @property
    def kept_columns(self) -> dict[str, Any]:
        """`id_column` and `keep`, those that there are, JSON-ready."""
        found = {"id_column": self.id_column, "keep": list(self.keep)}
        return {name: columns for name, columns in found.items() if columns}

    def _labels(self, batch: Batch, kept: Sequence[str]) -> list[Label]:
        labels: list[Label] = [{} for _ in range(len(batch))]
        for column in dict.fromkeys(kept):
            where = f"{batch.name or self.name}: column {column!r}"
            for label, value in zip(labels, listed_values(batch.columns[column], where), strict=True):
                value = plain(value)
                if column == self.id_column:
                    label["id"] = value
                if column in self.keep:
                    label.setdefault("keep", {})[column] = value
        return labels


@dataclass(frozen=True)
class Scan:
    """What `scan` found.

    rows: how many. sha256: of their float32 values, and of their labels where there are any. bad: how many are no
    embeddings.
    """

    rows: int
    sha256: str
    bad: int = 0


def open_vectors(
    name: str, column: str | None = None, id_column: str | None = None, keep: Sequence[str] = ()
) -> Vectors:
    """Embeddings of a file, of the files of a folder, or of standard input ("-"), as `tables` reads them.

    Args:
        column: where they stand; by default one that is called as vectors are, or the only one.
        id_column: where the rows' ids stand; by default one that is called as ids are (`IDS`), if every file has it.
        keep: further columns that results should have.

    Raises:
        DataError: there is no such file or column, or the content is not what the ending says.
    """
    table = open_table(name)
    names = table.names()
    if column is None:
        below: dict[str, list[str]] = {}
        for one in names:
            for cut in (place for place, letter in enumerate(one) if letter == "."):
                below.setdefault(one[:cut], []).append(one)
        known = [one for one in names if one.rpartition(".")[2] in VECTORS and len(below.get(one, [])) < 2]
        known = [below.get(one, [one])[0] for one in known]
        column = next(iter([*known, *names[: len(names) == 1]]), VECTORS[0])
    if names and names != [ITSELF] and column not in names:
        expected = f"expected one called {VECTORS[0]} (--column names another)"
        raise DataError(f"{table.name}: has {listed(names)}, {expected}")
    for option, wanted in (("--id-column", id_column), *(("--keep", one) for one in keep)):
        if names and wanted is not None and wanted not in names:
            raise DataError(f"{table.name}: has {listed(names)}, none called {wanted!r} for {option}")
    if id_column is None:
        shared = (one for one in IDS if one != column and names.count(one) == 1)
        id_column = next((one for one in shared if all(one in reader.names() for _, reader in table.readers[1:])), None)
    column = column if names != [ITSELF] else ITSELF
    return Vectors(table, column, id_column=id_column, keep=tuple(dict.fromkeys(keep)))


def scan(
    vectors: Vectors, recipe: Recipe, show_progress_bar: bool = False, normalize: bool = False, skip_bad: bool = False
) -> Scan:
    """Check every row against the recipe.

    Args:
        normalize: scale rows to length 1 first.
        skip_bad: let rows pass that are no embeddings, as long as some are.

    Raises:
        DataError: the file cannot be read as it claims, or has no rows.
        EmbeddingError: rows that are no embeddings of the recipe: how many, and the first five by number, from 0.
    """
    digest, rows, count = hashlib.sha256(), 0, 0
    bad: dict[int, str] = {}
    with tqdm(desc="check", unit=" rows", leave=False, disable=not show_progress_bar) as bar:
        for start, batch, labels in vectors.labelled(BLOCK):
            checked = check_rows(batch, recipe, vectors.name, normalize)
            digest.update(checked.rows.data)
            digest.update(json.dumps(labels).encode() if any(labels) else b"")
            digest.update(str(sorted(checked.bad)).encode() if checked.bad else b"")
            rows += len(checked.rows)
            count += len(checked.bad)
            for row, why in list(checked.bad.items())[: NAMED - len(bad)]:
                bad[start + row] = vectors.unread.get(start + row, why)
            bar.update(len(checked.rows))
    if rows == 0:
        raise DataError(f"{vectors.name}: holds no embeddings, expected at least 1")
    if bad and (not skip_bad or count == rows):
        raise refusal(vectors.name, bad, rows, count)
    return Scan(rows, digest.hexdigest(), count)


def write_npy(path: str | Path, batches: Iterable[NDArray[np.float32]], dimension: int) -> int:
    """Write batches (n, dimension) as one `.npy` file, whole or not at all; returns the number of rows.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        _write_header(file, 0, dimension)
        rows = 0
        for batch in batches:
            file.write(np.ascontiguousarray(batch, dtype="<f4").data)
            rows += len(batch)
        file.seek(0)
        _write_header(file, rows, dimension)  # just as long: numpy leaves room for the first axis to grow
    return rows


def _write_header(file: BinaryIO, rows: int, dimension: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(file, header)


def numbers(batch: Batch, column: str, name: str, dimension: int | None = None) -> tuple[Array, dict[int, str]]:
    """A column of a batch as one array (n, d), and which of its values are no rows of numbers, and why.

    Args:
        name: of the table.
        dimension: d, where it is known; values that are bytes are read by it, else as float32.

    Raises:
        DataError: a value is no row of numbers, and the dimension is not known.
        EmbeddingError: rows differ in length, and the dimension is not known.
    """
    values = batch.columns[column]
    if isinstance(values, np.ndarray):
        array = values.squeeze(1) if values.ndim == 3 and values.shape[1] == 1 else values
        if array.ndim != 2:
            raise EmbeddingError(f"{name}: array has {array.ndim} axes, expected rows of embeddings")
        return array, {}
    if hasattr(values, "type") and (found := _of_lists(values)) is not None:
        return found, {}
    several: list[Array | None] = []
    unread: dict[int, str] = {}
    for number, value in enumerate(values.to_pylist() if hasattr(values, "to_pylist") else values):
        where = f"{place(batch, number, name)}, column {column!r}"
        try:
            several.append(number_row(value, where, dimension))
        except DataError as error:
            if dimension is None:
                raise
            unread[number] = str(error).removeprefix(f"{where}: ")
            several.append(None)
    lengths = {len(row) for row in several if row is not None}
    if len(lengths) <= 1 and not unread:
        return np.stack([row for row in several if row is not None]), {}
    if dimension is None:
        number = next(number for number, row in enumerate(several) if _length(row) != _length(several[0]))
        raise _uneven(place(batch, number, name), _length(several[number]), _length(several[0]))
    array = np.full((len(several), dimension if len(lengths) != 1 else max(lengths)), np.nan)
    for number, row in enumerate(several):
        if row is not None and len(row) == array.shape[1]:
            array[number] = row
        elif row is not None:
            unread[number] = f"has {len(row)} numbers, expected {dimension}"
    return array, unread


def place(batch: Batch, number: int, name: str) -> str:
    """What messages call a row of a batch of a table."""
    where = f"row {batch.first + number}" if batch.lines is None else f"line {batch.lines[number]}"
    return f"{batch.name or name}: {where}"


def number_row(value: Any, where: str, dimension: int | None = None) -> Array:
    """One value as an array (d,): a list of numbers, also in a list of one, in words, in bytes or in base64.

    Raises:
        DataError: it is none of these; `where` is what the message calls it.
    """
    if isinstance(value, str):
        value = _read(value.strip(), where, dimension)
    if isinstance(value, bytes):
        count = dimension or max(1, len(value) // 4)
        if (dtype := _dtype(len(value), count)) is None:
            expected = f"{4 * count:,} ({count} float32 values)"
            raise DataError(f"{where}: holds {len(value):,} bytes, expected {expected}")
        return np.frombuffer(value, dtype)
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        (value,) = value
    if value is None:
        raise DataError(f"{where}: holds no value, expected a list of numbers")
    try:
        row = np.asarray(value) if isinstance(value, list) else np.asarray(None)
    except ValueError:  # lists of different lengths inside
        row = np.asarray(None)
    if row.ndim != 1 or row.dtype.kind not in "fiu" or not row.size:
        what = type(value).__name__
        if isinstance(value, list):
            what = "a list in which a number is missing" if None in value else "a list of something else"
        raise DataError(f"{where}: holds {what}, expected a list of numbers")
    return row


def _read(text: str, where: str, dimension: int | None) -> Any:
    """A vector in words, as PostgreSQL's pgvector writes it, or in base64, as OpenAI's endpoint does."""
    try:
        if text[:1] in ("[", "{", "("):
            return json.loads(f"[{text[1:-1]}]")
        value = base64.b64decode(text, validate=True)
        if _dtype(len(value), dimension or max(1, len(value) // 4)) is None:
            raise ValueError("not as many bytes as a vector has")
        return value
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: holds text, expected a list of numbers") from error


def _dtype(size: int, count: int) -> str | None:
    """The format of so many bytes that are so many numbers."""
    return {4 * count: "<f4", 8 * count: "<f8", 2 * count: "<f2"}.get(size)


def _of_lists(values: Any) -> Array | None:
    """An Arrow array of lists of one length as (n, d); None where it is something else or has nulls."""
    import pyarrow as pa

    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    while pa.types.is_nested(values.type) and getattr(values.type, "value_type", None) is not None:
        kind = values.type.value_type
        if values.null_count or pa.types.is_floating(kind) or pa.types.is_integer(kind):
            break
        if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
            return None
        if len(flat := values.flatten()) != len(values):  # a list of more than one list is no row
            return None
        values = flat
    kind = getattr(values.type, "value_type", None)
    if kind is None or values.null_count or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return None
    flat = values.flatten()
    if flat.null_count or not len(values) or len(flat) % len(values):
        return None
    width = len(flat) // len(values)
    lengths = values.value_lengths() if not pa.types.is_fixed_size_list(values.type) else None
    if not width or (lengths is not None and (lengths.to_numpy(zero_copy_only=False) != width).any()):
        return None
    array: Array = flat.to_numpy(zero_copy_only=False).reshape(len(values), width)
    return array


def _length(row: Array | None) -> int:
    return 0 if row is None else len(row)


def _uneven(place: str, found: int, expected: int) -> EmbeddingError:
    return EmbeddingError(f"{place} has {found} numbers, the rows before it have {expected}")
