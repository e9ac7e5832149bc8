"""Vectors in PostgreSQL, of pgvector's types and `bit`.

All is read in one transaction that is read-only and repeatable: no statement of it can write, and everything is of one
moment. Tables are locked only while they are read, as by any SELECT. Rows come through COPY in binary, one at a time.
A first SELECT of rows that were just written sets hint bits in their pages, and so does this.

    catalog.py  which columns hold vectors, and what the catalog says of their tables
    rows.py     the statement that reads rows, and rows out of what it gives
    wire.py     vectors as they come in binary
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import numpy as np

from unembed.errors import DataError, InputError, UnembedError, extra, printable
from unembed.stores.records import encoder_of
from unembed.stores.rows import BATCH_BYTES, WIDEST, Faults, note, unknown
from unembed.stores.store import BATCH, Collection, Rows, Trace
from unembed.stores.traces import encoder_traces, text_trace

with extra("stores-pgvector", "reading PostgreSQL"):
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict

    from unembed.stores.pgvector import catalog
    from unembed.stores.pgvector.catalog import Column
    from unembed.stores.pgvector.rows import SUM, TEXT, VECTOR, Fields, metadata_of, rows_of, select, source
    from unembed.stores.pgvector.wire import NUMBERS, common_dimension

CONNECT = 10  # seconds
METADATA, COUNT, LOCK = 10_000, 2_000, 5_000  # milliseconds: catalog queries, an exact count, waiting for a lock
SAMPLE = 100  # rows that tell a dimension and whether there are texts
BATCH_NUMBERS = 1 << 22  # of their vectors
SAID = 300  # characters of an error that are quoted
POOLER = "unsupported startup parameter"  # what pgbouncer says of `options`
LANGCHAIN = ("langchain_pg_embedding", "langchain_pg_collection")


def open(location: str) -> "PgVector":  # noqa: A001
    """A database: `postgresql://USER@HOST/DATABASE`, or any connection string of libpq.

    The password may be in it, in PGPASSWORD or in .pgpass.

    Raises:
        InputError: it is no connection string.
        UnembedError: there is no connection.
    """
    return PgVector(location)


class _TooSlowError(DataError):
    """A statement passed its time."""


class PgVector:
    """A database, each column of vectors in it a collection. A `Store`."""

    kind = "pgvector"

    def __init__(self, location: str) -> None:
        try:
            parts = conninfo_to_dict(location)
        except psycopg.Error:  # whose message shows parts of it
            raise InputError(
                "the location of a pgvector store is no connection string, expected postgresql://USER@HOST/DATABASE"
            ) from None
        self.location = _shown(parts)
        self.notes: list[str] = []
        self._secrets = [str(parts[name]) for name in ("password", "sslpassword") if parts.get(name)]
        self._columns: list[Column] | None = None
        self._dimensions: dict[str, int | None] = {}
        with self._failing("cannot connect"):
            self._connection = _connect(location, parts)
            try:
                # The transaction begins. An empty path, as pg_dump has it: no function of a user stands for another.
                self._set({"search_path": "", "synchronize_seqscans": "off"})
                self._set({"idle_in_transaction_session_timeout": "0"})
            except psycopg.Error:
                self.close()
                raise

    def close(self) -> None:
        """End the transaction and the connection."""
        self._connection.close()

    def collections(self) -> list[Collection]:
        """Each column of vectors in a table, a partitioned table or a materialised view.

        Views and foreign tables would run queries or ask other servers. They are noted, and read by name only.

        Raises:
            UnembedError: the connection is lost.
        """
        found = []
        for column in self._all():
            kind = {catalog.VIEW: "view", catalog.FOREIGN: "foreign table"}.get(column.table.kind)
            if not column.readable:
                self._note(f"{column.shown}: this role may not read it")
            elif kind is not None:
                self._note(f"{column.shown}: is in a {kind}, which is read only where it is named")
            else:
                try:
                    found.append(self._collection(column))
                except DataError as error:
                    self._note(str(error))
        return found

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """All rows that have a vector, in their order in the table. Raises as `Store.rows`."""
        column = self._column(name)
        dimension = self._dimension(column)
        if dimension is None:
            return  # no row has a vector
        if dimension > WIDEST:
            raise DataError(f"{self._named(column)}: has {dimension:,} dimensions, expected at most {WIDEST:,}")
        start, faults = 0, Faults(column.shown)
        try:
            for fields in self._batches(column, max(1, min(batch, BATCH_NUMBERS // dimension))):
                rows = rows_of(column, fields, dimension, start)
                start += len(rows)
                for row in np.flatnonzero(np.isnan(rows.vectors).any(1)):
                    faults.add(f"rows without a vector of {dimension:,} numbers", rows.ids[row])
                yield rows
        finally:
            faults.tell(self.notes)

    def _collection(self, column: Column) -> Collection:
        table = column.table
        sample = self._sample(column)
        dimension = self._dimension(column, sample)
        rows = self._count(column)
        texts = any(fields[TEXT] for fields in sample)
        encoder = encoder_of(metadata_of(column, sample))
        traces = []
        if texts:
            traces.append(text_trace(f"{table.shown}.{column.text}", rows))
        if any(fields[SUM] for fields in sample):
            detail = f"The column {column.hash} holds hashes. One of the text tells whether a recovered text is right."
            traces.append(Trace("hash", detail, f"{table.shown}.{column.hash}", rows))
        traces += encoder_traces(encoder, table.shown)
        if table.dead:
            detail = "Rows that were deleted or replaced stay in the table's file until it is vacuumed."
            traces.append(Trace("deleted", detail, table.shown, table.dead))
        if table.public:
            traces.append(Trace("readable", "Every role of the database may read the table.", table.shown))
        if table.hidden:
            self._note(f"{table.shown}: row-level security may hide rows from this role")
        about: dict[str, Any] = {
            "type": column.type,
            "rows_estimated": table.estimate,
            "primary_key": table.key,
            "text_column": column.text,
            "indexes": column.indexes,
            "partitions": table.partitions,
        }
        if column.type == "bit":
            about["bits"] = "-1 and +1"
        if table.name == LANGCHAIN[0]:
            about["langchain_collections"] = self._langchain(column)
        return Collection(
            column.shown,
            rows,
            dimension,
            NUMBERS[column.type],
            column.metric,
            encoder,
            texts,
            traces=tuple(traces),
            about=about,
        )

    def _all(self) -> list[Column]:
        if self._columns is None:
            with self._failing("the catalog cannot be read"), self._apart(METADATA):
                self._columns = catalog.read(lambda text, values: self._connection.execute(text, values).fetchall())
        return self._columns

    def _column(self, name: str) -> Column:
        for column in self._all():
            if name in (column.shown, f"{column.table.schema}.{column.table.name}.{column.name}"):
                return column
        raise unknown((column.shown for column in self._all()), name, self.location)

    def _dimension(self, column: Column, sample: Sequence[Fields] | None = None) -> int | None:
        """The type's, or that of most of the first rows where the type leaves it open."""
        if column.dimension is not None:
            return column.dimension
        if column.shown not in self._dimensions:
            blobs = [fields[VECTOR] or b"" for fields in (self._sample(column) if sample is None else sample)]
            self._dimensions[column.shown] = common_dimension(column.type, blobs)
        return self._dimensions[column.shown]

    def _sample(self, column: Column) -> list[Fields]:
        return next(self._batches(column, SAMPLE, limit=SAMPLE, milliseconds=METADATA), [])

    def _batches(
        self, column: Column, size: int, limit: int | None = None, milliseconds: int = 0
    ) -> Iterator[list[Fields]]:
        """The rows of a column as COPY gives them, `size` or `BATCH_BYTES` at once."""
        with self._failing(self._named(column)), self._apart(milliseconds), self._connection.cursor() as cursor:
            held: list[Fields] = []
            taken = 0
            with cursor.copy(select(column, limit)) as copy:
                for fields in copy.rows():
                    held.append(fields)
                    taken += sum(map(len, filter(None, fields)))
                    if len(held) == size or taken > BATCH_BYTES:
                        yield held
                        held, taken = [], 0
            if held:
                yield held

    def _count(self, column: Column) -> int | None:
        """How many rows have a vector, None where counting them takes too long."""
        query = sql.SQL("SELECT count({}) FROM {}").format(sql.Identifier(column.name), source(column))
        try:
            with self._failing(self._named(column)), self._apart(COUNT):
                return int(self._connection.execute(query).fetchall()[0][0])
        except _TooSlowError:
            return None

    def _langchain(self, column: Column) -> list[str]:
        """The names of LangChain's collections, all of which are in one table."""
        named = sql.Identifier(column.table.schema, LANGCHAIN[1])
        query = sql.SQL("SELECT left(name, 200) FROM {} ORDER BY name LIMIT 1000").format(named)
        try:
            with self._failing(f"{self.location}: {LANGCHAIN[1]}"), self._apart(METADATA):
                return [str(name) for (name,) in self._connection.execute(query)]
        except DataError as error:
            self._note(str(error))
            return []

    def _set(self, values: dict[str, str]) -> None:
        """Settings for the transaction, or for the savepoint that it is in."""
        for name, value in values.items():
            self._connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))

    @contextmanager
    def _apart(self, milliseconds: int) -> Iterator[None]:
        """A savepoint that is undone, so that locks go and an error ends no more than this. 0 is no limit of time."""
        if self._connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            raise UnembedError(f"{self.location}: other rows of it are being read; close their iterator first")
        with self._connection.transaction(force_rollback=True):
            # One process each: parallel ones would give rows in any order.
            settings = {"lock_timeout": f"{LOCK}", "max_parallel_workers_per_gather": "0"}
            self._set(settings | {"statement_timeout": f"{milliseconds}"})
            yield

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Errors of the database as ours, in one line, without the password."""
        try:
            yield
        except UnicodeDecodeError as error:  # a database without an encoding may hold any bytes
            raise DataError(f"{self.location}: {what} (a name is not UTF-8)") from error
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            for secret in self._secrets:
                said = said.replace(secret, "***")
            message = f"{what} ({printable(said)[:SAID]})"
            if not message.startswith(self.location):
                message = f"{self.location}: {message}"
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise _TooSlowError(message) from error
            lost = error.sqlstate is None or error.sqlstate[:2] in ("08", "28", "3D", "53", "57")
            raise (UnembedError if lost else DataError)(message) from error

    def _named(self, column: Column) -> str:
        return f"{self.location}: {printable(column.shown)}"

    def _note(self, line: str) -> None:
        note(self.notes, printable(line))


def _connect(location: str, parts: dict[str, Any]) -> "psycopg.Connection[Any]":
    """A connection whose transactions are read-only by three rules: their own, the session's, and the client's."""
    options = f"{parts.get('options') or os.environ.get('PGOPTIONS', '')} -c default_transaction_read_only=on"
    more: dict[str, Any] = {"client_encoding": "UTF8", "prepare_threshold": None}
    for name, value in {"connect_timeout": CONNECT, "keepalives_idle": 30, "keepalives_interval": 10}.items():
        more |= {} if name in parts else {name: value}
    try:
        connection = psycopg.connect(location, **more, options=options.strip())
    except psycopg.OperationalError as error:
        if POOLER not in str(error):
            raise
        connection = psycopg.connect(location, **more)
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


def _shown(parts: dict[str, Any]) -> str:
    """A connection string without its password."""
    user, host, port, name = (str(parts.get(one) or "") for one in ("user", "host", "port", "dbname"))
    host = f"[{host}]" if ":" in host else quote(host, safe=",")
    login = f"{quote(user, safe='')}@" if user else ""
    return printable(f"postgresql://{login}{host}{f':{port}' if port else ''}/{quote(name, safe='')}")
