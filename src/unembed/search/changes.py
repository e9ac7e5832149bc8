"""Changes: every text that is one small step from a hypothesis, or the most promising of them.

Exchanges and insertions are ranked over the whole vocabulary by the cosine that
the surrogate's bag of tokens promises (`surrogate.Surrogate`) and the denoiser's log-likelihood; what order and place
do to an embedding a bag cannot know, so all deletions and orders are listed and left to the forecast.

Shape suffixes: T tokens of the hypothesis, V vocabulary, D dimension of an embedding.
"""

from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.search.composition import Change
from unembed.surrogate import Surrogate

LISTED = 200  # exchanges, insertions and orders that are listed: what the forecast can look at in a fraction of the
INSERTIONS = 100  # time that the encoder takes for those that are asked
INSERTED = 24  # tokens that are inserted somewhere
ORDERS = 1000
LEAST = -50.0  # nats that an exchange loses at most
RARE = -8.0  # least log-likelihood of an inserted token that counts

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class Changes:
    """Changes of one hypothesis.

    Args:
        surrogate: of the encoder.
        ids: the hypothesis' tokens, one at least.
        e_hat: its embedding (D,).
        e_D: the embedding that is searched for.
        gains_TV: log-likelihood of each token at each place less that of the token that stands there; -inf: not to be
            used.
        standing_T: log-likelihood of the tokens that stand there.
        length: most tokens of a text.
        nat: cosine that a nat is worth.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        ids: Ids,
        e_hat: Floats,
        e_D: Floats,
        gains_TV: Floats,
        standing_T: Floats,
        length: int,
        nat: float,
        noise: np.random.Generator,
    ) -> None:
        self.ids = ids
        self.gains_TV = gains_TV
        self.standing_T = standing_T
        self.length = length
        self.nat = nat
        self.noise = noise
        known = gains_TV.shape[1]
        self.x_VD, self.xx_V = surrogate.x_VD[:known], surrogate.squares[:known]
        self.e_D = e_D
        # The embedding before normalisation, as long as the bag's.
        self.y_D = surrogate.unnormalised(ids, e_hat)
        self.xe_V, self.xy_V = self.x_VD @ e_D, self.x_VD @ self.y_D

    def exchanges(self) -> list[Change]:
        """One token exchanged for another, the most promising first."""
        ids, count = np.array(self.ids), len(self.ids)
        x_TD = self.x_VD[ids]
        along_TV = (self.xe_V - self.xe_V[ids, None]) / count
        across_TV = 2 * (self.xy_V - self.xy_V[ids, None]) / count
        squared_TV = (self.xx_V + self.xx_V[ids, None] - 2 * x_TD @ self.x_VD.T) / count**2
        score_TV = self._cosine(along_TV, across_TV + squared_TV) + self.nat * self.gains_TV.clip(min=LEAST)
        score_TV[np.isneginf(self.gains_TV)] = -np.inf
        score_TV[np.arange(count), ids] = -np.inf
        size = score_TV.shape[1]
        chosen = (divmod(at, size) for at in _largest(score_TV.ravel(), LISTED))
        return [Change({place: (token,)}) for place, token in chosen]

    def insertions(self) -> list[Change]:
        """One token more, at every place."""
        count = len(self.ids)
        if count >= self.length:
            return []
        # y(after) = (T y + x) / (T + 1)
        along_V = (self.xe_V - self.y_D @ self.e_D) / (count + 1)
        moved_V = (self.xx_V - 2 * self.xy_V + self.y_D @ self.y_D) / (count + 1) ** 2
        across_V = 2 * (self.xy_V - self.y_D @ self.y_D) / (count + 1) + moved_V
        likely_TV = np.maximum(self.gains_TV + self.standing_T[:, None], RARE)  # beside each token
        promised_V = self._cosine(along_V, across_V)
        promised_V[np.isneginf(self.gains_TV).all(0)] = -np.inf
        tokens = _largest(promised_V + self.nat * likely_TV.max(0), INSERTED)
        found = []
        for token in tokens:
            for place in range(count + 1):
                near = likely_TV[max(place - 1, 0) : place + 1, token].max()
                found.append((promised_V[token] + self.nat * near, place, token))
        best = _largest(np.array([score for score, _, _ in found]), INSERTIONS)
        return [self._inserted(found[i][1], found[i][2]) for i in best]

    def deletions(self) -> list[Change]:
        """Neighbours deleted, up to half of the text."""
        count = len(self.ids)
        return [
            Change(dict.fromkeys(range(first, first + size), ()))
            for size in range(1, count // 2 + 1)
            for first in range(count - size + 1)
        ]

    def orders(self) -> list[Change]:
        """Two blocks in each other's place, or one moved: all of them, or a sample of a long text's."""
        cuts = _cuts(len(self.ids))
        if len(cuts) > ORDERS:
            cuts = cuts[self.noise.choice(len(cuts), ORDERS, replace=False)]
        at = tuple(range(len(self.ids)))
        return [Change({}, at[:a] + at[c:d] + at[b:c] + at[a:b] + at[d:]) for a, b, c, d in cuts.tolist()]

    def _inserted(self, place: int, token: int) -> Change:
        """One token more before a place, or after the last one."""
        if place < len(self.ids):
            return Change({place: (token, self.ids[place])})
        return Change({place - 1: (self.ids[place - 1], token)})

    def _cosine(self, along: NDArray[Any], squared: NDArray[Any]) -> NDArray[Any]:
        """Cosine after a move of y whose product with e is `along`, and that adds `squared` to |y|^2."""
        y_D = self.y_D
        found: NDArray[Any] = (y_D @ self.e_D + along) / np.sqrt(np.maximum(y_D @ y_D + squared, 1e-6))
        return found


@lru_cache(maxsize=64)
def _cuts(count: int) -> NDArray[np.int64]:
    """All (a, b, c, d): the blocks a to b and c to d change places; where b = c one is moved past the other."""
    moved = [(a, b, b, d) for a, b, d in combinations(range(count + 1), 3)]
    return np.array(moved + list(combinations(range(count + 1), 4)), np.int64).reshape(-1, 4)


def _largest(values: NDArray[Any], count: int) -> list[int]:
    """Places of the largest values, largest first; -inf never."""
    count = min(count, len(values))
    some = np.argpartition(-values, count - 1)[:count] if count else np.zeros(0, np.int64)
    some = some[np.argsort(-values[some], kind="stable")]
    return [int(i) for i in some if values[i] > -np.inf]
