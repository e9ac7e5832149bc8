"""Small changes of a text: ranked as the surrogate would rank them one by one, and none forgotten."""

from itertools import permutations

import numpy as np
import pytest

from test_surrogate import LINEAR, TABLE, V, linear, unit
from unembed.search.changes import INSERTIONS, LISTED, ORDERS, RARE, Changes
from unembed.surrogate import Surrogate

SURROGATE = Surrogate(TABLE, LINEAR)
BASE = (3, 9, 8, 20, 31)
E = unit(linear([3, 9, 21, 30, 2, 7])).astype(np.float32)
NAT = 0.01
BARRED = (0, 1)  # tokens that are not to be used


def changes(ids: tuple[int, ...] = BASE, length: int = 16, nat: float = NAT, seed: int = 0) -> Changes:
    noise = np.random.default_rng(seed)
    gains = noise.normal(-5, 2, (len(ids), V)).astype(np.float32)
    gains[:, BARRED] = -np.inf
    gains[np.arange(len(ids)), ids] = 0
    standing = noise.normal(-2, 0.5, len(ids)).astype(np.float32)
    e_hat = unit(linear(list(ids))).astype(np.float32)
    return Changes(SURROGATE, ids, e_hat, E, gains, standing, length, nat, noise)


def cosine(found: Changes, after: tuple[int, ...]) -> float:
    """What the bag promises of a text: the hypothesis' y, its share in what stays, and what the rest contributes."""
    x, ids = SURROGATE.x_VD.astype(np.float64), list(found.ids)
    bag_before, bag_after = x[ids].mean(0), x[list(after)].mean(0)
    y = found.y_D.astype(np.float64) + (bag_after - bag_before)
    return float(y @ E / np.linalg.norm(y))


def test_exchanges_are_ranked_by_the_cosine_of_each() -> None:
    for nat in (1e-6, NAT):
        found = changes(nat=nat)
        listed = [change.of(BASE) for change in found.exchanges()]

        def score(text: tuple[int, ...], found: Changes = found, nat: float = nat) -> float:
            (place,) = (i for i in range(len(BASE)) if text[i] != BASE[i])
            return cosine(found, text) + nat * float(found.gains_TV[place, text[place]])

        every = [
            (*BASE[:place], token, *BASE[place + 1 :])
            for place in range(len(BASE))
            for token in range(V)
            if token != BASE[place] and token not in BARRED
        ]
        ranked = sorted(every, key=score, reverse=True)[:LISTED]
        assert len(listed) == len(set(listed)) == min(LISTED, len(every))
        assert [score(text) for text in listed] == pytest.approx([score(text) for text in ranked], abs=1e-4)
        assert set(listed) <= set(every)


def test_insertions_are_ranked_by_the_cosine_of_each() -> None:
    found = changes()
    y = found.y_D.astype(np.float64)
    likely = np.maximum(found.gains_TV + found.standing_T[:, None], RARE)

    def score(place: int, token: int) -> float:
        after = (len(BASE) * y + SURROGATE.x_VD[token]) / (len(BASE) + 1)
        return float(after @ E / np.linalg.norm(after)) + NAT * float(
            likely[max(place - 1, 0) : place + 1, token].max()
        )

    listed = [change.of(BASE) for change in found.insertions()]
    assert 0 < len(listed) <= INSERTIONS
    scores = []
    for text in listed:
        assert len(text) == len(BASE) + 1
        assert not set(text) & set(BARRED)
        ways = [(place, text[place]) for place in range(len(text)) if text[:place] + text[place + 1 :] == BASE]
        assert ways
        scores.append(max(score(place, token) for place, token in ways))
    assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
    best = max((score(place, token), place, token) for place in range(6) for token in range(V) if token not in BARRED)
    assert scores[0] == pytest.approx(best[0], abs=1e-4)
    assert {text.index(token) for text in listed for token in set(text) - set(BASE)} == set(range(6))  # everywhere


def test_a_full_text_takes_no_more() -> None:
    assert changes(length=len(BASE)).insertions() == []
    assert changes(length=len(BASE) + 1).insertions()


def test_deletions_are_all_runs_of_neighbours() -> None:
    listed = [change.of(BASE) for change in changes().deletions()]
    expected = [BASE[:a] + BASE[a + size :] for size in (1, 2) for a in range(len(BASE) - size + 1)]
    assert sorted(listed) == sorted(expected)
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
    listed = [change.of(ids) for change in changes(ids, length=32).orders()]
    assert len(listed) == len(set(listed)) == ORDERS
    assert all(sorted(text) == sorted(ids) and text != ids for text in listed)
    assert listed == [change.of(ids) for change in changes(ids, length=32).orders()]
    assert listed != [change.of(ids) for change in changes(ids, length=32, seed=1).orders()]
