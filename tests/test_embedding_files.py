"""Embeddings from files: the same rows whatever the format, one batch at a time, and every fault named."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.config import Recipe
from unembed.encoders.embedding_files import BLOCK, open_vectors, scan, write_npy
from unembed.errors import DataError, EmbeddingError, InputError, OutputError

RECIPE = Recipe(encoder="fake", dimension=4)


def unit_rows(n, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, 4))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write(folder, rows, ending, column="embedding"):
    """The rows as a file of that ending; returns its name."""
    path = folder / f"rows{ending}"
    if ending == ".npy":
        np.save(path, rows)
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, column: row.tolist()}) + "\n" for i, row in enumerate(rows)))
    else:
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]).cast(pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": range(len(rows)), column: values}), path, row_group_size=7)
    return str(path)


def read_all(vectors, size=5, start=0):
    return np.concatenate([batch for _, batch in vectors.batches(size, start)])


@pytest.mark.parametrize("ending", [".npy", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("size", "start"), [(1, 0), (5, 0), (5, 3), (7, 14), (64, 22), (64, 23)])
def test_every_format_gives_the_same_batches(tmp_path, ending, size, start):
    rows = unit_rows(23)
    found = list(open_vectors(write(tmp_path, rows, ending)).batches(size, start))
    assert [first for first, _ in found] == list(range(start, 23, size))
    assert all(len(batch) == size for _, batch in found[:-1])
    if start < 23:
        np.testing.assert_array_equal(np.concatenate([batch for _, batch in found]).astype(np.float32), rows[start:])


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_column_can_be_named(tmp_path, ending):
    rows = unit_rows(3)
    name = write(tmp_path, rows, ending, column="numbers")
    np.testing.assert_array_equal(read_all(open_vectors(name, "numbers")).astype(np.float32), rows)
    with pytest.raises(DataError, match=r"id, numbers, expected one called embedding \(--column names another\)"):
        open_vectors(name)
    with pytest.raises(DataError, match=r"id, numbers, expected one called embedding \(--column names another\)"):
        open_vectors(name, "nowhere")


def test_blocks_join_where_files_are_larger_than_one(tmp_path):
    rows = unit_rows(BLOCK + 10)
    for ending in (".npy", ".jsonl", ".parquet"):
        batches = list(open_vectors(write(tmp_path, rows, ending)).batches(100, 50))
        assert {len(batch) for _, batch in batches[:-1]} == {100}
        np.testing.assert_array_equal(np.concatenate([b for _, b in batches]).astype(np.float32), rows[50:])


def test_standard_input_is_json_lines_or_npy(tmp_path, monkeypatch):
    rows = unit_rows(3)
    bare = "\n\n".join(json.dumps(row.tolist()) for row in rows).encode()
    npy = io.BytesIO()
    np.save(npy, rows)
    for content in (bare, npy.getvalue()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        vectors = open_vectors("-")
        for _ in range(2):  # read again and again, though a pipe can be read only once
            np.testing.assert_array_equal(read_all(vectors).astype(np.float32), rows)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(npy.getvalue()[:-1])))
    with pytest.raises(DataError, match="standard input: is truncated"):
        read_all(open_vectors("-"))


def test_one_vector_is_one_row(tmp_path):
    np.save(tmp_path / "one.npy", unit_rows(1)[0])
    assert read_all(open_vectors(str(tmp_path / "one.npy"))).shape == (1, 4)


def test_a_huge_array_is_mapped_not_read(tmp_path):
    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1_000_000, 384)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 1_000_000 * 384 * 4)  # a hole: takes no space
    ((first, batch),) = open_vectors(str(path)).batches(10, 999_990)
    assert (first, batch.shape) == (999_990, (10, 384))
    owner = batch
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert isinstance(owner, np.memmap)


def test_scan_hashes_values_not_formats(tmp_path):
    rows = unit_rows(30)
    files = [open_vectors(write(tmp_path, rows, ending)) for ending in (".npy", ".jsonl", ".parquet")]
    scans = {scan(replace(vectors, id_column=None), RECIPE) for vectors in files}
    assert len(scans) == 1
    (found,) = scans
    assert found.rows == 30
    other = scan(open_vectors(write(tmp_path, rows[::-1], ".npy")), RECIPE)
    assert other.sha256 != found.sha256
    assert scan(files[1], RECIPE) == scan(files[2], RECIPE) != found  # ids are a part of the result


@pytest.mark.parametrize("ending", [".npy", ".jsonl", ".parquet"])
def test_scan_names_the_bad_row_however_far_down(tmp_path, ending):
    rows = unit_rows(BLOCK + 100)
    rows[BLOCK + 42, 1] = np.nan
    with pytest.raises(EmbeddingError, match=f"rows{ending}: row {BLOCK + 42} has NaN or infinite values"):
        scan(open_vectors(write(tmp_path, rows, ending)), RECIPE)


def test_scan_of_nothing(tmp_path):
    for content in (write(tmp_path, unit_rows(0), ".npy"), write(tmp_path, unit_rows(0), ".jsonl")):
        with pytest.raises(DataError, match="holds no embeddings, expected at least 1"):
            scan(open_vectors(content), RECIPE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2, 3", "line 2 is not JSON"),
        ('"text"', "line 2, column 'value': holds text, expected a list of numbers"),
        ('["1", "2", "3", "4"]', "line 2, .*holds a list of something else"),
        ("[1, null, 3, 4]", "line 2, .*holds a list in which a number is missing"),
        ("[[1, 2], [3, 4]]", "line 2 has 2 numbers, the rows before it have 4"),
        ('{"value": [[[1, 2], [3]]]}', "line 2, .*holds a list of something else"),
        ("[true, true, false, true]", "line 2, .*holds a list of something else"),
        ("[]", "line 2, .*holds a list of something else"),
        ("[1, 2, 3]", "line 2 has 3 numbers, the rows before it have 4"),
        ('{"vector": [1, 2, 3, 4]}', "line 2, column 'value': holds no value"),
        ("{}", "line 2, column 'value': holds no value"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("\xff\xfe", "line 2 is not UTF-8"),
    ],
)
def test_bad_json_lines(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"[0, 0, 0, 1]\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        read_all(open_vectors(str(path)))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def parquet_with(values):
    file = io.BytesIO()
    pq.write_table(pa.table({"embedding": values}), file)
    return file.getvalue()


def npy_with(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.npy",
            npy_with(np.array([{"code": 1}], dtype=object)),
            "holds pickled Python objects, which are never loaded",
        ),
        ("a.npy", b"\x80\x04\x95", "is not a .npy file"),
        ("a.npy", parquet_with(pa.array([[1.0]])), "is not a .npy file, holds Parquet data"),
        ("a.npy", b"", "is not a .npy file"),
        ("a.npy", npy_with(unit_rows(9))[:-1], "is truncated or not a whole .npy file"),
        ("a.npy", npy_with(unit_rows(9))[:40], "is truncated or not a whole .npy file"),
        ("a.npy", npy_with(np.float32(1)), "array has 0 axes, expected rows of embeddings"),
        ("a.npy", npy_with(unit_rows(8).reshape(2, 4, 4)), "array has 3 axes, expected rows of embeddings"),
        ("a.parquet", b"PAR1 and so on", "cannot be read as Parquet"),
        ("a.parquet", parquet_with(pa.array([[1.0]]))[:-3], "cannot be read as Parquet"),
        ("a.parquet", npy_with(unit_rows(9)), "cannot be read as Parquet"),
        (
            "a.parquet",
            parquet_with(pa.array(["text"])),
            "row 0, column 'embedding': holds text, expected",
        ),
        (
            "a.parquet",
            parquet_with(pa.array([["text"]])),
            "row 0, .*holds a list of something else",
        ),
        ("a.parquet", parquet_with(pa.array([[1.0, 2.0], None])), "row 1, .*holds no value"),
        ("a.parquet", parquet_with(pa.array([[1.0, 2.0], [1.0, None]])), "row 1, .*in which a number is missing"),
        ("a.parquet", parquet_with(pa.array([[1.0, 2.0], [1.0]])), "row 1 has 1 numbers, the rows before it have 2"),
        ("a.jsonl", npy_with(unit_rows(9)), "holds NumPy data, which its ending does not say"),
        ("a.xls", b"1,2", "unknown ending '.xls', expected one of .txt, .jsonl"),
    ],
)
def test_files_that_are_not_what_they_claim(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_all(open_vectors(str(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="none.npy: no such file"):
        open_vectors(str(tmp_path / "none.npy"))


def test_written_arrays_are_as_numpy_writes_them(tmp_path):
    rows = unit_rows(10)
    assert write_npy(tmp_path / "a.npy", iter([rows[:3], rows[3:]]), 4) == 10
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)
    assert np.load(tmp_path / "a.npy").dtype == np.dtype("<f4")
    assert write_npy(tmp_path / "none.npy", iter([]), 4) == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 4)


def test_an_array_is_written_whole_or_not_at_all(tmp_path):
    def failing():
        yield unit_rows(3)
        raise DataError("the text at 3")

    with pytest.raises(DataError, match="the text at 3"):
        write_npy(tmp_path / "a.npy", failing(), 4)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_npy(tmp_path / "file" / "a.npy", iter([unit_rows(3)]), 4)
