"""LanceDB tables: what its client gives, and what it no longer gives though its files still have it."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trees import ESCAPES, here, read, unchanged, unit

from unembed.errors import DataError
from unembed.stores import child
from unembed.stores.lancedb import open as open_lance

lancedb = pytest.importorskip("lancedb")
lance = pytest.importorskip("lance")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]
ROWS, DIMENSION = 200, 16


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a child process."""
    monkeypatch.setattr(child, "frames", here)


def vectors_of(array: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def rows(count: int = ROWS, seed: int = 0, **more: Any) -> pa.Table:
    ids = [f"row {n}" for n in range(count)]
    texts = [f"sentence number {n}" for n in range(count)]
    return pa.table(
        {"id": ids, "vector": vectors_of(unit(count, DIMENSION, seed)), "text": texts, "page": range(count), **more}
    )


def by_name(store: Any) -> dict[str, Any]:
    return {one.name: one for one in store.collections()}


def test_rows_are_those_of_the_client_and_nothing_is_written(tmp_path):
    table = lancedb.connect(tmp_path).create_table("notes", rows())
    table.add(rows(3, seed=1))
    expected = table.to_arrow()
    for path in tmp_path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    store = open_lance(str(tmp_path))
    with unchanged(tmp_path):
        (one,) = store.collections()
        found = read(store, "notes")
    assert (one.rows, one.dimension, one.number, one.has_text, one.lossy) == (203, DIMENSION, "float32", True, False)
    assert found.ids == expected["id"].to_pylist()
    assert found.texts == expected["text"].to_pylist()
    assert [one["page"] for one in found.metadata] == expected["page"].to_pylist()
    np.testing.assert_array_equal(found.vectors, np.stack(expected["vector"].to_numpy()))
    assert {trace.kind for trace in one.traces} >= {"text"}
    assert not {trace.kind for trace in one.traces} & {"deleted", "version"}
    assert store.notes == []


def test_deleted_rows_are_found(tmp_path, quick):
    table = lancedb.connect(tmp_path).create_table("notes", rows())
    table.delete("page >= 190")
    store = open_lance(str(tmp_path / "notes.lance"))
    with unchanged(tmp_path):
        found = by_name(store)
        gone, live = read(store, "notes (deleted)"), read(store, "notes")
    assert (found["notes"].rows, found["notes (deleted)"].rows) == (190, 10)
    assert gone.ids == [f"row {n}" for n in range(190, 200)]
    assert gone.texts == [f"sentence number {n}" for n in range(190, 200)]
    np.testing.assert_array_equal(gone.vectors, unit(ROWS, DIMENSION)[190:])
    assert live.ids == table.to_arrow()["id"].to_pylist()
    assert [trace.count for trace in found["notes"].traces if trace.kind == "deleted"] == [10]


def test_rows_of_earlier_versions_are_found_once_after_updates_and_compaction(tmp_path, quick):
    table = lancedb.connect(tmp_path).create_table("notes", rows())
    table.delete("page < 5")
    new = rows(1, seed=9).set_column(0, "id", pa.array(["row 10"]))
    table.merge_insert("id").when_matched_update_all().execute(new)
    table.optimize()
    assert len(lance.dataset(tmp_path / "notes.lance").get_fragments()) == 1
    store = open_lance(str(tmp_path))
    found = by_name(store)
    assert found["notes"].rows == 195
    assert sorted(read(store, "notes (deleted)").ids) == sorted([*(f"row {n}" for n in range(5)), "row 10"])
    assert {trace.kind for trace in found["notes"].traces} >= {"version"}
    table.delete("page >= 0")
    assert by_name(store)["notes"].rows == 0
    assert len(read(store, "notes (deleted)")) == 201
    table.optimize(cleanup_older_than=datetime.timedelta(0), delete_unverified=True)
    assert list(by_name(open_lance(str(tmp_path)))) == ["notes"]


def test_rows_that_were_only_added_are_no_earlier_version(tmp_path, quick):
    table = lancedb.connect(tmp_path).create_table("notes", schema=rows().schema)
    table.add(rows())
    table.add(rows(5, seed=3))
    table.optimize()
    store = open_lance(str(tmp_path))
    found = by_name(store)
    assert found["notes"].rows == 205
    assert [len(read(store, one)) for one in found if one.endswith("(deleted)")] in ([], [0])


def test_the_encoder_of_the_schema_and_its_key_are_told_without_the_key(tmp_path, quick):
    functions = [
        {
            "name": "openai",
            "model": {"name": "text-embedding-3-small", "api_key": "sk-abcdef", "base_url": "https://u:pw@emb.example:8443/v1?k=1"},
            "source_column": "text", "vector_column": "vector",
        }
    ]  # fmt: skip
    table = rows().replace_schema_metadata({"embedding_functions": json.dumps(functions)})
    lancedb.connect(tmp_path).create_table("notes", table)
    (one,) = open_lance(str(tmp_path)).collections()
    assert one.encoder == "text-embedding-3-small"
    told = {trace.kind: trace.detail for trace in one.traces}
    assert "api_key" in told["secret"]
    assert told["endpoint"].endswith("emb.example:8443.")
    assert not any(word in str(one) for word in ("sk-abcdef", "pw@", "k=1"))


def test_several_columns_of_vectors_and_several_tables(tmp_path, quick):
    database = lancedb.connect(tmp_path)
    database.create_table("a", rows(title_vector=vectors_of(unit(ROWS, 8))))
    database.create_table("b", pa.table({"name": ["x"], "half": vectors_of(unit(1, 64).astype(np.float16))}))
    database.create_table("c", pa.table({"name": ["x"]}))
    store = open_lance(str(tmp_path))
    found = by_name(store)
    assert {name: (one.dimension, one.number) for name, one in found.items()} == {
        "a.vector": (DIMENSION, "float32"), "a.title_vector": (8, "float32"), "b": (64, "float16"),
    }  # fmt: skip
    np.testing.assert_array_equal(read(store, "a.title_vector").vectors, unit(ROWS, 8))
    assert store.notes == ["c.lance: no column of vectors"]
    with pytest.raises(DataError, match=r"has no collection 'd', expected .*#NAME with one of a\.vector"):
        list(store.rows("d"))


def test_hostile_values_are_bounded(tmp_path, quick):
    long = "x" * (3 << 20)
    table = pa.table(
        {
            "id": [ESCAPES, None, "c"],
            "text": [ESCAPES, long, None],
            "vector": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
            ESCAPES: [long, None, "y"],
        }
    )
    lance.write_dataset(table, tmp_path / "t.lance")
    store = open_lance(str(tmp_path))
    found = read(store, "t")
    assert found.ids == [ESCAPES, "1", "c"]
    assert found.texts == [ESCAPES, long[: 1 << 20], None]
    assert len(str(found.metadata[0])) < 5000
    np.testing.assert_array_equal(found.vectors, np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32))
    assert "rows without a vector of 2 numbers: 1, the first: row 1 holds no value" in store.notes[0]
    assert "\x1b" not in "".join(store.notes)


def test_a_row_larger_than_what_is_sent_at_once(tmp_path):
    table = pa.table({"id": [1, 2], "vector": vectors_of(unit(2, 4)), "text": ["y" * (34 << 20), "z" * (34 << 20)]})
    lance.write_dataset(table, tmp_path / "t.lance")
    found = list(open_lance(str(tmp_path)).rows("t"))
    assert [one.ids for one in found] == [["1"], ["2"]]
    assert [len(one.texts[0]) for one in found] == [1 << 20] * 2


def test_damaged_tables_are_one_line(tmp_path):
    lancedb.connect(tmp_path).create_table("notes", rows(2000))
    store = open_lance(str(tmp_path))
    store.collections()
    (data,) = (tmp_path / "notes.lance").glob("data/*.lance")
    (manifest,) = (tmp_path / "notes.lance").glob("_versions/*.manifest")
    place = tmp_path / "notes.lance"

    def said() -> str:
        with unchanged(tmp_path), pytest.raises(DataError) as caught:
            list(store.rows("notes"))
        return str(caught.value)

    for file in (data, manifest):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert said() == f"{place}: a file of it is cut short or damaged: take the table from a backup"
        file.write_bytes(whole)
    data.unlink()
    assert said() == f"{place}: its file data/{data.name} is missing: take the table from a backup"
    manifest.unlink()
    assert "_versions) is missing" in said()


def test_a_table_whose_rows_are_elsewhere_is_not_followed(tmp_path, quick):
    lance.write_dataset(rows(), tmp_path / "a.lance").shallow_clone(str(tmp_path / "b" / "b.lance"), reference=1)
    with pytest.raises(DataError, match=r"b\.lance: its rows are kept in .*a\.lance"):
        open_lance(str(tmp_path / "b")).collections()


def test_what_is_no_table_is_said(tmp_path):
    (tmp_path / "x.lance").touch()
    with pytest.raises(DataError, match=r"no folder ending in \.lance"):
        open_lance(str(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        open_lance(str(tmp_path / "none"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="may read everything")
def test_no_permission_is_said(tmp_path):
    lance.write_dataset(rows(), tmp_path / "a.lance")
    Path(tmp_path / "a.lance").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        open_lance(str(tmp_path / "a.lance"))
    Path(tmp_path / "a.lance").chmod(0o755)
