"""Milvus Lite 3 and later: a folder of `collections/NAME`, each with a manifest, a schema, Parquet and a log.

Its files are read as they lie, since the client rewrites a store that it opens. Each row has a sequence number. The row
of a key with the highest number is the live one, unless a deletion of that key has a higher one. Other rows are deleted
or replaced, and still there: they are the collection `NAME (deleted)`. The log holds what was not yet written to
Parquet; it is an Arrow stream that may lack its end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import DataError, extra, printable
from unembed.stores import columns
from unembed.stores.columns import Columns, Vector
from unembed.stores.local import existing, json_file
from unembed.stores.names import model
from unembed.stores.rows import chosen, json_object, note, note_unread
from unembed.stores.store import BATCH, Collection, Rows, Trace
from unembed.stores.traces import of_settings, of_store
from unembed.tables import Batch, open_table
from unembed.tables.streams import head_of, kind_of
from unembed.tables.values import listed_values

KIND = "milvus"
DELETED = " (deleted)"
SEQUENCE, DYNAMIC = "_seq", "$meta"  # columns of the row's number, and of fields that the schema does not have
NEVER = -1
EMBEDS = 2  # the type of a function that embeds texts
OLD = (
    "is a database of Milvus Lite 2, whose format is not read; dump it with the milvus-lite 2 command "
    "(milvus-lite dump -d FILE -c COLLECTION -p FOLDER) and read that folder"
)


def open(location: str) -> "MilvusStore":  # noqa: A001  (the name of a reader's function)
    """A folder of Milvus Lite. Raises DataError, MissingPackageError."""
    path = existing(location)
    if path.is_file():
        old = kind_of(head_of(path)) == "SQLite"
        raise DataError(f"{printable(location)}: {OLD if old else 'is a file, expected a folder of Milvus Lite'}")
    found = sorted(one for one in path.glob("collections/*") if (one / "schema.json").is_file())
    if not found and not (path / "collections").is_dir():
        raise DataError(f"{printable(location)}: has no folder 'collections', expected Milvus Lite 3 or later")
    with extra("stores", f"{printable(location)}: reading Milvus Lite"):
        import pyarrow  # noqa: F401
    return MilvusStore(location, found)


@dataclass
class Kept:
    """What a collection's folder holds.

    Attributes:
        files: Parquet files of rows that the manifest names; then the log's.
        others: Parquet files of rows that it does not name, such as those that a snapshot keeps.
        key: the primary field.
        live: of each key the number of its live row, `NEVER` where it is deleted.
        rows, gone: how many rows live, and how many that do not are still there.
        told: what the fields hold, those in `$meta` too.
    """

    folder: Path
    schema: Mapping[str, Any]
    manifest: Mapping[str, Any]
    key: str
    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    live: dict[Any, int] = field(default_factory=dict)
    rows: int = 0
    gone: int = 0
    told: Columns = field(default_factory=Columns)


class MilvusStore:
    """See `store.Store`. A collection has `.FIELD` after its name where it has several fields of vectors."""

    kind = KIND

    def __init__(self, location: str, folders: Sequence[Path]) -> None:
        self.location, self._folders, self.notes = location, folders, list[str]()
        self._found: dict[str, tuple[Kept, Vector]] = {}

    def collections(self) -> list[Collection]:
        found: list[Collection] = []
        errors: list[DataError] = []
        self._found = {}
        for folder in self._folders:
            try:
                kept = self._kept(folder)
            except DataError as error:
                errors.append(error)
                continue
            if not kept.told.vectors:
                note(self.notes, f"{printable(folder.name)}: no field of dense vectors")
            for vector in kept.told.vectors:
                name = folder.name if len(kept.told.vectors) == 1 else f"{folder.name}.{vector.column}"
                found += self._collections(name, kept, vector)
        note_unread(self.notes, found, errors)
        return found

    def _collections(self, name: str, kept: Kept, vector: Vector) -> Iterator[Collection]:
        encoder, more = _functions(kept.schema, vector.column, kept.folder)
        more += of_store(kept.folder, inside=False)
        if kept.gone:
            detail = "Rows that were deleted or replaced are still in the collection's files."
            more.append(Trace("deleted", detail, count=kept.gone))
        if (snapshots := kept.folder / "snapshots" / "metadata").is_dir() and (names := list(snapshots.glob("*.json"))):
            more.append(Trace("version", f"Snapshots keep earlier states: {len(names):,}.", where="snapshots"))
        specs = kept.manifest.get("index_specs")
        spec = specs.get(vector.column) if isinstance(specs, dict) else None
        spec = spec if isinstance(spec, dict) else {}
        known: dict[str, Any] = {"metric": str(spec.get("metric_type", "")).lower()[:40], "encoder": encoder}
        about = {"index": str(spec.get("index_type", ""))[:40]}
        self._found[name] = kept, vector
        yield columns.collection(name, vector, kept.told, kept.rows, more, about=about, **known)
        if kept.gone:
            self._found[name + DELETED] = kept, vector
            yield columns.collection(name + DELETED, vector, kept.told, kept.gone, **known)

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        if not self._found:
            self.collections()
        kept, vector = chosen(self._found, name, self.location)
        batches = self._batches(kept, vector, name.endswith(DELETED))
        yield from columns.rows(batches, kept.told, vector, f"{self.location}#{name}", self.notes, batch)

    def _batches(self, kept: Kept, vector: Vector, dead: bool) -> Iterator[Batch]:
        fields = {one["name"] for one in kept.schema["fields"]}
        needed = [SEQUENCE, *kept.told.needed(vector, fields), *([DYNAMIC] if _is_dynamic(kept.schema) else [])]
        first = 0
        for batch in self._scan(
            [*kept.files, *(kept.others if dead else [])], list(dict.fromkeys([kept.key, *needed]))
        ):
            mask = _lives(batch, kept) != dead
            if count := int(mask.sum()):
                import pyarrow as pa

                found = {name: values.filter(pa.array(mask)) for name, values in batch.columns.items()}
                yield _widened(replace(batch, columns=found, first=first), kept.told)
                first += count

    def _scan(self, files: Sequence[Path], needed: Sequence[str]) -> Iterator[Batch]:
        """Batches of files; a log that cannot be read, such as one that is cut off, is left out."""
        for file in files:
            table = open_table(str(file))
            try:
                there = table.names()
                if kept := [one for one in needed if one in there]:
                    yield from table.batches(kept)
            except DataError as error:
                if file.suffix != ".arrow":
                    raise
                note(self.notes, f"{error}; rows of the log that are not in Parquet yet may be missing")

    def _kept(self, folder: Path) -> Kept:
        schema = json_file(folder / "schema.json")
        fields = schema.get("fields")
        names = (
            [one["name"] for one in fields if isinstance(one, dict) and isinstance(one.get("name"), str)]
            if (isinstance(fields, list))
            else []
        )
        key = next((one for one in names if _field(schema, one).get("is_primary")), None)
        if key is None or len(names) != len(fields or ()):
            raise DataError(f"{printable(str(folder))}: its schema has no primary field, expected that of Milvus Lite")
        kept = Kept(folder, schema, self._manifest(folder), key)
        logs = sorted(folder.glob("wal/wal_data_*.arrow"))
        named = self._named(kept, "data_files")
        kept.files = [*named, *logs]
        kept.others = sorted({one.resolve() for one in folder.glob("partitions/*/data/*.parquet")} - {*named})
        for batch in self._scan(kept.files, [key, SEQUENCE]):
            for name, number in _numbered(batch, key):
                kept.live[name] = max(number, kept.live.get(name, NEVER))
        deletions = [*self._named(kept, "delta_files"), *sorted(folder.glob("wal/wal_delta_*.arrow"))]
        for batch in self._scan(deletions, [key, SEQUENCE]):
            for name, number in _numbered(batch, key):
                if kept.live.get(name, number) < number:
                    kept.live[name] = NEVER
        kept.rows = sum(number != NEVER for number in kept.live.values())
        kept.gone = sum(
            int((~_lives(batch, kept)).sum()) for batch in self._scan([*kept.files, *kept.others], [key, SEQUENCE])
        )
        kept.told = self._told(kept, names)
        return kept

    def _manifest(self, folder: Path) -> Mapping[str, Any]:
        file, before = folder / "manifest.json", folder / "manifest.json.prev"
        if not file.exists() and not before.exists():  # nothing was written to Parquet yet
            return {}
        try:
            return json_file(file)
        except DataError as error:
            found = json_file(before)
            note(self.notes, f"{error}; the manifest before it was read")
            return found

    def _named(self, kept: Kept, what: str) -> list[Path]:
        """Files of all partitions that the manifest names. Raises DataError where one lies outside of the folder."""
        partitions = kept.manifest.get("partitions")
        found = []
        for partition, files in sorted(partitions.items()) if isinstance(partitions, dict) else []:
            names = files.get(what) if isinstance(files, dict) else None
            for name in names if isinstance(names, list) else []:
                file = (kept.folder / "partitions" / partition / str(name).replace("\\", "/")).resolve()
                if not file.is_relative_to(kept.folder.resolve()) or file.suffix != ".parquet":
                    raise DataError(f"{printable(str(kept.folder))}: its manifest names {printable(str(name))}")
                if not file.is_file():
                    note(self.notes, f"{printable(str(file))}: is missing, though the manifest names it")
                    continue
                found.append(file)
        return found

    def _told(self, kept: Kept, names: Sequence[str]) -> Columns:
        """What the fields hold, by the first rows of a file, or by the schema alone."""
        needed = [*names, *([DYNAMIC] if _is_dynamic(kept.schema) else [])]
        first = next(self._scan(kept.files, needed), None)
        found: Mapping[str, Any] = {}
        if first is not None:
            found = {name: values[: columns.SAMPLE] for name, values in first.columns.items()}
            dynamic = [json_object(value) for value in listed_values(found.get(DYNAMIC, []), DYNAMIC)]
            keys = dict.fromkeys(key for one in dynamic for key in one if key not in found)
            found = {**found, **{key: [one.get(key) for one in dynamic] for key in keys}}
        told = columns.find({name: values for name, values in found.items() if name != DYNAMIC})
        vectors = [_field(kept.schema, one) for one in names if _field(kept.schema, one).get("dtype") == "float_vector"]
        return replace(
            told, id=kept.key, metadata=tuple(one for one in told.metadata if one != kept.key),
            vectors=tuple(Vector(one["name"], one["dim"], "float32") for one in vectors if isinstance(one["dim"], int)),
        )  # fmt: skip

    def close(self) -> None:
        pass


def _field(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(one for one in schema["fields"] if one["name"] == name)


def _is_dynamic(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("enable_dynamic_field"))


def _numbered(batch: Batch, key: str) -> Iterator[tuple[Any, int]]:
    """The key and the sequence number of each row."""
    try:
        numbers = np.asarray(batch.columns[SEQUENCE], dtype=np.int64).tolist()
        return zip(listed_values(batch.columns[key], key), numbers, strict=True)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"a file of rows has no numbers in {SEQUENCE} or no field {printable(key)}") from error


def _lives(batch: Batch, kept: Kept) -> Any:
    """Which rows of a batch are live, bool (n,)."""
    found = [kept.live.get(name) == number for name, number in _numbered(batch, kept.key)]
    return np.array(found, dtype=bool)


def _widened(batch: Batch, told: Columns) -> Batch:
    """A batch with the fields in `$meta` as columns."""
    if DYNAMIC not in batch.columns:
        return batch
    rows = [json_object(value) for value in listed_values(batch.columns[DYNAMIC], DYNAMIC)]
    wanted = [one for one in (told.text, *told.metadata) if one and one not in batch.columns]
    return replace(batch, columns={**batch.columns, **{key: [row.get(key) for row in rows] for key in wanted}})


def _functions(schema: Mapping[str, Any], column: str, folder: Path) -> tuple[str, list[Trace]]:
    """The model that fills a field, and what its settings tell."""
    several = schema.get("functions")
    for one in several if isinstance(several, list) else []:
        if not isinstance(one, dict) or one.get("function_type") != EMBEDS:
            continue
        outputs, config = one.get("output_field_names"), one.get("params")
        if isinstance(outputs, list) and column in outputs and isinstance(config, dict):
            return model(config), of_settings(config, f"{folder.name}/schema.json")
    return "", []
