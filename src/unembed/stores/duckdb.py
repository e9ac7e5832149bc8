"""DuckDB files. Read by DuckDB itself, in a child process that may open nothing but this file, and only to read it.

Only tables are read. The file is attached beside an empty database, so that macros in it cannot take the place of
DuckDB's own functions. Views are never run: what they read may be elsewhere.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError, printable
from unembed.stores import child, columns
from unembed.stores.columns import Columns, Vector
from unembed.stores.local import existing
from unembed.stores.rows import chosen, note_unread
from unembed.stores.sqlite_files import quoted
from unembed.stores.store import BATCH, Collection, Rows
from unembed.stores.traces import of_store
from unembed.tables import Batch

KIND = "duckdb"
SETTINGS = {
    "allow_unsigned_extensions": "false", "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
    "memory_limit": "1GB", "temp_directory": "", "threads": "1", "preserve_insertion_order": "true",
}  # fmt: skip


def open(location: str) -> "DuckStore":  # noqa: A001  (the name of a reader's function)
    """A DuckDB file. Raises DataError, MissingPackageError."""
    path = existing(location)
    if not path.is_file():
        raise DataError(f"{printable(location)}: is a folder, expected a file of DuckDB")
    child.need("duckdb", "DuckDB", location)
    return DuckStore(location)


class DuckStore:
    """See `store.Store`. A collection is called as its table.

    `SCHEMA.` stands before it where it is not in `main`, `.COLUMN` after it where it has several columns of vectors.
    """

    kind = KIND

    def __init__(self, location: str) -> None:
        self.location, self.notes = location, list[str]()
        self._found: dict[str, tuple[str, str, Columns, Vector]] = {}

    def collections(self) -> list[Collection]:
        found: list[Collection] = []
        errors: list[DataError] = []
        for known, sample in child.frames(KIND, "tables", self.location):
            if sample is None:
                errors.append(DataError(f"{printable(self.location)}: {known['failed']}"))
                continue
            told = columns.find(dict(zip(sample.schema.names, sample.columns, strict=True)))
            base = known["table"] if known["schema"] == "main" else f"{known['schema']}.{known['table']}"
            for vector in told.vectors:
                name = base if len(told.vectors) == 1 else f"{base}.{vector.column}"
                self._found[name] = known["schema"], known["table"], told, vector
                more = of_store(Path(self.location), inside=False)
                found.append(columns.collection(name, vector, told, known["rows"], more))
        note_unread(self.notes, found, errors)
        return found

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        if not self._found:
            self.collections()
        schema, table, told, vector = chosen(self._found, name, self.location)
        words = {"schema": schema, "table": table, "needed": told.needed(vector), "batch": batch}
        yield from columns.rows(self._batches(words), told, vector, f"{self.location}#{name}", self.notes, batch)

    def _batches(self, words: dict[str, Any]) -> Iterator[Batch]:
        first = 0
        for _, batch in child.frames(KIND, "scan", self.location, **words):
            if len(batch):
                yield Batch(first, dict(zip(batch.schema.names, batch.columns, strict=True)))
            first += len(batch)

    def close(self) -> None:
        pass


# What follows runs in the child process.


def tables(location: str) -> Iterator[child.Frame]:
    """What is known of each table, and its first rows."""
    database = _open(location)
    for schema, table in database.sql(
        "SELECT schema_name, table_name FROM system.main.duckdb_tables() WHERE database_name = 'store' AND NOT internal"
    ).fetchall():
        place = f"store.{quoted(schema)}.{quoted(table)}"
        try:
            relation = database.sql(f"FROM {place}")
            names = ", ".join(quoted(name) for name in columns.looked_at(relation.columns))
            first = database.sql(f"SELECT {names} FROM {place} LIMIT {columns.SAMPLE}").to_arrow_table()
            ((count,),) = database.sql(f"SELECT count(*) FROM {place}").fetchall()
        except Exception as error:  # of DuckDB and of Arrow; other tables may be whole
            yield {"failed": f"table {printable(table)}: cannot be read ({printable(str(error))[:200]})"}, None
            continue
        yield {"schema": schema, "table": table, "rows": count}, child.sample(first)


def scan(location: str, schema: str, table: str, needed: Sequence[str], batch: int) -> Iterator[child.Frame]:
    """Record batches of the columns that are needed."""
    names = ", ".join(quoted(name) for name in needed)
    database = _open(location)
    for part in database.sql(f"SELECT {names} FROM store.{quoted(schema)}.{quoted(table)}").to_arrow_reader(batch):
        yield {}, part


def _open(location: str) -> Any:
    import duckdb

    database = duckdb.connect(":memory:", config=SETTINGS)
    path = str(Path(location).absolute()).replace("'", "''")
    try:
        database.execute(f"ATTACH '{path}' AS store (READ_ONLY)")
    except duckdb.Error as error:
        raise DataError(f"{printable(location)}: cannot be read as DuckDB ({printable(str(error))[:300]})") from error
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database
