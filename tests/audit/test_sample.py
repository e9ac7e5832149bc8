"""Which rows an audit draws."""

import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from memory_store import rows
from unembed.audit.sample import LONGEST, Sample, allocate, draw
from unembed.errors import DataError
from unembed.stores.store import Rows


def batches(n: int, size: int = 7, told: bool = False, dimension: int = 4) -> Iterator[Rows]:
    """Rows whose first number is their place."""
    for start in range(0, n, size):
        places = np.arange(start, min(n, start + size))
        vectors = np.ones((len(places), dimension)) * (places[:, None] + 1)
        found = rows(vectors, [f"text {place}" if told else None for place in places])
        yield Rows([str(place) for place in places], found.vectors, found.texts, found.metadata)


def ids(sample: Sample) -> set[str]:
    return set(sample.rows.ids)


def test_every_row_is_drawn_as_often_as_every_other() -> None:
    drawn: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for seed in range(300):
        sample = draw(batches(40), 10, 0, seed=seed)
        assert len(sample.rows) == 10
        drawn.update(sample.rows.ids)
        first.update(sample.rows.ids[:1])
    # Binomial with a mean of 75 and a deviation of 7.5; the first row, of 7.5 and 2.7.
    assert len(drawn) == 40
    assert max(abs(count - 75) for count in drawn.values()) < 32
    assert max(first.values()) < 21


def test_a_sample_depends_on_the_seed_and_the_collection_and_not_on_batches() -> None:
    one = draw(batches(500), 50, seed=3, name="a")
    assert one.rows.ids == draw(batches(500, size=64), 50, seed=3, name="a").rows.ids
    assert ids(one) != ids(draw(batches(500), 50, seed=4, name="a"))
    assert ids(one) != ids(draw(batches(500), 50, seed=3, name="b"))
    assert (one.rows.vectors[:, 0] == [int(i) + 1 for i in one.rows.ids]).all()
    assert one.read == 500
    assert one.complete


def test_all_rows_are_drawn_where_there_are_few() -> None:
    sample = draw(batches(30), 50)
    assert ids(sample) == {str(i) for i in range(30)}
    assert len(sample.others) == 0


def test_the_others_are_not_in_the_sample_and_have_texts_first() -> None:
    def mixed() -> Iterator[Rows]:
        for batch in batches(300, told=True):
            texts = [text if int(i) % 3 == 0 else None for i, text in zip(batch.ids, batch.texts, strict=True)]
            yield Rows(batch.ids, batch.vectors, texts, batch.metadata)

    sample = draw(mixed(), 40, 80, seed=1)
    assert len(sample.rows) == 40
    assert not ids(sample) & set(sample.others.ids)
    assert all(sample.others.texts[:60])
    assert set(sample.pairs.ids) == {one for one in sample.others.ids if int(one) % 3 == 0}


def test_rows_that_are_no_vectors_are_read_and_not_drawn() -> None:
    vectors = np.ones((30, 3))
    vectors[::3], vectors[1::3] = np.nan, 0
    sample = draw([rows(vectors)], 30)
    assert ids(sample) == {f"r{i}" for i in range(2, 30, 3)}
    assert sample.read == 30


def test_half_of_the_sample_becomes_pairs_where_that_makes_enough() -> None:
    sample = draw(batches(150, told=True), 150)
    split = sample.with_pairs(64)
    assert len(split.pairs) == 75
    assert set(split.rows.ids) | set(split.pairs.ids) == ids(sample)
    assert not set(split.rows.ids) & set(split.pairs.ids)
    assert sample.with_pairs(76) is sample
    assert draw(batches(150), 150).with_pairs(8).pairs.ids == []


def test_reading_ends_with_the_time_and_says_so() -> None:
    sample = draw(batches(1000, size=100), 20, until=time.monotonic() - 1)
    assert sample.read == 100
    assert not sample.complete
    assert all(int(one) < 100 for one in sample.rows.ids)


def test_memory_does_not_grow_with_the_collection() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        draw(batches(n, size=500, dimension=64), 50, 100)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20_000) < 1.5 * peak(4_000)


def test_rows_of_other_dimensions_are_refused() -> None:
    with pytest.raises(DataError, match="docs: rows have 3 and 4 dimensions"):
        draw([rows(np.ones((2, 3))), rows(np.ones((2, 4)))], 3, name="docs")


def test_half_characters_are_shown_as_such() -> None:
    hostile = Rows(["a\ud800"], np.ones((1, 2), np.float32), ["x\udfffy"], [{}])
    sample = draw([hostile], 1, name="name\ud800")
    assert (sample.rows.ids, sample.rows.texts) == (["a?"], ["x?y"])


def test_long_texts_are_cut_and_metadata_left_out() -> None:
    sample = draw([rows(np.ones((3, 2)), ["x" * 10 * LONGEST] * 3)], 3)
    assert [len(text or "") for text in sample.rows.texts] == [LONGEST] * 3
    assert sample.rows.metadata == [{}] * 3


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([900, 100], 200, [180, 20]),
        ([1_000_000, 1_000, 5], 200, [200, 20, 5]),
        ([None, 100, 300], 300, [100, 50, 150]),
        ([None], 50, [50]),
        ([0, 40], 10, [0, 20]),
        ([], 10, []),
    ],
)
def test_a_sample_is_shared_by_size_with_a_least_for_each(sizes, total, expected) -> None:
    assert allocate(sizes, total) == expected
