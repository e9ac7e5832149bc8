"""How an embedding is decoded: what a caller may choose, and the constants that were tuned.

Kept free of imports beyond the standard library, since the command line reads the fields to build its options.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from unembed.errors import InputError

COLDEST = 1e-4  # a temperature below takes the likeliest token: float32 ends where logits are divided by it
STRATEGIES = ("confidence", "sequential", "euler", "remask", "two-stage", "threshold")


def option(default: Any, doc: str) -> Any:
    """A field that the command line and the HTTP interface show with its text."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class DecodingTuning:
    """Constants of decoding. experiments/LOG.md, twenty-second day, has what changing the first five gives.

    Attributes:
        sharpness: power of the expected token counts, which a first pass spreads over too many tokens.
        floor: expected counts are not told apart below this, so that no rare token is scaled up at will.
        early, late: times the steering's strength, before anything is decoded and on a full canvas (fifteenth day).
        ending: chance of an end above which a text ends (sixteenth day).
        remasked: `remask`: visible tokens of a row that are masked again in a pass, on average; never compared.
        revised: `two-stage`: share of the tokens revised in the first pass of the second stage; never compared.
        threshold: `threshold`: confidence from which a token is committed (arXiv 2505.22618).
        sampling: temperature of several candidates, which must differ (ninth day).
        consensus: a candidate's agreement with the others, beside the cosine that is foreseen (seventeenth day).
    """

    sharpness: float = 1.15
    floor: float = 0.1
    early: float = 0.5
    late: float = 3.0
    ending: float = 0.4
    remasked: float = 1.0
    revised: float = 0.5
    threshold: float = 0.9
    sampling: float = 0.5
    consensus: float = 0.2


@dataclass(frozen=True)
class Decoding:
    """How masks become tokens. Raises InputError where a value is impossible for every inverter.

    Attributes:
        steps: most passes a candidate may take, 1 to L.
        strategy: a name of `STRATEGIES`.
        candidates: texts for each embedding.
        temperature: 0 takes the likeliest token, more samples from the tempered distribution.
        guidance: w of classifier-free guidance, un + (w + 1)(cond - un).
        balance: power of the factor that keeps later passes to the first one's token counts (see `balance`).
        steering: nats that a cosine is worth (see `steering`); without effect where the inverter's surrogate has no
            contributions of single tokens.
        seed: with an embedding's row it decides all random numbers, so that a row's text does not depend on the batch.
    """

    steps: int = option(8, "Most passes per candidate, from 1 to the length of the inverter's canvas.")
    strategy: str = option("confidence", f"How masks become tokens: {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}.")
    candidates: int = option(1, "Texts recovered per embedding, best first.")
    temperature: float | None = option(
        None, "0 takes the likeliest token, more samples.  [default: 0, or 0.5 for several candidates]"
    )
    guidance: float = option(0.0, "Strength of classifier-free guidance; doubles the passes.")
    balance: float = option(0.7, "How strongly later passes keep to the token counts that the first one expects.")
    steering: float = option(75.0, "How strongly tokens are drawn towards the embedding, by the surrogate; 0: not.")
    seed: int = option(0, "Decides everything that is random.")
    tuning: DecodingTuning = DecodingTuning()

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("candidates", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.strategy not in STRATEGIES:
            raise InputError(f"strategy is {self.strategy!r}, expected one of {', '.join(STRATEGIES)}")
        for name, lowest in (("temperature", 0), ("guidance", -1), ("balance", 0), ("steering", 0)):
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                raise InputError(f"{name} is {value}, expected {lowest} or more")

    @property
    def sampling(self) -> float:
        """The temperature, or where none was chosen 0 for one candidate, the best guess, and more for several."""
        if self.temperature is not None:
            return self.temperature if self.temperature > COLDEST else 0.0
        return 0.0 if self.candidates == 1 else self.tuning.sampling

    def check(self, length: int) -> None:
        """Raise InputError where an option is impossible for a canvas of `length` positions."""
        if self.steps > length:
            raise InputError(f"steps is {self.steps}, expected 1 to {length} (the inverter's length)")
