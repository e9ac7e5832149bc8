"""Linear maps from one encoder's space into another's.

    y ~ mean_y + (x - mean_x) W, to length 1

**Ridge.** Of pairs (X, Y), centred, W = (X'X + n lambda I)^-1 X'Y. The penalty lambda is that of least generalised
cross-validation (Golub, Heath and Wahba 1979, Technometrics 21, 2): with X = U S V' and

    GCV(lambda) = n |Y - Y_hat|^2 / (n - 1 - sum of s^2 / (s^2 + n lambda))^2

A pseudo-inverse (ALGEN, arXiv 2502.11308) is lambda = 0. Where there are about as many pairs as dimensions it breaks
down. With a prior W0, W is drawn to s W0 in the place of 0: what s X W0 leaves of Y is fitted, where s is the number
that leaves least.

**Procrustes.** W = U V' of the singular value decomposition of X'Y, which keeps all distances (Schoenemann 1966).

The means need no pairs: each side's may be that of unpaired vectors.

Shape suffixes: N pairs, S dimensions of the source, D of the target.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RANK = 1e-7  # singular values below this share of the largest are none
PENALTIES = np.logspace(-6, 2, 65)  # times the mean square of a source vector's numbers


class Linear(NamedTuple):
    """A centred linear map.

    Attributes:
        mean_source: of the source's vectors, (S,).
        mean_target: of the target's, (D,).
        weight: (S, D), what is done to the difference from the first.
    """

    mean_source: Floats
    mean_target: Floats
    weight: Floats

    def __call__(self, x_NS: NDArray[Any]) -> Floats:
        """Vectors (N, D) of length 1."""
        return normalised(self.before_length(x_NS))

    def before_length(self, x_NS: NDArray[Any]) -> Floats:
        """The same, before they are brought to length 1."""
        found_ND: Floats = np.asarray((x_NS.astype(np.float32) - self.mean_source) @ self.weight + self.mean_target)
        return found_ND

    def centred(self, x_NS: NDArray[Any]) -> Floats:
        """Vectors (N, S) less the source's mean, of length 1: where they lie, whatever they have in common."""
        return normalised(x_NS - self.mean_source)

    @classmethod
    def of(cls, mean_S: NDArray[Any], mean_D: NDArray[Any], weight_SD: NDArray[Any]) -> Self:
        """From arrays of any precision."""
        return cls(*(np.ascontiguousarray(one, np.float32) for one in (mean_S, mean_D, weight_SD)))


class Ridge(NamedTuple):
    """A fitted map and its penalty, as a share of the mean square of a source vector's numbers."""

    linear: Linear
    penalty: float


def ridge(
    x_NS: NDArray[Any], y_ND: NDArray[Any], mean_S: NDArray[Any] | None = None, mean_D: NDArray[Any] | None = None,
    prior_SD: NDArray[Any] | None = None,
) -> Ridge:  # fmt: skip
    """The centred ridge regression of least generalised cross-validation.

    Args:
        x_NS, y_ND: pairs, one a row; at least two.
        mean_S, mean_D: means of unpaired vectors; those of the pairs where not given.
        prior_SD: what the weight is drawn to, times a number that the pairs decide.
    """
    x_NS, y_ND = x_NS.astype(np.float64), y_ND.astype(np.float64)
    free = len(x_NS) - (mean_S is None)  # degrees of freedom: the pairs' own mean takes one
    mean_S = x_NS.mean(0) if mean_S is None else mean_S
    mean_D = y_ND.mean(0) if mean_D is None else mean_D
    x_NS, y_ND, n = x_NS - mean_S, y_ND - mean_D, len(x_NS)
    start_SD: NDArray[Any] | float = 0.0
    if prior_SD is not None:
        told_ND = x_NS @ prior_SD
        share = float((told_ND * y_ND).sum() / max(1e-12, float((told_ND**2).sum())))
        start_SD, y_ND = share * prior_SD, y_ND - share * told_ND
    u_NK, s_K, v_KS = np.linalg.svd(x_NS, full_matrices=False)
    rank = int((s_K > s_K[0] * RANK).sum())
    u_NK, s_K, v_KS = u_NK[:, :rank], s_K[:rank], v_KS[:rank]
    along_KD = u_NK.T @ y_ND
    # What no map of x can give: nothing where there are as many dimensions as pairs.
    rest = max(0.0, float((y_ND**2).sum() - (along_KD**2).sum())) if rank < free else 0.0
    scale = float((s_K**2).sum()) / x_NS.size
    errors = []
    for penalty in PENALTIES:
        lost_K = n * penalty * scale / (s_K**2 + n * penalty * scale)
        error = rest + float(((lost_K[:, None] * along_KD) ** 2).sum())
        errors.append(n * error / (free - rank + lost_K.sum()) ** 2)
    penalty = float(PENALTIES[int(np.argmin(errors))])
    weight_SD = (v_KS.T * (s_K / (s_K**2 + n * penalty * scale))) @ along_KD
    return Ridge(Linear.of(mean_S, mean_D, start_SD + weight_SD), penalty)


def procrustes(
    x_NS: NDArray[Any], y_ND: NDArray[Any], mean_S: NDArray[Any] | None = None, mean_D: NDArray[Any] | None = None
) -> Linear:
    """The orthogonal map, or where dimensions differ the semi-orthogonal one, that brings pairs nearest.

    Arguments as for `ridge`.
    """
    mean_S = x_NS.mean(0) if mean_S is None else mean_S
    mean_D = y_ND.mean(0) if mean_D is None else mean_D
    u_SK, _, v_KD = np.linalg.svd((x_NS - mean_S).T.astype(np.float64) @ (y_ND - mean_D), full_matrices=False)
    return Linear.of(mean_S, mean_D, u_SK @ v_KD)


def normalised(x_ND: NDArray[Any]) -> Floats:
    """Rows of length 1; a row of zeros stays one."""
    found: Floats = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True).clip(min=1e-12)).astype(np.float32)
    return found
