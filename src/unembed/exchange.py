"""Exchanges: which tokens of a hypothesis to exchange for which, by the denoiser and the surrogate together.

The pass that judges a hypothesis tells, at each of its positions, which tokens the denoiser would rather see there. The
surrogate says what each of them would do to the cosine. Neither is worth much alone: the denoiser ranks a word that is
missing in the hundreds, and the surrogate knows nothing of texts. Of what is good by both every third is missing, and
half or more raise the cosine (experiments/LOG.md, 2026-11-25). One to a few such exchanges make a draft, which needs
no pass of its own.

Shape suffixes as in surrogate.py; K: tokens considered at a position; S: exchanges on a shortlist.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unembed.surrogate import Corrections, Surrogate

CONSIDERED = 512  # tokens K at each position, the denoiser's likeliest
LISTED = 256  # most exchanges S on a shortlist
SHARPNESS = 0.003  # cosine by which an exchange must be better to be drawn e times as often
STOP = 0.5  # chance of no further exchange in a draft

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Choices(NamedTuple):
    """What else the denoiser would put down at each position of a text."""

    tokens: Ids  # (T, K)
    gains: Floats  # (T, K) log-likelihood of each, less that of the token that stands there; -inf: not to be used


class Shortlist(NamedTuple):
    """The exchanges of a hypothesis that promise most."""

    start: Floats  # (D,) its embedding before normalisation
    places: Ids  # (S,)
    tokens: Ids  # (S,)
    moved: Floats  # (S, D) what each exchange would add to `start`
    likelier: Floats  # (S,) what the score gains by the denoiser's likelihood


def shortlist(
    surrogate: Surrogate,
    corrections: Corrections,
    e_D: Floats,
    hypothesis: tuple[Sequence[int], Floats],
    choices: Choices,
    prior: float,
) -> Shortlist:
    """Rank every choice at every position by the cosine to e that is to be expected, and its likelihood.

    Args:
        hypothesis: its tokens (T of them) and its embedding e_hat (D,).
        prior: what a nat of likelihood is worth, in units of cosine.
    """
    ids = np.array(hypothesis[0])
    start_D = surrogate.unnormalised(*hypothesis)
    towards_V, along_V = surrogate.x_VD @ e_D, surrogate.x_VD @ start_D
    towards_V[corrections.tokens] += corrections.added @ e_D
    along_V[corrections.tokens] += corrections.added @ start_D
    # |start + d|^2 without its last term |d|^2, which is as small as 1 / T^2.
    reached_TK = start_D @ e_D + (towards_V[choices.tokens] - towards_V[ids][:, None]) / len(ids)
    squared_TK = start_D @ start_D + 2 * (along_V[choices.tokens] - along_V[ids][:, None]) / len(ids)
    barred_TK = np.isneginf(choices.gains)
    likelier_TK = prior * np.where(barred_TK, np.float32(0), choices.gains)
    score_TK = reached_TK / np.sqrt(squared_TK.clip(min=1e-6)) + likelier_TK
    score_TK[barred_TK | (choices.tokens == ids[:, None])] = -np.inf
    best = np.argsort(-score_TK, axis=None, kind="stable")[:LISTED]
    best = best[np.isfinite(score_TK.flat[best])]
    places, tokens = best // choices.tokens.shape[1], choices.tokens.flat[best]
    moved_SD = surrogate.x_VD[tokens] + corrections.of(tokens)
    moved_SD -= surrogate.x_VD[ids[places]] + corrections.of(ids[places])
    return Shortlist(start_D, places, tokens, moved_SD / np.float32(len(ids)), likelier_TK.flat[best])


def draw(listed: Shortlist, e_D: Floats, noise: np.random.Generator) -> dict[int, int]:
    """One exchange, or some that are good after each other: place -> token. Nothing where nothing is listed."""
    chosen: dict[int, int] = {}
    reached_D, open_S = listed.start, np.ones(len(listed.places), dtype=bool)
    while open_S.any():
        after_SD = reached_D + listed.moved[open_S]
        score_S = after_SD @ e_D / np.linalg.norm(after_SD, axis=1) + listed.likelier[open_S]
        chances_S = np.exp((score_S - score_S.max()).astype(np.float64) / SHARPNESS)
        number = np.flatnonzero(open_S)[noise.choice(len(chances_S), p=chances_S / chances_S.sum())]
        place = int(listed.places[number])
        chosen[place] = int(listed.tokens[number])
        reached_D = reached_D + listed.moved[number]
        open_S &= listed.places != place
        if noise.random() < STOP:
            break
    return chosen
