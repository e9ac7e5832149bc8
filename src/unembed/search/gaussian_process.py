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

Shape suffixes: N texts answered about, X these and the hypothesis, P texts asked about, L tokens of the longest, T
tokens of a text, D dimension of an embedding, K known features, F those of them that X have.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri
from scipy.sparse import csr_array
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
    """phi of texts of some known tokens. What involves another token has the number behind all others, `nothing`."""

    def __init__(self, texts: Sequence[Sequence[int]], kernel: Kernel) -> None:
        self.kernel = kernel
        self.tokens = np.unique(_flat(texts))
        size = len(self.tokens)
        self.size = size + 2  # with the ends
        kinds = (self.size, self.size**2, self.size**2, self.size * kernel.places)
        firsts: list[int] = np.cumsum([0, *kinds]).tolist()
        *self.first, self.nothing = firsts  # K is `nothing`

    def of(self, texts: Sequence[Sequence[int]]) -> tuple[csr_array, Doubles]:
        """The known features of texts, (P, K) sparse, and the kernel of each text with itself, (P,).

        What involves a token that is not known counts in the latter alone, one by one.
        """
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
        numbers = np.concatenate([part[0] for part in parts], 1)
        values = np.concatenate([part[1] for part in parts], 1) / lengths[:, None]
        known = (numbers < self.nothing) & (values != 0)
        starts = np.concatenate([[0], known.sum(1).cumsum()])
        phi_PK = csr_array((values[known], numbers[known], starts), shape=(len(texts), self.nothing))
        phi_PK.sum_duplicates()
        return phi_PK, phi_PK.power(2).sum(1) + (values**2 * (numbers == self.nothing)).sum(1)

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
        phi_NK, _ = Features(self.texts, self.kernel).of(self.texts)
        # Rounded, so that it does not depend in its last digits on which texts are taken at once.
        gram_NN[old:] = np.round((phi_NK[old:] @ phi_NK.T).toarray(), 10)
        gram_NN[:, old:] = gram_NN[old:].T
        self.e_ND = np.concatenate([self.e_ND, e_ND])[-memory:] if old else e_ND[-memory:].copy()
        del self.texts[:-memory]
        self.gram_NN = gram_NN[-memory:, -memory:]


class Forecast:
    """What to expect of changes to a hypothesis, by the answers so far, of which there must be one at least.

    Args:
        ids: the hypothesis' tokens.
        e_hat: its embedding (D,).
    """

    def __init__(self, surrogate: Surrogate, answers: Answers, ids: tuple[int, ...], e_hat: Floats) -> None:
        self.surrogate = surrogate
        self.answers = answers
        self.start_D, self.bag_1D = surrogate.unnormalised(ids, e_hat), self._bags([ids])
        known = [*answers.texts, ids]
        self.features = Features(known, answers.kernel)
        phi_XK, own_X = self.features.of(known)
        self.used = np.unique(phi_XK.indices)
        self.phi_FX = torch.from_numpy(phi_XK[:, self.used].astype(np.float32).toarray(order="F").T)
        noise_N = answers.kernel.noise / np.array([len(ids) for ids in answers.texts]) ** 2
        lower_NN = np.linalg.cholesky(answers.gram_NN + np.diag(noise_N))
        self.inverse_NN: Floats = dtrtri(lower_NN, lower=1)[0].astype(np.float32)
        self.alpha_ND, self.scale = self._learned()
        self.shared_1X, self.own = self._shared(phi_XK[-1:]), own_X[-1]

    def embeddings(self, texts: Sequence[Sequence[int]]) -> Floats:
        """(P, D) to expect of changed texts, one token at least each.

        Of length 1 where they are certain, else shorter, so that the product with e is the cosine to expect.
        """
        phi_PK, own_P = self.features.of(texts)
        shared_PX = self._shared(phi_PK)
        difference_PN = (shared_PX - self.shared_1X)[:, :-1]
        y_PD = self.start_D + self._bags(texts) - self.bag_1D + difference_PN @ self.alpha_ND
        apart_P = own_P + self.own - 2 * shared_PX[:, -1]
        v_P = (apart_P - ((difference_PN @ self.inverse_NN.T) ** 2).sum(1)).clip(min=0)
        spread_P = self.answers.kernel.caution * y_PD.shape[1] * self.scale * v_P
        length_P = np.sqrt(((y_PD**2).sum(1) + spread_P).clip(min=1e-6))
        found: Floats = (y_PD / length_P[:, None]).astype(np.float32)
        return found

    def _learned(self) -> tuple[Floats, float]:
        """What the answers add to what the surrogate says of their texts: weights of the answers (N, D), and s^2."""
        bags_ND = self._bags(self.answers.texts)
        d_ND = self.surrogate.as_long(bags_ND, self.answers.e_ND) - bags_ND
        d_ND -= d_ND.mean(0)
        white_ND = self.inverse_NN @ d_ND
        return self.inverse_NN.T @ white_ND, float((white_ND**2).mean())

    def _shared(self, phi_PK: csr_array) -> Floats:
        """The kernel of some texts with those answered about and, last, the hypothesis, (P, X)."""
        used_PF = phi_PK[:, self.used].astype(np.float32)
        shared_PX: Floats = F.embedding_bag(  # a product with a dense matrix, three times as fast as scipy's
            torch.from_numpy(used_PF.indices), self.phi_FX, torch.from_numpy(used_PF.indptr[:-1]), mode="sum",
            per_sample_weights=torch.from_numpy(used_PF.data),
        ).numpy()  # fmt: skip
        return shared_PX

    def _bags(self, texts: Sequence[Sequence[int]]) -> Floats:
        """The mean contribution of each text's tokens, (P, D)."""
        lengths, x_VD = np.array([len(ids) for ids in texts]), self.surrogate.x_VD
        shares, starts = np.repeat(1 / lengths, lengths).astype(np.float32), np.concatenate([[0], lengths.cumsum()])
        bags_PD: Floats = csr_array((shares, _flat(texts), starts), shape=(len(texts), len(x_VD))) @ x_VD
        return bags_PD


def _flat(texts: Sequence[Sequence[int]]) -> Ids:
    return np.concatenate([np.asarray(ids, np.int64) for ids in texts])
