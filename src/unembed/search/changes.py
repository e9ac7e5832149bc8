"""Changes: every text that is one small step from a hypothesis, or the most promising of them.

Exchanges and insertions are ranked over the whole vocabulary by the cosine that
the surrogate's bag of tokens promises (`surrogate.Surrogate`) and the denoiser's log-likelihood; what order and place
do to an embedding a bag cannot know, so all deletions are listed, the least likely tokens' first, and all orders.

Shape suffixes: T tokens of the hypothesis, V vocabulary, D dimension of an embedding.
"""

from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.search.composition import Change
from unembed.search.options import Search
from unembed.surrogate.bag import Surrogate

LEAST = -50.0  # nats that an exchange or an insertion loses at most

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class Changes:
    """Changes of one hypothesis.

    Args:
        surrogate: of the encoder.
        ids: the hypothesis' tokens, one at least.
        e_hat: its embedding (D,).
        e_D: the embedding that is searched for.
        standing_T: log-likelihood of the tokens.
        search: says how many are listed, which the forecast can look at in a fraction of the time that the encoder
            takes for those asked, and what a nat is worth.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        ids: Ids,
        e_hat: Floats,
        e_D: Floats,
        standing_T: Floats,
        search: Search,
        noise: np.random.Generator,
    ) -> None:
        self.ids = ids
        self.standing_T = standing_T
        self.tuning = search.tuning
        self.nat = search.listed_nat
        self.noise = noise
        self.x_VD, self.xx_V = surrogate.x_VD, surrogate.squares
        self.e_D = e_D
        # The embedding before normalisation, as long as the bag's.
        self.y_D = surrogate.unnormalised(ids, e_hat)
        self.xe_V, self.xy_V = self.x_VD @ e_D, self.x_VD @ self.y_D

    def exchanges(self, gains_TV: Floats) -> list[Change]:
        """One token exchanged for another, the most promising first.

        Args:
            gains_TV: log-likelihood of each token at each place less that of the token that stands there; -inf: not to
                be used.
        """
        ids, count = np.array(self.ids), len(self.ids)
        x_TD = self.x_VD[ids]
        along_TV = (self.xe_V - self.xe_V[ids, None]) / count
        across_TV = 2 * (self.xy_V - self.xy_V[ids, None]) / count
        squared_TV = (self.xx_V + self.xx_V[ids, None] - 2 * x_TD @ self.x_VD.T) / count**2
        score_TV = self._scored(along_TV, across_TV + squared_TV, gains_TV)
        score_TV[np.arange(count), ids] = -np.inf
        return [
            Change({place: (token,)}, nats=max(LEAST, float(gains_TV[place, token])))
            for place, token in _largest(score_TV, self.tuning.listed_exchanges)
        ]

    def insertions(self, between_GV: Floats) -> list[Change]:
        """One token more, the most promising first.

        Args:
            between_GV: log-likelihood of each token before each place and after the last; -inf: not to be used.
        """
        ids, count = self.ids, len(self.ids)
        # y(after) = (T y + x) / (T + 1)
        along_V = (self.xe_V - self.y_D @ self.e_D) / (count + 1)
        moved_V = (self.xx_V - 2 * self.xy_V + self.y_D @ self.y_D) / (count + 1) ** 2
        across_V = 2 * (self.xy_V - self.y_D @ self.y_D) / (count + 1) + moved_V
        found = []
        for place, token in _largest(self._scored(along_V, across_V, between_GV), self.tuning.listed_insertions):
            replaced = {place: (token, ids[place])} if place < count else {count - 1: (ids[-1], token)}
            found.append(Change(replaced, nats=max(LEAST, float(between_GV[place, token]))))
        return found

    def deletions(self) -> list[Change]:
        """Neighbours deleted, up to half of the text, the least likely first."""
        count = len(self.ids)
        several = [
            Change(dict.fromkeys(range(first, last), ()), nats=-float(self.standing_T[first:last].sum()))
            for size in range(1, count // 2 + 1)
            for first, last in zip(range(count), range(size, count + 1), strict=False)
        ]
        return sorted(several, key=lambda change: -change.nats / len(change.replaced))

    def orders(self) -> list[Change]:
        """Two blocks in each other's place, or one moved: all of them, or a sample of a long text's."""
        cuts, most = _cuts(len(self.ids)), self.tuning.listed_orders
        if len(cuts) > most:
            cuts = cuts[self.noise.choice(len(cuts), most, replace=False)]
        at = tuple(range(len(self.ids)))
        return [Change({}, at[:a] + at[c:d] + at[b:c] + at[a:b] + at[d:]) for a, b, c, d in cuts.tolist()]

    def _scored(self, along: NDArray[Any], squared: NDArray[Any], nats: Floats) -> NDArray[Any]:
        """Cosine after a move of y whose product with e is `along`, and that adds `squared` to |y|^2; and language."""
        y_D = self.y_D
        cosine = (y_D @ self.e_D + along) / np.sqrt(np.maximum(y_D @ y_D + squared, 1e-6))
        score: NDArray[Any] = cosine + self.nat * nats.clip(min=LEAST)
        score[np.isneginf(nats)] = -np.inf
        return score


@lru_cache(maxsize=64)
def _cuts(count: int) -> NDArray[np.int64]:
    """All (a, b, c, d): the blocks a to b and c to d change places; where b = c one is moved past the other."""
    moved = [(a, b, b, d) for a, b, d in combinations(range(count + 1), 3)]
    return np.array(moved + list(combinations(range(count + 1), 4)), np.int64).reshape(-1, 4)


def _largest(values: NDArray[Any], count: int) -> list[tuple[int, int]]:
    """Places (row, column) of the largest values, largest first; -inf never."""
    flat = values.ravel()
    count = min(count, len(flat))
    some = np.argpartition(-flat, count - 1)[:count]
    some = some[np.argsort(-flat[some], kind="stable")]
    return [divmod(int(i), values.shape[1]) for i in some if flat[i] > -np.inf]
