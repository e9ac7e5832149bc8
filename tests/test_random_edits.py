"""Moves: what each may change."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.objective import random_edits
from unembed.objective.random_edits import MASK, MOVES, Draft, Move, draw

STARTS = np.array([False] * 10 + [True] * 90)  # tokens 0 to 9 go on with a word
TEXTS = st.lists(st.integers(0, 99), min_size=1, max_size=12)
LENGTH = 12


def made(kind: Move, ids: list[int], seed: int) -> Draft:
    noise = np.random.default_rng(seed)
    return kind(ids, noise.random(len(ids)), STARTS, noise)


def words(ids: list[int]) -> Counter[tuple[int, ...]]:
    found: list[list[int]] = []
    for token in ids:
        if found and not STARTS[token]:
            found[-1].append(token)
        else:
            found.append([token])
    return Counter(map(tuple, found))


def stands_in(word: tuple[int, ...], draft: list[int]) -> bool:
    return any(tuple(draft[first : first + len(word)]) == word for first in range(len(draft)))


@pytest.mark.parametrize("kind", MOVES)
@given(ids=TEXTS, seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_tokens_that_stay_are_those_of_the_text(kind: Move, ids: list[int], seed: int) -> None:
    draft = made(kind, ids, seed)
    assert draft
    assert not Counter(token for token in draft if token != MASK) - Counter(ids)
    if kind not in (random_edits.move, random_edits.swap):  # the others leave the order as it was
        rest = iter(ids)
        assert all(token in rest for token in draft if token != MASK)


@given(ids=TEXTS, seed=st.integers(0, 999))
@settings(deadline=None, max_examples=100)
def test_words_are_moved_whole(ids: list[int], seed: int) -> None:
    for kind in (random_edits.move, random_edits.swap):
        draft = made(kind, ids, seed)
        if MASK not in draft:
            assert Counter(draft) == Counter(ids)
            assert all(stands_in(word, draft) for word in words(ids))  # a fragment at the beginning too


@given(ids=TEXTS, seed=st.integers(0, 999))
@settings(deadline=None, max_examples=100)
def test_how_many_tokens_there_are_afterwards(ids: list[int], seed: int) -> None:
    n = len(ids)
    lengths = {kind.__name__: len(made(kind, ids, seed)) for kind in MOVES}
    assert lengths["refill"] == lengths["move"] == lengths["swap"] == n
    assert lengths["insert"] == n + 1
    assert lengths["delete"] == max(1, n - 1)
    assert n - 1 <= lengths["span"] <= n + 1
    assert MASK in made(random_edits.refill, ids, seed)
    assert made(random_edits.insert, ids, seed).count(MASK) == 1


def test_doubtful_tokens_are_masked_more_often() -> None:
    ids, doubts = list(range(20, 28)), np.zeros(8)
    doubts[3] = 1.0
    noise = np.random.default_rng(0)
    masked: Counter[int] = Counter()
    for _ in range(2000):
        draft = random_edits.refill(ids, doubts, STARTS, noise)
        masked.update(place for place, token in enumerate(draft) if token == MASK)
    others = [masked[place] for place in range(8) if place != 3]
    assert masked[3] > 2 * max(others)
    assert min(others) > 200  # a denoiser may be sure of what is wrong


def test_the_more_is_doubted_the_more_is_masked() -> None:
    ids, noise = list(range(20, 52)), np.random.default_rng(0)
    for doubt, most in ((0.0, 3), (0.5, 12), (1.0, 23)):
        counts = [random_edits.refill(ids, np.full(32, doubt), STARTS, noise).count(MASK) for _ in range(1000)]
        assert (min(counts), max(counts)) == (1, most)
        assert np.mean(counts) == pytest.approx((1 + most) / 2, rel=0.1)


def test_moves_are_drawn_as_often_as_they_should() -> None:
    noise = np.random.default_rng(0)
    ids = list(range(20, 32))
    drawn = [draw(ids, np.full(12, 0.5), STARTS, noise, LENGTH) for _ in range(4000)]
    kinds = Counter(kind for kind, _ in drawn)
    for kind, share in MOVES.items():
        assert kinds[kind.__name__] == pytest.approx(4000 * share, abs=5 * (4000 * share) ** 0.5)
    assert max(len(draft) for _, draft in drawn) == LENGTH  # an insertion into a full canvas drops its last token
