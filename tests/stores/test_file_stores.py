"""Files as stores: Parquet, JSON lines, NumPy and what else holds vectors, alone and in folders."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from trees import ESCAPES, read, unchanged, unit

from unembed.errors import DataError
from unembed.stores.files import open as open_files

ROWS, DIMENSION = 150, 64


def parquet(path: Path, first: int = 0, rows: int = ROWS, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    vectors = unit(1000, DIMENSION)[first : first + rows]
    columns = {
        "doc_id": [f"d{n}" for n in numbers],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION),
        "content": [f"text {n}" for n in numbers], "year": numbers,
    }  # fmt: skip
    pq.write_table(pa.table({**columns, **more}), path, row_group_size=40)
    return path


def json_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_fvecs(path: Path, array: Any) -> None:
    path.write_bytes(b"".join(np.int32(len(row)).tobytes() + row.tobytes() for row in array))


def test_a_parquet_file(tmp_path):
    path = parquet(tmp_path / "x.parquet", tags=[["a", "b"]] * ROWS, embedding_model=["m-1"] * ROWS)
    with unchanged(tmp_path):
        store = open_files(str(path))
        (one,) = store.collections()
        found = read(store, "embedding")
    assert (one.name, one.rows, one.dimension, one.number) == ("embedding", ROWS, DIMENSION, "float32")
    assert (one.encoder, one.has_text, one.lossy) == ("m-1", True, False)
    assert {"text": "content", "id": "doc_id"}.items() <= one.about.items()
    assert {trace.kind for trace in one.traces} >= {"text", "encoder"}
    assert found.ids == [f"d{n}" for n in range(ROWS)]
    assert found.texts == [f"text {n}" for n in range(ROWS)]
    assert found.metadata[7] == {"year": 7, "embedding_model": "m-1"}
    np.testing.assert_array_equal(found.vectors, unit(1000, DIMENSION)[:ROWS])
    assert store.notes == []


def test_a_folder_of_parquet_is_one_collection(tmp_path):
    for number in range(3):
        parquet(tmp_path / f"year={number}" / "part.parquet", 100 * number, 100)
    (tmp_path / "_SUCCESS").touch()
    pq.write_table(pa.table({"other": [1]}), tmp_path / "z.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with unchanged(tmp_path):
        store = open_files(str(tmp_path))
        (one,) = store.collections()
        found = read(store, "embedding")
    assert (one.rows, one.about["files"]) == (300, 3)
    assert found.ids == [f"d{n}" for n in range(300)]
    np.testing.assert_array_equal(found.vectors, unit(1000, DIMENSION)[:300])
    assert any("z.parquet: no rows with a column of vectors" in note for note in store.notes)
    assert any("a.parquet: cannot be read as Parquet" in note for note in store.notes)


def test_a_folder_of_several_kinds(tmp_path):
    parquet(tmp_path / "x.parquet")
    np.save(tmp_path / "x.npy", unit(5, 8))
    (tmp_path / "texts.txt").write_text("a\nb\n")
    store = open_files(str(tmp_path))
    found = {one.name: (one.rows, one.dimension) for one in store.collections()}
    assert found == {"npy/embedding": (5, 8), "parquet/embedding": (ROWS, DIMENSION)}
    np.testing.assert_array_equal(read(store, "npy/embedding").vectors, unit(5, 8))
    assert store.notes == ["texts.txt: no rows with a column of vectors"]


@pytest.mark.parametrize("kind", ["npy", "fvecs", "safetensors", "jsonl", "base64", "bare", "csv", "openai"])
def test_other_kinds(tmp_path, kind):
    vectors = unit(9, DIMENSION)
    path, number, named = tmp_path / f"x.{kind}", "text", "embedding"
    match kind:
        case "npy":
            np.save(path, vectors.astype(np.float16))
            number = "float16"
        case "fvecs":
            write_fvecs(path, vectors)
            number = "float32"
        case "safetensors":
            save_file({"vectors": vectors, "id": np.arange(9)}, path)
            number, named = "float32", "vectors"
        case "jsonl":
            json_lines(path, *({"id": n, "vector": row.tolist()} for n, row in enumerate(vectors)))
            named = "vector"
        case "base64":
            path = path.with_suffix(".jsonl")
            json_lines(path, *({"embedding": base64.b64encode(row.tobytes()).decode()} for row in vectors))
            number = "float32"
        case "bare":
            path, named = json_lines(path.with_suffix(".jsonl"), *vectors.tolist()), "value"
        case "csv":
            np.savetxt(path, vectors, delimiter=",")
            named = "value"
        case "openai":
            path = path.with_suffix(".json")
            rows = [{"index": n, "embedding": row.tolist()} for n, row in enumerate(vectors)]
            path.write_text(json.dumps({"object": "list", "data": rows, "model": "text-embedding-3-small"}))
    store = open_files(str(path))
    (one,) = store.collections()
    assert (one.name, one.dimension, one.number) == (named, DIMENSION, number)
    found = read(store, named)
    np.testing.assert_allclose(found.vectors, vectors, atol=1e-3 if kind == "npy" else 1e-7)
    assert found.ids == [str(n) for n in range(9)]


def test_columns_are_told_by_their_values_where_names_do_not(tmp_path):
    rows = [
        {
            "sku": f"s{n}", "features": unit(9, 64)[n].tolist(), "tokens": [101] * 64, "short": [0.5] * 8,
            "sha": "ab" * 64, "remark": f"a remark of several words, number {n}",
        }
        for n in range(9)
    ]  # fmt: skip
    store = open_files(str(json_lines(tmp_path / "x.jsonl", *rows)))
    (one,) = store.collections()
    assert (one.name, one.about["text"], store.notes) == ("features", "remark", [])
    assert read(store, "features").metadata[0] == {"sku": "s0", "sha": "ab" * 64}


def test_two_columns_that_may_be_vectors_are_asked_about(tmp_path):
    rows = [{"left": unit(9, 64)[n].tolist(), "right": unit(9, 96, 1)[n].tolist()} for n in range(9)]
    path = json_lines(tmp_path / "x.jsonl", *rows)
    store = open_files(str(path))
    assert [one.name for one in store.collections()] == ["left", "right"]
    assert store.notes == ["columns left, right may each hold vectors: choose one with #COLUMN"]
    np.testing.assert_allclose(read(store, "right").vectors, unit(9, 96, 1), atol=1e-7)
    with pytest.raises(DataError, match=r"no collection 'middle', expected .*x\.jsonl#NAME with one of left, right"):
        list(store.rows("middle"))


def test_rows_that_are_no_vectors_are_nan_and_noted(tmp_path):
    good = {"id": "good", "text": ESCAPES, "vector": [1.0, 2.0]}
    bad = [{"id": 1, "vector": None}, {"id": [2], "vector": "x"}, {"vector": [1.0]}, {"vector": {"a": 1}, "text": 5}]
    path = json_lines(tmp_path / "x.jsonl", *[good] * 40, *bad, {"vector": [3, 4], "text": "\ud800", "n": float("nan")})
    store = open_files(str(path))
    found = read(store, "vector")
    assert np.isnan(found.vectors).all(1).tolist() == [False] * 40 + [True] * 4 + [False]
    assert found.ids[40:] == ["1", "[2]", "42", "43", "44"]
    assert found.texts[40:] == [None, None, None, None, "?"]
    assert found.texts[0] == ESCAPES
    json.dumps(found.metadata, allow_nan=False)
    assert len(store.notes) == 1
    assert "rows without a vector of 2 numbers: 4, the first: row 40 holds no value" in store.notes[0]
    assert store.notes[0].isprintable()


def test_huge_values_are_bounded(tmp_path):
    rows = [{"vector": [0.5] * 4, "text": "y" * (3 << 20), "note": "z" * (1 << 20), "deep": {"a": [1] * 9000}}]
    store = open_files(str(json_lines(tmp_path / "x.jsonl", *rows)))
    found = read(store, "vector")
    assert found.texts == ["y" * (1 << 20)]
    assert len(json.dumps(found.metadata)) < 10_000
    wide = {f"c{n}": "x" * 5000 for n in range(3000)}
    store = open_files(str(json_lines(tmp_path / "w.jsonl", {"vector": [0.5] * 4, **wide})))
    assert len(json.dumps(read(store, "vector").metadata)) < 200_000


def test_files_of_other_dimensions(tmp_path):
    np.save(tmp_path / "a.npy", unit(5, 8))
    np.save(tmp_path / "b.npy", unit(5, 16))
    store = open_files(str(tmp_path))
    found = read(store, "embedding")
    assert np.isnan(found.vectors).all(1).tolist() == [False] * 5 + [True] * 5
    assert "rows without a vector of 8 numbers: 5, the first: row 5 has 16 numbers, expected 8" in store.notes[0]


def test_what_is_gone_or_damaged_is_one_line(tmp_path):
    path = parquet(tmp_path / "x.parquet")
    content = path.read_bytes()
    for damaged in (
        b"",
        content[: len(content) // 2],
        content[:-4000] + bytes(4000),
        np.random.default_rng(0).bytes(999),
    ):
        path.write_bytes(damaged)
        with unchanged(tmp_path), pytest.raises(DataError) as caught:
            list(open_files(str(path)).rows("embedding"))
        assert "\n" not in str(caught.value)
        assert "x.parquet" in str(caught.value)
    path.write_bytes(content)
    store = open_files(str(path))
    store.collections()
    path.unlink()
    with pytest.raises(DataError, match=r"x\.parquet"):
        list(store.rows("embedding"))
    with pytest.raises(DataError, match="no such file or folder"):
        open_files(str(path))


def test_what_holds_no_vectors(tmp_path):
    (tmp_path / "x.bin").touch()
    with pytest.raises(DataError, match=r"x\.bin: unknown ending, expected one of \.txt"):
        open_files(str(tmp_path / "x.bin"))
    with pytest.raises(DataError, match="holds no file that is read"):
        open_files(str(tmp_path))
    store = open_files(str(json_lines(tmp_path / "x.jsonl", {"text": "a"})))
    assert store.collections() == []
    assert store.notes == ["x.jsonl: no rows with a column of vectors"]


@pytest.mark.skipif(os.name == "nt", reason="has other permissions")
def test_who_may_read_it_and_copies_are_told(tmp_path):
    path = parquet(tmp_path / "x.parquet")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0 and folder.owner() == path.owner():
            folder.chmod(folder.stat().st_mode | 0o011)
    path.chmod(0o644)
    (tmp_path / "x.parquet.bak").touch()
    (one,) = open_files(str(path)).collections()
    assert {(trace.kind, trace.where) for trace in one.traces} >= {("readable", "x.parquet"), ("copy", "x.parquet.bak")}
    path.chmod(0o640)
    (one,) = open_files(str(path)).collections()
    assert "readable" not in {trace.kind for trace in one.traces}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="may read everything")
def test_no_permission_is_said(tmp_path):
    parquet(tmp_path / "x.parquet").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        open_files(str(tmp_path / "x.parquet"))
