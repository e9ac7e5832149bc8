"""What an inversion gives."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.encoders.encoder import Encoder

EXACT = 1 - 1e-6  # float32 cosine from which a text is the very one: float noise is 2e-7, the next text is at 1 - 1e-3
PLAUSIBLE = 0.7  # cosine that a search reaches early for an embedding of the encoder, hardly ever for another vector


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
    score: float  # candidates are ranked by it (`Inverter.ranked`; the cosine in a search); of one, mean log confidence
    passes: int  # spent on this embedding, over all candidates
    encoder_calls: int  # spent on recovering it: none when blind
    cosine: float | None = None  # encoder(text) . e, measured afterwards; None where the encoder is not at hand
    seconds: float | None = None  # that a search for it took; None where there was none
    candidates: list["Inversion"] = field(default_factory=list)
    skipped: str | None = None  # why its embedding was left out; all else is empty then

    @property
    def exact(self) -> bool:
        """Whether it has the very text: its cosine was measured, and is 1 but for rounding."""
        return self.cosine is not None and self.cosine >= EXACT

    @property
    def plausible(self) -> bool:
        """Whether the embedding may be one of this encoder: a search nearly always comes so close to those that are."""
        return self.cosine is not None and self.cosine >= PLAUSIBLE

    @classmethod
    def of_none(cls, why: str) -> "Inversion":
        """That of an embedding which is none."""
        return cls("", [], [], [], 0.0, 0, 0, skipped=why)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def with_cosines(found: Sequence[Inversion], e_BD: NDArray[np.float32], encoder: Encoder) -> list[Inversion]:
    """The inversions of embeddings (B, D) with the cosine of each text, candidates included; each text embedded once.

    Raises:
        EncoderError: the encoder fails.
    """
    texts = sorted({c.text for inversion in found for c in [inversion, *inversion.candidates]})
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))

    def measured(inversion: Inversion, e_D: NDArray[np.float32]) -> Inversion:
        several = [measured(candidate, e_D) for candidate in inversion.candidates]
        vector_D = vectors[inversion.text]
        cosine = float(vector_D @ e_D / (np.linalg.norm(vector_D) * np.linalg.norm(e_D)))
        return replace(inversion, cosine=cosine, candidates=several)

    return [measured(inversion, e_D) for inversion, e_D in zip(found, e_BD, strict=True)]
