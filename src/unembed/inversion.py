"""What an inversion gives."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Inversion:
    """What came back from one embedding.

    Where several candidates were asked for, the inversion is the best of them, and `candidates` holds them all, the
    best one again as its first; where one was asked for, it is empty.
    """

    text: str
    tokens: list[str]  # content tokens as display pieces
    confidence: list[float]  # of each token: its probability when committed; calibrated where the inverter can
    ids: list[int]  # the whole canvas, L token ids
    score: float  # what candidates are ranked by (`Inverter.ranked`, `guidance`); of one alone its mean log confidence
    passes: int  # spent on this embedding, over all candidates
    encoder_calls: int  # spent on recovering it: none when blind
    cosine: float | None = None  # encoder(text) . e, measured afterwards; None where the encoder is not at hand
    candidates: list["Inversion"] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
