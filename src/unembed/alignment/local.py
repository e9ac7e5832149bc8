"""A map near one vector, mended by the answers of a search.

An aligner's linear map is the best one on average. A search asks the other encoder about hundreds of texts near the
one that is searched for, and each answer is a pair: its vector x_i there, and y_i by the inverter's own encoder, which
is at hand. What the aligner A gets wrong about them, r_i = y_i - A(x_i), is much the same nearby, so that

    y(x) ~ A(x) + k(x) (K + noise)^-1 R,      k(x, x') = exp(-|x - x'|^2 / 2 width^2)

(kernel ridge regression of the residuals). This is the refitting with queries of Zero2Text (arXiv 2602.01757), by
neighbours in the place of a linear map.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from unembed.alignment.aligner import Aligner
from unembed.alignment.linear import normalised

KEPT = 512  # answers, the nearest
WIDTH = 0.7  # of the kernel: vectors of a cosine of .75 are so far apart
NOISE = 0.1  # of the residuals, as a share of their variance

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class LocalMap:
    """An aligner's map near one vector of the source.

    Args:
        x_S: the vector (S,), of length 1.
        embed: the inverter's own encoder: rows of its tokenizer's ids -> (n, D) of length 1.
    """

    def __init__(self, aligner: Aligner, x_S: NDArray[Any], embed: Callable[[Sequence[Ids]], Floats]) -> None:
        self.aligner = aligner
        self.x_S = x_S.astype(np.float32)
        self.embed = embed
        self._x_NS = np.empty((0, len(x_S)), np.float32)
        self._rest_ND = np.empty((0, aligner.target.dimension), np.float32)
        self._weights_ND = self._rest_ND

    def learn(self, rows: Sequence[Ids], x_NS: Floats) -> None:
        """Take in texts with their vectors (N, S), of length 1."""
        near = x_NS @ self.x_S
        least = float((self._x_NS @ self.x_S).min()) if len(self._x_NS) >= KEPT else -np.inf
        chosen = np.flatnonzero(near > least)
        chosen = chosen[np.argsort(-near[chosen], kind="stable")[:KEPT]]
        if not len(chosen):
            return
        x_NS = x_NS[chosen]
        rest_ND = self.embed([rows[i] for i in chosen.tolist()]) - self.aligner(x_NS)
        x_NS, rest_ND = np.concatenate([self._x_NS, x_NS]), np.concatenate([self._rest_ND, rest_ND])
        kept = np.argsort(-(x_NS @ self.x_S), kind="stable")[:KEPT]
        self._x_NS, self._rest_ND = x_NS[kept], rest_ND[kept]
        gram_NN = _kernel(self._x_NS, self._x_NS) + NOISE * np.eye(len(kept))
        self._weights_ND = cho_solve(cho_factor(gram_NN), self._rest_ND.astype(np.float64)).astype(np.float32)

    def __call__(self, x_NS: NDArray[Any]) -> Floats:
        """Vectors (N, D) of length 1."""
        mapped = self.aligner(x_NS)
        if not len(self._x_NS):
            return mapped
        return normalised(mapped + _kernel(normalised(x_NS), self._x_NS).astype(np.float32) @ self._weights_ND)


def _kernel(x_NS: Floats, y_MS: Floats) -> NDArray[np.float64]:
    """Of vectors of length 1."""
    found: NDArray[np.float64] = np.exp((np.float64(x_NS @ y_MS.T) - 1) / WIDTH**2)
    return found
