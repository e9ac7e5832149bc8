"""Moves: how a hypothesis is changed before the denoiser refills it.

Blind inversion finds the right words in the wrong places, which no refill can mend. So there are moves that put
words elsewhere or change their number, beside those that only mask. A move is a pure function of tokens, doubts and
random numbers; it knows neither denoiser nor encoder.

Words are moved whole: a token that does not start a word stays with the one before it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASK = -1  # stands for the mask, whatever its id
FEW, MOST = 3, 0.7  # tokens, and share of the expected number of wrong tokens, that a refill masks at most
PART = 0.15, 0.75  # share of a text that is written anew, from and to
CERTAIN = 0.1  # added to every doubt: a denoiser may be sure of what is wrong
WHOLE = 0.2  # share of arrangements that take up a whole text

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
    return _masked(ids, noise.choice(len(ids), count, replace=False, p=_chances(doubts)).tolist())


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
    whole = list(range(len(ids)))
    return Draft([*ids[:place], MASK, *ids[place:]], [*whole[:place], -1, *whole[place:]])


def delete(ids: Sequence[int], doubts: Doubts, starts_word: Starts, noise: np.random.Generator) -> Draft:
    """Drop a doubtful token."""
    if len(ids) < 2:
        return refill(ids, doubts, starts_word, noise)
    place = int(noise.choice(len(ids), p=_chances(doubts)))
    whole = list(range(len(ids)))
    return Draft([*ids[:place], *ids[place + 1 :]], [*whole[:place], *whole[place + 1 :]])


def rewrite(ids: Sequence[int], doubts: Doubts, noise: np.random.Generator) -> Draft:
    """Mask a part of a text, small or large, half of the time neighbours, else doubtful tokens.

    Large neighbourhood search (Shaw 1998, doi 10.1007/3-540-49481-2_30): what is written anew in sight of the rest is
    language, which single changes that each raise the cosine need not be.
    """
    count = max(1, round(noise.uniform(*PART) * len(ids)))
    if noise.random() < 0.5:
        first = int(noise.integers(len(ids) - count + 1))
        return _masked(ids, range(first, first + count))
    return _masked(ids, noise.choice(len(ids), count, replace=False, p=_chances(doubts)).tolist())


# How often each is drawn where there is no surrogate, whose edits do better what these do.
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


def arrange(draft: Draft, noise: np.random.Generator, length: int) -> tuple[Draft, tuple[int, ...]]:
    """Take up neighbours, at times all tokens, so that the denoiser puts them down again in an order of its own.

    At times there is one place more or less for them. Returns the draft (of at most `length` tokens), and what was
    taken up, masks apart.
    """
    ids, origin = draft
    count, first = len(ids), 0
    if noise.random() >= WHOLE:
        count = min(2 + int(noise.geometric(min(1.0, 2 / len(ids)))), len(ids))
        first = int(noise.integers(len(ids) - count + 1))
    last = first + count
    room = max(1, min(count + int(noise.choice([-1, 0, 0, 1])), length - len(ids) + count))
    taken = tuple(token for token in ids[first:last] if token != MASK)
    return Draft([*ids[:first], *[MASK] * room, *ids[last:]], [*origin[:first], *[-1] * room, *origin[last:]]), taken


def _masked(ids: Sequence[int], places: Iterable[int]) -> Draft:
    masked = set(places)
    return Draft([MASK if place in masked else token for place, token in enumerate(ids)], list(range(len(ids))))


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


def reordered(
    ids: Sequence[int], origin: Sequence[int], order: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens and their origins, the words (places of tokens) in another order."""
    places = [place for word in order for place in word]
    return tuple(ids[place] for place in places), tuple(origin[place] for place in places)


def _reordered(ids: Sequence[int], order: Sequence[Sequence[int]]) -> Draft:
    new, origin = reordered(ids, range(len(ids)), order)
    return Draft(list(new), list(origin))
