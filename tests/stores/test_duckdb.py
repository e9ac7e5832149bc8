"""DuckDB files: rows of tables as the client gives them, in a file that is never written to and runs nothing."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import ESCAPES, here, read, unchanged, unit

from unembed.errors import DataError
from unembed.stores import child
from unembed.stores.duckdb import open as open_duckdb

duckdb = pytest.importorskip("duckdb")
pytestmark = pytest.mark.slow
ROWS, DIMENSION = 50, 16


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a child process."""
    monkeypatch.setattr(child, "frames", here)


def make(path: Path, *statements: str, rows: int = ROWS) -> Any:
    connection = duckdb.connect(str(path))
    connection.execute(f"CREATE TABLE docs (id INTEGER, content VARCHAR, page INTEGER, embedding FLOAT[{DIMENSION}])")
    values = [(n, f"text {n}", n % 7, vector.tolist()) for n, vector in enumerate(unit(rows, DIMENSION))]
    connection.executemany("INSERT INTO docs VALUES (?, ?, ?, ?)", values)
    for statement in statements:
        connection.execute(statement)
    return connection


def test_rows_are_those_of_the_client_and_nothing_is_written(tmp_path):
    connection = make(tmp_path / "x.duckdb")
    expected = connection.execute("FROM docs").fetchall()
    connection.close()
    store = open_duckdb(str(tmp_path / "x.duckdb"))
    with unchanged(tmp_path):
        (one,) = store.collections()
        found = read(store, "docs")
    assert (one.name, one.rows, one.dimension, one.number, one.has_text) == ("docs", ROWS, DIMENSION, "float32", True)
    assert found.ids == [str(row[0]) for row in expected]
    assert found.texts == [row[1] for row in expected]
    assert found.metadata == [{"page": row[2]} for row in expected]
    np.testing.assert_array_equal(found.vectors, np.array([row[3] for row in expected], np.float32))


def test_rows_that_are_only_in_the_log_are_read_and_the_log_stays(tmp_path):
    connection = make(
        tmp_path / "live.duckdb", "CHECKPOINT", "INSERT INTO docs SELECT 99, 'late', 1, embedding FROM docs LIMIT 1"
    )
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("live.duckdb", "live.duckdb.wal"):
        shutil.copy(tmp_path / name, copy / name)
    connection.close()
    with unchanged(copy):
        store = open_duckdb(str(copy / "live.duckdb"))
        assert store.collections()[0].rows == ROWS + 1
        assert read(store, "docs").texts[-1] == "late"


def test_a_file_that_a_program_writes_to_is_said(tmp_path):
    connection = make(tmp_path / "x.duckdb")
    with pytest.raises(DataError, match=r"x\.duckdb: .*lock"):
        open_duckdb(str(tmp_path / "x.duckdb")).collections()
    connection.close()


def test_lists_schemas_and_several_columns(tmp_path, quick):
    make(
        tmp_path / "x.duckdb",
        "CREATE SCHEMA other",
        'CREATE TABLE other.two AS SELECT embedding AS a_vec, embedding::DOUBLE[] AS b_vec, uuid() AS "u" FROM docs',
        'CREATE TABLE "od""d" AS SELECT embedding::FLOAT[] AS emb FROM docs',
        "CREATE TABLE none AS SELECT 1 AS x",
        "CREATE TABLE tokens AS SELECT range(100) AS tokens FROM range(5)",
        "CREATE TABLE empty (v FLOAT[32], vector FLOAT[8])",
    ).close()
    store = open_duckdb(str(tmp_path / "x.duckdb"))
    found = {one.name: (one.dimension, one.number, one.rows) for one in store.collections()}
    assert found == {
        "docs": (DIMENSION, "float32", ROWS), "empty": (8, "float32", 0), 'od"d': (DIMENSION, "float32", ROWS),
        "other.two.a_vec": (DIMENSION, "float32", ROWS), "other.two.b_vec": (DIMENSION, "float64", ROWS),
    }  # fmt: skip
    for name in ('od"d', "other.two.b_vec"):
        np.testing.assert_allclose(read(store, name).vectors, unit(ROWS, DIMENSION), atol=1e-7)
    assert list(store.rows("empty")) == []


def test_views_are_not_run_and_macros_do_not_take_the_place_of_functions(tmp_path, quick):
    make(
        tmp_path / "x.duckdb",
        f"COPY docs TO '{tmp_path}/elsewhere.parquet'",
        f"CREATE VIEW leak AS FROM read_parquet('{tmp_path}/elsewhere.parquet')",
        "CREATE MACRO duckdb_tables() AS TABLE SELECT 'main' AS schema_name, 'leak' AS table_name, "
        "'store' AS database_name, false AS internal",
    ).close()
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as plain:
        assert plain.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("leak",)]
    store = open_duckdb(str(tmp_path / "x.duckdb"))
    assert [one.name for one in store.collections()] == ["docs"]
    with pytest.raises(DataError, match="has no collection 'leak'"):
        list(store.rows("leak"))


def test_values_that_are_no_vectors_are_nan_and_noted(tmp_path, quick):
    make(
        tmp_path / "x.duckdb",
        "CREATE TABLE odd AS SELECT range AS id, CASE range WHEN 1 THEN NULL WHEN 41 THEN [1.0::FLOAT] "
        "ELSE [1.0::FLOAT, 2.0::FLOAT] END AS vector, "
        f"'{ESCAPES.replace(chr(0), '')}' || repeat('x', CASE range WHEN 0 THEN 2000000 ELSE 1 END) AS text "
        "FROM range(42)",
    ).close()
    store = open_duckdb(str(tmp_path / "x.duckdb"))
    found = read(store, "odd")
    assert np.isnan(found.vectors).all(1).nonzero()[0].tolist() == [1, 41]
    assert found.texts[1] == ESCAPES.replace("\0", "") + "x"
    assert len(found.texts[0].encode()) == 1 << 20
    assert "rows without a vector of 2 numbers: 2, the first: row 1 holds no value" in store.notes[0]


def test_damaged_files_are_one_line(tmp_path):
    make(tmp_path / "x.duckdb").close()
    path = tmp_path / "x.duckdb"
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(4096)
    for damaged in (b"", content[: len(content) // 2], content[:4096] + noise, b"SQLite format 3\0" + noise):
        path.write_bytes(damaged)
        with unchanged(tmp_path), pytest.raises(DataError) as caught:
            list(open_duckdb(str(path)).rows("docs"))
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        open_duckdb(str(tmp_path))
    make(tmp_path / "it's.duckdb").close()
    store = open_duckdb(str(tmp_path / "it's.duckdb"))
    assert [one.name for one in store.collections()] == ["docs"]
    (tmp_path / "it's.duckdb").unlink()
    with pytest.raises(DataError, match="it's"):
        list(store.rows("docs"))


def test_names_and_dictionaries_as_long_as_no_store_has_them(tmp_path):
    values = ", ".join(f"'{n:05}{'y' * 3000}'" for n in range(3000))
    make(
        tmp_path / "x.duckdb",
        f"CREATE TYPE many AS ENUM ({values})",
        "CREATE TABLE one AS SELECT id, embedding, (enum_range(NULL::many))[id + 1]::many AS kind, "
        f'1 AS "{"n" * 300_000}" FROM docs',
        f'CREATE TABLE "{"t" * 300_000}" AS FROM docs',
    ).close()
    store = open_duckdb(str(tmp_path / "x.duckdb"))
    found = read(store, "one")
    assert [one["kind"][:5] for one in found.metadata] == [f"{n:05}" for n in range(ROWS)]
    with pytest.raises(DataError, match="cannot be started"):
        list(store.rows("t" * 300_000))
