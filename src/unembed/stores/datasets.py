"""Folders that Hugging Face `datasets` saved with `save_to_disk`: Arrow files, read without that package.

A collection is called as its split, `data` where there are none, with `.COLUMN` where it has several of vectors.
"""

from collections.abc import Iterator
from pathlib import Path

from unembed.errors import DataError, extra, printable
from unembed.stores import columns
from unembed.stores.columns import Vector
from unembed.stores.groups import Group, group
from unembed.stores.local import existing, json_file
from unembed.stores.rows import chosen, note_unread
from unembed.stores.store import BATCH, Collection, Rows, Trace
from unembed.stores.traces import of_store

KIND = "datasets"
CACHES = "cache-*.arrow"
ALONE = "data"  # the collection of a folder without splits


def open(location: str) -> "DatasetsStore":  # noqa: A001  (the name of a reader's function)
    """A folder of a dataset, or of several splits. Raises DataError, MissingPackageError."""
    path = existing(location)
    if (path / "dataset_dict.json").is_file():
        splits = json_file(path / "dataset_dict.json").get("splits")
        names = [one for one in splits if isinstance(one, str)] if isinstance(splits, list) else []
        folders = {name: _inside(path, name) for name in names}
    else:
        folders = {ALONE: path}
    if not any((folder / "state.json").is_file() for folder in folders.values()):
        raise DataError(f"{printable(location)}: has no state.json, expected a folder that save_to_disk made")
    with extra("parquet", f"{printable(location)}: reading Arrow"):
        import pyarrow  # noqa: F401
    return DatasetsStore(location, folders)


class DatasetsStore:
    """See `store.Store`."""

    kind = KIND

    def __init__(self, location: str, folders: dict[str, Path]) -> None:
        self.location, self._folders, self.notes = location, folders, list[str]()
        self._found: dict[str, tuple[Group, Vector]] = {}

    def collections(self) -> list[Collection]:
        self._found = {}
        listed: list[Collection] = []
        errors: list[DataError] = []
        for split, folder in self._folders.items():
            try:
                files = _files(folder)
                found = group(files, self.notes)
            except DataError as error:
                errors.append(error)
                continue
            more = [*of_store(folder, inside=False), *_caches(folder)]
            for vector in found.columns.vectors if found is not None else ():
                assert found is not None
                name = split if len(found.columns.vectors) == 1 else f"{split}.{vector.column}"
                self._found[name] = found, vector
                about = {"files": len(files)}
                listed.append(columns.collection(name, vector, found.columns, None, more, about=about))
        note_unread(self.notes, listed, errors)
        return listed

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        if not self._found:
            self.collections()
        found, vector = chosen(self._found, name, self.location)
        yield from found.rows(vector, f"{self.location}#{name}", self.notes, batch)

    def close(self) -> None:
        pass


def _inside(folder: Path, name: str) -> Path:
    """A file or folder of that name. Raises DataError where the name leads elsewhere."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise DataError(f"{printable(str(folder))}: names {printable(name)!r}, expected a name in this folder")
    return folder / name


def _files(folder: Path) -> list[Path]:
    """The files of a dataset, in its order. Raises DataError."""
    listed = json_file(folder / "state.json").get("_data_files")
    names = [one.get("filename") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [_inside(folder, name) for name in names if isinstance(name, str)]


def _caches(folder: Path) -> list[Trace]:
    """What `map` and `filter` left in the folder: tables of what they made."""
    words = "Cache files of map and filter hold rows as they were then."
    return [Trace("copy", words, where=CACHES)] if any(folder.glob(CACHES)) else []
