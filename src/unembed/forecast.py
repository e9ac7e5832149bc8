"""Forecast: the cosine that a text is to be expected to have, by what the encoder has said of others.

The surrogate knows tokens, but neither their order nor what is peculiar to the text at hand. Both are learned while a
search goes on, by Gaussian process regression (Rasmussen and Williams 2006, section 2.2): a function of texts,
observed where the encoder has answered. Its kernel counts what two texts have in common, like a string kernel (Lodhi
et al. 2002), here as a scalar product of features,

    k(x, y) = phi(x) . phi(y),      phi(x) = 1/T times the sum over x of
        TOKEN   for each token                                          which words
        PAIR    for each pair of neighbours, both ends included         which word after which
        NEAR    for each token and each of the WINDOW tokens after it   and soon after which
        PLACE   for each token, at each of PLACES soft places           whether early, in the middle, or late

so that an answer about one order of words tells of all orders that share something with it. Its mean is what the
surrogate foresees of a change to a hypothesis, less a loss for whatever of the hypothesis does not remain: it was
chosen for being good, so that most of what could become of it is worse. How much is estimated from the answers too.

Forecasts of other orders of a text's words correlate with the truth by .6 after 60 answers and by .7 after 200; those
of the surrogate alone do not (experiments/LOG.md, 2026-11-26).

Shape suffixes: N texts answered about, P texts asked about, L tokens of the longest, K features of a text, or tokens
considered at a position, T tokens of a hypothesis, H hypotheses, D dimension of an embedding, V vocabulary.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unembed.surrogate import Surrogate

TOKEN, PAIR, NEAR, PLACE = 1.5, 0.7, 0.5, 0.7  # features' sizes
WINDOW = 3
PLACES = 4
SOFTNESS = 0.2  # standard deviation of a place, as a share of the text
NOISE = 0.2  # variance of an answer beside what the kernel explains, times T^2
FAR, CLOSE = 0.85, 0.95  # cosines of hypotheses between which a search changes its ways: words come before places
LOSS = 0.1, 0.3  # cosine that is lost with all of a hypothesis, before any answer: of a far one, and of a close one
SURE = 1.0  # how firmly that is believed: as if so many hypotheses had been given up altogether
NEARBY = 0.6  # share of a hypothesis that may be gone in a text that tells of the loss
MEMORY = 500  # latest answers that count

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]


def nearness(cosine: float) -> float:
    """0 where a hypothesis is FAR from the embedding or farther, 1 where it is CLOSE or closer."""
    return float(np.interp(cosine, (FAR, CLOSE), (0.0, 1.0)))


@lru_cache(maxsize=512)
def places(count: int) -> Doubles:
    """How much each of `count` tokens belongs to each place, (count, PLACES)."""
    at = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    shares: Doubles = np.exp(-0.5 * ((at[:, None] - np.linspace(0, 1, PLACES)) / SOFTNESS) ** 2)
    return shares


class Features:
    """phi of texts of some known tokens.

    Features have numbers, so that weights for all of them are a vector, and the sum over those of many texts a look-up.
    What involves another token than the known ones has number `nothing`.
    """

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.tokens = np.unique(_flat(texts))
        size = len(self.tokens)
        self.size = size + 2  # with the ends
        kinds = (self.size, self.size**2, self.size**2, self.size * PLACES)
        firsts: list[int] = np.cumsum([0, *kinds]).tolist()
        *self.first, self.nothing = firsts

    def of(self, texts: Sequence[Sequence[int]]) -> tuple[Ids, Doubles]:
        """The features of texts: their numbers and values, (P, K) each, 0 where a text has fewer than K."""
        lengths = np.array([len(ids) for ids in texts])
        longest, size = int(lengths.max()), len(self.tokens)
        inside_PL = np.arange(longest) < lengths[:, None]
        flat = _flat(texts)
        place = np.searchsorted(self.tokens, flat).clip(max=size - 1)
        framed = np.full((len(texts), longest + 2), -1)  # -1: not known
        framed[:, 0] = size
        framed[:, 1:-1][inside_PL] = np.where(self.tokens[place] == flat, place, -1)
        framed[np.arange(len(texts)), lengths + 1] = size + 1
        x_PL = np.where(inside_PL, framed[:, 1:-1], -1)
        parts = [
            (np.where(x_PL < 0, self.nothing, x_PL), TOKEN * inside_PL),
            (self._pair(1, framed[:, :-1], framed[:, 1:]), PAIR * (np.arange(longest + 1) <= lengths[:, None])),
        ]
        for apart in range(1, min(WINDOW, longest - 1) + 1):
            parts.append((self._pair(2, x_PL[:, :-apart], x_PL[:, apart:]), NEAR * inside_PL[:, apart:]))
        shares = np.zeros((len(texts), longest, PLACES))
        for row, count in enumerate(lengths.tolist()):
            shares[row, :count] = PLACE * places(count)
        for number in range(PLACES):
            at_PL = np.where(x_PL < 0, self.nothing, self.first[3] + x_PL * PLACES + number)
            parts.append((at_PL, shares[:, :, number]))
        numbers, values = zip(*parts, strict=True)
        return np.concatenate(numbers, 1), np.concatenate(values, 1) / lengths[:, None]

    def weights(self, numbers: Ids, values: Doubles) -> Doubles:
        """The vector that has these values at these numbers, and nothing at `nothing`."""
        vector = np.bincount(numbers.ravel(), values.ravel(), minlength=self.nothing + 1).astype(np.float64)
        vector[self.nothing] = 0
        return vector

    def _pair(self, kind: int, one: Ids, other: Ids) -> Ids:
        found: Ids = np.where((one < 0) | (other < 0), self.nothing, self.first[kind] + one * self.size + other)
        return found


class Answers:
    """What the encoder has said of the texts of one search."""

    def __init__(self) -> None:
        self.texts: list[tuple[int, ...]] = []
        self.cosines: list[float] = []
        self.gram_NN: Doubles = np.zeros((0, 0))  # the kernel of all pairs

    def take(self, texts: Sequence[tuple[int, ...]], cosines: Sequence[float]) -> None:
        """Learn the cosines of some texts, of one token at least each. Only the latest MEMORY count."""
        old = len(self.texts)
        self.texts += texts
        self.cosines += cosines
        gram_NN = np.zeros((len(self.texts), len(self.texts)))
        gram_NN[:old, :old] = self.gram_NN
        features = Features(self.texts)
        numbers, values = features.of(self.texts)
        for new in range(old, len(self.texts)):
            # Rounded, so that it does not depend in its last digits on which texts are taken at once.
            gram_NN[new] = np.round(_look_up(features.weights(numbers[new], values[new]), (numbers, values)), 10)
            gram_NN[:, new] = gram_NN[new]
        del self.texts[:-MEMORY], self.cosines[:-MEMORY]
        self.gram_NN = gram_NN[-MEMORY:, -MEMORY:]


class Forecast:
    """What to expect of changes to some hypotheses, by the answers so far, of which there must be one at least.

    Args:
        e_D: the embedding whose text is searched for.
        hypotheses: the tokens of each, and its embedding (D,).
    """

    def __init__(
        self,
        surrogate: Surrogate,
        answers: Answers,
        e_D: Floats,
        hypotheses: Sequence[tuple[tuple[int, ...], Floats]],
    ) -> None:
        self.surrogate = surrogate
        self.e_D: Doubles = e_D.astype(np.float64) / np.linalg.norm(e_D)
        self.number = {ids: number for number, (ids, _) in enumerate(hypotheses)}
        self.starts = [surrogate.unnormalised(*hypothesis).astype(np.float64) for hypothesis in hypotheses]
        texts = [ids for ids, _ in hypotheses]
        self.bags_HD = self._bags(texts)
        self.features = Features([*answers.texts, *texts])
        self.answered = self.features.of(answers.texts)
        self.own = [self._share(ids) for ids in texts]
        bags_ND = self._bags(answers.texts)
        errors: list[Doubles] = []
        self.losses: list[float] = []
        for own in self.own:
            lack_N = 1 - _look_up(self.features.weights(*own), self.answered)
            error_N = np.array(answers.cosines) - self._mean(bags_ND, len(errors))
            near_N = lack_N < NEARBY
            # Ridge regression of what was lost on what is gone, towards LOSS.
            before = float(np.interp(self._mean(self.bags_HD, len(errors))[len(errors)], (FAR, CLOSE), LOSS))
            lost = SURE * before - (error_N * lack_N)[near_N].sum()
            self.losses.append(max(float(lost / (SURE + (lack_N[near_N] ** 2).sum())), 0.0))
            errors.append(error_N + self.losses[-1] * lack_N)
        noise_N = NOISE / np.array([len(ids) for ids in answers.texts]) ** 2
        self.alpha_NH = np.linalg.solve(answers.gram_NN + np.diag(noise_N), np.stack(errors, 1))
        self._weights: dict[int, Floats] = {}

    def weights(self, number: int) -> Floats:
        """What each feature of a text adds, beside the mean. A long search has millions, so only where asked for."""
        if number not in self._weights:
            numbers, values = self.answered
            learned = self.features.weights(numbers, values * self.alpha_NH[:, number, None])
            learned += self.losses[number] * self.features.weights(*self.own[number])
            self._weights[number] = learned.astype(np.float32)
        return self._weights[number]

    def _share(self, ids: tuple[int, ...]) -> tuple[Ids, Doubles]:
        """The features of a hypothesis, such that their product with a text's is the share of it that remains."""
        numbers, values = self.features.of([ids])
        weights = self.features.weights(numbers, values)
        return numbers, values / (weights @ weights)

    def cosines(self, texts: Sequence[Sequence[int]], hypothesis: tuple[int, ...]) -> Doubles:
        """(P,) to expect of texts (one token at least each) that were made of a hypothesis."""
        number = self.number[hypothesis]
        learned_P = _look_up(self.weights(number), self.features.of(texts)) - self.losses[number]
        return self._mean(self._bags(texts), number) + learned_P

    def replacing(self, hypothesis: tuple[int, ...], tokens_TK: Ids) -> Doubles:
        """(T, K) roughly to expect where one token of a hypothesis of T gives way to another, its neighbours apart."""
        start_D, count = self.starts[self.number[hypothesis]], len(hypothesis)
        told_T1, told_TK = (
            [values[:, None] if values.ndim == 1 else values for values in self._tokens(hypothesis, tokens)]
            for tokens in (np.array(hypothesis), tokens_TK)
        )
        towards_TK, along_TK, added_TK = ((new - old) / count for new, old in zip(told_TK, told_T1, strict=True))
        return added_TK + _cosine(start_D @ self.e_D + towards_TK, start_D @ start_D + 2 * along_TK)

    def adding(self, hypothesis: tuple[int, ...], tokens_K: Ids) -> Doubles:
        """(K,) roughly to expect where a hypothesis gains one token, wherever."""
        number, count = self.number[hypothesis], len(hypothesis) + 1
        start_D, bag_D = self.starts[number], self.bags_HD[number]
        towards_K, along_K, added_K = self._tokens(hypothesis, tokens_K)
        gained_K, stretched_K = (towards_K - bag_D @ self.e_D) / count, 2 * (along_K - bag_D @ start_D) / count
        return added_K / count + _cosine(start_D @ self.e_D + gained_K, start_D @ start_D + stretched_K)

    def _tokens(self, hypothesis: tuple[int, ...], tokens: Ids) -> tuple[Doubles, Doubles, Doubles]:
        """What each token contributes towards e, and along where a hypothesis is, and what was learned of it."""
        number = self.number[hypothesis]
        unique, where = np.unique(tokens, return_inverse=True)
        axes_DX = np.stack([self.e_D, self.starts[number]], 1).astype(np.float32)
        contributed_UX = (self.surrogate.x_VD[unique] @ axes_DX).astype(np.float64)
        added_U = np.zeros(len(unique))
        known = np.isin(unique, self.features.tokens)
        added_U[known] = TOKEN * self.weights(number)[np.searchsorted(self.features.tokens, unique[known])]
        where = where.reshape(tokens.shape)
        return contributed_UX[where, 0], contributed_UX[where, 1], added_U[where]

    def _bags(self, texts: Sequence[Sequence[int]]) -> Doubles:
        """The mean contribution of each text's tokens, (P, D)."""
        tokens, column = np.unique(_flat(texts), return_inverse=True)
        lengths = np.array([len(ids) for ids in texts])
        cell = np.repeat(np.arange(len(texts)), lengths) * len(tokens) + column
        counts = np.bincount(cell, minlength=len(texts) * len(tokens)).reshape(len(texts), -1)
        bags: Doubles = (counts / lengths[:, None]) @ self.surrogate.x_VD[tokens].astype(np.float64)
        return bags

    def _mean(self, bags_PD: Doubles, number: int) -> Doubles:
        """(P,) what the surrogate foresees of texts that a hypothesis is changed to."""
        reached_PD = self.starts[number] + (bags_PD - self.bags_HD[number])
        return _cosine(reached_PD @ self.e_D, (reached_PD**2).sum(1))


def _cosine(product: Doubles, squared: Doubles) -> Doubles:
    cosine: Doubles = product / np.sqrt(squared.clip(min=1e-6))
    return cosine


def _look_up(weights: Doubles | Floats, features: tuple[Ids, Doubles]) -> Doubles:
    """The product of weights with each of some texts' features, (P,)."""
    numbers, values = features
    found: Doubles = (weights[numbers] * values).sum(1)
    return found


def _flat(texts: Sequence[Sequence[int]]) -> Ids:
    return np.concatenate([np.asarray(ids, np.int64) for ids in texts])
