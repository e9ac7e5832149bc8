"""Neighbours: the texts that are one small step away from a hypothesis.

A search that has come near often lacks a single word or has a phrase in the wrong place, and waits for a draft that
mends just that. So near the embedding all such texts are listed, and the forecast and the student choose among them:
one token exchanged or inserted, one or two deleted, two words exchanged, or two neighbouring parts of the text, however
long, which moves any part anywhere. What may be exchanged or inserted the denoiser says, with a mask in each place and
in each gap (`Refiller.suggest`): of a text without masks it doubts next to nothing.

Shape suffixes: T: content tokens; K: tokens suggested for a place.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from unembed.forecast import Forecast
from unembed.moves import Starts, words

ORDERS = 500  # most orders of the words, of either kind, that are listed; drawn from all if there are more

Ids = NDArray[np.int64]


def neighbours(
    ids: Sequence[int], suggested: Ids, starts_word: Starts, noise: np.random.Generator
) -> list[tuple[int, ...]]:
    """All that are one step away from a text, each once, and not the text itself.

    Args:
        ids: its content tokens, at least one.
        suggested: (T, K) tokens for each place, or (2 T + 1, K) with those for each gap after them, the one before the
            first token to the one after the last. See `Refiller.suggest`.
        starts_word: (vocabulary,) whether a token starts a word. Orders are those of words, which stay whole.
    """
    ids, count = tuple(ids), len(ids)
    found = [(*ids[:place], token, *ids[place + 1 :]) for place in range(count) for token in suggested[place].tolist()]
    for gap, tokens in enumerate(suggested[count:].tolist()):
        found += [(*ids[:gap], token, *ids[gap:]) for token in tokens]
    for fewer in (1, 2):
        if count > fewer:
            found += [(*ids[:place], *ids[place + fewer :]) for place in range(count - fewer + 1)]
    found += [
        tuple(ids[place] for word in order for place in word) for order in _orders(words(ids, starts_word), noise)
    ]
    return [text for text in dict.fromkeys(found) if text != ids]


def promising(
    forecast: Forecast, ids: tuple[int, ...], suggested: Ids, starts_word: Starts, noise: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """The neighbours of one of the forecast's hypotheses, those that it expects to be nearest first."""
    near = neighbours(ids, suggested, starts_word, noise)
    for number in np.argsort(-forecast.cosines(near, ids), kind="stable").tolist():
        yield near[number]


def _orders(several: Sequence[Sequence[int]], noise: np.random.Generator) -> Iterator[list[Sequence[int]]]:
    """Two neighbouring parts exchanged, or two words: of each at most ORDERS."""
    parts = list(combinations(range(len(several) + 1), 3))
    for first, middle, last in _some(parts, noise):
        yield [*several[:first], *several[middle:last], *several[first:middle], *several[last:]]
    for one, other in _some(list(combinations(range(len(several)), 2)), noise):
        order = list(several)
        order[one], order[other] = order[other], order[one]
        yield order


def _some(places: Sequence[tuple[int, ...]], noise: np.random.Generator) -> Sequence[tuple[int, ...]]:
    if len(places) <= ORDERS:
        return places
    return [places[number] for number in noise.choice(len(places), ORDERS, replace=False).tolist()]
