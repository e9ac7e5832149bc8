"""Forecast: the embedding that a text is to be expected to have, by what the encoder has said of others.

The surrogate knows tokens, but neither their order nor what is peculiar to the text at hand. Both are learned while a
search goes on, by Gaussian process regression (Rasmussen and Williams 2006, section 2.2): a function of texts,
observed where the encoder has answered. What is observed are whole embeddings, D numbers of each answer and not its
cosine alone: every dimension is such a function, all with the same kernel. So it is known not only how much a change
helps but where it leads, and that two changes which mend the same thing do not help twice.

The kernel counts what two texts have in common, like a string kernel (Lodhi et al. 2002), here as a scalar product of
features,

    k(x, y) = phi(x) . phi(y),      phi(x) = 1/T times the sum over x of
        token   for each token                                          which words
        pair    for each pair of neighbours, both ends included         which word after which
        near    for each token and each of the window's after it        and soon after which
        place   for each token, at each of some soft places             whether early, in the middle, or late

so that an answer about one order of words tells of all orders that share something with it. The function is d(x), by
which an embedding differs from the surrogate's. A hypothesis h was embedded, so that of a change x to it only the
difference d(x) - d(h) is uncertain. Where its posterior has the mean m and the variance s^2 v in each dimension,

    y(x) = y(h) + bag(x) - bag(h) + m,      expected cosine ~ y . e / sqrt(|y|^2 + caution D s^2 v)

since what is uncertain leads away from e more often than towards it: the less a text has in common with those that
are known, the less is promised of it. The scale s^2 is the one of greatest likelihood; caution is less than 1, since
the kernel overstates what is uncertain.

Shape suffixes: N texts answered about, P texts asked about, L tokens of the longest, K features of a text, T tokens
of a text, H hypotheses, D dimension of an embedding, F features of the texts answered about and of the hypotheses, and
one more for all others.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from unembed.search.options import Kernel
from unembed.surrogate.bag import Surrogate

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]


@lru_cache(maxsize=512)
def places(count: int, number: int, softness: float) -> Doubles:
    """How much each of `count` tokens belongs to each place, (count, number)."""
    at = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    shares: Doubles = np.exp(-0.5 * ((at[:, None] - np.linspace(0, 1, number)) / softness) ** 2)
    return shares


class Features:
    """phi of texts of some known tokens.

    Features have numbers, so that weights for all of them are a vector, and the sum over those of many texts a look-up.
    What involves another token than the known ones has number `nothing`.
    """

    def __init__(self, texts: Sequence[Sequence[int]], kernel: Kernel) -> None:
        self.kernel = kernel
        self.tokens = np.unique(_flat(texts))
        size = len(self.tokens)
        self.size = size + 2  # with the ends
        kinds = (self.size, self.size**2, self.size**2, self.size * kernel.places)
        firsts: list[int] = np.cumsum([0, *kinds]).tolist()
        *self.first, self.nothing = firsts

    def of(self, texts: Sequence[Sequence[int]]) -> tuple[Ids, Doubles]:
        """The features of texts: their numbers and values, (P, K) each, 0 where a text has fewer than K."""
        kernel, lengths = self.kernel, np.array([len(ids) for ids in texts])
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
            (np.where(x_PL < 0, self.nothing, x_PL), kernel.token * inside_PL),
            (self._pair(1, framed[:, :-1], framed[:, 1:]), kernel.pair * (np.arange(longest + 1) <= lengths[:, None])),
        ]
        for apart in range(1, min(kernel.window, longest - 1) + 1):
            parts.append((self._pair(2, x_PL[:, :-apart], x_PL[:, apart:]), kernel.near * inside_PL[:, apart:]))
        shares = np.zeros((len(texts), longest, kernel.places))
        for row, count in enumerate(lengths.tolist()):
            shares[row, :count] = kernel.place * places(count, kernel.places, kernel.softness)
        for number in range(kernel.places):
            at_PL = np.where(x_PL < 0, self.nothing, self.first[3] + x_PL * kernel.places + number)
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

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.texts: list[tuple[int, ...]] = []
        self.e_ND: Floats = np.zeros((0, 0), np.float32)  # their embeddings
        self.gram_NN: Doubles = np.zeros((0, 0))  # the kernel of all pairs

    def take(self, texts: Sequence[tuple[int, ...]], e_ND: Floats) -> None:
        """Learn the embeddings (new, D) of some texts, of one token at least each. Only the latest count."""
        old, memory = len(self.texts), self.kernel.memory
        self.texts += texts
        gram_NN = np.zeros((len(self.texts), len(self.texts)))
        gram_NN[:old, :old] = self.gram_NN
        features = Features(self.texts, self.kernel)
        numbers, values = features.of(self.texts)
        for new in range(old, len(self.texts)):
            # Rounded, so that it does not depend in its last digits on which texts are taken at once.
            gram_NN[new] = np.round(_look_up(features.weights(numbers[new], values[new]), (numbers, values)), 10)
            gram_NN[:, new] = gram_NN[new]
        self.e_ND = np.concatenate([self.e_ND, e_ND])[-memory:] if old else e_ND[-memory:].copy()
        del self.texts[:-memory]
        self.gram_NN = gram_NN[-memory:, -memory:]


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
        self.answers = answers
        self.e_D: Floats = (e_D / np.linalg.norm(e_D)).astype(np.float32)
        texts = [ids for ids, _ in hypotheses]
        self.number = {ids: number for number, ids in enumerate(texts)}
        self.starts_HD = np.stack([surrogate.unnormalised(*hypothesis) for hypothesis in hypotheses])
        self.bags_HD = self._bags(texts)
        self.answered = len(answers.texts)
        self.features = Features([*answers.texts, *texts], answers.kernel)
        numbers, values = self.features.of([*answers.texts, *texts])
        used = np.unique(numbers[values != 0])
        self.column = np.full(self.features.nothing + 1, len(used), np.int32)  # of each feature's number
        self.column[used] = np.arange(len(used))
        self.phi_FX = torch.zeros(len(used) + 1, self.answered + len(texts))  # of the answers, then of the hypotheses
        self.phi_FX.index_put_(
            (
                torch.from_numpy(self.column[numbers].astype(np.int64)),
                torch.arange(len(numbers))[:, None].expand(-1, numbers.shape[1]),
            ),
            torch.from_numpy(values.astype(np.float32)),
            accumulate=True,
        )
        noise_N = answers.kernel.noise / np.array([len(ids) for ids in answers.texts]) ** 2
        lower_NN = np.linalg.cholesky(answers.gram_NN + np.diag(noise_N))
        self.inverse_NN: Floats = np.linalg.inv(lower_NN).astype(np.float32)
        self.alpha_ND, self.scale = self._learned()
        shared_HX = self._shared(self.features.of(texts))
        self.shared_HN, self.own_H = shared_HX[:, : self.answered], shared_HX[:, self.answered :].diagonal()

    def cosines(self, texts: Sequence[Sequence[int]], hypothesis: tuple[int, ...]) -> Doubles:
        """(P,) to expect of texts (one token at least each) that were made of a hypothesis."""
        number = self.number[hypothesis]
        changed_PD = self._bags(texts) - self.bags_HD[number]
        features = self.features.of(texts)
        shared_PX = self._shared(features)
        difference_PN = shared_PX[:, : self.answered] - self.shared_HN[number]
        y_PD = self.starts_HD[number] + changed_PD + difference_PN @ self.alpha_ND
        apart_P = _self(self.features, features) + self.own_H[number] - 2 * shared_PX[:, self.answered + number]
        v_P = (apart_P - ((difference_PN @ self.inverse_NN.T) ** 2).sum(1)).clip(min=0)
        spread_P = self.answers.kernel.caution * len(self.e_D) * self.scale * v_P
        cosine_P: Doubles = y_PD @ self.e_D / np.sqrt(((y_PD**2).sum(1) + spread_P).clip(min=1e-6))
        return cosine_P

    def _learned(self) -> tuple[Floats, float]:
        """What the answers add to what the surrogate says of their texts: weights of the answers (N, D), and s^2."""
        several = zip(self.answers.texts, self.answers.e_ND, strict=True)
        d_ND = np.stack([self.surrogate.unnormalised(*answer) for answer in several])
        d_ND -= self._bags(self.answers.texts)
        d_ND -= d_ND.mean(0)
        white_ND = self.inverse_NN @ d_ND
        return self.inverse_NN.T @ white_ND, float((white_ND**2).mean())

    def _shared(self, features: tuple[Ids, Doubles]) -> Floats:
        """The kernel of some texts with those answered about and the hypotheses, (P, N + H)."""
        numbers, values = features
        shared_PX: Floats = F.embedding_bag(
            torch.from_numpy(self.column[numbers]), self.phi_FX,
            per_sample_weights=torch.from_numpy(values.astype(np.float32)), mode="sum",
        ).numpy()  # fmt: skip
        return shared_PX

    def _bags(self, texts: Sequence[Sequence[int]]) -> Floats:
        """The mean contribution of each text's tokens, (P, D)."""
        tokens, column = np.unique(_flat(texts), return_inverse=True)
        lengths = np.array([len(ids) for ids in texts])
        cell = np.repeat(np.arange(len(texts)), lengths) * len(tokens) + column
        counts = np.bincount(cell, minlength=len(texts) * len(tokens)).reshape(len(texts), -1)
        bags_PD: Floats = (counts / lengths[:, None]).astype(np.float32) @ self.surrogate.x_VD[tokens]
        return bags_PD


def _look_up(weights: Doubles | Floats, features: tuple[Ids, Doubles]) -> Doubles:
    """The product of weights with each of some texts' features, (P,)."""
    numbers, values = features
    found: Doubles = (weights[numbers] * values).sum(1)
    return found


def _self(features: Features, told: tuple[Ids, Doubles]) -> Doubles:
    """The kernel of some texts with themselves, (P,); what involves a token that is not known counts one by one."""
    numbers, values = told
    order = np.argsort(numbers, axis=1)
    numbers, values = np.take_along_axis(numbers, order, 1), np.take_along_axis(values, order, 1)
    new = np.ones(numbers.shape, dtype=bool)
    new[:, 1:] = (numbers[:, 1:] != numbers[:, :-1]) | (numbers[:, 1:] == features.nothing)
    first = np.flatnonzero(new)
    sums = np.add.reduceat(values.ravel(), first)
    return np.bincount(first // numbers.shape[1], sums**2, minlength=len(numbers)).astype(np.float64)


def _flat(texts: Sequence[Sequence[int]]) -> Ids:
    return np.concatenate([np.asarray(ids, np.int64) for ids in texts])
