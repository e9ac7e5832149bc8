"""Shortlists against every exchange tried one by one, and what is drawn of them."""

import itertools
import math

import numpy as np
import pytest

from test_surrogate import SURROGATE, D, V, linear, unit
from unembed.exchange import LISTED, Choices, Shortlist, draw, shortlist
from unembed.surrogate import Corrections

IDS = [3, 8, 8, 20, 31]
NONE = Corrections(np.zeros(0, np.int64), np.zeros((0, D), np.float32))
E = unit(linear([3, 9, 8, 21, 30]))


def choices(seed: int = 0, least: float = -5.0) -> Choices:
    """All tokens at every position, each as likely as chance will have it."""
    gains = np.random.default_rng(seed).uniform(least, 0, (len(IDS), V)).astype(np.float32)
    gains[:, [5, 6]] = -np.inf
    return Choices(np.tile(np.arange(V), (len(IDS), 1)), gains)


def listed(corrections: Corrections = NONE, prior: float = 0.01) -> Shortlist:
    return shortlist(SURROGATE, corrections, E, (IDS, unit(linear(IDS))), choices(), prior)


@pytest.mark.parametrize("corrected", [False, True])
def test_it_lists_the_best_of_all_exchanges(corrected: bool) -> None:
    corrections = NONE
    if corrected:
        added = np.random.default_rng(4).normal(size=(3, D)).astype(np.float32)
        corrections = Corrections(np.array([8, 11, 30]), added)
    x = SURROGATE.x_VD + corrections.of(np.arange(V))
    start = SURROGATE.unnormalised(IDS, unit(linear(IDS)))
    scores = {}
    for place, token in itertools.product(range(len(IDS)), range(V)):
        if token not in (5, 6, IDS[place]):
            moved = (x[token] - x[IDS[place]]) / len(IDS)
            length = math.sqrt(start @ start + 2 * start @ moved)
            scores[place, token] = (start + moved) @ E / length + 0.01 * choices().gains[place, token]
    found = listed(corrections)
    pairs = list(zip(found.places.tolist(), found.tokens.tolist(), strict=True))
    assert len(pairs) == min(LISTED, len(scores))
    assert pairs[:20] == sorted(scores, key=lambda pair: -scores[pair])[:20]
    place, token = pairs[0]
    np.testing.assert_allclose(found.moved[0], (x[token] - x[IDS[place]]) / len(IDS), atol=1e-6)
    np.testing.assert_allclose(found.start, start)


def test_for_a_linear_encoder_most_of_the_best_do_raise_the_cosine() -> None:
    found = listed(prior=0.0)
    before = unit(linear(IDS)) @ E
    raised = []
    for place, token in zip(found.places[:10], found.tokens[:10], strict=True):
        after = [*IDS[:place], int(token), *IDS[place + 1 :]]
        raised.append(unit(linear(after)) @ E > before)
    assert np.mean(raised) >= 0.8


def test_what_stands_there_and_what_is_barred_is_not_listed() -> None:
    found = listed()
    assert not set(found.tokens.tolist()) & {5, 6}
    assert all(IDS[place] != token for place, token in zip(found.places, found.tokens, strict=True))


def test_a_draft_exchanges_each_place_once_and_mostly_for_the_best() -> None:
    found, noise = listed(), np.random.default_rng(0)
    drawn = [draw(found, E, noise) for _ in range(400)]
    sizes = np.bincount([len(one) for one in drawn], minlength=len(IDS) + 1)
    assert sizes[0] == 0
    assert sizes[1] > sizes[2] > sizes[3] > 0
    for one in drawn:
        assert all(token != IDS[place] for place, token in one.items())
    alone = [next(iter(one.items())) for one in drawn]  # of each draft, what was drawn first
    pairs = list(zip(found.places.tolist(), found.tokens.tolist(), strict=True))
    ranks = [pairs.index(pair) for pair in alone]
    assert np.median(ranks) < 10
    again = np.random.default_rng(0)
    assert [draw(found, E, again) for _ in range(400)] == drawn


def test_nothing_listed_nothing_drawn() -> None:
    nothing = choices()
    nothing.gains[:] = -np.inf
    found = shortlist(SURROGATE, NONE, E, (IDS, unit(linear(IDS))), nothing, 0.01)
    assert len(found.places) == 0
    assert draw(found, E, np.random.default_rng(0)) == {}
