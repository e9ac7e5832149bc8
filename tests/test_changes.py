"""Small changes of a text: ranked as the surrogate would rank them one by one, and none forgotten."""

from itertools import permutations

import numpy as np
import pytest

from test_surrogate import LINEAR, TABLE, V, linear, unit
from unembed.search.changes import LEAST, Changes
from unembed.search.options import Search, SearchTuning
from unembed.surrogate.bag import Surrogate

SURROGATE = Surrogate(TABLE, LINEAR)
BASE = (3, 9, 8, 20, 31)
E = unit(linear([3, 9, 21, 30, 2, 7])).astype(np.float32)
NAT = 0.01
TUNING = SearchTuning()
BARRED = (0, 1)  # tokens that are not to be used
STANDING = np.random.default_rng(1).normal(-2, 0.5, len(BASE)).astype(np.float32)


def likelihoods(rows: int) -> np.ndarray:
    found = np.random.default_rng(rows).normal(-5, 4, (rows, V)).astype(np.float32)
    found[0, 7:9] = -80.0  # counts as `LEAST`
    found[:, BARRED] = -np.inf
    return found


def changes(ids: tuple[int, ...] = BASE, nat: float = NAT, seed: int = 0) -> Changes:
    e_hat = unit(linear(list(ids))).astype(np.float32)
    standing = np.resize(STANDING, len(ids))
    return Changes(
        SURROGATE,
        ids,
        e_hat,
        E,
        standing,
        Search(1.0, tuning=SearchTuning(listed_nat=nat)),
        np.random.default_rng(seed),
    )


def cosine(found: Changes, after: tuple[int, ...]) -> float:
    """What the bag promises of a text: the hypothesis' y, its share in what stays, and what the rest contributes."""
    x, ids = SURROGATE.x_VD.astype(np.float64), list(found.ids)
    bag_before, bag_after = x[ids].mean(0), x[list(after)].mean(0)
    y = found.y_D.astype(np.float64) + (bag_after - bag_before)
    return float(y @ E / np.linalg.norm(y))


def test_exchanges_are_ranked_by_the_cosine_of_each() -> None:
    gains = likelihoods(len(BASE))
    for nat in (1e-6, NAT):
        found = changes(nat=nat)
        listed = found.exchanges(gains)

        def score(text: tuple[int, ...], found: Changes = found, nat: float = nat) -> float:
            (place,) = (i for i in range(len(BASE)) if text[i] != BASE[i])
            return cosine(found, text) + nat * max(LEAST, float(gains[place, text[place]]))

        every = [
            (*BASE[:place], token, *BASE[place + 1 :])
            for place in range(len(BASE))
            for token in range(V)
            if token != BASE[place] and token not in BARRED
        ]
        ranked = sorted(every, key=score, reverse=True)[: TUNING.listed_exchanges]
        texts = [change.of(BASE) for change in listed]
        assert len(texts) == len(set(texts)) == min(TUNING.listed_exchanges, len(every))
        assert [score(text) for text in texts] == pytest.approx([score(text) for text in ranked], abs=1e-4)
        assert set(texts) <= set(every)
        for change in listed:
            ((place, (token,)),) = change.replaced.items()
            assert change.nats == pytest.approx(max(LEAST, gains[place, token]))


def test_insertions_are_ranked_by_the_cosine_of_each() -> None:
    found, between = changes(), likelihoods(len(BASE) + 1)
    y = found.y_D.astype(np.float64)

    def score(place: int, token: int) -> float:
        after = (len(BASE) * y + SURROGATE.x_VD[token]) / (len(BASE) + 1)
        return float(after @ E / np.linalg.norm(after)) + NAT * max(LEAST, float(between[place, token]))

    listed = found.insertions(between)
    every = {
        (*BASE[:place], token, *BASE[place:]): score(place, token)
        for place in range(len(BASE) + 1)
        for token in range(V)
        if token not in BARRED
    }
    texts = [change.of(BASE) for change in listed]
    assert len(listed) == TUNING.listed_insertions < len(every)
    assert set(texts) <= set(every)
    assert [every[text] for text in texts] == pytest.approx(
        sorted(every.values(), reverse=True)[: TUNING.listed_insertions], abs=1e-4
    )
    assert {change.nats for change in listed} <= {max(LEAST, float(nats)) for nats in between.ravel()}
    assert any(text[-1] not in BASE for text in texts)
    assert any(text[0] not in BASE for text in texts)


def test_deletions_are_all_runs_of_neighbours_the_least_likely_first() -> None:
    runs = {BASE[:a] + BASE[a + size :]: (a, size) for size in (1, 2) for a in range(len(BASE) - size + 1)}
    listed = changes().deletions()
    assert sorted(change.of(BASE) for change in listed) == sorted(runs)
    several = [STANDING[a : a + size] for a, size in (runs[change.of(BASE)] for change in listed)]
    assert [change.nats for change in listed] == pytest.approx([-some.sum() for some in several])
    means = [float(some.mean()) for some in several]
    assert means == sorted(means)
    assert [change.of((4,)) for change in changes((4,)).deletions()] == []  # there is no empty text
    assert {change.of((4, 5)) for change in changes((4, 5)).deletions()} == {(4,), (5,)}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_orders_are_all_that_a_swap_of_two_blocks_makes(count: int) -> None:
    ids = tuple(range(10, 10 + count))
    listed = [change.of(ids) for change in changes(ids).orders()]
    assert len(listed) == len(set(listed))
    assert ids not in listed
    assert set(listed) <= set(permutations(ids))
    expected = {
        ids[:a] + ids[c:d] + ids[b:c] + ids[a:b] + ids[d:]
        for a in range(count)
        for b in range(a + 1, count + 1)
        for c in range(b, count + 1)
        for d in range(c + 1, count + 1)
    }
    assert set(listed) == expected
    if count <= 3:
        assert len(listed) == {1: 0, 2: 1, 3: 5}[count]  # every order of three


def test_of_a_long_text_some_orders_are_listed() -> None:
    ids = tuple(int(token) for token in np.random.default_rng(3).permutation(np.arange(2, V))[:22])
    listed = [change.of(ids) for change in changes(ids).orders()]
    assert len(listed) == len(set(listed)) == TUNING.listed_orders
    assert all(sorted(text) == sorted(ids) and text != ids for text in listed)
    assert listed == [change.of(ids) for change in changes(ids).orders()]
    assert listed != [change.of(ids) for change in changes(ids, seed=1).orders()]
