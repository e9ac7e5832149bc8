"""The folder of the Qdrant client, by the side of the client itself; hostile ones."""

import json
import os
import pickle
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading import Read, made, tree

from unembed.errors import DataError
from unembed.stores import open_store
from unembed.stores.qdrant.folder import QdrantFolder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("qdrant") / "store"
    return folder, made("make_qdrant.py", folder, "qdrant_client")


@pytest.fixture
def copy(store: tuple[Path, Any], tmp_path: Path) -> Path:
    shutil.copytree(store[0], tmp_path / "store")
    return tmp_path / "store"


def change(folder: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / "collection" / "cosine" / "storage.sqlite")) as database, database:
        database.execute(statement, values)


def test_points_are_the_clients(store: tuple[Path, Any]) -> None:
    folder, answer = store
    before = tree(folder)
    opened, _ = open_store(str(folder))
    found = {one.name: one for one in opened.collections()}
    assert list(found) == ["cosine", "named/first", "named/second"]
    assert (found["cosine"].rows, found["cosine"].dimension, found["cosine"].metric) == (21, 8, "cosine")
    assert (found["named/second"].rows, found["named/second"].metric) == (None, "euclid")
    read, expected = Read(opened, "cosine"), answer["found"]["cosine"]
    assert sorted(read.ids) == sorted(expected)
    for i, name in enumerate(read.ids):
        payload = expected[name]["payload"] or {}
        assert read.texts[i] == payload.get("document")
        assert read.metadata[i] == {key: value for key, value in payload.items() if key != "document"}
        theirs = np.array(expected[name]["vector"])  # of norm 1 or not, by the version of the client
        ours = read.vectors[i] / np.linalg.norm(read.vectors[i])
        np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(read.of("7"), answer["given"][7], rtol=1e-6)
    new = np.array(answer["given"][22])  # a vector that was changed is written normalised
    np.testing.assert_allclose(read.of("5"), new / np.linalg.norm(new), rtol=1e-6)
    assert "2026-01-02" in read.metadata[read.ids.index("50")]["at"]
    assert [(trace.kind, trace.count) for trace in found["cosine"].traces if trace.kind == "text"] == [("text", 21)]
    opened.close()
    assert tree(folder) == before


def test_named_vectors_are_collections(store: tuple[Path, Any]) -> None:
    opened = QdrantFolder(str(store[0]))
    first, second = Read(opened, "named/first"), Read(opened, "named/second")
    assert (first.ids, second.ids) == (["1", "2"], ["1"])
    assert first.texts == ["some words", None]
    np.testing.assert_allclose(first.vectors, [store[1]["given"][0], store[1]["given"][3]], rtol=1e-6)
    assert sorted(opened.notes) == [
        "named/many: several vectors a point are not read",
        "named/words: sparse vectors are not read",
    ]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("point", [None, b"", b"\x80\x04", "text", pickle.dumps({"id": 1}), 7])
def test_a_point_that_is_none_is_nan(copy: Path, point: Any) -> None:
    change(copy, "UPDATE points SET point = ? WHERE _rowid_ = 2", point)
    opened = QdrantFolder(str(copy))
    opened.collections()
    read = Read(opened, "cosine")
    assert np.isnan(read.vectors).any(axis=1).tolist() == [False, True, *[False] * 19]
    assert len(opened.notes) == 3


def test_no_pickle_runs(copy: Path, tmp_path: Path) -> None:
    change(copy, "UPDATE points SET point = ?", pickle.dumps(Touch(tmp_path / "ran")))
    opened = QdrantFolder(str(copy))
    opened.collections()
    assert np.isnan(Read(opened, "cosine").vectors).all()
    (note,) = opened.notes[2:]
    assert "mkdir, which is not run" in note
    assert note.endswith("): 21, the first: row 1")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "meta",
    ["[]", "{", '{"collections": []}', "[" * 100_000],
)
def test_a_folder_that_is_another(copy: Path, meta: str) -> None:
    (copy / "meta.json").write_text(meta)
    with pytest.raises(DataError, match="meta.json") as caught:
        QdrantFolder(str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../cosine", "..", ".", "/etc", "a/b"])
def test_a_name_does_not_lead_out_of_the_folder(copy: Path, name: str) -> None:
    meta = json.loads((copy / "meta.json").read_text())
    meta["collections"] = {name: meta["collections"]["cosine"]}
    (copy / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="expected a folder's name"):
        QdrantFolder(str(copy)).collections()


@pytest.mark.parametrize("size", [None, "8", 0, -1, 1 << 40, [], True])
def test_a_size_that_is_none(copy: Path, size: Any) -> None:
    meta = json.loads((copy / "meta.json").read_text())
    meta["collections"]["cosine"]["vectors"]["size"] = size
    (copy / "meta.json").write_text(json.dumps(meta))
    opened = QdrantFolder(str(copy))
    assert "cosine" not in [one.name for one in opened.collections()] or size is True
    assert "meta.json gives it no size" in opened.notes[0] or size is True


def test_a_collection_that_is_missing(copy: Path) -> None:
    shutil.rmtree(copy / "collection" / "cosine")
    with pytest.raises(DataError, match="storage.sqlite: cannot be read"):
        QdrantFolder(str(copy)).collections()
    with pytest.raises(DataError, match="no collection 'x', expected .*#NAME with one of cosine, named/first"):
        list(QdrantFolder(str(copy)).rows("x"))
