"""Edits: small changes to a hypothesis, of which hundreds are looked at and the most promising are made.

The denoiser says which tokens it would rather see at each position, the forecast (`forecast.py`) what cosine a change
is to be expected to have. Neither is worth much alone: the denoiser ranks a word that is missing in the hundreds, and
the forecast knows nothing of language. An edit exchanges a token, inserts or deletes some, or puts words in another
order; one to a few of them make a draft, which needs no pass of its own.

Shape suffixes as in forecast.py; T: content tokens of a hypothesis; K: tokens considered at a position.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unembed.forecast import Forecast, nearness
from unembed.moves import Doubts, Starts, reordered, words

CONSIDERED = 512  # tokens K at each position, the denoiser's likeliest
LISTED = 256  # exchanges of a hypothesis that are looked at
INSERTED = 24  # tokens that are inserted somewhere
FIRST = {"exchange": LISTED, "insert": 120, "delete": 40, "order": 240}  # edits looked at for the first one of a draft
LATER = {"exchange": 96, "insert": 24, "delete": 8, "order": 48}  # and for each that follows
# How often each kind is made, of a hypothesis far from the embedding and of a close one; between them in proportion.
WHEN_FAR = {"exchange": 0.91, "insert": 0.03, "delete": 0.03, "order": 0.03}
WHEN_CLOSE = {"exchange": 0.45, "insert": 0.2, "delete": 0.15, "order": 0.2}
SHARPNESS = 0.002  # cosine by which an edit must be better to be made e times as often
STOP = 0.5  # chance of no further edit in a draft
SWAPS = 0.35  # share of swaps among changes of order
RARE = -8.0  # log-likelihood of an inserted token that the denoiser does not consider there
USUAL = -4.0  # and of a token that was inserted before, when it is deleted again

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]


class Choices(NamedTuple):
    """What else the denoiser would put down at each position of a text."""

    tokens: Ids  # (T, K)
    gains: Floats  # (T, K) log-likelihood of each, less that of the token that stands there; -inf: not to be used


class Edited(NamedTuple):
    """A text that a hypothesis was changed to."""

    ids: tuple[int, ...]
    origin: tuple[int, ...]  # for each token the place in the hypothesis that it stands for, -1 where there is none
    nats: float = 0.0  # what the denoiser's log-likelihood gains, as far as one pass over the hypothesis tells
    kind: str = ""  # of the last edit


class Editor:
    """Edits of one hypothesis.

    Args:
        hypothesis: its tokens, one at least.
        cosine: of its embedding.
        doubts: (T,) of each token 1 - its probability.
        starts_word: (vocabulary,) whether a token starts a word.
        length: most tokens of a text.
        prior: what a nat of likelihood is worth, in units of cosine.
    """

    def __init__(
        self,
        forecast: Forecast,
        hypothesis: tuple[int, ...],
        cosine: float,
        doubts: Doubts,
        choices: Choices,
        starts_word: Starts,
        length: int,
        prior: float,
        noise: np.random.Generator,
    ) -> None:
        self.forecast = forecast
        self.hypothesis = hypothesis
        self.starts_word = starts_word
        self.length = length
        self.prior = prior
        self.noise = noise
        near = nearness(cosine)
        self.shares = {kind: (1 - near) * WHEN_FAR[kind] + near * WHEN_CLOSE[kind] for kind in FIRST}
        self.standing = np.log((1 - doubts).clip(min=1e-6))  # (T,) log-likelihood of each token
        barred_TK = np.isneginf(choices.gains) | (choices.tokens == np.array(hypothesis)[:, None])
        gains_TK = np.where(barred_TK, 0, choices.gains)
        score_TK = forecast.replacing(hypothesis, choices.tokens) + prior * gains_TK
        score_TK[barred_TK] = -np.inf
        best = np.argsort(-score_TK, axis=None, kind="stable")[:LISTED]
        best = best[np.isfinite(score_TK.flat[best])]
        # The exchanges: where, for what, and what the denoiser's likelihood gains.
        self.exchanges = list(zip(
            (best // choices.tokens.shape[1]).tolist(), choices.tokens.flat[best].tolist(),
            gains_TK.flat[best].tolist(), strict=True,
        ))  # fmt: skip
        possible = np.unique(choices.tokens[~barred_TK])
        self.inserted = possible[np.argsort(-forecast.adding(hypothesis, possible), kind="stable")[:INSERTED]]
        likely_TK = np.where(barred_TK, -np.inf, choices.gains + self.standing[:, None])
        wanted_TK = np.isin(choices.tokens, self.inserted)
        self.likely = [  # at each position, the log-likelihood of the tokens that may be inserted
            dict(zip(tokens[wanted].tolist(), nats[wanted].tolist(), strict=True))
            for tokens, nats, wanted in zip(choices.tokens, likely_TK, wanted_TK, strict=True)
        ]
        self.unchanged = Edited(hypothesis, tuple(range(len(hypothesis))))
        self.first = self.pool(self.unchanged, FIRST)

    def draw(self, single: bool = False) -> Edited:
        """One edit, or unless `single` some that are good after each other; the hypothesis where there is none."""
        text, pool = self.unchanged, self.first
        while pool:
            kinds = [kind for kind in self.shares if kind in pool]
            shares = np.array([self.shares[kind] for kind in kinds])
            found, score_P = pool[kinds[int(self.noise.choice(len(kinds), p=shares / shares.sum()))]]
            chance_P = np.exp((score_P - score_P.max()) / SHARPNESS)
            text = found[int(self.noise.choice(len(found), p=chance_P / chance_P.sum()))]
            if single or self.noise.random() < STOP:
                break
            pool = self.pool(text, LATER)
        return text

    def best(self, count: int, known: Callable[[tuple[int, ...]], bool]) -> list[Edited]:
        """The `count` most promising edits of the hypothesis that are not known.

        Each kind has its share, and what one has too few of falls to the best of the others.
        """
        whole = sum(self.shares[kind] for kind in self.first)
        new = {kind: best_first(*several, known) for kind, several in self.first.items()}
        chosen = [one for kind in new for one in islice(new[kind], round(count * self.shares[kind] / whole))]
        chosen += islice(heapq.merge(*new.values(), key=itemgetter(0)), max(0, count - len(chosen)))
        return [edited for _, edited in chosen[:count]]

    def pool(self, text: Edited, sizes: dict[str, int]) -> dict[str, tuple[list[Edited], Doubles]]:
        """Edits of a text, by their kinds, and what each promises: the cosine to expect and its likelihood."""
        made: dict[tuple[int, ...], Edited] = {}
        for edited in self._edits(text, sizes):
            if edited.ids != self.hypothesis and edited.ids != text.ids:
                made.setdefault(edited.ids, edited)
        if not made:
            return {}
        found = list(made.values())
        score_P = self.forecast.cosines(list(made), self.hypothesis)
        score_P += self.prior * np.array([edited.nats for edited in found])
        pool = {}
        for kind in sizes:
            which = [number for number, edited in enumerate(found) if edited.kind == kind]
            if which:
                pool[kind] = [found[number] for number in which], score_P[which]
        return pool

    def _edits(self, text: Edited, sizes: dict[str, int]) -> Iterator[Edited]:
        yield from self._exchanged(text, sizes["exchange"])
        if len(text.ids) < self.length and len(self.inserted):
            for _ in range(sizes["insert"]):
                yield self._longer(text)
        if len(text.ids) > 1:
            for _ in range(sizes["delete"]):
                yield self._shorter(text)
            several = words(text.ids, self.starts_word)
            if len(several) > 1:
                for _ in range(sizes["order"]):
                    order = another_order(several, self.noise)
                    yield Edited(*reordered(text.ids, text.origin, order), text.nats, "order")

    def _exchanged(self, text: Edited, count: int) -> Iterator[Edited]:
        """The exchanges that are still possible of the `count` most promising ones."""
        ids, origin, nats, _ = text
        at = {place: now for now, place in enumerate(origin) if place >= 0 and ids[now] == self.hypothesis[place]}
        for place, token, gain in self.exchanges[:count]:
            if place in at:
                now = at[place]
                yield Edited((*ids[:now], token, *ids[now + 1 :]), origin, nats + gain, "exchange")

    def _longer(self, text: Edited) -> Edited:
        ids, origin, nats, _ = text
        token = int(self.inserted[self.noise.integers(len(self.inserted))])
        place = int(self.noise.integers(len(ids) + 1))
        # The denoiser was asked what it would rather see in place of the neighbours: what may stand beside them, too.
        near = [self.likely[origin[now]].get(token, RARE) for now in (place - 1, place) if self._known(text, now)]
        gain = max([*near, RARE])
        return Edited(
            (*ids[:place], token, *ids[place:]), (*origin[:place], -1, *origin[place:]), nats + gain, "insert"
        )

    def _shorter(self, text: Edited) -> Edited:
        ids, origin, nats, _ = text
        count = min(int(self.noise.geometric(0.6)), len(ids) - 1)
        first = int(self.noise.integers(len(ids) - count + 1))
        for now in range(first, first + count):
            nats -= self.standing[origin[now]] if self._known(text, now) else USUAL
        last = first + count
        return Edited((*ids[:first], *ids[last:]), (*origin[:first], *origin[last:]), nats, "delete")

    def _known(self, text: Edited, now: int) -> bool:
        return 0 <= now < len(text.ids) and text.origin[now] >= 0


def best_first(
    found: Sequence[Edited], score_P: Doubles, known: Callable[[tuple[int, ...]], bool]
) -> Iterator[tuple[float, Edited]]:
    """Edits that are not known, and their scores' negatives; whether one is known is asked only when its turn comes."""
    for number in np.argsort(-score_P, kind="stable").tolist():
        if not known(found[number].ids):
            yield -float(score_P[number]), found[number]


def another_order(several: Sequence[Sequence[int]], noise: np.random.Generator) -> list[Sequence[int]]:
    """Words (two at least), two of them swapped, or one or a few neighbours put somewhere else."""
    order = list(several)
    if noise.random() < SWAPS:
        one, other = (int(place) for place in noise.choice(len(order), 2, replace=False))
        order[one], order[other] = order[other], order[one]
        return order
    count = min(int(noise.geometric(0.5)), len(order) - 1)
    first = int(noise.integers(len(order) - count + 1))
    rest = order[:first] + order[first + count :]
    place = int(noise.integers(len(rest) + 1))
    return rest[:place] + order[first : first + count] + rest[place:]
