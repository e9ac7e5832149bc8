"""Where training text comes from: files, folders and Hugging Face datasets, read as a stream.

A source is named by one string: a text file (one text a line), JSONL, Parquet, any of the first two
compressed with zstd or gzip, a folder of such files, or a Hub dataset as `owner/name[:config[:split]]`
(`allenai/c4:en`), which is streamed, never downloaded whole. A JSONL or Parquet file with a column
`embedding` next to `text` gives (text, vector) pairs: the vectors are the user's own and are kept.

Whatever cannot be read as it claims to be is a DataError that names the file and the row.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError, extra

COMPRESSIONS = {".zst": "zstd", ".gz": "gzip"}
FORMATS = {".txt": "text", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
TEXT_COLUMN, VECTOR_COLUMN = "text", "embedding"
LONGEST_LINE = 1 << 26  # bytes; a longer line is no text file, and would not fit into bounded memory
MAGIC = {b"PAR1": "Parquet", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
DATASET_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+){0,2}")

Pair = tuple[str, NDArray[np.float32] | None]


@dataclass(frozen=True)
class Source:
    """One part of the training data: a file, or a dataset on the Hub.

    `part` names its shards: the file's name without its endings, or the dataset's name.
    """

    part: str
    name: str
    kind: str  # "text", "jsonl", "parquet" or "dataset"

    @property
    def size(self) -> int | None:
        """Bytes of the file; None for a dataset."""
        return None if self.kind == "dataset" else Path(self.name).stat().st_size

    def has_vectors(self) -> bool:
        """Whether the first row with a text has a vector, too. Raises DataError where no row has a text."""
        first = next((pair for pair in self.pairs() if pair[0].strip()), None)
        if first is None:
            raise DataError(f"{self.name}: is empty, expected texts")
        return first[1] is not None

    def pairs(self, skip: int = 0) -> Iterator[Pair]:
        """Yield (text, vector or None) for every row after the first `skip`. Raises DataError."""
        reader = {"text": _read_lines, "jsonl": _read_jsonl, "parquet": _read_parquet, "dataset": _read_dataset}
        return reader[self.kind](self.name, skip)


def read_texts(name: str | Path) -> Iterator[str]:
    """Yield every text of a file, folder or dataset, in order. Raises DataError."""
    for source in find_sources([str(name)]):
        for text, _ in source.pairs():
            yield text


def find_sources(names: Sequence[str]) -> list[Source]:
    """Resolve names to sources, folders to the readable files in them (sorted by path).

    Raises:
        DataError: a name that is neither a file, a folder nor a dataset id, an ending that is not
            known, a folder without readable files, or two sources of the same part name.
    """
    sources: list[Source] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and _file_format(p) is not None)
            if not files:
                raise DataError(f"{name}: no file ending in {_endings()} in this folder")
            sources += [_file_source(file) for file in files]
        elif path.exists():
            sources.append(_file_source(path))
        elif DATASET_ID.fullmatch(name) and _file_format(path) is None:
            sources.append(Source(part=re.sub(r"[^\w.-]+", "-", name), name=name, kind="dataset"))
        else:
            raise DataError(f"{name}: no such file or folder")
    names_by_part: dict[str, str] = {}
    for source in sources:
        if source.part in names_by_part:
            raise DataError(
                f"{source.name}: makes the same part {source.part!r} as {names_by_part[source.part]}, "
                "expected different file names"
            )
        names_by_part[source.part] = source.name
    return sources


def _endings() -> str:
    return ", ".join([*FORMATS, *(f".*{ending}" for ending in COMPRESSIONS)])


def _file_format(path: Path) -> str | None:
    """The format that a file's name claims; None where the ending is unknown."""
    suffixes = path.suffixes
    if suffixes and suffixes[-1].lower() in COMPRESSIONS:
        suffixes = suffixes[:-1]
        if suffixes and FORMATS.get(suffixes[-1].lower()) == "parquet":
            return None
        return FORMATS.get(suffixes[-1].lower(), "text") if suffixes else "text"
    return FORMATS.get(suffixes[-1].lower()) if suffixes else None


def _file_source(path: Path) -> Source:
    kind = _file_format(path)
    if kind is None:
        raise DataError(f"{path}: unknown ending {path.suffix!r}, expected one of {_endings()}")
    part = path.name
    for endings in (COMPRESSIONS, FORMATS):
        stem, dot, ending = part.rpartition(".")
        if stem and (dot + ending).lower() in endings:
            part = stem
    return Source(part=part, name=str(path), kind=kind)


def _reason(error: BaseException) -> str:
    """One line of an exception's own words."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:200]


def _open_lines(name: str) -> io.BufferedIOBase:
    compression = COMPRESSIONS.get(Path(name).suffix.lower())
    with open(name, "rb") as file:
        head = file.read(4)
    for magic, found in MAGIC.items():
        if head.startswith(magic) and found.lower() != compression:
            raise DataError(f"{name}: holds {found} data, which its ending does not say")
    if compression is None:
        return open(name, "rb")
    if compression == "gzip":
        return gzip.open(name)
    with extra("parquet", f"{name}: reading zstd"):
        import pyarrow as pa
    # Arrow's decompressor reports a truncated frame as an error; zstandard's stream reader ends silently.
    return io.BufferedReader(pa.input_stream(name, compression=compression), buffer_size=1 << 20)


def _numbered_lines(name: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end)."""
    number = 0
    try:
        with _open_lines(name) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{name}: line {number} is longer than {LONGEST_LINE >> 20} MiB")
                yield number, line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: line {number} is not UTF-8 ({error.reason} at byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        after = f" after line {number}" if number else ""
        raise DataError(f"{name}: cannot be read{after} ({_reason(error)})") from error


def _read_lines(name: str, skip: int) -> Iterator[Pair]:
    for number, line in _numbered_lines(name):
        if number > skip:
            yield line.lstrip("\ufeff") if number == 1 else line, None


def _read_jsonl(name: str, skip: int) -> Iterator[Pair]:
    filled = ((number, line) for number, line in _numbered_lines(name) if line.strip())
    for number, line in islice(filled, skip, None):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}: line {number} is not JSON ({_reason(error)})") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}: line {number} is {type(row).__name__}, expected an object with {TEXT_COLUMN!r}")
        yield _pair(name, f"line {number}", row)


def _pair(name: str, place: str, row: dict[str, Any]) -> Pair:
    if TEXT_COLUMN not in row:
        raise DataError(f"{name}: {place} has {_columns(row)}, expected a column {TEXT_COLUMN!r}")
    text, vector = row[TEXT_COLUMN], row.get(VECTOR_COLUMN)
    if not isinstance(text, str):
        raise DataError(f"{name}: {place} has {type(text).__name__} in {TEXT_COLUMN!r}, expected a string")
    if vector is None:
        return text, None
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {place} has no list of numbers in {VECTOR_COLUMN!r}") from error
    if array.ndim != 1:
        raise DataError(f"{name}: {place} has {array.ndim} dimensions in {VECTOR_COLUMN!r}, expected 1")
    return text, array


def _columns(names: Any) -> str:
    found = [str(name) for name in names]
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    return f"columns {shown}" if found else "no columns"


def _read_parquet(name: str, skip: int) -> Iterator[Pair]:
    with extra("parquet", f"{name}: reading Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    row = 0
    try:
        with pq.ParquetFile(name) as file:
            found = file.schema_arrow.names
            if TEXT_COLUMN not in found:
                raise DataError(f"{name}: has {_columns(found)}, expected a column {TEXT_COLUMN!r}")
            columns = [column for column in (TEXT_COLUMN, VECTOR_COLUMN) if column in found]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                if row + batch.num_rows > skip:
                    for values in batch.slice(max(0, skip - row)).to_pylist():
                        yield _pair(name, f"row {max(row, skip)}", values)
                        row = max(row, skip) + 1
                else:
                    row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: cannot be read as Parquet ({_reason(error)})") from error


def _read_dataset(name: str, skip: int) -> Iterator[Pair]:
    with extra("datasets", f"{name}: no such file or folder; reading a dataset of this name"):
        import datasets
    dataset_id, _, rest = name.partition(":")
    config, _, split = rest.partition(":")
    try:
        rows = datasets.load_dataset(dataset_id, config or None, split=split or "train", streaming=True).skip(skip)
        number = skip
        for row in rows:
            yield _pair(name, f"row {number}", {TEXT_COLUMN: row[TEXT_COLUMN]} if TEXT_COLUMN in row else row)
            number += 1
    except DataError:
        raise
    except Exception as error:  # the Hub's client has no common base for its many exceptions
        raise DataError(f"{name}: no such file or folder, nor a readable dataset ({_reason(error)})") from error
