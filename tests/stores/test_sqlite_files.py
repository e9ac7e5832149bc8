"""SQLite files of a user: nothing is left beside them, in whatever state their writer left them."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from reading import tree

from unembed.errors import DataError
from unembed.stores import sqlite_files
from unembed.stores.sqlite_files import Database, kind_of

WRITER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = " + sys.argv[2])
database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
database.execute("BEGIN")
database.executemany("INSERT INTO t VALUES (?, ?)", ((n, f"text {n}") for n in range(100)))
database.execute("COMMIT")
database.execute("PRAGMA synchronous = off")
database.execute("PRAGMA cache_size = 1")
database.execute("PRAGMA cache_spill = 1")
database.execute("BEGIN")
database.execute("UPDATE t SET text = hex(zeroblob(500))")
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are made."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


@pytest.fixture
def plain(folder: Path) -> Path:
    return write(
        folder / "plain.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO t VALUES (1, 'a')"
    )


def write(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    return path


def killed(path: Path, mode: str) -> None:
    """A database whose writer was killed inside a transaction, after 100 rows were committed."""
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), mode], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("mode", "side"), [("wal", "-wal"), ("delete", "-journal")])
def test_a_killed_writer_is_read_as_it_had_committed(folder: Path, private: Path, mode: str, side: str) -> None:
    path = folder / "a #b?%20.db"
    killed(path, mode)
    assert path.with_name(path.name + side).stat().st_size
    before, notes = tree(folder), list[str]()
    database = Database(path, notes)
    assert [row[1] for row in database.scan("t", ["text"])] == [f"text {n}" for n in range(100)]
    (copy,) = private.iterdir()
    assert copy.stat().st_mode & 0o77 == 0
    database.check_unchanged()
    database.close()
    assert notes == []
    assert list(private.iterdir()) == []
    assert tree(folder) == before


def test_a_database_in_wal_mode_without_wal(folder: Path, private: Path) -> None:
    path = write(folder / "wal.db", "PRAGMA journal_mode = wal", "CREATE TABLE t (text)", "INSERT INTO t VALUES ('a')")
    assert [one.name for one in folder.iterdir()] == ["wal.db"]
    before = tree(folder)
    with closing(Database(path, [])) as database:
        assert database.one("SELECT text FROM t") == "a"
        assert list(private.iterdir()) == []
        assert tree(folder) == before


def test_a_journal_that_names_a_file_does_not_delete_it(folder: Path, private: Path) -> None:
    path, victim = folder / "a.db", folder / "victim"
    killed(path, "delete")
    victim.write_text("")
    name = str(victim).encode()
    journal = path.with_name("a.db-journal")
    sums = sum(name).to_bytes(4, "big")
    content = journal.read_bytes() + name + len(name).to_bytes(4, "big") + sums + sqlite_files.SUPER_JOURNAL
    journal.write_bytes(content)
    before, notes = tree(folder), list[str]()
    with closing(Database(path, notes)):
        assert tree(folder) == before
    assert ["names another file" in note for note in notes] == [True]


def test_no_copy_without_disk(folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(folder / "a.db", "wal")
    monkeypatch.setattr(sqlite_files, "SPARE", 1 << 60)
    with pytest.raises(DataError, match=r"a.db-wal it must be copied .* MiB free \(set TMPDIR\)"):
        Database(folder / "a.db", [])
    assert list(private.iterdir()) == []


def test_ctrl_c_leaves_no_copy(folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(folder / "a.db", "wal")
    before = tree(folder)

    def interrupted(source: Path, target: Path) -> None:
        target.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlite_files, "_copy_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Database(folder / "a.db", [])
    assert list(private.iterdir()) == []
    assert tree(folder) == before


def test_a_process_that_forgets_to_close_leaves_no_copy(folder: Path, tmp_path: Path) -> None:
    killed(folder / "a.db", "wal")
    (tmp_path / "temporary").mkdir()
    script = (
        "import os, signal, sys; from pathlib import Path; from unembed.stores.sqlite_files import Database\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs have not
        "kept = Database(Path(sys.argv[1]), []); print(len(os.listdir(os.environ['TMPDIR'])))\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    call = [sys.executable, "-c", script, str(folder / "a.db")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("1", -signal.SIGINT)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_change_while_it_is_read_is_noted(plain: Path) -> None:
    notes: list[str] = []
    with closing(Database(plain, notes)) as database:
        database.check_unchanged()
        assert notes == []
        os.utime(plain)
        database.check_unchanged()
        database.check_unchanged()
    assert notes == ["plain.db: changed while it was read, what was read may mix two states"]


def test_a_change_while_it_is_copied_is_noted(folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(folder / "a.db", "wal")
    copy_file, notes = sqlite_files._copy_file, list[str]()

    def slow(source: Path, target: Path) -> None:
        copy_file(source, target)
        os.utime(source, ns=(1, time.monotonic_ns()))

    monkeypatch.setattr(sqlite_files, "_copy_file", slow)
    with closing(Database(folder / "a.db", notes)):
        assert notes == ["a.db: changed while it was copied, what is read may mix two states"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"SQLite format 3", "is no SQLite database"), (b"PK\3\4" * 99, "is no SQLite database")],
)
def test_files_that_are_no_database(folder: Path, content: bytes, message: str) -> None:
    (folder / "a.db").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Database(folder / "a.db", [])


def test_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(DataError, match=name if name != "." else "is no file"):
            Database(folder / name, [])


def test_damaged_pages_are_an_error_in_one_line(folder: Path) -> None:
    path = write(folder / "a.db", "CREATE TABLE t (text)", *["INSERT INTO t VALUES (hex(zeroblob(3000)))"] * 20)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with closing(Database(path, [])) as database, pytest.raises(DataError) as caught:
        list(database.scan("t", ["text"]))
    assert str(caught.value).startswith(f"{path}: cannot be read as SQLite")
    assert "\n" not in str(caught.value)


def test_no_permission(plain: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    plain.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        Database(plain, [])


def test_views_virtual_tables_and_computed_columns_are_no_tables(folder: Path) -> None:
    path = write(
        folder / "a.db",
        "CREATE TABLE real (id INTEGER PRIMARY KEY, kept, computed AS (hex(zeroblob(1000000))))",
        "CREATE VIEW endless AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id FROM n) SELECT id FROM n",
        "CREATE VIRTUAL TABLE searched USING fts5(text)",
    )
    with closing(Database(path, [])) as database:
        assert database.columns("real") == ["id", "kept"]
        assert database.columns("endless") == database.columns("searched") == []
        assert list(database.virtual) == ["searched"]
        with pytest.raises(DataError, match="no table endless as in a test"):
            database.need("a test", endless=["id"])


def test_a_query_without_end_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "SECONDS", 0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with closing(Database(write(folder / "a.db", "CREATE TABLE t (id)"), [])) as database:
        start = time.monotonic()
        with pytest.raises(DataError, match="took longer than"):
            database.one(endless)
        assert time.monotonic() - start < 5


def test_ctrl_c_ends_a_query(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with closing(Database(write(folder / "a.db", "CREATE TABLE t (id)"), [])) as database:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                database.one(endless)
        finally:
            signal.signal(signal.SIGALRM, before)


def test_rows_that_are_too_large_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "LENGTH", 100_000)
    rows = [f"INSERT INTO t VALUES ({n}, hex(zeroblob({60_000 if n in (0, 3, 4) else 5})))" for n in range(6)]
    path = write(folder / "a.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, text)", *rows)
    with closing(Database(path, [])) as database:
        found = list(database.scan("t", ["text"]))
    assert found == [(n, None if n in (0, 3, 4) else "0" * 10) for n in range(6)]


def test_nothing_can_be_written(plain: Path, private: Path) -> None:
    killed(plain.with_name("wal.db"), "wal")
    for path in (plain, plain.with_name("wal.db")):
        with closing(Database(path, [])) as database, pytest.raises(DataError, match="readonly"):
            database.one("INSERT INTO t VALUES (7, 'b')")


def test_the_kind_by_the_tables(folder: Path, plain: Path) -> None:
    with pytest.raises(DataError, match="not of Chroma, llm or sqlite-vec; its tables are t"):
        kind_of(plain)
    path = write(
        folder / "a.db", "CREATE TABLE collections (id, name, model)", "CREATE TABLE embeddings (id, content_hash)"
    )
    assert kind_of(path) == "llm"
