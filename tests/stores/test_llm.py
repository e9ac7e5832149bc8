"""The database of the llm tool, by the side of what it was given."""

import hashlib
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
from unembed.stores.llm import Llm


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("llm") / "embeddings.db"
    return path, made("make_llm.py", path, "llm")


@pytest.fixture
def copy(store: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copy(store[0], tmp_path / "embeddings.db"))


def change(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def test_rows_are_what_was_given(store: tuple[Path, Any]) -> None:
    path, answer = store
    before = tree(path.parent)
    opened, _ = open_store(str(path))
    assert opened.kind == "llm"
    found = {one.name: one for one in opened.collections()}
    assert {name: (one.rows, one.dimension, one.encoder, one.has_text) for name, one in found.items()} == {
        "stored": (20, 16, "letters-16", True),
        "hidden": (20, 16, "letters-16", False),
        "binary": (1, 16, "letters-16", False),
    }
    for name in ("stored", "hidden"):
        read = Read(opened, name)
        assert read.ids == list(answer["texts"])
        assert read.texts == (list(answer["texts"].values()) if name == "stored" else [None] * 20)
        np.testing.assert_array_equal(read.vectors, np.float32(list(answer["vectors"].values())))
        assert read.hashes == [f"md5:{hashlib.md5(one.encode()).hexdigest()}" for one in answer["texts"].values()]
    assert Read(opened, "hidden").metadata[3]["n"] == "key 3"
    opened.close()
    assert tree(path.parent) == before


def test_traces(store: tuple[Path, Any]) -> None:
    with closing(Llm(str(store[0]))) as opened:
        found = {one.name: {trace.kind: trace for trace in one.traces} for one in opened.collections()}
    assert (found["stored"]["text"].count, found["stored"]["hash"].count) == (20, 20)
    assert "text" not in found["hidden"]
    assert found["hidden"]["hash"].count == 20
    assert found["binary"]["text"].where == "embeddings.content_blob"
    assert "letters-16" in found["hidden"]["encoder"].detail
    assert (found["hidden"]["secret"].where, found["hidden"]["secret"].count) == ("embeddings.metadata", 20)
    assert "hf_" not in str(found)


@pytest.mark.parametrize("value", [None, b"", b"123", b"\0" * 60, "text", 7, 1.5])
def test_an_embedding_that_is_none_is_nan(copy: Path, value: Any) -> None:
    change(copy, "UPDATE embeddings SET embedding = ? WHERE id = 'key 5'", value)
    with closing(Llm(str(copy))) as opened:
        missing = np.isnan(Read(opened, "stored").vectors).any(axis=1)
        assert missing.tolist() == [n == 5 for n in range(20)]
        assert opened.notes == ["stored: rows without an embedding of 16 float32: 1, the first: key 5"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embeddings SET metadata = '[1]', content_hash = 'md5', content = x'00'",
        "UPDATE embeddings SET metadata = '[[[', content = 7",
        "UPDATE embeddings SET metadata = '{\"a\": 1e999}', updated = x'00'",
        "UPDATE collections SET model = NULL",
    ],
)
def test_wrong_types_do_not_stop_it(copy: Path, statement: str) -> None:
    change(copy, statement)
    with closing(Llm(str(copy))) as opened:
        opened.collections()
        assert len(Read(opened, "hidden").ids) == 20


def test_older_databases_lack_columns(copy: Path) -> None:
    change(copy, "DROP INDEX idx_embeddings_content_hash")
    for column in ("content_hash", "content_blob", "metadata"):
        change(copy, f"ALTER TABLE embeddings DROP COLUMN {column}")
    with closing(Llm(str(copy))) as opened:
        assert [one.rows for one in opened.collections()] == [20, 20, 1]
        assert Read(opened, "stored").hashes == [None] * 20


def test_messages(copy: Path) -> None:
    with closing(Llm(str(copy))) as opened, pytest.raises(DataError, match="#NAME with one of stored, hidden, binary"):
        list(opened.rows("x\x1b[31m"))
    change(copy, "DROP TABLE collections")
    with pytest.raises(DataError, match="no table collections as in a database of llm's embeddings"):
        Llm(str(copy))
