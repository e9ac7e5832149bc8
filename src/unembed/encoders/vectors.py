"""Embeddings from files and standard input, and into files.

Unusual here: nothing is held in memory but a batch. A `.npy` file is memory-mapped (and never unpickled), Parquet and
JSONL are read as streams, so a file is as large as the disk allows. `scan` reads all of it once before any
work is done: a bad row at the end of a million is found in seconds, not after hours, and the rows' hash
says later whether a result belongs to them.
"""

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unembed.config import Recipe
from unembed.encoders.encoder import check_embeddings
from unembed.errors import DataError, EmbeddingError, extra
from unembed.files.atomic import atomic_file

STDIN = "-"
COLUMN = "embedding"
ENDINGS = (".npy", ".parquet", ".jsonl")
BLOCK = 4096  # rows read at once where nothing else decides
LONGEST_LINE = 1 << 24  # bytes; a line of JSON beyond that is no embedding
NPY_MAGIC = b"\x93NUMPY"
MAGIC = {NPY_MAGIC: ".npy", b"PAR1": "Parquet", b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

Array = NDArray[Any]


@dataclass(frozen=True)
class Vectors:
    """Rows of embeddings that can be read from any row on, again and again; not yet checked (see `scan`).

    name: what messages call them. blocks: (start) -> arrays (n, d) of all rows from `start` on, of any n.
    """

    name: str
    blocks: Callable[[int], Iterator[Array]]

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield (number of the first row, array (size, d)), the last one maybe shorter.

        Raises:
            DataError: the file cannot be read as it claims.
            EmbeddingError: a row has another number of values than those before it.
        """
        held: list[Array] = []
        count, row = 0, start
        for block in self.blocks(start):
            if held and block.shape[1] != held[0].shape[1]:
                raise _uneven(self.name, f"row {row + count}", block.shape[1], held[0].shape[1])
            held.append(block)
            count += len(block)
            while count >= size:
                joined = held[0] if len(held) == 1 else np.concatenate(held)
                yield row, joined[:size]
                held, count, row = [joined[size:]], count - size, row + size
        if count:
            yield row, np.concatenate(held)


@dataclass(frozen=True)
class Scan:
    """What `scan` found: how many rows, and the SHA-256 of their float32 values."""

    rows: int
    sha256: str


def open_vectors(name: str, column: str = COLUMN) -> Vectors:
    """Embeddings of a `.npy`, `.parquet` or `.jsonl` file, or of standard input ("-": JSONL or the bytes of a .npy).

    Args:
        column: of a Parquet file, or key of a JSONL object; a JSONL line may also be the bare array.

    Raises:
        DataError: there is no such file, its ending is not known, or its content is not what the ending says.
    """
    if name == STDIN:
        return _from_bytes("standard input", sys.stdin.buffer.read(), column)
    path = Path(name)
    if not path.exists():
        raise DataError(f"{name}: no such file")
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"{name}: unknown ending {path.suffix!r}, expected one of {', '.join(ENDINGS)}")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from error
    if path.suffix.lower() == ".parquet":
        return Vectors(name, lambda start: _read_parquet(name, column, start))
    if path.suffix.lower() == ".jsonl":
        _refuse_binary(name, head)
        return Vectors(name, lambda start: _read_jsonl(name, path.open("rb"), column, start))
    if not head.startswith(NPY_MAGIC):
        held = next((f", holds {what} data" for magic, what in MAGIC.items() if head.startswith(magic)), "")
        raise DataError(f"{name}: is not a .npy file{held}")
    return _from_array(name, _parse_npy(name, lambda: np.lib.format.open_memmap(path, mode="r")))


def scan(vectors: Vectors, recipe: Recipe, show_progress_bar: bool = False) -> Scan:
    """Check every row against the recipe.

    Raises:
        DataError: the file cannot be read as it claims, or has no rows.
        EmbeddingError: a row that is not an embedding of the recipe; it is named by its number, from 0.
    """
    digest, rows = hashlib.sha256(), 0
    with tqdm(desc="check", unit=" rows", leave=False, disable=not show_progress_bar) as bar:
        for start, batch in vectors.batches(BLOCK):
            checked = check_embeddings(batch, recipe, source=vectors.name, first_row=start)
            digest.update(checked.data)
            rows += len(checked)
            bar.update(len(checked))
    if rows == 0:
        raise DataError(f"{vectors.name}: holds no embeddings, expected at least 1")
    return Scan(rows, digest.hexdigest())


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


def _from_bytes(name: str, content: bytes, column: str) -> Vectors:
    if content.startswith(NPY_MAGIC):
        return _from_array(name, _parse_npy(name, lambda: np.lib.format.read_array(io.BytesIO(content))))
    _refuse_binary(name, content[:8])
    return Vectors(name, lambda start: _read_jsonl(name, io.BytesIO(content), column, start))


def _from_array(name: str, array: Array) -> Vectors:
    if array.ndim not in (1, 2):
        raise EmbeddingError(f"{name}: array has {array.ndim} axes, expected rows of embeddings")
    rows = np.atleast_2d(array)

    def blocks(start: int) -> Iterator[Array]:
        for first in range(start, len(rows), BLOCK):
            yield rows[first : first + BLOCK]

    return Vectors(name, blocks)


def _parse_npy(name: str, parse: Callable[[], Array]) -> Array:
    try:
        return parse()
    except (ValueError, TypeError, EOFError, OSError, OverflowError, MemoryError) as error:  # by what is wrong with it
        reason = " ".join(str(error).split())
        if "object" in reason.lower():
            raise DataError(
                f"{name}: holds pickled Python objects, which are never loaded, expected numbers"
            ) from error
        raise DataError(f"{name}: is truncated or not a whole .npy file ({reason[:200]})") from error


def _refuse_binary(name: str, head: bytes) -> None:
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{name}: holds {what} data, expected lines of JSON")


def _read_jsonl(name: str, file: BinaryIO, column: str, start: int) -> Iterator[Array]:
    """Blocks of rows; blank lines are no rows."""
    held: list[Array] = []
    row = number = 0
    with file:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if not line.strip():
                continue
            row += 1
            if row <= start:
                continue
            held.append(_parse_line(name, number, line, column))
            if len(held[-1]) != len(held[0]):
                raise _uneven(name, f"line {number}", len(held[-1]), len(held[0]))
            if len(held) == BLOCK:
                yield np.stack(held)
                held = []
    if held:
        yield np.stack(held)


def _parse_line(name: str, number: int, line: bytes, column: str) -> Array:
    place = f"{name}: line {number}"
    if len(line) > LONGEST_LINE:
        raise DataError(f"{place} is longer than {LONGEST_LINE >> 20} MiB")
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON ({' '.join(str(error).split())[:200]})") from error
    if isinstance(tree, dict):
        if column not in tree:
            keys = ", ".join(list(tree)[:8]) or "none"
            raise DataError(f"{place} has the keys {keys}, expected {column!r} (--column names another)")
        tree = tree[column]
    if not isinstance(tree, list):
        raise DataError(f"{place} holds {type(tree).__name__}, expected an array of numbers")
    try:
        row = np.asarray(tree)
    except ValueError:  # arrays of different lengths inside
        row = np.asarray(None)
    if row.ndim != 1 or row.dtype.kind not in "fiu" or not row.size:
        raise DataError(f"{place} is not an array of numbers")
    return row


def _read_parquet(name: str, column: str, start: int) -> Iterator[Array]:
    with extra("parquet", f"{name}: reading Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        with pq.ParquetFile(name) as file:
            names = file.schema_arrow.names
            if column not in names:
                found = ", ".join(names[:8]) or "none"
                raise DataError(f"{name}: has columns {found}, expected {column!r} (--column names another)")
            row, groups = 0, list(range(file.num_row_groups))
            while groups and row + file.metadata.row_group(groups[0]).num_rows <= start:
                row += file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(batch_size=BLOCK, row_groups=groups, columns=[column]):
                wanted = batch.column(0).slice(max(0, start - row))
                if len(wanted):
                    yield _list_column(name, column, wanted, row + len(batch) - len(wanted))
                row += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from error


def _list_column(name: str, column: str, values: Any, first_row: int) -> Array:
    """An Arrow array of lists as (n, d)."""
    import pyarrow as pa

    kind = values.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))):
        raise DataError(f"{name}: column {column!r} holds {kind}, expected lists of numbers")
    flat = values.flatten()
    if values.null_count or flat.null_count:
        rows = [row for row, value in enumerate(values.to_pylist()) if value is None or None in value]
        raise DataError(f"{name}: row {first_row + rows[0]} has no value or a missing number in column {column!r}")
    lengths = values.value_lengths().to_numpy()
    uneven = np.flatnonzero(lengths != lengths[0])
    if uneven.size:
        raise _uneven(name, f"row {first_row + int(uneven[0])}", int(lengths[uneven[0]]), int(lengths[0]))
    array: Array = flat.to_numpy(zero_copy_only=False).reshape(len(values), int(lengths[0]))
    return array


def _uneven(name: str, place: str, found: int, expected: int) -> EmbeddingError:
    return EmbeddingError(f"{name}: {place} has {found} numbers, the rows before it have {expected}")
