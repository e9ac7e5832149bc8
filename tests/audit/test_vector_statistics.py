"""What vectors say of themselves."""

import numpy as np
import pytest

from memory_store import rows
from unembed.audit import vectors
from unembed.audit.vectors import Statistics, number_of


def report(x: np.ndarray, batch: int = 50) -> dict:
    statistics = Statistics()
    for start in range(0, len(x), batch):
        statistics.add(rows(x[start : start + batch]))
    return dict(statistics.report())


def gaussian(n: int = 400, d: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_lengths_and_rows_that_are_no_vectors() -> None:
    x = gaussian()
    x[3], x[5], x[7, 0], x[9] = np.nan, np.inf, np.nan, 0
    found = report(x)
    lengths = np.linalg.norm(np.delete(x, [3, 5, 7, 9], 0), axis=1)
    assert (found["rows"], found["unreadable"], found["zero"], found["dimension"]) == (400, 3, 1, 32)
    for name, value in (("mean", lengths.mean()), ("deviation", lengths.std()), ("least", lengths.min())):
        assert found["length"][name] == pytest.approx(value, rel=1e-4)
    assert not found["unit"]
    assert report(unit(x[10:]))["unit"]


def test_a_collection_without_vectors_says_so() -> None:
    assert report(np.full((5, 3), np.nan)) == {"rows": 5, "unreadable": 5, "zero": 0}
    assert Statistics().report() == {"rows": 0, "unreadable": 0, "zero": 0}


def test_duplicates_are_counted_across_batches() -> None:
    x = gaussian()
    assert report(x)["duplicates"] == 0
    x[200:300] = x[0]
    assert report(x)["duplicates"] == pytest.approx(100 / 400)


def test_duplicates_are_estimated_where_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "HASHES", 2000)
    x = gaussian(40_000, 4)
    x[1::2] = x[::2]
    assert report(x, 1000)["duplicates"] == pytest.approx(0.5, abs=0.03)


def test_constant_direction_and_dead_dimensions() -> None:
    x = gaussian()
    assert report(x)["constant"] < 0.15
    x[:, 4], x[:, 6] = 0, 2
    found = report(x)
    assert found["dead"] == 2
    shifted = unit(gaussian() + 3)
    assert report(shifted)["constant"] == pytest.approx(np.linalg.norm(shifted.mean(0)), abs=1e-4)


def quantised(x: np.ndarray) -> np.ndarray:
    scale = np.abs(x).max(1, keepdims=True)
    return np.round(x / scale * 127)


X = unit(gaussian(1000, 64)).astype(np.float32)
STEP = 0.6 / 255


@pytest.mark.parametrize(
    ("x", "number"),
    [
        (X, "float32"),
        (X.astype(np.float16), "float16"),
        ((X.view(np.uint32) & 0xFFFF0000).view(np.float32), "bfloat16"),
        (quantised(X), "int8"),
        (unit(quantised(X)), "int8"),  # int8 and a scale for each row
        (np.round((X + 0.3) / STEP).clip(0, 255) * STEP - 0.3, "int8"),  # for each dimension, as scalar quantisers do
        (np.sign(X), "bit"),
        (X > 0, "bit"),
    ],
    ids=["float32", "float16", "bfloat16", "whole", "by row", "by dimension", "signs", "bits"],
)
def test_the_number_format_is_told(x: np.ndarray, number: str) -> None:
    assert number_of(x.astype(np.float32)) == number
    assert report(x.astype(np.float32))["number"] == number


def test_different_values_of_a_dimension_are_counted() -> None:
    assert [report(x.astype(np.float32))["distinct"] for x in (X, np.sign(X))] == [1000, 2]
