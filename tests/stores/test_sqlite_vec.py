"""Tables of sqlite-vec, by the side of the extension itself; rows that old versions leave; damaged ones."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading import Read, tree

from unembed.errors import DataError
from unembed.stores import open_store
from unembed.stores.sqlite_vec import SqliteVec
from unembed.stores.vec0_schema import parse

OLD = Path(__file__).with_name("sqlite_vec_0.1.6.zip")
ROWS = 50


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Any]:
    """A connection with the extension, to `store.db`. Python's own sqlite3 often cannot load one."""
    apsw, sqlite_vec = pytest.importorskip("apsw"), pytest.importorskip("sqlite_vec")
    (tmp_path / "user").mkdir()
    connection = apsw.Connection(str(tmp_path / "user" / "store.db"))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    yield connection
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user" / "store.db"


@pytest.fixture
def full(database: Any, path: Path) -> Path:
    """A table with columns of every kind, in chunks of 16, a few rows deleted."""
    database.execute(
        "CREATE VIRTUAL TABLE docs USING vec0(key text primary key, tenant text partition key, "
        "wide float[8] distance_metric=cosine, Small INT8[8], bits bit[16], +contents text, title text, n integer, "
        "score float, ok boolean, +raw blob, chunk_size=16)"
    )
    random = np.random.default_rng(0)
    into = "INSERT INTO docs(key, tenant, wide, Small, bits, contents, title, n, score, ok, raw)"
    with database:
        for n in range(ROWS):
            wide, small = random.standard_normal(8).astype("<f4"), random.integers(-128, 128, 8).astype(np.int8)
            title = "short" if n % 3 else f"a title that is longer than twelve bytes, {n}"
            vectors = [wide.tobytes(), small.tobytes(), random.bytes(2)]
            row = [f"k{n}", f"t{n % 2}", *vectors, f"the text of {n}", title, n, n / 2, n % 2 == 0, b"\0\1"]
            database.execute(f"{into} VALUES (?, ?, ?, vec_int8(?), vec_bit(?), ?, ?, ?, ?, ?, ?)", row)
    database.execute("DELETE FROM docs WHERE key IN ('k4', 'k7')")
    return path


def test_rows_are_the_extensions(full: Path, database: Any) -> None:
    before = tree(full.parent)
    opened, _ = open_store(str(full))
    assert opened.kind == "sqlite-vec"
    found = {one.name: one for one in opened.collections()}
    assert {name: (one.rows, one.dimension, one.number, one.metric, one.has_text) for name, one in found.items()} == {
        "docs/wide": (48, 8, "float32", "cosine", True),
        "docs/Small": (48, 8, "int8", "l2", True),
        "docs/bits": (48, 16, "bit", "hamming", True),
    }
    names = ("tenant", "title", "n", "score", "ok")
    columns = f"wide, Small, vec_to_json(bits), contents, {', '.join(names)}"
    expected = {row[0]: row[1:] for row in database.execute(f"SELECT key, {columns} FROM docs")}
    for name, decode in {
        "docs/wide": lambda row: np.frombuffer(row[0], "<f4"),
        "docs/Small": lambda row: np.frombuffer(row[1], np.int8),
        "docs/bits": lambda row: 2 * np.float32(json.loads(row[2])) - 1,
    }.items():
        read = Read(opened, name)
        assert sorted(read.ids) == sorted(expected)
        for key, text, metadata, vector in zip(read.ids, read.texts, read.metadata, read.vectors, strict=True):
            row = expected[key]
            assert text == row[3]
            assert metadata == dict(zip(names, row[4:], strict=True)) | {"raw": "0001"}
            np.testing.assert_array_equal(vector, decode(row))
    opened.close()
    assert tree(full.parent) == before


def test_numbers_as_keys_and_text_in_another_table(database: Any, path: Path) -> None:
    database.execute("CREATE VIRTUAL TABLE plain USING vec0(embedding float[4])")
    database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT)")
    for n in range(1, 6):
        database.execute("INSERT INTO plain(rowid, embedding) VALUES (?, ?)", (n * 10, np.full(4, n, "<f4").tobytes()))
        database.execute("INSERT INTO notes VALUES (?, ?)", (n * 10, f"a note of {n}"))
    with closing(SqliteVec(str(path))) as opened:
        (found,) = opened.collections()
        read = Read(opened, "plain")
    assert [(trace.where, trace.count) for trace in found.traces if trace.kind == "text"] == [("notes.note", 5)]
    assert not found.has_text
    assert read.ids == ["10", "20", "30", "40", "50"]
    np.testing.assert_array_equal(read.vectors[:, 0], [1, 2, 3, 4, 5])


def test_version_016_leaves_deleted_vectors(tmp_path: Path) -> None:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path)
    with closing(SqliteVec(str(tmp_path / "old.db"))) as opened:
        found = {one.name: one for one in opened.collections()}
        assert {name: one.rows for name, one in found.items()} == {"t": 8, "t (deleted)": 2}
        assert [trace.count for trace in found["t"].traces if "Deleted rows" in trace.detail] == [2]
        left, live = Read(opened, "t (deleted)"), Read(opened, "t")
    assert left.ids == ["row 3", "row 4"]
    np.testing.assert_array_equal(left.vectors[:, 0], [3, 4])
    assert live.ids == ["1", "2", "5", "6", "7", "8", "9", "10"]
    assert live.texts[0] == "text 1"


@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("UPDATE docs_vector_chunks00 SET vectors = substr(vectors, 1, 16 * 8)", True),
        ("UPDATE docs_vector_chunks00 SET vectors = x''", True),
        ("UPDATE docs_vector_chunks00 SET rowid = rowid + 1000", True),
        ("UPDATE docs_chunks SET rowids = x'00ff', validity = x'ff'", None),
        ("UPDATE docs_chunks SET validity = 'text'", None),
        ("UPDATE docs_metadatachunks00 SET data = x'ff'", False),
        ("UPDATE docs_metadatachunks00 SET data = 7", False),
        ("UPDATE docs_metadatatext00 SET data = x'ff'", False),
        ("DELETE FROM docs_auxiliary", False),
        ("UPDATE docs_rowids SET id = x'ff' WHERE id = 'k9'", False),
    ],
)
def test_damage_is_a_row_of_nan(full: Path, database: Any, statement: str, missing: bool | None) -> None:
    database.execute("PRAGMA ignore_check_constraints = on")
    database.execute(statement)
    with closing(SqliteVec(str(full))) as opened:
        opened.collections()
        read = Read(opened, "docs/wide")
        if missing is None:
            assert len(read.ids) < 48
        else:
            assert len(read.ids) == 48
            assert np.isnan(read.vectors).any() == missing
            assert bool(opened.notes) == missing


@pytest.mark.parametrize("table", ["chunks", "rowids", "vector_chunks00", "auxiliary", "metadatatext00"])
def test_a_view_in_the_place_of_a_table_is_not_read(full: Path, database: Any, table: str) -> None:
    database.execute(f"ALTER TABLE docs_{table} RENAME TO away")
    database.execute(f"CREATE VIEW docs_{table} AS SELECT * FROM away")
    with closing(SqliteVec(str(full))) as opened:
        assert "docs/wide" not in [one.name for one in opened.collections()]
        assert f"no table docs_{table}" in opened.notes[0]
        with pytest.raises(DataError, match="no collection 'docs/wide'"):
            list(opened.rows("docs/wide"))


def test_kinds_of_columns() -> None:
    found = parse(
        "CREATE VIRTUAL TABLE [a b] using VEC0( id INTEGER PRIMARY KEY,\n p integer partition key, e F32[3] , "
        "x FLOAT [ 768 ] distance_metric = L1, i i8[16], b BIT[8], + note TEXT, flag bool, chunk_size=8 );"
    )
    assert [(one.name, one.number, one.dimension, one.metric) for one in found.vectors] == [
        ("e", "float32", 3, "l2"), ("x", "float32", 768, "l1"), ("i", "int8", 16, "l2"), ("b", "bit", 8, "hamming"),
    ]  # fmt: skip
    assert (found.metadata, found.auxiliary, found.partitions) == ((("flag", "bool"),), ("note",), ("p",))
