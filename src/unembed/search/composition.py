"""Composition: several changes of one hypothesis at once, chosen by what each does alone.

A round embeds a hypothesis h with many single changes. They act nearly independently of each other, so that of changes
i, j, ... together

    e(h + i + j) ~ e(h) + d_i + d_j,      d_i = e(h + i) - e(h),

is to be expected, normalised; the embedding to expect stands for one that was not measured. So which few of the d add
up to what h lacks is a sparse approximation problem (matching pursuit, Mallat & Zhang 1993, doi 10.1109/78.258082),
solved here by a beam: all pairs, then the best pairs with every third change, and so on. It finds changes that help
only together, which no search by single steps accepts.

Shape suffixes: N changes, D dimension of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.search.options import SearchTuning

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What is done to a hypothesis of T tokens.

    Attributes:
        replaced: place in the hypothesis -> tokens that stand for the one at that place; none deletes it.
        order: the places in another order; None: as they are.
        nats: log-likelihood that the denoiser expects to be gained by it.
    """

    replaced: Mapping[int, Ids] = field(default_factory=dict)
    order: Ids | None = None
    nats: float = 0.0

    def of(self, ids: Ids) -> Ids:
        """The text that it makes of the hypothesis' tokens."""
        places = self.order if self.order is not None else range(len(ids))
        if not self.replaced:
            return tuple(ids[place] for place in places)
        return tuple(token for place in places for token in self.replaced.get(place, ids[place : place + 1]))

    def __and__(self, other: "Change") -> "Change":
        """Both, where they have no place in common."""
        order = other.order if self.order is None else self.order
        return Change({**self.replaced, **other.replaced}, order, self.nats + other.nats)


def compose(
    e_hat: Floats, changes: Sequence[tuple[Change, Floats]], e_D: Floats, count: int, tuning: SearchTuning, nat: float
) -> list[Change]:
    """The `count` most promising joined changes, of two to `joined` each, best first.

    Args:
        e_hat: the hypothesis' embedding (D,), of length 1.
        changes: of the hypothesis, each with the embedding (D,) that it led to, of length 1.
        e_D: the embedding that is searched for, of length 1.
        tuning: how wide the beam is.
        nat: cosine that a nat of log-likelihood is worth.
    """
    if len(changes) < 2:
        return []
    apart_NN = _apart([change for change, _ in changes])
    d_ND = np.stack([e for _, e in changes]) - e_hat
    along_N, gram_NN = d_ND @ e_D, d_ND @ d_ND.T
    square_N = 2 * d_ND @ e_hat + gram_NN.diagonal()

    nats_N = nat * np.array([change.nats for change, _ in changes])

    def promised(
        along: NDArray[Any], square: NDArray[Any], language: NDArray[Any], possible: NDArray[Any]
    ) -> NDArray[Any]:
        """The cosine to e after moves of h, and what they are worth as language."""
        cosine = (e_hat @ e_D + along) / np.sqrt(np.maximum(1 + square, 1e-6))
        return np.where(possible, cosine + language, -np.inf)

    pairs_NN = promised(
        along_N[:, None] + along_N, square_N[:, None] + square_N + 2 * gram_NN, nats_N[:, None] + nats_N,
        np.triu(apart_NN, 1),
    )  # fmt: skip
    most = min(pairs_NN.size, max(tuning.beam, 3 * count))
    best = np.argpartition(-pairs_NN, most - 1, axis=None)[:most]
    rows, columns = np.unravel_index(best[np.argsort(-pairs_NN.flat[best], kind="stable")], pairs_NN.shape)
    found: dict[tuple[int, ...], float] = {
        (i, j): float(pairs_NN[i, j])
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if pairs_NN[i, j] > -np.inf
    }
    level = list(found)[: tuning.beam]
    for _ in range(tuning.joined - 2):
        wider: dict[tuple[int, ...], float] = {}
        for joint in level:
            group = list(joint)
            square = square_N[group].sum() + 2 * np.triu(gram_NN[np.ix_(group, group)], 1).sum()
            cosine_N = promised(
                along_N[group].sum() + along_N,
                square + square_N + 2 * gram_NN[group].sum(0),
                nats_N[group].sum() + nats_N,
                np.logical_and.reduce(apart_NN[group]),
            )
            for other in np.argsort(-cosine_N, kind="stable")[: tuning.widened].tolist():
                if cosine_N[other] > -np.inf:
                    wider[tuple(sorted((*group, other)))] = float(cosine_N[other])
        level = sorted(wider, key=lambda group: -wider[group])[: tuning.beam]
        found |= {group: wider[group] for group in level[: tuning.kept]}
    ranked = sorted(found, key=lambda group: -found[group])[:count]
    return [reduce(and_, (changes[number][0] for number in group)) for group in ranked]


def _apart(changes: Sequence[Change]) -> NDArray[Any]:
    """Which changes have no place in common and do not both change the order, (N, N)."""
    longest = max((place for change in changes for place in change.replaced), default=0)
    places_NP = np.zeros((len(changes), longest + 2), np.float32)
    for row, change in enumerate(changes):
        places_NP[row, list(change.replaced)] = 1
        places_NP[row, -1] = change.order is not None
    apart_NN: NDArray[Any] = places_NP @ places_NP.T == 0
    return apart_NN
