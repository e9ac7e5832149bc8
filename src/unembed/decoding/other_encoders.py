"""Whether embeddings are of another encoder than the inverter's, by how far off their texts come back."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from unembed.decoding.inversion import Inversion, with_cosines
from unembed.encoders.encoder import Encoder

SAMPLE = 16  # texts whose cosines tell, where not all are measured
FAR, FEWEST = 0.6, 3  # times the cosine of held-out texts below which a median of so many embeddings is doubted


def sampled_cosines(
    found: Sequence[Inversion], e_BD: NDArray[np.float32], count: int, encoder: Encoder
) -> list[float | None]:
    """The cosines of `count` texts at most, spread over those that came back of embeddings (B, D).

    Raises:
        EncoderError: the encoder fails.
    """
    chosen = sorted({int(row) for row in np.linspace(0, len(found) - 1, min(count, len(found)))})
    texts = [replace(found[row], candidates=[]) for row in chosen]
    return [one.cosine for one in with_cosines(texts, e_BD[chosen], encoder)]


def doubt(cosines: Sequence[float], reach: float | None, name: str) -> str | None:
    """What to say of embeddings whose texts have these cosines; None where nothing speaks against the encoder `name`.

    Of the packaged inverter the median is .85 or more on every kind of text measured, and .35 or less on random
    vectors, on another encoder's, and on its own in another basis (docs/results.md).

    Args:
        reach: the cosine of held-out texts, where it was measured.
    """
    if reach is None or len(cosines) < FEWEST or (median := float(np.median(cosines))) >= FAR * reach:
        return None
    return (
        f"these vectors are probably not {name}'s: their texts come back at a median cosine of {median:.2f}, of "
        f"held-out texts {reach:.2f}"
    )
