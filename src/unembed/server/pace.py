"""What work takes, and how long: measured as it is done."""

from dataclasses import dataclass, field
from typing import NamedTuple

MEMORY = 0.9  # of a rate, from one measurement to the next


class Cost(NamedTuple):
    """What work takes."""

    passes: float = 0.0  # of the denoiser, each canvas counted
    tokens: float = 0.0  # to embed
    seconds: float = 0.0  # of searches


@dataclass
class Rate:
    """Seconds that a unit of work takes: an average that forgets, and the least of all measurements."""

    seconds: float = 0.0
    units: float = 0.0
    quickest: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        """Note a measurement."""
        each = seconds / units
        self.quickest = min(self.quickest, each) if self.units else each
        self.seconds = MEMORY * self.seconds + (1 - MEMORY) * seconds
        self.units = MEMORY * self.units + (1 - MEMORY) * units

    @property
    def average(self) -> float:
        """Seconds of a unit; 0 where nothing was measured."""
        return self.seconds / self.units if self.units else 0.0


@dataclass
class Pace:
    """The rates of each inverter, by its name: of passes, each canvas counted, and of tokens that are embedded."""

    passes: dict[str, Rate] = field(default_factory=dict)
    tokens: dict[str, Rate] = field(default_factory=dict)

    def seconds(self, model: str, cost: Cost, best: bool = False) -> float:
        """How long work takes alone, at the pace of late or at the best one; what was never measured takes no time."""
        total = cost.seconds
        for rates, units in ((self.passes, cost.passes), (self.tokens, cost.tokens)):
            rate = rates.get(model, Rate())
            total += units * (rate.quickest if best else rate.average)
        return total
