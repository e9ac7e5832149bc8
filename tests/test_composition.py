"""Several changes at once: what they make of a text, and that the most promising of all joined ones are found."""

from itertools import combinations

import numpy as np
import pytest

from unembed.search.composition import Change, compose
from unembed.search.options import SearchTuning

TUNING = SearchTuning()
IDS = (10, 11, 12, 13, 14, 15)
Floats = np.ndarray


def unit(rows: Floats) -> Floats:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def vectors(seed: int, count: int) -> tuple[Floats, Floats, Floats]:
    """A hypothesis' embedding, that searched for, and those of changes, not far from the first."""
    noise = np.random.default_rng(seed)
    e_hat, e = unit(noise.standard_normal((2, 12)))
    return e_hat, e, unit(e_hat + 0.3 * noise.standard_normal((count, 12)))


def promised(e_hat: Floats, e: Floats, several: Floats) -> float:
    y = e_hat + (several - e_hat).sum(0)
    return float(y @ e / np.linalg.norm(y))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change(), IDS),
        (Change({1: (7,)}), (10, 7, 12, 13, 14, 15)),
        (Change({0: (7, 10), 5: (15, 8)}), (7, 10, 11, 12, 13, 14, 15, 8)),
        (Change({2: (), 3: ()}), (10, 11, 14, 15)),
        (Change({}, (1, 0, 2, 3, 4, 5)), (11, 10, 12, 13, 14, 15)),
        (Change({0: (7,)}, (5, 4, 3, 2, 1, 0)), (15, 14, 13, 12, 11, 7)),
    ],
)
def test_what_a_change_makes_of_a_text(change: Change, expected: tuple[int, ...]) -> None:
    assert change.of(IDS) == expected


def test_changes_apart_are_joined() -> None:
    one, other, order = Change({1: (7,)}), Change({3: (), 4: (8, 9)}), Change({}, (5, 4, 3, 2, 1, 0))
    assert (one & other).of(IDS) == (other & one).of(IDS) == (10, 7, 12, 8, 9, 15)
    assert (one & order).of(IDS) == (order & one).of(IDS) == (15, 14, 13, 12, 7, 10)


def test_language_counts() -> None:
    assert (Change({1: (7,)}, nats=-2.0) & Change({3: (8,)}, nats=0.5)).nats == -1.5
    e_hat, e, rows = vectors(0, 9)
    nats = np.random.default_rng(0).normal(size=9)
    changes = [(Change({place: (20 + place,)}, nats=nats[place]), row) for place, row in enumerate(rows)]
    ids = tuple(range(9))
    every = {
        (changes[i][0] & changes[j][0]).of(ids): promised(e_hat, e, rows[[i, j]]) + 0.3 * (nats[i] + nats[j])
        for i, j in combinations(range(9), 2)
    }
    joined = [change.of(ids) for change in compose(e_hat, changes, e, 500, TUNING, 0.3)]
    pairs = [text for text in joined if text in every]
    best = sorted(every, key=lambda text: -every[text])[: len(pairs)]
    assert len(pairs) >= 24
    assert [every[text] for text in pairs] == pytest.approx([every[text] for text in best], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_pairs_are_those_of_all(seed: int) -> None:
    e_hat, e, rows = vectors(seed, 9)
    changes = [(Change({place: (20 + place,)}), row) for place, row in enumerate(rows)]
    ids = tuple(range(9))
    every = {
        (changes[i][0] & changes[j][0]).of(ids): promised(e_hat, e, rows[[i, j]]) for i, j in combinations(range(9), 2)
    }
    joined = [change.of(ids) for change in compose(e_hat, changes, e, 500, TUNING, 0.0)]
    pairs = [text for text in joined if text in every]
    best = sorted(every, key=lambda text: -every[text])[: len(pairs)]
    assert len(pairs) >= 24
    assert [every[text] for text in pairs] == pytest.approx([every[text] for text in best], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_three_and_four_is_that_of_all(seed: int) -> None:
    """With so few changes the beam loses nothing that matters."""
    e_hat, e, rows = vectors(seed, 7)
    changes = [(Change({place: (20 + place,)}), row) for place, row in enumerate(rows)]
    ids = tuple(range(7))

    def value(text: tuple[int, ...]) -> float:
        return promised(e_hat, e, rows[[place for place in ids if text[place] >= 20]])

    joined = [change.of(ids) for change in compose(e_hat, changes, e, 500, TUNING, 0.0)]
    assert len(joined) == len(set(joined))
    values = [value(text) for text in joined]
    assert values == sorted(values, reverse=True)
    for size in range(2, TUNING.joined + 1):
        every = [promised(e_hat, e, rows[list(some)]) for some in combinations(range(7), size)]
        found = [value(text) for text in joined if sum(token >= 20 for token in text) == size]
        assert found[0] == pytest.approx(max(every), abs=1e-5)
    assert max(sum(token >= 20 for token in text) for text in joined) == TUNING.joined
    assert [change.of(ids) for change in compose(e_hat, changes, e, 3, TUNING, 0.0)] == joined[:3]


def test_changes_in_each_others_way_are_not_joined() -> None:
    e_hat, e, rows = vectors(0, 6)
    order = (5, 4, 3, 2, 1, 0)
    kinds = [
        Change({0: (7,)}),
        Change({0: (8,)}),
        Change({1: (), 0: ()}),
        Change({}, order),
        Change({}, (*order[1:], 5)),
    ]
    kinds.append(Change({4: (9,)}))
    joined = {change.of(IDS) for change in compose(e_hat, list(zip(kinds, rows, strict=True)), e, 500, TUNING, 0.0)}
    apart = {
        (0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 5), (4, 5),
        (0, 3, 5), (0, 4, 5), (1, 3, 5), (1, 4, 5), (2, 3, 5), (2, 4, 5),
    }  # fmt: skip
    expected = set()
    for group in apart:
        whole = Change()
        for number in group:
            whole &= kinds[number]
        expected.add(whole.of(IDS))
    assert joined == expected


def test_of_one_change_there_is_nothing_to_join() -> None:
    e_hat, e, rows = vectors(0, 2)
    assert compose(e_hat, [], e, 5, TUNING, 0.0) == []
    assert compose(e_hat, [(Change({0: (1,)}), rows[0])], e, 5, TUNING, 0.0) == []
    assert compose(e_hat, [(Change({0: (1,)}), rows[0]), (Change({0: (2,)}), rows[1])], e, 5, TUNING, 0.0) == []
