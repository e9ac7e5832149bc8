"""Milvus Lite's folder: rows as its client gives them, and those that it no longer gives."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trees import ESCAPES, read, unchanged, unit

from unembed.errors import DataError
from unembed.stores.milvus import open as open_milvus

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning"),
]
ROWS, DIMENSION = 60, 16


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client whose store has three collections: in Parquet, in the log, and in both with deletions and updates."""
    folder = tmp_path_factory.mktemp("milvus")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = pymilvus.MilvusClient("store.db")
    rows = [
        {"id": n, "vector": vector.tolist(), "text": f"sentence number {n}", "page": n % 5}
        for n, vector in enumerate(unit(ROWS, DIMENSION))
    ]
    for name in ("flushed", "logged", "mixed"):
        found.create_collection(name, dimension=DIMENSION)
        found.insert(name, rows)
    found.flush("flushed")
    found.flush("mixed")
    found.delete("mixed", ids=[3, 4])
    found.flush("mixed")
    found.delete("mixed", ids=[5])
    found.upsert("mixed", [{**rows[6], "text": "changed"}])
    found.insert("mixed", [{**rows[0], "id": 1000}])
    found.folder = folder
    yield found
    found.close()


@pytest.fixture
def store(client: Any, tmp_path: Path) -> Path:
    """A copy of the store as it lies while the client has it open."""
    shutil.copytree(client.folder / "store.db", tmp_path / "store.db")
    return tmp_path / "store.db"


@pytest.mark.parametrize("name", ["flushed", "logged", "mixed"])
def test_rows_are_those_of_the_client_and_nothing_is_written(client, store, name):
    expected = sorted(client.query(name, filter="", output_fields=["*"], limit=1000), key=lambda row: row["id"])
    with unchanged(store.parent):
        opened = open_milvus(str(store))
        one = next(one for one in opened.collections() if one.name == name)
        found = read(opened, name)
    assert (one.rows, one.dimension, one.number, one.metric) == (len(expected), DIMENSION, "float32", "cosine")
    assert one.has_text
    order = np.argsort([int(name) for name in found.ids])
    assert [found.ids[n] for n in order] == [str(row["id"]) for row in expected]
    assert [found.texts[n] for n in order] == [row["text"] for row in expected]
    assert [found.metadata[n] for n in order] == [{"page": row["page"]} for row in expected]
    np.testing.assert_array_equal(found.vectors[order], np.array([row["vector"] for row in expected], np.float32))
    assert opened.notes == []


def test_deleted_and_replaced_rows_are_found(store):
    opened = open_milvus(str(store))
    found = {one.name: one for one in opened.collections()}
    assert list(found) == ["flushed", "logged", "mixed", "mixed (deleted)"]
    gone = read(opened, "mixed (deleted)")
    assert sorted(gone.ids) == ["3", "4", "5", "6"]
    assert sorted(gone.texts) == [f"sentence number {n}" for n in (3, 4, 5, 6)]
    order = np.argsort(gone.ids)
    np.testing.assert_array_equal(gone.vectors[order], unit(ROWS, DIMENSION)[3:7])
    assert found["mixed (deleted)"].rows == 4
    assert [one.count for one in found["mixed"].traces if one.kind == "deleted"] == [4]
    assert not [one for one in found["flushed"].traces if one.kind == "deleted"]


def test_parquet_that_the_manifest_no_longer_names_is_looked_at(store):
    folder = store / "collections" / "flushed"
    (file,) = folder.glob("partitions/*/data/*.parquet")
    table = pq.read_table(file)
    sequence = pa.array([9000 + n for n in range(3)], pa.uint64())
    orphan = table.slice(0, 3).set_column(0, table.schema.field(0), sequence)
    pq.write_table(orphan, file.with_name("data_009000_009002.parquet"))
    pq.write_table(table, file.with_name("data_000001_000059.parquet"))  # the same rows: a copy, none of them gone
    opened = open_milvus(str(store))
    found = {one.name: one.rows for one in opened.collections()}
    assert (found["flushed"], found["flushed (deleted)"]) == (ROWS, 3)
    assert read(opened, "flushed (deleted)").ids == ["0", "1", "2"]


def test_a_schema_of_ones_own_with_an_encoder(client, tmp_path):
    schema = client.create_schema(auto_id=False)
    schema.add_field("key", pymilvus.DataType.VARCHAR, max_length=64, is_primary=True)
    schema.add_field("chunk", pymilvus.DataType.VARCHAR, max_length=1000)
    schema.add_field("first", pymilvus.DataType.FLOAT_VECTOR, dim=8)
    schema.add_field("second", pymilvus.DataType.FLOAT_VECTOR, dim=4)
    client.create_collection("own", schema=schema)
    rows = [{"key": ESCAPES.replace("\0", ""), "chunk": "a b", "first": [0.5] * 8, "second": [1.0, 2, 3, 4]}]
    client.insert("own", rows)
    shutil.copytree(client.folder / "store.db", tmp_path / "store.db")
    client.drop_collection("own")
    file = tmp_path / "store.db" / "collections" / "own" / "schema.json"
    content = json.loads(file.read_text())
    content["functions"] = [
        {
            "name": "f", "function_type": 2, "input_field_names": ["chunk"], "output_field_names": ["second"],
            "params": {"provider": "openai", "model_name": "text-embedding-3-small", "api_key": "sk-1234"},
        }
    ]  # fmt: skip
    file.write_text(json.dumps(content))
    opened = open_milvus(str(tmp_path / "store.db"))
    found = {one.name: one for one in opened.collections()}
    assert {"own.first", "own.second"} < set(found)
    assert (found["own.first"].encoder, found["own.second"].encoder) == ("", "text-embedding-3-small")
    assert [one.kind for one in found["own.second"].traces if one.kind == "secret"] == ["secret"]
    assert "sk-1234" not in str(found["own.second"])
    one = read(opened, "own.second")
    assert (one.ids, one.texts) == ([rows[0]["key"]], ["a b"])
    assert one.vectors.tolist() == [[1, 2, 3, 4]]


def test_a_log_that_is_cut_off_is_noted(store):
    for file in (store / "collections" / "logged").glob("wal/wal_data_*.arrow"):
        file.write_bytes(file.read_bytes()[:-100])
    with unchanged(store.parent):
        opened = open_milvus(str(store))
        found = {one.name: one.rows for one in opened.collections()}
    assert found["flushed"] == ROWS
    assert any("rows of the log that are not in Parquet yet may be missing" in note for note in opened.notes)


def test_the_manifest_before_is_read_where_one_is_damaged(store):
    (store / "collections" / "flushed" / "manifest.json").write_text('{"version": ')
    opened = open_milvus(str(store))
    opened.collections()
    assert any("the manifest before it was read" in note for note in opened.notes)


def damage(folder: Path, name: str) -> None:
    (data,) = folder.glob("partitions/*/data/*.parquet")
    match name:
        case "a file elsewhere":
            (folder.parent / "x.parquet").write_bytes(data.read_bytes())
            text = (folder / "manifest.json").read_text()
            (folder / "manifest.json").write_text(text.replace(f"data/{data.name}", "../../../x.parquet"))
        case "half a file":
            data.write_bytes(data.read_bytes()[:2000])
        case "other columns":
            pq.write_table(pa.table({"id": ["a"], "other": [1]}), data)
        case "a schema without a key":
            (folder / "schema.json").write_text('{"fields": [{"name": "vector", "dtype": "float_vector", "dim": 4}]}')
        case "a schema of another kind":
            (folder / "schema.json").write_text('[1, {"fields": "x"}]')
        case "a schema nested deeply":
            (folder / "schema.json").write_text("[" * 200_000)


@pytest.mark.parametrize(
    "name",
    ["a file elsewhere", "half a file", "other columns", "a schema without a key", "a schema of another kind",
     "a schema nested deeply"],
)  # fmt: skip
def test_damaged_collections_are_one_line(store, name):
    for other in ("logged", "mixed"):
        shutil.rmtree(store / "collections" / other)
    damage(store / "collections" / "flushed", name)
    with unchanged(store.parent), pytest.raises(DataError) as caught:
        list(open_milvus(str(store)).rows("flushed"))
    assert "\n" not in str(caught.value)


def test_a_damaged_collection_leaves_the_others(store):
    damage(store / "collections" / "flushed", "half a file")
    opened = open_milvus(str(store))
    assert [one.name for one in opened.collections()] == ["logged", "mixed", "mixed (deleted)"]
    assert len(opened.notes) == 1


def test_the_old_format_is_told(tmp_path):
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("CREATE TABLE collection_meta (id INTEGER)")
    database.close()
    with pytest.raises(DataError, match=r"old\.db: is a database of Milvus Lite 2.*milvus-lite dump"):
        open_milvus(str(tmp_path / "old.db"))
    with pytest.raises(DataError, match="has no folder 'collections'"):
        open_milvus(str(tmp_path))
