"""What a table is, which reader reads which file, folders of files, and standard input."""

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from unembed.errors import DataError
from unembed.tables.streams import COMPRESSIONS, kind_of

STDIN = "-"
LONGEST_NAME = 256  # characters of a column's name


@dataclass(frozen=True)
class Batch:
    """Rows that follow each other.

    Attributes:
        first: number of the first one, from 0.
        columns: name -> one value a row: a list or tuple of Python values (None where there is none), a NumPy array
            whose first axis are the rows, or an Arrow array.
        lines: in which line of its file each row stands, from 1, where files have lines.
        name: the file, where it is one of several; else empty.
    """

    first: int
    columns: dict[str, Any]
    lines: Sequence[int] | None = None
    name: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class Reader(Protocol):
    """Reads one file."""

    def names(self) -> list[str]:
        """The columns, those of objects within objects with dots; by the first rows where the file does not say."""
        ...

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        """Batches of these columns, of which each is there, of all rows from `start` on."""
        ...


@dataclass(frozen=True)
class Table:
    """Rows of named columns, in one file or several.

    name: what messages call it. readers: of each file, with its own name.
    """

    name: str
    readers: tuple[tuple[str, Reader], ...]

    def names(self) -> list[str]:
        """The columns of the first file. Raises DataError."""
        return self.readers[0][1].names()

    def batches(self, columns: Sequence[str], start: int = 0) -> Iterator[Batch]:
        """Batches of these columns, of all rows from `start` on.

        Raises:
            DataError: a file has no such column, or cannot be read as it claims.
        """
        before = 0
        for name, reader in self.readers:
            if (found := reader.names()) and (missing := [column for column in columns if column not in found]):
                raise DataError(f"{name}: has {listed(found)}, expected {missing[0]!r}")
            alone, count = len(self.readers) == 1, 0
            # Files do not say how many rows they have, so that those of a folder are read from their beginnings.
            for batch in reader.batches(columns, start if alone else 0):
                count = batch.first + len(batch)
                batch = replace(batch, first=before + batch.first, name="" if alone else name)
                if (late := start - batch.first) < len(batch):
                    yield batch if late <= 0 else _without(batch, late)
            before += count


def _without(batch: Batch, count: int) -> Batch:
    lines = None if batch.lines is None else batch.lines[count:]
    columns = {name: values[count:] for name, values in batch.columns.items()}
    return replace(batch, first=batch.first + count, columns=columns, lines=lines)


def open_table(name: str) -> Table:
    """The table of a file, of all files of one kind in a folder, or of standard input ("-").

    Raises:
        DataError: there is nothing of this name, its ending is not known, or files of a folder differ in kind.
    """
    if name == STDIN:
        return Table("standard input", (("standard input", _reader(_spooled(), "standard input")),))
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and kind(file) is not None)
        if len(kinds := {kind(file) for file in files}) != 1:
            held = f"files of {len(kinds)} kinds ({', '.join(sorted(map(str, kinds)))})" if files else "no file"
            raise DataError(f"{name}: this folder holds {held}, expected files of one of {endings()}")
        return Table(name, tuple((str(file), _reader(file, str(file))) for file in files))
    if not path.exists():
        raise DataError(f"{name}: no such file or folder")
    if kind(path) is None:
        raise DataError(f"{name}: unknown ending {path.suffix!r}, expected one of {endings()}")
    return Table(name, ((name, _reader(path, name)),))


KINDS = {
    ".txt": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".feather": "arrow", ".arrow": "arrow", ".npy": "npy", ".safetensors": "safetensors",
    ".fvecs": "fvecs", ".bvecs": "bvecs",
}  # fmt: skip
OF_LINES = ("text", "json", "csv", "tsv")  # which may be compressed


def kind(path: Path) -> str | None:
    """What a file's name says that it holds; a file that is only known to be compressed holds text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not suffixes or suffixes[-1] not in COMPRESSIONS:
        return KINDS.get(suffixes[-1]) if suffixes else None
    found = KINDS.get(suffixes[-2], "text") if len(suffixes) > 1 else "text"
    return found if found in OF_LINES else None


def stem(path: Path) -> str:
    """The file's name without its endings."""
    name = path.name
    for known in (COMPRESSIONS, KINDS):
        rest, dot, ending = name.rpartition(".")
        if rest and (dot + ending).lower() in known:
            name = rest
    return name


def endings() -> str:
    """The endings that are known, for messages."""
    return f"{', '.join(KINDS)}, the first six also with {', '.join(COMPRESSIONS)}"


def _reader(path: Path, name: str) -> Reader:
    from unembed.tables import arrays, arrow, lines

    match kind(path):
        case "text":
            return lines.TextLines(path, name)
        case "json":
            return lines.JsonRows(path, name)
        case "csv" | "tsv" as found:
            return lines.DelimitedRows(path, name, "\t" if found == "tsv" else ",")
        case "parquet":
            return arrow.ParquetRows(path, name)
        case "arrow":
            return arrow.ArrowRows(path, name)
        case "npy":
            return arrays.NpyRows(path, name)
        case "safetensors":
            return arrays.SafetensorsRows(path, name)
        case found:
            return arrays.VecsRows(path, name, "<f4" if found == "fvecs" else "u1")


def _spooled() -> Path:
    """Standard input as a file, which can be read twice; it goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="unembed-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "input"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with path.open("rb") as file:
        head = file.read(16)
    ending = {"NumPy": ".npy", "Parquet": ".parquet", "Arrow": ".arrow", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}
    return path.rename(path.with_suffix(ending.get(kind_of(head) or "", ".jsonl")))


def listed(names: Sequence[str]) -> str:
    """Columns, for messages; their names are a file's, and may hold what steers a terminal."""
    clean = ("".join(letter if letter.isprintable() else "\ufffd" for letter in str(name)[:60]) for name in names[:8])
    shown = ", ".join(clean) + (", ..." if len(names) > 8 else "")
    return f"columns {shown}" if names else "no columns"


def names_of(row: dict[str, Any], prefix: str = "", depth: int = 0) -> list[str]:
    """The keys of a JSON object and of objects in it."""
    found = []
    for key, value in row.items():
        if len(prefix) + len(key) <= LONGEST_NAME:  # else a long one could stand before each of a million others
            found.append(prefix + key)
            if isinstance(value, dict) and depth < 4:
                found += names_of(value, f"{prefix}{key}.", depth + 1)
    return found


def at(row: Any, column: str) -> Any:
    """The value of a column whose name may lead into objects by dots; None where there is none."""
    if not isinstance(row, dict):
        return None
    if column in row:
        return row[column]
    for cut in (place for place, letter in enumerate(column) if letter == "."):
        if isinstance(row.get(column[:cut]), dict):
            return at(row[column[:cut]], column[cut + 1 :])
    return None
