"""SQLite files of a user: nothing is written beside them, and what they hold is taken as hostile.

A reader of a file in WAL mode makes `-shm` and `-wal` files beside it, even with `mode=ro`. So a file is opened as
immutable, which makes SQLite ignore `-wal` and `-journal`. Where one of the two has content, the file is copied with it
into a private folder, and the copy is opened. Source: https://www.sqlite.org/uri.html, /wal.html, /security.html.
"""

import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from unembed.errors import DataError, printable
from unembed.stores.store import Trace

LENGTH = 1 << 26  # bytes; a larger value or row is not read
SECONDS = 60.0  # for each row of a query
STEPS = 100_000  # instructions of SQLite's machine between two looks at the clock
SPARE = 1 << 26  # bytes of disk that a copy leaves free
HEAD = b"SQLite format 3\0"
SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # ends a journal that names another file
VEC0 = re.compile(r"\bUSING\s+vec0\s*\(", re.IGNORECASE)


class TooLargeError(DataError):
    """A value is larger than `LENGTH`."""


class Database:
    """One SQLite file, read only.

    Attributes:
        path: as the user named it.
        tables: of each table in the file its `CREATE` statement; views and virtual tables are not among them.
        virtual: the same of virtual tables.
    """

    def __init__(self, path: Path, notes: list[str]) -> None:
        """Open it; `notes` grows by what a user should know.

        Raises:
            DataError: it is missing, not SQLite, damaged, not readable, or there is no disk for a copy.
        """
        self.path, self._notes, self._deadline = path, notes, 0.0
        self._remove: Callable[[], Any] = lambda: None
        self._state = _check(path)
        try:
            self._connection = self._connect()
        except BaseException:
            self._remove()
            raise
        try:
            self._harden()
            found = list(self.read("SELECT name, sql, rootpage FROM sqlite_master WHERE type = 'table'"))
        except BaseException:
            self.close()
            raise
        self.tables = {str(name): str(sql) for name, sql, page in found if page}
        self.virtual = {str(name): str(sql) for name, sql, page in found if not page}

    def _connect(self) -> sqlite3.Connection:
        sides = [side for mark in ("-wal", "-journal") if (side := _side(self.path, mark))]
        if not sides:
            return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        copy = self._copy(sides)
        return sqlite3.connect(f"{copy.as_uri()}?mode=rw", uri=True)  # rw: the journal is applied to the copy

    def _copy(self, sides: list[Path]) -> Path:
        need = sum(one.stat().st_size for one in [self.path, *sides])
        free = shutil.disk_usage(tempfile.gettempdir()).free
        beside = " and ".join(one.name for one in sides)
        if free < need + SPARE:
            raise DataError(
                f"{self.path}: with {beside} it must be copied to be read, which takes {need >> 20} MiB; "
                f"{tempfile.gettempdir()} has {free >> 20} MiB free (set TMPDIR)"
            )
        folder = tempfile.mkdtemp(prefix="unembed-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        copies = {one: Path(folder, one.name) for one in [self.path, *sides]}
        for _ in range(3):
            before = [_check(self.path), *map(_head, sides)]
            for source, target in copies.items():
                _copy_file(source, target)
            if before == [_check(self.path), *map(_head, sides)]:
                break
        else:
            self._notes.append(f"{self.path.name}: changed while it was copied, what is read may mix two states")
        journal = Path(folder, f"{self.path.name}-journal")
        if journal.exists() and journal.read_bytes()[-8:] == SUPER_JOURNAL:  # SQLite would delete the file it names
            journal.unlink()
            self._notes.append(f"{journal.name}: names another file, so that what its writer left is not undone")
        return copies[self.path]

    def _harden(self) -> None:
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._connection.set_progress_handler(lambda: time.monotonic() > self._deadline, STEPS)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LENGTH)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "mmap_size=0"):
            self.one(f"PRAGMA {pragma}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DataError as error:
            raise TooLargeError(f"{self.path}: holds a value larger than {LENGTH >> 20} MiB") from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                if time.monotonic() < self._deadline:  # sqlite3 loses a Ctrl-C that comes while it asks for the time
                    raise KeyboardInterrupt from error
                raise DataError(
                    f"{self.path}: a query took longer than {SECONDS:.0f} s, is the file damaged?"
                ) from error
            raise DataError(
                f"{self.path}: cannot be read as SQLite ({printable(str(error))}); is it damaged, or cut?"
            ) from error

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query. Raises DataError; TooLargeError where a value is larger than `LENGTH`."""
        self._deadline = time.monotonic() + SECONDS
        with self._errors(), closing(self._connection.execute(sql, parameters)) as cursor:
            for row in cursor:
                yield row
                self._deadline = time.monotonic() + SECONDS

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first value of a query, None where it has no row."""
        return next((row[0] for row in self.read(sql, parameters)), None)

    def scan(
        self, table: str, columns: Sequence[str], where: str = "true", parameters: Sequence[Any] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of a table in the order of their rowid: the rowid, then the columns; None for all in a row too large."""
        names = "".join(f", {quoted(one)}" for one in columns)
        rest = f"FROM {quoted(table)} WHERE _rowid_ > ? AND {where}"
        ordered = f"SELECT _rowid_{names} {rest} ORDER BY _rowid_"
        after = -(1 << 63)
        while True:
            try:
                for row in self.read(ordered, (after, *parameters)):
                    if not isinstance(row[0], int):
                        raise DataError(f"{self.path}: the table {printable(table)} has no row numbers")
                    after = row[0]
                    yield row
                return
            except TooLargeError:  # sqlite3 loses the row before, too
                pass
            try:
                yield from (found := list(self.read(f"{ordered} LIMIT 1", (after, *parameters))))
                after = found[0][0]
            except TooLargeError:
                after = self.one(f"SELECT min(_rowid_) {rest}", (after, *parameters))
                yield (after, *[None] * len(columns))

    @contextmanager
    def blob(self, table: str, column: str, row: int) -> Iterator[Callable[[int, int], bytes]]:
        """A value that is read in pieces, by a function of start and count; a piece is shorter where the value ends."""
        self._deadline = time.monotonic() + SECONDS
        with self._errors():
            opened = self._connection.blobopen(table, column, row, readonly=True)

        def piece(start: int, count: int) -> bytes:
            with self._errors():
                opened.seek(min(start, len(opened)))
                return opened.read(count)

        with closing(opened):
            yield piece

    def columns(self, table: str) -> list[str]:
        """The columns of a table that hold what was stored; none where it is a view, a virtual table or missing."""
        if table not in self.tables:
            return []
        return [row[1] for row in self.read(f"PRAGMA table_xinfo({quoted(table)})") if row[6] == 0]

    def need(self, what: str, **tables: Sequence[str]) -> None:
        """Raises DataError where one of the tables or of their columns is missing."""
        for table, columns in tables.items():
            missing = [one for one in columns if one not in self.columns(table)]
            if missing:
                found = "it is a view or virtual" if table not in self.tables else f"it lacks {', '.join(missing)}"
                raise DataError(f"{self.path}: no table {table} as in {what} ({found}); {self.contents()}")

    def contents(self) -> str:
        """A sentence on the tables there are, for messages."""
        names = sorted([*self.tables, *self.virtual])
        return f"its tables are {printable(', '.join(names[:12]))[:300]}" if names else "it has no tables"

    def traces(self) -> list[Trace]:
        """A trace of pages that are no longer used: they keep what was in them unless `secure_delete` is on."""
        free = int(self.one("PRAGMA freelist_count") or 0)
        if not free:
            return []
        size = free * int(self.one("PRAGMA page_size") or 0)
        return [Trace("deleted", f"Unused pages ({free:,}, of {size:,} bytes) may hold deleted rows.", self.path.name)]

    def check_unchanged(self) -> None:
        """Note it where the file is no longer as it was opened."""
        note = f"{self.path.name}: changed while it was read, what was read may mix two states"
        try:
            changed = _check(self.path) != self._state
        except DataError:
            changed = True
        if changed and note not in self._notes:
            self._notes.append(note)

    def close(self) -> None:
        """Close it, and remove the copy where there is one."""
        self._connection.close()
        self._remove()


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _check(path: Path) -> tuple[int, int, int]:
    """What tells that a file is the same: inode, size and time of its last change. Raises DataError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path}: is no file, expected a SQLite database")
        with path.open("rb") as file:
            head = file.read(len(HEAD))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if head != HEAD:
        raise DataError(f"{path}: is {'empty' if not head else 'no SQLite database'}, expected {HEAD[:15].decode()!r}")
    return found.st_ino, found.st_size, found.st_mtime_ns


def _side(path: Path, mark: str) -> Path | None:
    """The `-wal` or `-journal` of a database, where it has content that decides what the database holds."""
    side = path.with_name(path.name + mark)
    try:
        found = side.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{side}: cannot be read ({error.strerror}), and {path.name} is incomplete without") from error
    # A journal that was ended starts with zeros.
    return side if stat.S_ISREG(found.st_mode) and any(_head(side)) else None


def _head(path: Path) -> bytes:
    """The first bytes of a `-wal` or `-journal`, which differ for each one that is started; none where it is gone."""
    try:
        with path.open("rb") as file:
            return file.read(32)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _copy_file(source: Path, target: Path) -> None:
    """Copy as many bytes as the file has now: one that grows is not followed. Raises DataError."""
    try:
        with source.open("rb") as file, target.open("wb") as copy:
            left = os.fstat(file.fileno()).st_size
            while left and (block := file.read(min(left, 1 << 20))):
                copy.write(block)
                left -= len(block)
    except FileNotFoundError:
        target.unlink(missing_ok=True)  # a journal that was ended meanwhile
    except OSError as error:
        raise DataError(f"{source}: cannot be copied to be read ({error.strerror})") from error


def kind_of(path: Path) -> str:
    """`chroma`, `llm` or `sqlite-vec`, by the tables of a SQLite file. Raises DataError where it is none of them."""
    with closing(Database(path, [])) as database:
        if {"segments", "embeddings", "embeddings_queue"} <= database.tables.keys():
            return "chroma"
        if "content_hash" in database.columns("embeddings") and "collections" in database.tables:
            return "llm"
        if any(VEC0.search(sql) for sql in database.virtual.values()):
            return "sqlite-vec"
        raise DataError(f"{path}: is SQLite, but not of Chroma, llm or sqlite-vec; {database.contents()}")
