"""What stores, endpoints and libraries export is read: the same rows out of every shape."""

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zstandard

from unembed.encoders.embedding_files import open_vectors
from unembed.errors import DataError
from unembed.tables import open_table, streams
from unembed.tables.documents import unfold

N, D = 7, 5
E = np.random.default_rng(1).standard_normal((N, D)).astype(np.float32)
IDS = [f"row-{i}" for i in range(N)]
WORDS = [json.dumps([round(float(x), 9) for x in row]) for row in E]


def text(content: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_text(content, encoding="utf-8")
        return path

    return make


def lines(*trees: Any) -> Callable[[Path], Path]:
    return text("".join(json.dumps(tree) + "\n" for tree in trees))


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def parquet(**columns: Any) -> Callable[[Path], Path]:
    return lambda path: (pq.write_table(table(**columns), path, row_group_size=3), path)[1]


def of_csv(delimiter: str = ",", header: bool = True) -> Callable[[Path], Path]:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    if header:
        writer.writerows([["id", "note", "embedding"], *([i, "a, b\nc", w] for i, w in zip(IDS, WORDS, strict=True))])
    else:
        writer.writerows(E.tolist())
    return text(out.getvalue())


def squeezed(pack: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    content = "\n".join(json.dumps({"embedding": row.tolist()}) for row in E).encode()
    return lambda path: (path.write_bytes(pack(content)), path)[1]


def arrow_stream(path: Path) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table(vector=E.tolist()).schema) as writer:
        writer.write_table(table(vector=E.tolist()), max_chunksize=2)
    return path


def fvecs(path: Path) -> Path:
    path.write_bytes(b"".join(np.int32(D).tobytes() + row.tobytes() for row in E))
    return path


def shards(path: Path) -> Path:
    path.mkdir()
    for number, rows in enumerate(np.array_split(E, 3)):
        pq.write_table(table(embedding=rows.tolist()), path / f"part-{number}.parquet")
    (path / "README.md").write_text("nothing to read")
    return path


def tensors() -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(E)


POINTS = [{"id": i, "payload": {"k": 1}, "vector": row.tolist()} for i, row in zip(IDS, E, strict=True)]
ANSWER = [{"object": "embedding", "index": n, "embedding": row.tolist()} for n, row in enumerate(E)]

MAKERS: dict[str, tuple[str, Callable[[Path], Path], str | None]] = {
    "pgvector as text, JSON lines": (
        "a.jsonl", lines(*({"id": i, "embedding": w} for i, w in zip(IDS, WORDS, strict=True))), None),
    "pgvector as text, Parquet": ("a.parquet", parquet(id=IDS, embedding=WORDS), None),
    "pgvector as text, CSV": ("a.csv", of_csv(), None),
    "CSV with semicolons": ("a.csv", of_csv(";"), None),
    "TSV": ("a.tsv", of_csv("\t"), None),
    "CSV of numbers alone": ("a.csv", of_csv(header=False), None),
    "numbers as they are": ("a.ndjson", lines(*E.tolist()), None),
    "blank lines": ("a.jsonl", text("\n\n".join(["", *WORDS, ""])), None),
    "base64": ("a.jsonl", lines(*({"embedding": base64.b64encode(row.tobytes()).decode()} for row in E)), None),
    "float64 in bytes": ("a.parquet", parquet(embedding=[row.astype("<f8").tobytes() for row in E]), None),
    "float32 in bytes": ("a.parquet", parquet(id=IDS, embedding=[row.tobytes() for row in E]), None),
    "an endpoint's answer": ("a.json", text(json.dumps({"object": "list", "data": ANSWER}, indent=1)), None),
    "an answer on one line": ("a.json", lines({"object": "list", "data": ANSWER}), None),
    "ollama's answer": ("a.json", lines({"model": "m", "embeddings": E.tolist()}), None),
    "TEI's answer": ("a.json", lines(E.tolist()), None),
    "a batch's output": (
        "a.jsonl",
        lines(*({"custom_id": i, "response": {"status_code": 200, "body": {"data": [one]}}}
                for i, one in zip(IDS, ANSWER, strict=True))), None),
    "Chroma's get": (
        "a.json", lines({"ids": IDS, "embeddings": E.tolist(), "documents": None, "included": ["embeddings"]}), None),
    "Qdrant's points": ("a.json", lines({"result": {"points": POINTS, "next_page_offset": None}}), None),
    "Qdrant, lines": ("a.jsonl", lines(*POINTS), None),
    "Pinecone's fetch": (
        "a.json", lines({"vectors": {i: {"id": i, "values": row.tolist()} for i, row in zip(IDS, E, strict=True)}}),
        None),
    "Pinecone's query": (
        "a.json", lines({"matches": [{"id": i, "values": row.tolist()} for i, row in zip(IDS, E, strict=True)]}), None),
    "Elasticsearch's hits": (
        "a.json", lines({"hits": {"hits": [{"_id": i, "_source": {"embedding": row.tolist()}}
                                           for i, row in zip(IDS, E, strict=True)]}}), None),
    "named vectors, JSON": ("a.jsonl", lines(*({"vector": {"text": r.tolist(), "n": 1}} for r in E)), "vector.text"),
    "named vectors, Parquet": (
        "a.parquet", parquet(vector=[{"text": row.tolist(), "n": 1} for row in E]), "vector.text"),
    "a group of one": ("a.parquet", parquet(vector=[{"text": row.tolist()} for row in E]), None),
    "fixed size lists": (
        "a.parquet", parquet(embedding=pa.FixedSizeListArray.from_arrays(pa.array(E.ravel()), D)), None),
    "large lists": ("a.parquet", parquet(embedding=pa.array(E.tolist(), pa.large_list(pa.float64()))), None),
    "lists of one list": ("a.parquet", parquet(embedding=[[row.tolist()] for row in E]), None),
    "half precision": ("a.parquet", parquet(embedding=pa.array([list(r) for r in E.astype(np.float16)],
                                                                pa.list_(pa.float16()))), None),
    "a tensor column": ("a.parquet", parquet(embedding=tensors()), None),
    "Feather": ("a.feather", lambda path: (pyarrow.feather.write_feather(table(emb=E.tolist()), path), path)[1], None),
    "Arrow's stream": ("a.arrow", arrow_stream, None),
    "safetensors": ("a.safetensors", lambda path: (safetensors.numpy.save_file({"e": E}, path), path)[1], None),
    "an axis of one": ("a.npy", lambda path: (np.save(path, E[:, None]), path)[1], None),
    "fvecs": ("a.fvecs", fvecs, None),
    "a folder of shards": ("shards", shards, None),
    "gzip": ("a.jsonl.gz", squeezed(gzip.compress), None),
    "zstd": ("a.jsonl.zst", squeezed(zstandard.compress), None),
    "bzip2": ("a.ndjson.bz2", squeezed(bz2.compress), None),
    "xz": ("a.json.xz", squeezed(lzma.compress), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_every_shape_gives_the_same_rows_from_any_row_on(kind: str, tmp_path: Path) -> None:
    name, make, column = MAKERS[kind]
    vectors = replace(open_vectors(str(make(tmp_path / name)), column), dimension=D)
    tolerance = 1e-3 if kind == "half precision" else 1e-7
    for start in (0, 1, 4, N):
        found = list(vectors.batches(2, start))
        assert [first for first, _ in found] == list(range(start, N, 2))
        if found:
            rows = np.concatenate([rows for _, rows in found])
            np.testing.assert_allclose(rows.astype(np.float64), E[start:], atol=tolerance)


@pytest.mark.parametrize(
    "kind", ["an endpoint's answer", "Chroma's get", "fixed size lists", "zstd", "numbers as they are"]
)
def test_standard_input_is_read_as_a_file_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, make, column = MAKERS[kind]
    content = make(tmp_path / name).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    vectors = open_vectors("-", column)
    for _ in range(2):
        found = np.concatenate([rows for _, rows in vectors.batches(3)])
        np.testing.assert_allclose(found.astype(np.float64), E, atol=1e-7)


def test_other_columns_are_there_to_be_joined_with(tmp_path: Path) -> None:
    for kind, column in (
        ("pgvector as text, CSV", "id"), ("Chroma's get", "ids"), ("Qdrant's points", "id"), ("Pinecone's fetch", "id"),
        ("a batch's output", "custom_id"), ("float32 in bytes", "id"), ("Elasticsearch's hits", "_id"),
    ):  # fmt: skip
        name, make, _ = MAKERS[kind]
        found: list[Any] = []
        for batch in open_table(str(make(tmp_path / f"{len(kind)}{name}"))).batches([column], 2):
            values = batch.columns[column]
            found += values.to_pylist() if hasattr(values, "to_pylist") else values
        assert found == IDS[2:], kind


def test_texts_stay_rows_whatever_lists_they_have_beside_them() -> None:
    for tree in (
        {"text": "a", "data": [{"x": 1}]},
        {"text": "a", "spans": [[0, 1], [2, 3]]},
        {"text": "a", "embedding": [[0.5], [0.25]]},
        {"text": "a", "result": {"points": [{"vector": [1.0]}]}},
        {"embedding": [0.5], "data": [{"x": 1}]},
    ):
        assert unfold(tree) == [tree]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,embedding\n1,[0.5]\n2\n", "line 3 has 1 values, expected 2 as in the header"),
        ("a.csv", 'id,embedding\n1,"[0.5]\n', "line 2 is not CSV"),
        ("a.csv", "id,embedding\n1,\n", "line 2, column 'embedding': holds no value"),
        ("a.csv", "id,embedding\n1,[x]\n", "line 2, column 'embedding': holds text"),
        ("a.json", '{"data": [\n', "the document is not JSON"),
        ("a.json", "[" * 10_000 + "\n", "the document is not JSON"),
        ("a.jsonl", '{"vector": {"0": 0.5}}\n', "line 1, column 'vector.0': holds float, expected a list of numbers"),
        ("a.jsonl", '{"embedding": "AAAAA"}\n', "line 1, column 'embedding': holds text, expected a list of numbers"),
        ("a.fvecs", "abc", "3 bytes are no rows"),
        (
            "a.fvecs",
            "\x05\0\0\0" + "x" * 20 + "\x06\0\0\0" + "x" * 20,
            "rows differ in dimension, expected 5",
        ),
        ("a.safetensors", "not one", "cannot be read as safetensors"),
        ("a.feather", "not one", "cannot be read as Arrow"),
        ("a.jsonl.gz", "not one", "cannot be read"),
        ("a.parquet.gz", "no", "unknown ending '.gz'"),
    ],
)
def test_what_is_not_what_it_says_is_named_in_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message) as caught:
        list(open_vectors(str(tmp_path / name)).batches(4))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_hold_files_of_one_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this folder holds no file"):
        open_table(str(tmp_path))
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.npy").touch()
    with pytest.raises(DataError, match=r"holds files of 2 kinds \(csv, npy\)"):
        open_table(str(tmp_path))


def test_long_lines_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST_LINE", 1 << 16)
    for name, pack in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.csv.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(b"1" * (1 << 20)))
        with pytest.raises(DataError, match="line 1 is longer than 0 MiB"):
            open_vectors(str(tmp_path / name))
    wide = "".join(json.dumps({"embedding": [0.5] * 1000}) + "\n" for _ in range(40))
    (tmp_path / "wide.jsonl").write_text(wide)
    monkeypatch.setattr("unembed.tables.lines.LARGE", 20_000)  # of which four lines are a batch
    assert [len(batch) for batch in open_table(str(tmp_path / "wide.jsonl")).batches(["embedding"])] == [4] * 10
