"""LanceDB: a folder of `NAME.lance` tables, or one of them. Read with Lance itself, in a child process.

Deleted rows stay in a table's files until it is compacted, and rows of earlier versions until those are cleaned up.
They are the collection `NAME (deleted)`: rows of any version still there that the latest one does not have.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unembed.errors import DataError, UnembedError, printable
from unembed.stores import child, columns
from unembed.stores.columns import Columns, Vector
from unembed.stores.local import existing
from unembed.stores.names import model
from unembed.stores.rows import chosen, note, note_unread
from unembed.stores.store import BATCH, Collection, Rows, Trace
from unembed.stores.traces import of_settings, of_store
from unembed.tables import Batch

KIND = "lancedb"
ENDING = ".lance"
DELETED = " (deleted)"
VERSIONS = 1000  # earlier versions that are looked at, the latest of them
BYTES = 1 << 26  # of a batch, and of what is read ahead


def open(location: str) -> "LanceStore":  # noqa: A001  (the name of a reader's function)
    """A folder of tables, or a table. Raises DataError, MissingPackageError."""
    path = existing(location)
    child.need("lance", "LanceDB", location)
    tables = [path] if path.suffix == ENDING else sorted(path.glob(f"*{ENDING}"))
    tables = [one for one in tables if one.is_dir()]
    if not tables:
        raise DataError(f"{printable(location)}: no folder ending in {ENDING}, expected LanceDB's tables")
    return LanceStore(location, tables)


class LanceStore:
    """See `store.Store`. A collection is called as its table, with `.COLUMN` where that has several of vectors."""

    kind = KIND

    def __init__(self, location: str, tables: Sequence[Path]) -> None:
        self.location, self._tables, self.notes = location, tables, list[str]()
        self._found: dict[str, tuple[Path, Columns, Vector]] = {}

    def collections(self) -> list[Collection]:
        found: list[Collection] = []
        errors: list[DataError] = []
        self._found = {}
        for table in self._tables:
            try:
                ((known, sample),) = child.frames(KIND, "tables", str(table))
            except DataError as error:
                errors.append(error)
                continue
            self._note(known)
            told = columns.find(dict(zip(sample.schema.names, sample.columns, strict=True)))
            if not told.vectors:
                note(self.notes, f"{printable(table.name)}: no column of vectors")
            for vector in told.vectors:
                name = table.stem if len(told.vectors) == 1 else f"{table.stem}.{vector.column}"
                found += self._collections(name, table, told, vector, known)
        note_unread(self.notes, found, errors)
        return found

    def _collections(
        self, name: str, table: Path, told: Columns, vector: Vector, known: dict[str, Any]
    ) -> Iterator[Collection]:
        self._found[name] = table, told, vector
        more = [*of_store(table, inside=False), *_version_traces(known)]
        function = next((one for one in known["functions"] if one.get("vector_column") == vector.column), {"name": ""})
        config = function.get("model")
        config = config if isinstance(config, dict) else {}
        more += of_settings(config, f"{table.name}, schema metadata")
        encoder = model(config) or str(function.get("name", ""))[:200]
        yield columns.collection(name, vector, told, known["rows"], more, encoder=encoder, about=known["about"])
        if known["deleted"] or known["earlier"]:
            self._found[name + DELETED] = table, told, vector
            rows = None if known["earlier"] else known["deleted"]
            yield columns.collection(name + DELETED, vector, told, rows, encoder=encoder)

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        if not self._found:
            self.collections()
        table, told, vector = chosen(self._found, name, self.location)
        words = {"needed": told.needed(vector), "batch": batch, "deleted": name.endswith(DELETED)}
        yield from columns.rows(self._batches(table, words), told, vector, f"{self.location}#{name}", self.notes, batch)

    def _batches(self, table: Path, words: dict[str, Any]) -> Iterator[Batch]:
        first = 0
        for known, batch in child.frames(KIND, "scan", str(table), **words):
            self._note(known)
            if not len(batch):
                continue
            yield Batch(first, dict(zip(batch.schema.names, batch.columns, strict=True)))
            first += len(batch)

    def _note(self, known: dict[str, Any]) -> None:
        note(self.notes, *known.get("notes", ()))

    def close(self) -> None:
        pass


def _version_traces(known: dict[str, Any]) -> list[Trace]:
    found = []
    if known["deleted"]:
        found.append(Trace("deleted", "Deleted rows are still in the table's files.", count=known["deleted"]))
    if known["earlier"]:
        count = f"{known['versions']:,} earlier version{'s' if known['versions'] > 1 else ''}"
        found.append(Trace("version", f"{count} can be read, the oldest of {known['since']}."))
    return found


# What follows runs in the child process.


def tables(location: str) -> Iterator[child.Frame]:
    """What is known of a table, and its first rows."""
    with _told(location):
        yield _known(location)


def _known(location: str) -> child.Frame:
    table = _open(location)
    notes: list[str] = []
    versions, fragments = table.versions(), table.get_fragments()
    known = {
        "rows": table.count_rows(),
        "deleted": sum(one.num_deletions for one in fragments),
        "versions": len(versions) - 1,
        "since": str(versions[0]["timestamp"])[:19],
        "earlier": bool(_earlier(table, notes)),
        "functions": _functions(table.schema.metadata or {}),
        "about": {"version": table.version, "fragments": len(fragments)},
        "notes": notes,
    }
    names = columns.looked_at(table.schema.names)
    return known, child.sample(table.scanner(columns=names, limit=columns.SAMPLE).to_table())


def scan(location: str, needed: Sequence[str], batch: int, deleted: bool) -> Iterator[child.Frame]:
    """Record batches of columns, that of vectors first: of the latest version, or of rows that it does not have."""
    with _told(location):
        yield from _scan(location, needed, batch, deleted)


def _scan(location: str, needed: Sequence[str], batch: int, deleted: bool) -> Iterator[child.Frame]:
    table = _open(location)
    if not deleted:
        yield from (({}, part) for part in _batches(table, needed, batch))
        return
    notes: list[str] = []
    earlier = _earlier(table, notes)
    seen: set[int] = set()
    if earlier:
        for part in _batches(table, needed[:1], batch):
            seen.update(_keys(part))
    for part in _batches(table, needed, batch, include_deleted_rows=True, with_row_id=True):
        gone = part.filter(part["_rowid"].is_null())
        seen.update(_keys(gone))
        yield {"notes": notes}, gone
    for version, numbers in earlier:
        older = table.checkout_version(version)
        fragments = [one for one in older.get_fragments() if one.fragment_id in numbers]
        there = [one for one in needed if one in older.schema.names]
        if needed[0] not in there:
            continue
        for part in _batches(older, there, batch, fragments=fragments, include_deleted_rows=True, with_row_id=True):
            keys = _keys(part)
            yield {}, part.filter([key not in seen for key in keys])
            seen.update(keys)


@contextmanager
def _told(location: str) -> Iterator[None]:
    """Say of what Lance does not read why, and what to do, in words of its owner."""
    try:
        yield
    except UnembedError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        words, advice = str(error), "take the table from a backup"
        if "Permission denied" in words:
            what, advice = "a file of it cannot be read (Permission denied)", "expected one that you may read"
        elif "/_versions" in words:
            what = "its list of versions (_versions) is missing, so that it is no table, or a damaged one"
        elif missing := re.search(r"Not found: (\S+\.\w+)", words):
            what = f"its file {'/'.join(missing[1].split('/')[-2:])} is missing"
        elif re.search("unsupported|not supported|not implemented|feature flag", words, re.IGNORECASE):
            what, advice = "it has a form that the installed reader does not know", "pip install -U pylance"
        else:
            what = "a file of it is cut short or damaged"
        raise DataError(f"{printable(location)}: {printable(what)}: {advice}") from error


def _open(location: str) -> Any:
    import lance

    table = lance.dataset(location)
    if elsewhere := [str(one.path) for one in table.base_paths().values()]:  # which may be anywhere, also on a network
        place = printable(elsewhere[0])[:200]
        raise DataError(f"{printable(location)}: its rows are kept in {place}, which is not read from here; open that")
    return table


def _functions(metadata: dict[bytes, bytes]) -> list[dict[str, Any]]:
    """LanceDB's own notes on which encoder filled which column."""
    try:
        found = json.loads(metadata.get(b"embedding_functions", b"[]"))
    except (ValueError, RecursionError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _batches(table: Any, needed: Sequence[str], batch: int, **words: Any) -> Iterator[Any]:
    scanner = table.scanner(
        columns=list(needed), batch_size=batch, scan_in_order=True, batch_readahead=1, fragment_readahead=1,
        io_buffer_size=BYTES, **words,
    )  # fmt: skip
    yield from scanner.to_batches()


def _earlier(table: Any, notes: list[str]) -> list[tuple[int, set[int]]]:
    """Earlier versions, the latest first, and their fragments that have files which no later version has."""
    seen = {file.path for one in table.get_fragments() for file in one.data_files()}
    numbers = [one["version"] for one in table.versions() if one["version"] != table.version]
    if len(numbers) > VERSIONS:
        notes.append(f"{len(numbers):,} earlier versions, of which the latest {VERSIONS:,} were looked at")
    found = []
    for number in sorted(numbers, reverse=True)[:VERSIONS]:
        try:
            fragments = table.checkout_version(number).get_fragments()
        except (OSError, ValueError, RuntimeError) as error:
            notes.append(f"version {number}: cannot be read ({printable(str(error))[:200]})")
            continue
        files = {one.fragment_id: {file.path for file in one.data_files()} for one in fragments}
        if fresh := {key for key, paths in files.items() if not paths <= seen}:
            found.append((number, fresh))
        seen.update(*files.values())
    return found


def _keys(part: Any) -> list[int]:
    """A hash of each row's vector."""
    values = part.column(0)
    width = getattr(values.type, "list_size", None)
    if width is None:
        return [hash(str(value)) for value in values.to_pylist()]
    flat = values.values.slice(values.offset * width, len(values) * width).to_numpy(zero_copy_only=False)
    return [hash(row.tobytes()) for row in flat.reshape(len(values), width)]
