"""Folders of txtai 9.14, by the side of what it was given."""

import json
import shutil
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading import Read, tree

from unembed.errors import DataError
from unembed.stores import open_store
from unembed.stores.messagepack import read_list
from unembed.stores.txtai import Txtai

MADE = Path(__file__).with_name("txtai_9.14.zip")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folders made by make_txtai.py, and what it printed. The library itself takes long to load."""
    pytest.importorskip("faiss")
    pytest.importorskip("unembed.stores.faiss")
    folder = tmp_path_factory.mktemp("txtai")
    with zipfile.ZipFile(MADE) as archive:
        archive.extractall(folder)
    return folder, json.loads((folder / "answer.json").read_text())


@pytest.fixture
def copy(store: tuple[Path, Any], tmp_path: Path) -> Path:
    shutil.copytree(store[0] / "texts", tmp_path / "store")
    return tmp_path / "store"


def test_rows_are_what_was_given(store: tuple[Path, Any]) -> None:
    folder, answer = store
    before = tree(folder)
    opened, _ = open_store(str(folder / "texts"))
    assert opened.kind == "txtai"
    (found,) = opened.collections()
    assert (found.name, found.rows, found.dimension, found.has_text) == ("embeddings", 30 - 1, 16, True)
    traces = {trace.kind: trace for trace in found.traces}
    assert traces["endpoint"].detail == "The configuration names the endpoint https://llm.internal."
    assert traces["text"].count == 29
    assert "sk-" not in str(found.traces) + str(found.about)
    assert "pass-word" not in str(found.traces) + str(found.about)
    read = Read(opened, "embeddings")
    assert dict(zip(read.ids, read.texts, strict=True)) == answer["texts"]
    assert read.metadata[read.ids.index("key 9")] == {"n": 9}
    np.testing.assert_allclose(read.vectors, [answer["vectors"][one] for one in read.ids], rtol=1e-5, atol=1e-6)
    opened.close()
    assert tree(folder) == before


def test_ids_where_the_texts_are_not_kept(store: tuple[Path, Any]) -> None:
    with closing(Txtai(str(store[0] / "ids"))) as opened:
        (found,) = opened.collections()
        read = Read(opened, "embeddings")
    assert not found.has_text
    assert sorted(read.ids) == sorted({*store[1]["texts"], "key 4"})
    np.testing.assert_allclose(read.of("key 9"), store[1]["vectors"]["key 9"], rtol=1e-5, atol=1e-6)


def test_a_pickled_configuration_is_not_read(copy: Path) -> None:
    (copy / "config.json").unlink()
    (copy / "config").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    with closing(Txtai(str(copy))) as opened:
        assert opened.notes == ["config: is a pickle and not read, so that the encoder is not known"]
        assert len(Read(opened, "embeddings").ids) == 29


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: is no JSON object"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not JSON"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: (folder / "config.json").write_text('{"backend": "annoy"}'),
            "by annoy, expected faiss or sqlite",
        ),
        (lambda folder: (folder / "embeddings").unlink(), "has no file embeddings"),
        (lambda folder: (folder / "documents").write_text("SQL"), "documents: is no SQLite database"),
    ],
)
def test_folders_that_are_something_else(copy: Path, change: Any, message: str) -> None:
    change(copy)
    with pytest.raises(DataError, match=message):
        Txtai(str(copy))


@pytest.mark.parametrize(
    "ids", [[], ["a", "ключ", "x" * 300, "y" * 70_000], [*range(-200, 70_000, 7)], [2**63, -(2**40)]]
)
def test_ids_in_messagepack(ids: list[Any]) -> None:
    written = pytest.importorskip("msgpack").packb(ids)
    assert read_list(written) == [str(one) for one in ids]
    for cut in {0, 1, len(written) // 2, len(written) - 1} - {len(written)}:
        with pytest.raises(ValueError, match="cut"):
            read_list(written[:cut])


@pytest.mark.parametrize("written", [b"\x80\x04]q\x00.", b"\xdd\xff\xff\xff\xff\xc0", b"\x91\x91\x01"])
def test_what_is_no_list_of_ids(written: bytes) -> None:
    with pytest.raises(ValueError, match="pickle|more than texts"):
        read_list(written)
