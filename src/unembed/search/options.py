"""What a search may spend, and the constants that were tuned for it."""

import math
from dataclasses import dataclass, field

from unembed.errors import InputError

EXACT = 1 - 1e-6  # float32 cosine from which a text is the very one: float noise is 2e-7, the next text is at 1 - 1e-3


@dataclass(frozen=True)
class Tuning:
    """Constants of the search (experiments/LOG.md, 2026-11-28 and 29, says which were chosen on texts).

    Attributes:
        starts: blind candidates to begin with, and to begin again with.
        start_steps: passes of each of them.
        asked: texts embedded in a round, without the composed ones; shared by kind of proposal.
        composed: texts embedded in a round that join several changes.
        admitted: of these, the nearest, at which the denoiser looks; the others are only learned from.
        frugal_asked, frugal_composed: the same where calls are counted (`Search.max_calls`).
        exchanges, insertions, deletions, orders: their shares of `asked`.
        nat: cosine that one nat of the denoiser's log-likelihood is worth.
        pool: hypotheses kept.
        patience: rounds without a better hypothesis after which the search begins again.
    """

    starts: int = 8
    start_steps: int = 2
    asked: int = 40
    composed: int = 48
    admitted: int = 4
    frugal_asked: int = 12
    frugal_composed: int = 4
    exchanges: float = 0.35
    insertions: float = 0.2
    deletions: float = 0.1
    orders: float = 0.35
    nat: float = 0.003
    pool: int = 64
    patience: int = 8


@dataclass(frozen=True)
class Search:
    """What a search may spend on each embedding: seconds, encoder calls, or both.

    Attributes:
        seconds: wall time, the blind candidates at the beginning included. As many calls as fit are made.
        max_calls: encoder calls. Where it is given, calls are what is scarce: few a round, screened harder.
        seed: decides everything that is random.
    """

    seconds: float | None = None
    max_calls: int | None = None
    seed: int = 0
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        """Raise InputError where an option is impossible."""
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(f"seconds is {self.seconds}, expected more than 0")
        if self.max_calls is not None and self.max_calls < 1:
            raise InputError(f"max_calls is {self.max_calls}, expected at least 1")

    @property
    def guided(self) -> bool:
        """Whether there is a search at all."""
        return self.seconds is not None or self.max_calls is not None

    @property
    def frugal(self) -> bool:
        """Whether calls are counted."""
        return self.max_calls is not None
