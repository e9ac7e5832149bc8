"""What a search knows: hypotheses, the encoder's answers, and how far it has come."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unembed.decoding.inversion import EXACT
from unembed.search.composition import Change
from unembed.search.gaussian_process import Answers

Ids = tuple[int, ...]
Floats = NDArray[np.float32]
Proposals = dict[str, dict[Ids, Change]]  # kind -> the texts that changes lead to, and the changes


@dataclass
class Hypothesis:
    """A text whose embedding is known."""

    ids: Ids
    e_hat: Floats  # (D,) of length 1
    cosine: float
    nats: float = 0.0  # the denoiser's log-likelihood of its tokens
    changed: bool = False  # whether its changes were proposed already
    explored: int = 0  # rounds that asked about its changes because the search was stuck
    judged: tuple[Floats, Floats] | None = None  # the denoiser's likelihoods: (T, V) and (T,)
    proposals: Proposals | None = None  # its small changes, once they were listed
    confidence: list[float] | None = None  # of each token, once it was asked for


@dataclass
class State:
    """A search as far as it has come."""

    answers: Answers
    pool: list[Hypothesis] = field(default_factory=list)  # best first, by cosine and language
    found: list[Hypothesis] = field(default_factory=list)  # confirmed, nearest first, of all pools
    seen: set[int] = field(default_factory=set)  # hashes of token rows that were asked about, or lead to such
    rounds: int = 0
    idle: int = 0  # rounds since the pool's best was found
    begun: int = 0  # times that the search began

    @property
    def exact(self) -> bool:
        """Whether the very text was found."""
        return bool(self.found) and self.found[0].cosine >= EXACT
