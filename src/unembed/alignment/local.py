"""A map near one vector, mended by the answers of a search.

A search asks the other encoder about hundreds of texts near the one that is searched for. Each answer is a pair: its
vector there, and that of the inverter's own encoder, which is at hand. So the answers join the aligner's pairs, and the
map near the vector is the one of the nearest of all (`residuals`). This is the refitting with queries of Zero2Text
(arXiv 2602.01757), by neighbours in the place of a linear map.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.aligner import Aligner
from unembed.alignment.linear import normalised
from unembed.alignment.residuals import NEAREST, Residuals

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class LocalMap:
    """An aligner's map near one vector of the source.

    Args:
        x_S: the vector (S,), of length 1.
        embed: the inverter's own encoder: rows of its tokenizer's ids -> (n, D) of length 1.
    """

    def __init__(self, aligner: Aligner, x_S: NDArray[Any], embed: Callable[[Sequence[Ids]], Floats]) -> None:
        self.forth = aligner.forth
        self.c_S = self.forth.centred(x_S[None].astype(np.float32))[0]
        self.embed = embed
        pairs = aligner.residuals or Residuals.none(len(x_S), aligner.target.dimension)
        self._residuals = pairs.near(self.c_S)

    def learn(self, rows: Sequence[Ids], x_NS: Floats) -> None:
        """Take in texts with their vectors (N, S), of length 1."""
        c_NS, known = self.forth.centred(x_NS), self._residuals
        least = float((known.vectors @ self.c_S).min()) if len(known.vectors) >= NEAREST else -np.inf
        near = np.flatnonzero(c_NS @ self.c_S > least)  # the others would be left out: they need not be embedded
        if len(near):
            rest_ND = self.embed([rows[i] for i in near.tolist()]) - self.forth.before_length(x_NS[near])
            self._residuals = known.and_of(c_NS[near], rest_ND).near(self.c_S)

    def __call__(self, x_NS: NDArray[Any]) -> Floats:
        """Vectors (N, D) of length 1."""
        return normalised(self.forth.before_length(x_NS) + self._residuals.at(self.forth.centred(x_NS)))
