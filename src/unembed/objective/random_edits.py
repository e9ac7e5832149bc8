"""Moves: random changes of a text, of which training makes its hypotheses (`feedback`).

Some mask tokens, which the denoiser refills; others put words elsewhere or change the number of tokens, as blind
inversion errs. A move is a pure function of tokens, doubts and random numbers; it knows neither denoiser nor encoder.

Words are moved whole: a token that does not start a word stays with the one before it.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MASK = -1  # stands for the mask, whatever its id
FEW, MOST = 3, 0.7  # tokens, and share of the expected number of wrong tokens, that a refill masks at most
CERTAIN = 0.1  # added to every doubt: a denoiser may be sure of what is wrong

Doubts = NDArray[np.float64]
Starts = NDArray[np.bool_]  # (vocabulary,): whether the token starts a word
Draft = list[int]  # tokens, MASK where the denoiser is to choose
Move = Callable[[Sequence[int], Doubts, Starts, np.random.Generator], Draft]


def refill(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Mask doubtful tokens: up to three, or where more must be wrong, up to most of those."""
    count = min(1 + int(noise.random() * max(FEW, MOST * doubts.sum())), len(ids))
    return _masked(ids, noise.choice(len(ids), count, replace=False, p=_chances(doubts)).tolist())


def span(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Mask neighbours, 3 on average, and sometimes leave one token more or less for them."""
    count = min(1 + int(noise.geometric(0.5)), len(ids))
    first = int(noise.integers(len(ids) - count + 1))
    room = max(1, count + int(noise.choice([-1, 0, 0, 1])))
    return [*ids[:first], *[MASK] * room, *ids[first + count :]]


def move(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Put one or a few neighbouring words somewhere else."""
    several = words(ids, starts_word)
    if len(several) < 2:
        return refill(ids, doubts, starts_word, noise)
    count = min(int(noise.geometric(0.6)), len(several) - 1)
    first = int(noise.integers(len(several) - count + 1))
    taken, rest = several[first : first + count], several[:first] + several[first + count :]
    place = int(noise.integers(len(rest) + 1))
    return _reordered(ids, rest[:place] + taken + rest[place:])


def swap(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Exchange two words, neighbours half of the time."""
    several = words(ids, starts_word)
    if len(several) < 2:
        return refill(ids, doubts, starts_word, noise)
    one = int(noise.integers(len(several) - 1))
    other = one + 1 if noise.random() < 0.5 else int(noise.integers(len(several)))
    several[one], several[other] = several[other], several[one]
    return _reordered(ids, several)


def insert(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Make room for one more token anywhere."""
    place = int(noise.integers(len(ids) + 1))
    return [*ids[:place], MASK, *ids[place:]]


def delete(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Drop a doubtful token."""
    if len(ids) < 2:
        return refill(ids, doubts, starts_word, noise)
    place = int(noise.choice(len(ids), p=_chances(doubts)))
    return [*ids[:place], *ids[place + 1 :]]


# How often each is drawn.
MOVES: dict[Move, float] = {refill: 0.45, span: 0.2, move: 0.15, swap: 0.1, insert: 0.05, delete: 0.05}


def draw(
    ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator, length: int
) -> tuple[str, Draft]:
    """One random move of a text: its name, and the draft, of at most `length` tokens.

    Args:
        ids: content tokens, at least one.
        doubts: (tokens,) how doubtful each is, 0 to 1.
    """
    chances = np.array(list(MOVES.values()))
    kind = list(MOVES)[int(noise.choice(len(chances), p=chances / chances.sum()))]
    return kind.__name__, kind(ids, doubts, starts_word, noise)[:length]


def _masked(ids: Sequence[int], places: Iterable[int]) -> Draft:
    masked = set(places)
    return [MASK if place in masked else token for place, token in enumerate(ids)]


def _chances(doubts: Doubts) -> Doubts:
    weights = doubts + CERTAIN
    chances: Doubts = weights / weights.sum()
    return chances


def words(ids: Sequence[int], starts_word: Starts) -> list[list[int]]:
    """Places of the tokens of each word."""
    found: list[list[int]] = []
    for place, token in enumerate(ids):
        if found and not starts_word[token]:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _reordered(ids: Sequence[int], order: Sequence[Sequence[int]]) -> Draft:
    """The words (places of tokens) in another order."""
    return [ids[place] for word in order for place in word]
