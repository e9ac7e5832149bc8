"""FAISS indexes: what comes back is what FAISS itself gives, and no file takes the process down."""

import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from trees import here, read, unchanged, unit

from unembed.errors import DataError
from unembed.stores import child
from unembed.stores.faiss import open as open_faiss

faiss = pytest.importorskip("faiss")
pytestmark = pytest.mark.slow
ROWS, DIMENSION = 300, 32
# Of each index its description, whether it is an approximation, and the cosine that its vectors have to what was added.
KINDS = {
    "Flat": ("Flat", False, 1.0),
    "HNSW8": ("HNSW8,Flat", False, 1.0),
    "IVF4,Flat": ("IVF4,Flat", False, 1.0),
    "IVF4,PQ4x4": ("IVF4,PQ4x4", True, 0.6),
    "IVF4,PQ4x4fs": ("IVF4,PQ4x4fs", True, 0.6),
    "IVF4,SQ8": ("IVF4,SQ8", True, 0.999),
    "IDMap,Flat": ("IDMap,Flat", False, 1.0),
    "IDMap2,HNSW8": ("IDMap2,HNSW8,Flat", False, 1.0),
    "L2norm,Flat": ("L2norm,Flat", False, 1.0),
    "LSH": ("LSH", True, 0.7),
    "OPQ4_32,PQ4x4": ("OPQ32,PQ4x4", True, 0.6),
    "PCA16,Flat": ("PCA16,Flat", True, 0.6),
    "PQ4x4": ("PQ4x4", True, 0.6),
    "PQ4x4,RFlat": ("PQ4x4,RFlat", False, 1.0),
    "RaBitQ": ("RaBitQ", True, 0.7),
    "SQ8": ("SQ8", True, 0.999),
    "SQfp16": ("SQfp16", False, 0.9999),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with an index of each kind, and the indexes themselves."""
    folder, kept = tmp_path_factory.mktemp("faiss"), {}
    faiss.omp_set_num_threads(1)
    for kind in KINDS:
        index = faiss.index_factory(DIMENSION, kind)
        index.train(unit(ROWS, DIMENSION))
        if kind.startswith("IDMap"):
            index.add_with_ids(unit(ROWS, DIMENSION), np.arange(ROWS) * 3 + 5)
        else:
            index.add(unit(ROWS, DIMENSION))
        faiss.write_index(index, str(folder / f"{kind}.faiss"))
        kept[kind] = index
    return folder, kept


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(unit(ROWS, DIMENSION))
    faiss.write_index(index, str(tmp_path / "x.index"))
    return tmp_path / "x.index"


def test_an_index_is_told_as_faiss_calls_it(made, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(child, "frames", here)
    with unchanged(folder):
        found = {one.name: one for one in open_faiss(str(folder)).collections()}
    assert {kind: (found[kind].number, found[kind].lossy) for kind in KINDS} == {
        kind: (number, lossy) for kind, (number, lossy, _) in KINDS.items()
    }
    assert {(one.rows, one.dimension, one.metric, one.has_text) for one in found.values()} == {
        (ROWS, DIMENSION, "l2", False)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_that_faiss_gives(made, kind, monkeypatch):
    folder, indexes = made
    if kind != "Flat":
        monkeypatch.setattr(child, "frames", here)
    with unchanged(folder):
        parts = list(open_faiss(str(folder)).rows(kind, 120))
    vectors, ids = np.concatenate([one.vectors for one in parts]), [name for one in parts for name in one.ids]
    index = indexes[kind]
    index = faiss.downcast_index(index.index) if kind.startswith("IDMap") else index
    np.testing.assert_allclose(vectors, index.reconstruct_n(0, ROWS), atol=1e-6)
    cosines = (vectors * unit(ROWS, DIMENSION)).sum(1) / np.linalg.norm(vectors, axis=1)
    assert cosines.mean() > KINDS[kind][2] - 1e-4
    assert [len(one) for one in parts] == [120, 120, 60]
    assert ids == [str(3 * n + 5 if kind.startswith("IDMap") else n) for n in range(ROWS)]


def test_ids_of_an_inverted_file_are_its_own(tmp_path, monkeypatch):
    index = faiss.index_factory(DIMENSION, "IVF4,Flat")
    index.train(unit(ROWS, DIMENSION))
    names = np.random.default_rng(1).permutation(ROWS) * 1000 + 7
    index.add_with_ids(unit(ROWS, DIMENSION), names)
    faiss.write_index(index, str(tmp_path / "own.faiss"))
    monkeypatch.setattr(child, "frames", here)
    found = read(open_faiss(str(tmp_path / "own.faiss")), "own")
    order = np.argsort(names)
    assert found.ids == [str(one) for one in names[order]]
    np.testing.assert_array_equal(found.vectors, unit(ROWS, DIMENSION)[order])


def test_faiss_itself_aborts_on_an_index_that_is_read_here(made):
    folder, _ = made
    code = f"import faiss; i = faiss.read_index({str(folder / 'IDMap,Flat.faiss')!r}); i.reconstruct_n(0, i.ntotal)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert len(next(open_faiss(str(folder / "IDMap,Flat.faiss")).rows("IDMap,Flat", ROWS))) == ROWS


def damaged(content: bytes) -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(5000)
    huge = (1 << 38).to_bytes(8, "little")
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "a head and random bytes": content[:40] + noise,
        "many vectors claimed": content[:8] + huge + content[16:],
        "many bytes claimed": content.replace((ROWS * DIMENSION).to_bytes(8, "little"), huge, 1),
        "wide vectors claimed": content[:4] + b"\xff\xff\xff\x7f" + content[8:],
    }


@pytest.mark.parametrize("name", damaged(b""))
def test_a_damaged_file_is_one_line(flat, name):
    content = damaged(flat.read_bytes())[name]
    assert content != flat.read_bytes()
    flat.write_bytes(content)
    tracemalloc.start()
    with unchanged(flat.parent), pytest.raises(DataError) as caught:
        open_faiss(str(flat)).collections()
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    assert str(caught.value).startswith(str(flat))
    assert "\n" not in str(caught.value)
    if name in ("empty", "half"):
        assert "is cut short or damaged, expected a whole FAISS index: take it from a backup" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("ret ==", "Error", "fourcc", "0x"))


def test_what_is_no_index_of_float32_vectors_is_said(flat):
    flat.write_text("some words of a text file")
    with pytest.raises(DataError, match=r"does not begin as a FAISS index does, expected a file that"):
        open_faiss(str(flat)).collections()
    index = faiss.IndexBinaryFlat(64)
    index.add(np.zeros((10, 8), np.uint8))
    faiss.write_index_binary(index, str(flat))
    with pytest.raises(DataError, match="is a FAISS index of binary vectors, which are not read"):
        open_faiss(str(flat)).collections()


def test_a_damaged_file_leaves_the_others(flat):
    (flat.parent / "broken.faiss").write_bytes(b"IxF2")
    store = open_faiss(str(flat.parent))
    assert [one.name for one in store.collections()] == ["x"]
    assert len(store.notes) == 1
    assert "broken.faiss" in store.notes[0]


def test_a_crash_of_the_reader_is_an_error(flat):
    index = faiss.IndexFlatL2(DIMENSION)
    index.add(unit(20_000, DIMENSION))
    faiss.write_index(index, str(flat))
    rows = open_faiss(str(flat)).rows("x", 100)
    next(rows)
    (reader,) = (one for one in psutil.Process().children() if "unembed.stores.child" in one.cmdline())
    reader.send_signal(signal.SIGSEGV)
    with pytest.raises(DataError, match=r"crashed \(SIGSEGV\)"):
        list(rows)
    assert not reader.is_running()
    assert not list(flat.parent.glob("core*"))


def test_a_reader_ends_with_its_iterator(flat):
    index = faiss.IndexFlatL2(DIMENSION)
    index.add(unit(20_000, DIMENSION))
    faiss.write_index(index, str(flat))
    rows = open_faiss(str(flat)).rows("x", 100)
    next(rows)
    (reader,) = (one for one in psutil.Process().children() if "unembed.stores.child" in one.cmdline())
    rows.close()
    assert not reader.is_running()


def test_a_reader_that_gives_nothing_is_stopped(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.faiss")  # reading it waits for a writer who never comes
    monkeypatch.setattr(child, "SECONDS", 2.0)
    with pytest.raises(DataError, match=r"pipe.faiss: gave nothing for 2 s"):
        open_faiss(str(tmp_path / "pipe.faiss")).collections()


def test_langchains_pickle_is_not_read(flat, tmp_path):
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "trapped",)

    flat.rename(tmp_path / "index.faiss")
    (tmp_path / "index.pkl").write_bytes(pickle.dumps(Trap()))
    store = open_faiss(str(tmp_path))
    with unchanged(tmp_path):
        assert [one.name for one in store.collections()] == ["index"]
        assert read(store, "index").texts == [None] * ROWS
    assert [note for note in store.notes if "index.pkl" in note]
    assert not (tmp_path / "trapped").exists()


def test_what_is_not_there_is_said(flat, tmp_path):
    with pytest.raises(DataError, match=r"x.index: has no collection 'y', expected .*#NAME with one of x"):
        list(open_faiss(str(flat)).rows("y"))
    store = open_faiss(str(flat))
    flat.unlink()
    with pytest.raises(DataError, match=r"x.index"):
        list(store.rows("x"))
    with pytest.raises(DataError, match="no such file or folder"):
        open_faiss(str(flat))
    with pytest.raises(DataError, match="holds no file ending in .faiss or .index"):
        open_faiss(str(tmp_path))


def test_a_module_in_the_working_folder_is_not_run(flat, tmp_path, monkeypatch):
    for name in ("faiss", "numpy", "unembed"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    (found,) = open_faiss("x.index").collections()
    assert found.rows == ROWS
