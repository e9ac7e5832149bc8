"""Words: what the other encoder says of single tokens, and a bag of tokens in its space.

An inverter has a bag of tokens, e(text) ~ mean over the text's tokens t of c_t + b (`surrogate.bag`). In the other
space it is

    x(text) ~ mean of (c_t M + l_t w_t N) + b',      l_t = |c_t| over the mean of |c|,

where w_t is what the other encoder answers to the token alone, less the mean of such answers: of a direction that says
what the token means, but of length 1 for "the" as for "hospital", which c_t tells apart. M and N are fitted by ridge
regression to pairs; N is drawn to a multiple of 1, so that even a few pairs make a bag. Without words only M is fitted,
drawn to what maps whole vectors.

The same words, embedded by both encoders, are pairs too. They are of another kind than texts, so that they only say
where the map is drawn to (`linear.ridge`).

Shape suffixes: V tokens of the inverter, W of them asked about, N pairs, S dimensions of the other encoder's vectors, D
of the inverter's, K of a code.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.linear import Linear, ridge

CODE = 256  # numbers that say of a token what its word adds: of 768 dimensions nothing that can be seen is lost

Floats = NDArray[np.float32]


class Words(NamedTuple):
    """Single tokens with their vectors.

    Attributes:
        tokens: (W,), ids of the inverter's tokenizer.
        vectors: (W, S) by the other encoder.
        own: (W, D) by the inverter's.
    """

    tokens: NDArray[np.int64]
    vectors: Floats
    own: Floats

    def prior(self) -> Floats:
        """The map (S, D) of words."""
        return ridge(self.vectors, self.own).linear.weight


class Added(NamedTuple):
    """What words add to a bag: `code` (V, K) times `basis` (K, S)."""

    code: Floats
    basis: Floats


def fit_bag(
    contributions_VD: Floats, bias_D: Floats, texts: Sequence[Sequence[int]], x_NS: Floats, y_ND: Floats,
    words: Words | None = None,
) -> tuple[Linear, Added | None]:  # fmt: skip
    """Fit a bag to texts.

    Args:
        contributions_VD, bias_D: c and b, of the inverter's bag.
        texts: their tokens, one at least each.
        x_NS, y_ND: their vectors by both encoders.

    Returns:
        What takes the inverter's bag, its bias included, into the other space; and what words add to it.
    """
    size_V = np.linalg.norm(contributions_VD, axis=1)
    scale = float(size_V.mean())
    features_VF, prior_FS = contributions_VD / scale, scale * ridge(y_ND, x_NS).linear.weight
    if words is not None:
        word_VS = np.zeros((len(contributions_VD), x_NS.shape[1]), np.float32)
        word_VS[words.tokens] = words.vectors - words.vectors.mean(0)
        word_VS *= (size_V / scale)[:, None]
        features_VF = np.concatenate([features_VF, word_VS], 1)
        prior_FS = np.concatenate([np.zeros_like(prior_FS), np.eye(x_NS.shape[1], dtype=np.float32)])
    bags_NF = np.stack([features_VF[list(ids)].mean(0) for ids in texts])
    fitted = ridge(bags_NF, x_NS, prior_SD=prior_FS).linear
    d = len(bias_D)
    mean_S = fitted.mean_target - fitted.mean_source[d:] @ fitted.weight[d:]
    linear = Linear.of(fitted.mean_source[:d] * scale + bias_D, mean_S, fitted.weight[:d] / scale)
    return linear, None if words is None else _low_rank(word_VS @ fitted.weight[d:])


def _low_rank(x_VS: NDArray[Any]) -> Added:
    """The nearest product."""
    _, vectors_SS = np.linalg.eigh(x_VS.T.astype(np.float64) @ x_VS)
    basis_KS = np.ascontiguousarray(vectors_SS[:, ::-1][:, :CODE].T, np.float32)
    return Added(np.ascontiguousarray(x_VS @ basis_KS.T, np.float32), basis_KS)
