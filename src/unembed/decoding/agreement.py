"""Consensus: which of several texts for one embedding the others agree with.

Minimum Bayes risk decoding (Kumar & Byrne 2004, aclanthology.org/N04-1022) takes the text whose expected loss is least,
the samples standing for what the text may be. On short sentences the text that has most in common with the others has
more of the words than the one that is foreseen to be nearest (experiments/LOG.md, 2026-11-27).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bag_f1(one: Sequence[int], other: Sequence[int]) -> float:
    """F1 of two texts' bags (multisets) of token ids, 0 to 1; 0 where neither has any."""
    return 2 * (Counter(one) & Counter(other)).total() / max(1, len(one) + len(other))


def agreement(texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Mean token F1 of each text with the others, (n,), 0 to 1; 0 where there are no others.

    Of tokens as a bag, places ignored: n-grams of up to four tokens chose no better (experiments/LOG.md, 2026-11-27).
    """
    common_NN = np.zeros((len(texts), len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            common_NN[one, other] = common_NN[other, one] = bag_f1(texts[one], texts[other])
    mean_N: NDArray[np.float64] = common_NN.sum(1) / max(1, len(texts) - 1)
    return mean_N
