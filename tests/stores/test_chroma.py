"""Chroma's folder, by the side of its own client; what it keeps of deleted rows; damaged and hostile ones."""

import json
import os
import pickle
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading import Read, made, tree

from unembed.errors import DataError
from unembed.stores import open_store, sqlite_files
from unembed.stores.chroma import Chroma
from unembed.stores.store import detect

OLD = Path(__file__).with_name("chroma_0.6.3.zip")


@pytest.fixture(scope="session")
def current(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store of the installed client, and what that gives back."""
    folder = tmp_path_factory.mktemp("chroma") / "current"
    return folder, made("make_chroma.py", folder, "chromadb")


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same, as version 0.6.3 left it."""
    folder = tmp_path_factory.mktemp("chroma")
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(folder)
    return folder / "store", json.loads((folder / "answer.json").read_text())


@pytest.fixture(params=["current", "old"])
def both(request: pytest.FixtureRequest) -> tuple[Path, Any]:
    found: tuple[Path, Any] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def copy(old: tuple[Path, Any], tmp_path: Path) -> Path:
    """A store to damage."""
    shutil.copytree(old[0], tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Chroma]]:
    stores: list[Chroma] = []

    def go(path: Path) -> Chroma:
        stores.append(Chroma(str(path)))
        return stores[-1]

    yield go
    for store in stores:
        store.close()


Open = Callable[[Path], Chroma]


def index_of(store: Chroma, name: str) -> Path:
    return store.folder / next(one for one in store.collections() if one.name == name).about["index"]


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as database, database:
        database.create_function("four_before", 1, lambda blob: (int.from_bytes(blob, "big") - 4).to_bytes(8, "big"))
        for statement in statements:
            database.execute(statement)


def test_rows_are_the_clients(both: tuple[Path, Any], opened: Open) -> None:
    folder, answer = both
    before = tree(folder)
    store = opened(folder)
    found = {one.name: one for one in store.collections() if not one.name.endswith("(deleted)")}
    assert found.keys() == answer["rows"].keys()
    for name, expected in answer["rows"].items():
        read = Read(store, name)
        assert found[name].rows == len(read.ids) == len(expected["ids"])
        order = [read.ids.index(one) for one in expected["ids"]]
        assert [read.texts[i] for i in order] == expected["texts"]
        assert [read.metadata[i] for i in order] == [one or {} for one in expected["metadata"]]
        if order:
            assert found[name].dimension == 8
            np.testing.assert_allclose(read.vectors[order], expected["vectors"], rtol=2e-6, atol=1e-6)
    assert {name: one.metric for name, one in found.items() if name != "default-encoder"} == {
        "queued": "l2", "cosine": "cosine", "synced": "ip",
    }  # fmt: skip
    assert store.notes == []
    store.close()
    assert tree(folder) == before


def test_deleted_rows_are_counted_and_read(both: tuple[Path, Any], opened: Open) -> None:
    folder, answer = both
    store = opened(folder)
    found = {one.name: one for one in store.collections()}
    for name, expected in answer["deleted"].items():
        if name == "gone":
            gone = [one for one in found if one not in answer["rows"] and one not in answer["deleted"]]
            assert len(gone) == 1
            name = gone[0]
        read = Read(store, name)
        assert found[name].rows == len(expected)
        assert sorted(read.ids) == sorted(expected)
        wanted = np.array([expected[one] for one in read.ids])
        if "synced" in name:  # of these the index has forgotten the ids, and labels are in no order
            read.vectors, wanted = (one[np.argsort(one[:, 0])] for one in (read.vectors, wanted))
        np.testing.assert_allclose(read.vectors, wanted, rtol=2e-6, atol=1e-6)
    for name in ("queued", "cosine", "synced"):
        counts = {
            trace.kind: trace.count for trace in found[name].traces if trace.kind in ("deleted", "text") and trace.count
        }
        assert counts["text"] == sum(text is not None for text in answer["rows"][name]["texts"])
        deleted = [one for one in found[name].traces if one.kind == "deleted" and "vectors" in one.detail]
        assert [one.count for one in deleted] == [len(answer["deleted"][f"{name} (deleted)"])]
    assert Read(store, "queued (deleted)").texts == ["text number 3"]  # the queue still has it
    read = Read(store, "cosine (deleted)")
    assert dict(zip(read.ids, read.texts, strict=True)) == {"id 5": None, "id 6": None, "id 39": "text number 39"}


def test_versions_before_1_keep_the_texts_of_deleted_collections(old: tuple[Path, Any], opened: Open) -> None:
    traces = opened(old[0]).collections()[0].traces
    assert [one.count for one in traces if "deleted collections" in one.detail] == [20]


def test_encoder_endpoint_and_secret(current: tuple[Path, Any], opened: Open) -> None:
    found = next(one for one in opened(current[0]).collections() if one.name == "default-encoder")
    assert found.encoder == "all-MiniLM-L6-v2"
    queued = next(one for one in opened(current[0]).collections() if one.name == "queued")
    assert [one.where for one in queued.traces if one.kind == "secret"] == ["embedding_metadata"]
    assert "correct-horse" not in str(queued)
    traces = {trace.kind: trace for trace in found.traces}
    assert traces["endpoint"].detail == "The configuration names the endpoint https://llm.internal:8443."
    assert traces["secret"].count == 1
    assert "sk-" not in str(found.traces)


def test_the_kind_is_told_by_the_files(old: tuple[Path, Any]) -> None:
    for uri in (str(old[0]), f"{old[0]}#cosine", str(old[0] / "chroma.sqlite3"), f"chroma:{old[0]}#cosine"):
        store, name = open_store(uri)
        assert store.kind == "chroma"
        assert name == ("cosine" if "#" in uri else "")
        store.close()


def test_vectors_are_read_where_the_database_is_lost(copy: Path, old: tuple[Path, Any], opened: Open) -> None:
    index = index_of(opened(copy), "cosine").name
    (copy / "chroma.sqlite3").unlink()
    before = tree(copy)
    store, _ = open_store(str(copy))
    assert "chroma.sqlite3 is not there" in store.notes[0]
    names = [one.name for one in store.collections()]
    assert len(names) == 3  # of "queued" nothing was in an index
    read = Read(store, index)
    expected = old[1]["rows"]["cosine"]
    for name, vector in list(zip(expected["ids"], expected["vectors"], strict=True))[:5]:
        np.testing.assert_allclose(read.of(name), vector, rtol=2e-6, atol=1e-6)
    assert tree(copy) == before


def test_rows_that_the_metadata_has_yet_to_take(copy: Path, opened: Open) -> None:
    """As a process leaves them that was killed between the queue and the metadata."""
    change(
        copy,
        "DELETE FROM embeddings WHERE embedding_id = 'new'",
        "UPDATE max_seq_id SET seq_id = four_before(seq_id) WHERE segment_id IN (SELECT s.id FROM segments s "
        "JOIN collections c ON c.id = s.collection WHERE scope = 'METADATA' AND name = 'cosine')",
    )
    store = opened(copy)
    read = Read(store, "cosine")
    assert read.ids[-1] == "new"
    assert len(read.ids) == 43
    assert next(one.rows for one in store.collections() if one.name == "cosine") == 43
    again = "SELECT 3, topic, id FROM embeddings_queue WHERE id = 'new'"
    change(copy, f"INSERT INTO embeddings_queue (operation, topic, id) {again}")
    store = opened(copy)
    assert len(Read(store, "cosine").ids) == 42
    assert Read(store, "cosine (deleted)").ids[-1] == "new"


def test_markup_and_control_characters_are_kept_as_they_are(copy: Path, opened: Open) -> None:
    change(
        copy,
        "UPDATE embedding_metadata SET string_value = '<script>alert(1)</script>' || char(27, 91, 51, 49, 109, 0, 120) "
        "WHERE key = 'chroma:document'",
        "UPDATE embedding_metadata SET string_value = CAST(x'ff41' AS TEXT) WHERE key = 'word'",
    )
    read = Read(opened(copy), "queued")
    assert set(read.texts) == {"<script>alert(1)</script>\x1b[31m\0x"}
    assert read.metadata[0]["word"] == "\ufffdA"


def test_a_row_that_is_too_large_loses_its_text_alone(
    copy: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(
        copy,
        "UPDATE embedding_metadata SET string_value = hex(zeroblob(1000000)) WHERE key = 'chroma:document' AND id = 5",
    )
    monkeypatch.setattr(sqlite_files, "LENGTH", 1 << 20)
    store = opened(copy)
    read = Read(store, "queued")
    assert [i for i, text in enumerate(read.texts) if text is None] == [
        3
    ]  # id 3 is deleted, so that row 5 is the fourth
    assert not np.isnan(read.vectors).any()
    assert ["larger than 1 MiB" in note for note in store.notes] == [True]


def test_many_large_texts_are_read_in_small_pieces(copy: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    change(copy, "UPDATE embedding_metadata SET string_value = hex(zeroblob(3000)) WHERE key = 'chroma:document'")
    monkeypatch.setattr("unembed.stores.rows.BATCH_BYTES", 20_000)
    monkeypatch.setattr("unembed.stores.chroma.rows.BATCH_BYTES", 20_000)
    store = opened(copy)
    sizes = [len(rows) for rows in store.rows("queued")]
    assert sum(sizes) == 11
    assert max(sizes) <= 4
    assert Read(store, "queued").texts == ["0" * 6000] * 11
    assert store.notes == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embedding_metadata SET string_value = x'00ff', int_value = 'text', float_value = 'text'",
        "UPDATE collections SET dimension = 'eight'",
        "UPDATE collections SET config_json_str = '[[[' WHERE true",
        "UPDATE embeddings_queue SET metadata = '[1,2' WHERE true",
        "UPDATE embeddings_queue SET operation = 'drop', id = 7",
        "UPDATE max_seq_id SET seq_id = 'far'",
        "UPDATE segment_metadata SET str_value = x'00'",
        "UPDATE databases SET tenant_id = 7",
    ],
)
def test_wrong_types_do_not_stop_it(copy: Path, opened: Open, statement: str) -> None:
    change(copy, "PRAGMA ignore_check_constraints = on", statement)
    store = opened(copy)
    names = [one.name for one in store.collections()]
    assert sum(len(Read(store, name).ids) for name in names) > 76


@pytest.mark.parametrize("table", ["collections", "segments", "embeddings", "embedding_metadata", "embeddings_queue"])
@pytest.mark.parametrize("instead", ["", "CREATE VIEW {0} AS SELECT 1 AS id", "CREATE TABLE {0} (other)"])
def test_a_table_that_is_missing_or_something_else(copy: Path, table: str, instead: str) -> None:
    change(copy, "PRAGMA legacy_alter_table = on", f"DROP TABLE {table}", instead.format(table) or "SELECT 1")
    before = tree(copy)
    with pytest.raises(DataError, match=f"no table {table} as in a Chroma store") as caught:
        Chroma(str(copy))
    assert "\n" not in str(caught.value)
    assert tree(copy) == before


def test_a_database_cut_in_half(copy: Path) -> None:
    file = copy / "chroma.sqlite3"
    os.truncate(file, file.stat().st_size // 2)

    def read() -> None:
        for one in (store := Chroma(str(copy))).collections():
            list(store.rows(one.name))

    with pytest.raises(DataError) as caught:
        read()
    assert str(caught.value).startswith(f"{file}: cannot be read as SQLite")
    assert "\n" not in str(caught.value)


def test_an_index_cut_in_half(copy: Path, old: tuple[Path, Any], opened: Open) -> None:
    file = index_of(opened(copy), "synced") / "data_level0.bin"
    os.truncate(file, 15 * 172 + 7)  # rows are of 172 bytes
    store = opened(copy)
    read = Read(store, "synced")
    missing = np.isnan(read.vectors).any(axis=1)
    assert 0 < missing.sum() < len(missing)
    assert any("is cut short, it holds 15 rows of" in note for note in store.notes)
    assert any("vector is lost, since the file of the index is cut short" in note for note in store.notes)
    assert not any("neither in the index nor in the queue" in note for note in store.notes)
    expected = dict(zip(old[1]["rows"]["synced"]["ids"], old[1]["rows"]["synced"]["vectors"], strict=True))
    for name, vector in zip(np.array(read.ids)[~missing], read.vectors[~missing], strict=True):
        np.testing.assert_allclose(vector, expected[str(name)], rtol=2e-6)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\1\0\0\0" + b"\0" * 96])
def test_an_index_with_another_header(copy: Path, opened: Open, content: bytes) -> None:
    (index_of(opened(copy), "cosine") / "header.bin").write_bytes(content)
    store = opened(copy)
    assert np.isnan(Read(store, "cosine").vectors).any()
    assert any("header.bin" in note for note in store.notes)
    assert not np.isnan(Read(store, "synced").vectors).any()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_no_pickle_runs(copy: Path, tmp_path: Path, opened: Open) -> None:
    file = index_of(opened(copy), "cosine") / "index_metadata.pickle"
    file.write_bytes(pickle.dumps({"id_to_label": Touch(tmp_path / "ran")}))
    store = opened(copy)
    names = [one.name for one in store.collections()]
    assert "cosine (without ids)" in names
    assert len(Read(store, "cosine (without ids)").ids) == 40 + 1  # of the queue
    assert any("posix.mkdir, which is not run" in note or "nt.mkdir" in note for note in store.notes)
    assert not (tmp_path / "ran").exists()


def test_memory_that_was_written_with_the_index(copy: Path, opened: Open) -> None:
    file = index_of(opened(copy), "cosine") / "data_level0.bin"
    content = bytearray(file.read_bytes())
    content[-100:] = b"Dear Ms Miller, " * 6 + b"\0" * 4
    file.write_bytes(content)
    found = next(one for one in opened(copy).collections() if one.name == "cosine")
    assert [one.where for one in found.traces if "memory" in one.detail] == [f"{file.parent.name}/data_level0.bin"]
    assert "Miller" not in str(found.traces)


def test_a_change_while_it_is_read_is_noted_once(copy: Path, opened: Open) -> None:
    store = opened(copy)
    index = index_of(store, "cosine")
    for _ in range(2):
        rows = store.rows("cosine", 10)
        next(rows)
        os.utime(index / "data_level0.bin")
        rows.close()
    assert store.notes == [f"{index.name}: changed while it was read, what was read may mix two states"]


def test_no_such_collection(old: tuple[Path, Any], opened: Open) -> None:
    with pytest.raises(DataError, match=r"no collection 'nothing', expected .*cosine"):
        list(opened(old[0]).rows("nothing"))


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no chroma.sqlite3 and no folder of an index"):
        Chroma(str(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        Chroma(str(tmp_path / "missing"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("part", ["", "chroma.sqlite3", "index", "data_level0.bin"])
def test_no_permission(copy: Path, opened: Open, part: str) -> None:
    index = index_of(opened(copy), "synced")
    closed = {"index": index, "data_level0.bin": index / part}.get(part, copy / part)
    closed.chmod(0)
    try:
        if part in ("", "chroma.sqlite3"):
            with pytest.raises(DataError, match="Permission denied"):
                Chroma(str(copy))
        else:
            store = opened(copy)
            assert np.isnan(Read(store, "synced").vectors).any()
            assert "Permission denied" in store.notes[0]
    finally:
        closed.chmod(0o700)


def test_folders_that_only_look_like_stores(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "meta.json").write_text("{}")
    assert detect(str(tmp_path)) == "files"
