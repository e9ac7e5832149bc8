"""Folders of Hugging Face `save_to_disk`, read as that package reads them, without its lock and cache files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trees import read, unchanged, unit

from unembed.errors import DataError
from unembed.stores.datasets import open as open_dataset

datasets = pytest.importorskip("datasets")
ROWS, DIMENSION = 120, 16


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    datasets.disable_progress_bars()


def dataset(rows: int = ROWS, **more: Any) -> Any:
    features = {"text": datasets.Value("string"), "label": datasets.Value("int64")}
    features["vector"] = datasets.List(datasets.Value("float32"), length=DIMENSION)
    columns = {"text": [f"text {n}" for n in range(rows)], "label": range(rows), "vector": unit(rows, DIMENSION)}
    return datasets.Dataset.from_dict({**columns, **more}, features=datasets.Features(features))


def test_a_dataset_is_read_as_its_package_does(tmp_path):
    dataset().save_to_disk(tmp_path / "d", num_shards=3)
    expected = datasets.load_from_disk(tmp_path / "d")
    with unchanged(tmp_path):
        store = open_dataset(str(tmp_path / "d"))
        (one,) = store.collections()
        found = read(store, "data")
    assert (one.name, one.dimension, one.number, one.has_text) == ("data", DIMENSION, "float32", True)
    assert found.texts == expected["text"][:]
    assert found.metadata == [{"label": n} for n in expected["label"]]
    np.testing.assert_array_equal(found.vectors, np.array(expected["vector"][:], np.float32))
    assert store.notes == []


def test_splits_are_collections(tmp_path):
    whole = dataset()
    splits = {
        "train": whole.select(range(100)),
        "test": whole.select(range(100, ROWS)),
        "none": datasets.Dataset.from_dict({"a": [1]}),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "d")
    store = open_dataset(str(tmp_path / "d"))
    assert [one.name for one in store.collections()] == ["train", "test"]
    assert read(store, "test").texts == [f"text {n}" for n in range(100, ROWS)]
    assert store.notes == ["data-00000-of-00001.arrow: no rows with a column of vectors"]
    with pytest.raises(DataError, match="has no collection 'validation'"):
        list(store.rows("validation"))


def test_what_map_and_filter_left_is_told(tmp_path):
    dataset().save_to_disk(tmp_path / "d")
    datasets.load_from_disk(tmp_path / "d").map(lambda row: {"text": row["text"].upper()})
    (one,) = open_dataset(str(tmp_path / "d")).collections()
    assert ("copy", "cache-*.arrow") in [(trace.kind, trace.where) for trace in one.traces]


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "..", "", "a/b"])
def test_files_elsewhere_are_not_read(tmp_path, name):
    dataset().save_to_disk(tmp_path / "d")
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(unit(3, 4).ravel()), 4)})
    with pa.OSFile(str(tmp_path / "secret.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "d" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="expected a name in this folder"):
        open_dataset(str(tmp_path / "d")).collections()


def damage(folder: Path, name: str) -> None:
    (data,) = folder.glob("data-*.arrow")
    match name:
        case "half a file":
            data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
        case "no file":
            data.unlink()
        case "random bytes":
            data.write_bytes(np.random.default_rng(0).bytes(5000))
        case "no state":
            (folder / "state.json").unlink()
        case "a state that is no object":
            (folder / "state.json").write_text("[]")


@pytest.mark.parametrize("name", ["half a file", "no file", "random bytes", "no state", "a state that is no object"])
def test_damaged_folders_are_one_line(tmp_path, name):
    dataset().save_to_disk(tmp_path / "d")
    damage(tmp_path / "d", name)
    with unchanged(tmp_path), pytest.raises(DataError) as caught:
        list(open_dataset(str(tmp_path / "d")).rows("data"))
    assert "\n" not in str(caught.value)
