"""What a linear map gets wrong near a vector, told by the nearest pairs.

A linear map A is the best one on average. Of a pair (x_i, y_i) it leaves r_i = y_i - A(x_i), which is much the same for
vectors nearby, so that

    y(x) ~ A(x) + k(x) (K + noise)^-1 R,      k(x, x') = exp(-|c - c'|^2 / 2 width^2)

(kernel ridge regression of the residuals) over the pairs nearest to x, where c is x less the mean of its space, brought
to length 1 (`Linear.centred`): the vectors of some encoders, such as E5's, have most of their length in common. With
1,000 pairs or more this is a closer map than the linear one (docs/aligners.md); with few it changes next to nothing.

Shape suffixes: N pairs, M vectors asked about, S dimensions of the source, D of the target.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

NEAREST = 256  # pairs; level from 128 to 512
WIDTH = 0.7  # of the kernel: vectors of a cosine of .75 are so far apart
NOISE = 0.1  # of the residuals, as a share of their variance

Floats = NDArray[np.float32]


class Residuals(NamedTuple):
    """Vectors of pairs, and what a linear map leaves of them.

    Attributes:
        vectors: (N, S), centred, of length 1.
        rest: (N, D), what was to be found less what the map gives, before that is brought to length 1.
    """

    vectors: Floats
    rest: Floats

    @classmethod
    def none(cls, source: int, target: int) -> Self:
        """Of no pairs, between spaces of these dimensions."""
        return cls(np.empty((0, source), np.float32), np.empty((0, target), np.float32))

    def and_of(self, c_NS: Floats, rest_ND: Floats) -> "Residuals":
        """With further pairs."""
        return Residuals(np.concatenate([self.vectors, c_NS]), np.concatenate([self.rest, rest_ND]))

    def near(self, c_S: NDArray[Any]) -> "Residuals":
        """Those of the pairs nearest to a centred vector."""
        if len(self.vectors) <= NEAREST:
            return self
        nearest = np.argpartition(-(self.vectors @ c_S), NEAREST)[:NEAREST]
        return Residuals(self.vectors[nearest], self.rest[nearest])

    def at(self, c_MS: Floats) -> Floats:
        """What to add to the linear map of centred vectors (M, S), by all of these pairs: (M, D)."""
        if not len(self.vectors):
            return np.zeros((len(c_MS), self.rest.shape[1]), np.float32)
        gram_NN = _kernel(self.vectors, self.vectors) + NOISE * np.eye(len(self.vectors), dtype=np.float32)
        shared_NM = _kernel(self.vectors, c_MS)
        found: Floats = cho_solve(cho_factor(gram_NN, check_finite=False), shared_NM, check_finite=False).T @ self.rest
        return found


def _kernel(x_NS: Floats, y_MS: Floats) -> Floats:
    """Of vectors of length 1."""
    found: Floats = np.exp((x_NS @ y_MS.T - 1) / np.float32(WIDTH**2))
    return found
