"""The vectors of a folder of hnswlib's persistent index, as Chroma writes it, by plain reads.

    header.bin       int32 version, then uint64: offset of level 0, capacity, rows, bytes of a row, offset of the
                     label, offset of the vector
    data_level0.bin  rows: links (the third byte is 1 where the row is marked as deleted), float32 vector, uint64 label
    length.bin       float32 norms, by which the vectors of a cosine index were divided

Files are read in pieces, not mapped: a mapped file that is cut while it is read ends the process.
"""

import os
import re
import struct
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError
from unembed.stores.rows import WIDEST
from unembed.stores.store import Floats

ROWS = 50_000_000  # of an index; more are not read
BLOCK = 1 << 22  # bytes read at once
UNUSED = 1 << 26  # bytes of unused rows that are looked at
READABLE = re.compile(rb"[\x20-\x7e\t\n]{24,}")  # float32 numbers do not look like that


class Index:
    """One index.

    Attributes:
        count: rows in the file, deleted ones too.
        dimension: of the vectors.
        labels: uint64 (count,), in the order of the file.
        marked: bool (count,), rows that hnswlib flags as deleted.
        cut: whether its file holds fewer rows than its header says.
        notes: what of it could not be read.
    """

    def __init__(self, folder: Path) -> None:
        """Open it and read its labels. Raises DataError where the header does not fit."""
        self.folder, self.notes = folder, list[str]()
        head = _first(folder / "header.bin", 52)
        if len(head) < 52:
            raise DataError(f"{folder / 'header.bin'}: is cut, expected at least 52 bytes")
        version, self._links, _, self.count, self._size, self._label, self._vector = struct.unpack("<i6Q", head)
        self.dimension = (self._label - self._vector) // 4
        if version != 1 or not 0 < self.dimension <= WIDEST or self._size != self._label + 8 or self._links > 64:
            raise DataError(f"{folder / 'header.bin'}: is no index of a known form (version {version})")
        self._path = folder / "data_level0.bin"
        self._state = self._seen()
        self._bytes = self._state[0]
        claimed, self.count = self.count, min(self.count, self._bytes // self._size, ROWS)
        self.cut = self.count < claimed
        if self.cut:
            self.notes.append(
                f"{folder.name}/data_level0.bin: is cut short, it holds {self.count:,} rows of {claimed:,}: a backup "
                "may have the others"
            )
        self.labels = np.zeros(self.count, np.uint64)
        self.marked = np.zeros(self.count, bool)
        step = max(BLOCK // self._size, 1)
        with _open(self._path) as file:
            for start in range(0, self.count, step):
                data = _at(file, start * self._size, min(step, self.count - start) * self._size)
                rows = np.frombuffer(data, np.uint8)[: len(data) // self._size * self._size].reshape(-1, self._size)
                self.labels[start : start + len(rows)] = rows[:, self._label :].copy().view("<u8")[:, 0]
                self.marked[start : start + len(rows)] = rows[:, self._links + 2] & 1
        self._order = np.argsort(self.labels, kind="stable")

    def _seen(self) -> tuple[int, int]:
        with _open(self._path) as file:
            found = os.fstat(file.fileno())
        return found.st_size, found.st_mtime_ns

    def changed(self) -> bool:
        """Whether its file is no longer as it was opened."""
        try:
            return self._seen() != self._state
        except DataError:
            return True

    def slots(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of these labels are, -1 for those that are not there; labels below 0 are none."""
        if not self.count:
            return np.full(len(labels), -1)
        wanted = np.maximum(labels, 0).astype(np.uint64)
        found = np.searchsorted(self.labels, wanted, sorter=self._order)
        slots = self._order[np.minimum(found, self.count - 1)]
        return np.where((self.labels[slots] == wanted) & (labels >= 0), slots, -1)

    def vectors(self, slots: NDArray[np.int64]) -> Floats:
        """Rows as they are in the file, (n, dimension); NaN where a slot is -1 or the file was cut."""
        found = np.full((len(slots), self.dimension), np.nan, np.float32)
        with _open(self._path) as file:
            for i, slot in enumerate(slots.tolist()):
                if slot >= 0:
                    data = _at(file, slot * self._size + self._vector, 4 * self.dimension)
                    if len(data) == 4 * self.dimension:
                        found[i] = np.frombuffer(data, "<f4")
        return found

    def lengths(self) -> Floats:
        """Norms by which the vectors of a cosine index were divided, (count,); NaN where the file is too short."""
        data = np.frombuffer(_first(self.folder / "length.bin", 4 * self.count), np.uint8)
        found = np.full(self.count, np.nan, np.float32)
        whole = data[: len(data) // 4 * 4].view("<f4")
        found[: len(whole)] = whole
        return found

    def leftover(self) -> int:
        """Bytes of readable text in the rows that are not used: the memory of the process that made the file."""
        start = self.count * self._size
        with _open(self._path) as file:
            blocks = (_at(file, at, BLOCK) for at in range(start, min(self._bytes, start + UNUSED), BLOCK))
            return sum(len(text) for block in blocks for text in READABLE.findall(block))


def _open(path: Path) -> FileIO:
    try:
        if not path.is_file():
            raise DataError(f"{path}: is no file, expected a part of an index")
        return FileIO(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _first(path: Path, count: int) -> bytes:
    with _open(path) as file:
        return file.read(count) or b""


def _at(file: FileIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count) or b""
