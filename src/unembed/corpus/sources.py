"""Where training text comes from: files, folders and Hugging Face datasets, read as a stream.

A source is named by one string: a file that `tables` reads, a folder of such files, or a Hub dataset as
`owner/name[:config[:split]]` (`allenai/c4:en`), which is streamed, never downloaded whole. Texts stand in the column
`text`. A column `embedding` beside it gives (text, vector) pairs: the vectors are the user's own and are kept.

Whatever cannot be read as it claims to be is a DataError that names the file and the row.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.encoders.embedding_files import number_row, place
from unembed.errors import DataError, extra
from unembed.tables import open_table
from unembed.tables.streams import reason
from unembed.tables.table import endings, kind, listed, stem
from unembed.tables.values import listed_values

TEXT_COLUMN, VECTOR_COLUMN = "text", "embedding"
DATASET_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+){0,2}")

Pair = tuple[str, NDArray[np.float32] | None]


@dataclass(frozen=True)
class Source:
    """One part of the training data: a file, or a dataset on the Hub.

    `part` names its shards: the file's name without its endings, or the dataset's name.
    """

    part: str
    name: str
    is_dataset: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of the file; None for a dataset."""
        return None if self.is_dataset else Path(self.name).stat().st_size

    def has_vectors(self) -> bool:
        """Whether the first row with a text has a vector, too. Raises DataError where no row has a text."""
        first = next((pair for pair in self.pairs() if pair[0].strip()), None)
        if first is None:
            raise DataError(f"{self.name}: is empty, expected texts")
        return first[1] is not None

    def texts(self) -> Iterator[str]:
        """Every text, other columns unread. Raises DataError."""
        return (_text(value, where) for value, where in self.values())

    def values(self) -> Iterator[tuple[Any, str]]:
        """What stands in the column of texts, unchecked, and what messages call its row. Raises DataError."""
        if self.is_dataset:
            yield from _read_dataset(self.name, 0)
            return
        for batch in open_table(self.name).batches([TEXT_COLUMN]):
            for number, value in enumerate(listed_values(batch.columns[TEXT_COLUMN], self.name)):
                yield value, place(batch, number, self.name)

    def pairs(self, skip: int = 0) -> Iterator[Pair]:
        """Yield (text, vector or None) for every row after the first `skip`. Raises DataError."""
        if self.is_dataset:
            return ((_text(value, where), None) for value, where in _read_dataset(self.name, skip))
        both = [TEXT_COLUMN, VECTOR_COLUMN]
        return self._rows(both if VECTOR_COLUMN in open_table(self.name).names() else both[:1], skip)

    def _rows(self, columns: Sequence[str], skip: int) -> Iterator[Pair]:
        for batch in open_table(self.name).batches(columns, skip):
            values = zip(*(listed_values(batch.columns[column], self.name) for column in columns), strict=True)
            for number, (text, *vectors) in enumerate(values):
                where = place(batch, number, self.name)
                row = number_row(vectors[0], where).astype(np.float32) if vectors and vectors[0] is not None else None
                yield _text(text, where), row


def read_texts(name: str | Path) -> Iterator[str]:
    """Yield every text of a file, folder or dataset, in order. Raises DataError."""
    for source in find_sources([str(name)]):
        yield from source.texts()


def read_values(name: str | Path) -> Iterator[Any]:
    """Yield what stands in the column of texts, unchecked, as `encoders.texts` checks it. Raises DataError."""
    for source in find_sources([str(name)]):
        yield from (value for value, _ in source.values())


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
            files = sorted(file for file in path.rglob("*") if file.is_file() and kind(file) is not None)
            if not files:
                raise DataError(f"{name}: no file ending in {endings()} in this folder")
            sources += [Source(stem(file), str(file)) for file in files]
        elif path.exists():
            if kind(path) is None:
                raise DataError(f"{name}: unknown ending {path.suffix!r}, expected one of {endings()}")
            sources.append(Source(stem(path), name))
        elif DATASET_ID.fullmatch(name) and kind(path) is None:
            sources.append(Source(re.sub(r"[^\w.-]+", "-", name), name, is_dataset=True))
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


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} has {type(value).__name__} in {TEXT_COLUMN!r}, expected a string")
    return value


def _read_dataset(name: str, skip: int) -> Iterator[tuple[Any, str]]:
    with extra("datasets", f"{name}: no such file or folder; reading a dataset of this name"):
        import datasets
    dataset_id, _, rest = name.partition(":")
    config, _, split = rest.partition(":")
    try:
        rows = datasets.load_dataset(dataset_id, config or None, split=split or "train", streaming=True).skip(skip)
        number = skip
        for row in rows:
            if TEXT_COLUMN not in row:
                raise DataError(f"{name}: row {number} has {listed(list(row))}, expected {TEXT_COLUMN!r}")
            yield row[TEXT_COLUMN], f"{name}: row {number}"
            number += 1
    except DataError:
        raise
    except Exception as error:  # the Hub's client has no common base for its many exceptions
        raise DataError(f"{name}: no such file or folder, nor a readable dataset ({reason(error)})") from error
