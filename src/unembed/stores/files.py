"""Files of tables: Parquet, Arrow, JSON lines, CSV, NumPy and others that `tables` reads.

All files of one kind in a folder are one table. A collection is called as its column of vectors, with the kind of the
files before it where a folder has several.
"""

from collections.abc import Iterator
from pathlib import Path

from unembed.errors import DataError, printable
from unembed.stores import columns
from unembed.stores.columns import Vector
from unembed.stores.groups import Group, group
from unembed.stores.local import existing
from unembed.stores.rows import chosen
from unembed.stores.store import BATCH, Collection, Rows
from unembed.stores.traces import of_store
from unembed.tables.table import endings, kind

KIND = "files"


def open(location: str) -> "FilesStore":  # noqa: A001  (the name of a reader's function)
    """A file, or the files in a folder and below it. Raises DataError: none is of a kind that is read."""
    path = existing(location)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    kinds: dict[str, list[Path]] = {}
    for file in files:
        if (found := kind(file)) is not None:
            kinds.setdefault(found, []).append(file)
    if not kinds:
        what = "unknown ending" if path.is_file() else "this folder holds no file that is read"
        raise DataError(f"{printable(location)}: {what}, expected one of {endings()}")
    return FilesStore(location, kinds)


class FilesStore:
    """See `store.Store`."""

    kind = KIND

    def __init__(self, location: str, kinds: dict[str, list[Path]]) -> None:
        self.location, self._kinds, self.notes = location, kinds, list[str]()
        self._found: dict[str, tuple[Group, Vector]] = {}

    def collections(self) -> list[Collection]:
        self._found = {}
        groups = {name: found for name, files in self._kinds.items() if (found := group(files, self.notes)) is not None}
        told = of_store(Path(self.location), inside=False)
        listed = []
        for name, found in groups.items():
            count = found.count()
            for vector in found.columns.vectors:
                called = vector.column if len(groups) == 1 else f"{name}/{vector.column}"
                self._found[called] = found, vector
                about = {"files": len(found.readers), "kind": name}
                listed.append(columns.collection(called, vector, found.columns, count, told, about=about))
        return listed

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        if not self._found:
            self.collections()
        found, vector = chosen(self._found, name, self.location)
        yield from found.rows(vector, f"{self.location}#{name}", self.notes, batch)

    def close(self) -> None:
        pass
