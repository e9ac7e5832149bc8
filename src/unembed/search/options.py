"""What a search may spend, the constants that were tuned for it, and the plan that every door makes of its options.

Kept free of imports beyond the standard library, since the command line reads the fields to build its options.
"""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from unembed.decoding.options import Decoding, option
from unembed.errors import InputError


@dataclass(frozen=True)
class Kernel:
    """The forecast's kernel, chosen by the correlation of forecast and truth (LOG.md, 2026-11-26, sixth day).

    Attributes:
        token, pair, near, place: sizes of its features.
        window: tokens after a token that are near it.
        places, softness: places in a text, and the standard deviation of one as a share of the text.
        noise: variance of an answer beside what the kernel explains, times T^2.
        caution: share of what is uncertain that counts against a text.
        memory: latest answers that count.
    """

    token: float = 1.5
    pair: float = 0.7
    near: float = 0.5
    place: float = 0.7
    window: int = 3
    places: int = 4
    softness: float = 0.2
    noise: float = 0.8
    caution: float = 0.5
    memory: int = 500


@dataclass(frozen=True)
class SearchTuning:
    """Constants of the search (experiments/LOG.md, 2026-11-28 and 29, says which were chosen on texts).

    Attributes:
        starts: blind candidates to begin with.
        start_steps: passes of each of them.
        again: texts to begin again with.
        teachers: nearest hypotheses whose words these are made of.
        asked: texts embedded in a round, without the composed ones; shared by kind of proposal.
        composed: texts embedded in a round that join several changes.
        admitted: of these, the nearest, at which the denoiser looks; the others are only learned from.
        frugal_asked, frugal_composed: the same where calls are counted (`Search.max_calls`).
        exchanges, insertions, deletions, orders: their shares of `asked`.
        listed_exchanges, listed_insertions, listed_orders: how many the forecast looks at.
        joined: changes joined at most.
        beam: joined changes that are tried with every further one.
        widened: further changes kept for each of the beam.
        kept: joined changes of more than two that may be asked, of each number.
        unasked_joined: changes that were not asked about, the most promising, which are joined like those that were.
        reviewed: where calls are counted, times as many orders and joined changes as are asked about, at which the
            denoiser looks first.
        nat: what one nat of the denoiser's log-likelihood is worth, as a share of what a hypothesis lacks of a cosine
            of 1 (`Search.language`).
        listed_nat: cosine that a nat is worth where the bag of tokens ranks all exchanges and insertions.
        frugal_nat: cosine that a nat is worth, there too, where calls are counted.
        pool: hypotheses kept.
        patience: rounds without a better hypothesis after which the search is stuck.
        explorations: rounds for its nearest hypothesis then, before it begins again.
        widened_asked: texts embedded in such a round, without the composed ones.
    """

    starts: int = 8
    start_steps: int = 2
    again: int = 16
    teachers: int = 8
    explorations: int = 4
    widened_asked: int = 120
    asked: int = 40
    composed: int = 48
    admitted: int = 4
    frugal_asked: int = 12
    frugal_composed: int = 4
    exchanges: float = 0.35
    insertions: float = 0.2
    deletions: float = 0.1
    orders: float = 0.35
    listed_exchanges: int = 200
    listed_insertions: int = 100
    listed_orders: int = 1000
    joined: int = 7
    beam: int = 24
    widened: int = 4
    kept: int = 12
    unasked_joined: int = 100
    reviewed: int = 3
    nat: float = 0.1
    listed_nat: float = 0.03
    frugal_nat: float = 0.003
    pool: int = 64
    patience: int = 4
    kernel: Kernel = Kernel()


@dataclass(frozen=True)
class Search:
    """What a search may spend on each embedding: seconds, encoder calls, or both. Raises InputError.

    Attributes:
        seconds: wall time, the blind candidates at the beginning included. As many calls as fit are made.
        max_calls: encoder calls. Where it is given, calls are what is scarce: few a round, screened harder.
        journal_folder: where searches keep how far they have come, so that the same call after a kill goes on from
            there. It is the caller's to delete.
    """

    seconds: float | None = option(
        None, "Guided inversion: search each embedding's text for up to N seconds, with the encoder's help."
    )
    max_calls: int | None = option(None, "Guided inversion with a priced encoder: embed at most N texts per embedding.")
    tuning: SearchTuning = SearchTuning()
    journal_folder: str | Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.seconds is None and self.max_calls is None:
            raise InputError("seconds and max_calls are both None, expected one of them for a search")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(f"seconds is {self.seconds}, expected more than 0")
        if self.max_calls is not None and self.max_calls < 1:
            raise InputError(f"max_calls is {self.max_calls}, expected at least 1")

    @property
    def frugal(self) -> bool:
        """Whether calls are counted."""
        return self.max_calls is not None

    def language(self, cosine: float) -> float:
        """The cosine that one nat is worth beside a hypothesis: the less the nearer it is, unless calls are counted."""
        return self.tuning.frugal_nat if self.frugal else self.tuning.nat * max(0.0, 1 - cosine)

    @property
    def listed_nat(self) -> float:
        """The cosine that one nat is worth where the bag of tokens ranks all exchanges and insertions."""
        return self.tuning.frugal_nat if self.frugal else self.tuning.listed_nat


class Options(TypedDict, total=False):
    """The fields of `Decoding` and of `Search` that callers choose, by name."""

    steps: int
    strategy: str
    candidates: int
    temperature: float | None
    guidance: float
    balance: float
    steering: float
    seed: int
    seconds: float | None
    max_calls: int | None


def plan(
    decoding: Decoding | None = None, search: Search | None = None, **options: Unpack[Options]
) -> tuple[Decoding, Search | None]:
    """What an inversion is to do, from values or single options; the latter change the former.

    Returns:
        How to decode, and the search, or None where the inversion is blind: the one place where this is decided.

    Raises:
        InputError: an option is impossible.
        TypeError: there is no such option.
    """
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"no option {min(unknown)!r}, expected one of {', '.join(Options.__annotations__)}")
    spent: dict[str, Any] = {name: options[name] for name in ("seconds", "max_calls") if options.get(name) is not None}
    decoded: dict[str, Any] = {name: value for name, value in options.items() if name not in ("seconds", "max_calls")}
    decoding = replace(decoding or Decoding(), **decoded)
    if not spent:
        return decoding, search
    return decoding, Search(**spent) if search is None else replace(search, **spent)


def options_of(decoding: Decoding, search: Search | None) -> dict[str, Any]:
    """The options that `plan` makes these of, all of them, JSON-ready; tuned constants are left out."""
    several: list[Any] = [decoding, Search(1.0) if search is None else search]
    found = {f.name: getattr(one, f.name) for one in several for f in fields(one) if f.name in Options.__annotations__}
    return found if search is not None else found | {"seconds": None, "max_calls": None}
