"""Which reader reads which URI."""

from pathlib import Path

import pytest

from unembed.errors import InputError
from unembed.stores.store import Uri, detect, open_store, parse


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("chroma:folder#notes", Uri("chroma", "folder", "notes")),
        ("qdrant:http://host:6333#a/b", Uri("qdrant", "http://host:6333", "a/b")),
        ("redis://host:6379/0#doc:v", Uri("", "redis://host:6379/0", "doc:v")),
        ("redis:redis://host/0", Uri("redis", "redis://host/0", "")),
        ("postgresql://user@host/db", Uri("", "postgresql://user@host/db", "")),
        ("file:x.npy", Uri("", "file:x.npy", "")),
        (r"C:\vectors.npy", Uri("", r"C:\vectors.npy", "")),
    ],
)
def test_parts_of_a_uri(uri: str, expected: Uri) -> None:
    assert parse(uri) == expected


def test_a_path_wins_over_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chroma:x#y").mkdir()
    assert parse("chroma:x#y") == Uri("", "chroma:x#y", "")


@pytest.mark.parametrize("uri", ["file:x.npy", "nothing-there", "dataset:folder"])
def test_a_kind_that_nothing_reads_is_told(uri: str) -> None:
    with pytest.raises(InputError, match="no such file or folder, and no kind of store before a colon"):
        open_store(uri)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["collections/notes/schema.json"], "milvus"),
        (["index.faiss", "index.pkl"], "faiss"),
        (["first.faiss", "second.faiss"], "faiss"),
        (["vectors.npy"], "files"),
    ],
)
def test_folders_tell_their_kind(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert detect(str(tmp_path)) == kind


@pytest.mark.parametrize(("location", "kind"), [("redis://h/0", "redis"), ("postgres://h/db", "pgvector")])
def test_addresses_tell_their_kind(location: str, kind: str) -> None:
    assert detect(location) == kind


@pytest.mark.parametrize(
    ("files", "said"), [(["notes.db"], "holds notes.db"), (["milvus.db/collections/n/schema.json"], "holds milvus.db")]
)
def test_a_folder_around_a_store_names_it(files: list[str], said: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{said}, expected the path of one"):
        open_store(str(tmp_path))


def test_nothing_is_no_store() -> None:
    with pytest.raises(InputError, match="named by nothing"):
        open_store("")
