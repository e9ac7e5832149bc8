"""Consensus: which of several texts for one embedding the others agree with.

Minimum Bayes risk decoding (Kumar & Byrne 2004, aclanthology.org/N04-1022) takes the text whose expected loss is least,
the samples standing for what the text may be. Where samples of one embedding agree they are mostly right, so the text
that has most in common with the others has more of the words than the one that is foreseen to be nearest.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def agreement(texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Mean token F1 of each text with the others, (n,), 0 to 1; 0 where there are no others.

    Of tokens as a bag, places ignored: n-grams of up to four tokens chose no better (experiments/LOG.md, 2026-11-27).
    Two texts without a token have nothing in common.
    """
    bags = [Counter(ids) for ids in texts]
    common_NN = np.zeros((len(texts), len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            shared = (bags[one] & bags[other]).total()
            common_NN[one, other] = common_NN[other, one] = 2 * shared / max(1, len(texts[one]) + len(texts[other]))
    mean_N: NDArray[np.float64] = common_NN.sum(1) / max(1, len(texts) - 1)
    return mean_N
