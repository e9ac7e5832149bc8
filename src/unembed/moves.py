"""Moves: how a hypothesis is changed before the denoiser refills it.

Blind inversion finds the right words in the wrong places, which no refill can mend. So there are moves that put
words elsewhere or change their number, beside those that only mask. A move is a pure function of tokens, doubts and
random numbers; it knows neither denoiser nor encoder.

Words are moved whole: a token that does not start a word stays with the one before it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASK = -1  # stands for the mask, whatever its id
FEW, MOST = 3, 0.7  # tokens, and share of the expected number of wrong tokens, that a refill masks at most
CERTAIN = 0.1  # added to every doubt: a denoiser may be sure of what is wrong

Doubts = NDArray[np.float64]
Starts = NDArray[np.bool_]  # (vocabulary,): whether the token starts a word


class Draft(NamedTuple):
    """Tokens with masks, and where each came from."""

    ids: list[int]  # MASK where the denoiser is to choose
    origin: list[int]  # for each token the place in the hypothesis that it stands for, -1 where there is none


Move = Callable[[Sequence[int], Doubts, Starts, np.random.Generator], Draft]


def refill(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Mask doubtful tokens: up to three, or where more must be wrong, up to most of those."""
    count = min(1 + int(noise.random() * max(FEW, MOST * doubts.sum())), len(ids))
    masked = set(noise.choice(len(ids), count, replace=False, p=_chances(doubts)).tolist())
    return Draft([MASK if place in masked else token for place, token in enumerate(ids)], list(range(len(ids))))


def span(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Mask neighbours, 3 on average, and sometimes leave one token more or less for them."""
    count = min(1 + int(noise.geometric(0.5)), len(ids))
    first = int(noise.integers(len(ids) - count + 1))
    room = max(1, count + int(noise.choice([-1, 0, 0, 1])))
    places = [first + min(place, count - 1) for place in range(room)]
    whole = list(range(len(ids)))
    return Draft(
        [*ids[:first], *[MASK] * room, *ids[first + count :]], [*whole[:first], *places, *whole[first + count :]]
    )


def move(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Put one or a few neighbouring words somewhere else."""
    words = _words(ids, starts_word)
    if len(words) < 2:
        return refill(ids, doubts, starts_word, noise)
    count = min(int(noise.geometric(0.6)), len(words) - 1)
    first = int(noise.integers(len(words) - count + 1))
    taken, rest = words[first : first + count], words[:first] + words[first + count :]
    place = int(noise.integers(len(rest) + 1))
    return _reordered(ids, rest[:place] + taken + rest[place:])


def swap(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Exchange two words, neighbours half of the time."""
    words = _words(ids, starts_word)
    if len(words) < 2:
        return refill(ids, doubts, starts_word, noise)
    one = int(noise.integers(len(words) - 1))
    other = one + 1 if noise.random() < 0.5 else int(noise.integers(len(words)))
    words[one], words[other] = words[other], words[one]
    return _reordered(ids, words)


def insert(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Make room for one more token anywhere."""
    place = int(noise.integers(len(ids) + 1))
    whole = list(range(len(ids)))
    return Draft([*ids[:place], MASK, *ids[place:]], [*whole[:place], -1, *whole[place:]])


def delete(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Drop a doubtful token."""
    if len(ids) < 2:
        return refill(ids, doubts, starts_word, noise)
    place = int(noise.choice(len(ids), p=_chances(doubts)))
    whole = list(range(len(ids)))
    return Draft([*ids[:place], *ids[place + 1 :]], [*whole[:place], *whole[place + 1 :]])


# How often each is drawn.
MOVES: dict[Move, float] = {refill: 0.45, span: 0.2, move: 0.15, swap: 0.1, insert: 0.05, delete: 0.05}


def draw(
    ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator, length: int
) -> tuple[str, Draft]:
    """One random move of a hypothesis: its name, and the draft, of at most `length` tokens.

    Args:
        ids: content tokens, at least one.
        doubts: (tokens,) how doubtful each is, 0 to 1.
    """
    chances = np.array(list(MOVES.values()))
    kind = list(MOVES)[int(noise.choice(len(chances), p=chances / chances.sum()))]
    draft = kind(ids, doubts, starts_word, noise)
    return kind.__name__, Draft(draft.ids[:length], draft.origin[:length])


def _chances(doubts: Doubts) -> Doubts:
    weights = doubts + CERTAIN
    chances: Doubts = weights / weights.sum()
    return chances


def _words(ids: Sequence[int], starts_word: Starts) -> list[list[int]]:
    """Places of the tokens of each word."""
    words: list[list[int]] = []
    for place, token in enumerate(ids):
        if words and not starts_word[token]:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def _reordered(ids: Sequence[int], words: list[list[int]]) -> Draft:
    order = [place for word in words for place in word]
    return Draft([ids[place] for place in order], order)
