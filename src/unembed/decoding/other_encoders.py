"""Whether embeddings are of another encoder than the inverter's, by how far off their texts come back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unembed.decoding.inversion import Inversion, with_cosines
from unembed.encoders.encoder import Encoder

SAMPLE = 16  # texts whose cosines tell, where not all are measured
FAR, FEWEST = 0.6, 3  # times the cosine of held-out texts below which a median of so many embeddings is doubted


@dataclass(frozen=True)
class Doubts:
    """What an inverter has seen of a file so far, and whether it has said that the embeddings may be another encoder's.

    Attributes:
        cosines: of the last texts that were measured.
        said: whether it was said; it is said once.
    """

    cosines: tuple[float, ...] = ()
    said: bool = False

    def after(
        self,
        found: Sequence[Inversion],
        e_BD: NDArray[np.float32],
        first_row: int,
        recipe_name: str,
        reach: float | None,
        encoder: Callable[[], Encoder | None] | None,
    ) -> tuple["Doubts", str | None]:
        """The doubts after further texts, and what to say now.

        Args:
            found: what came back of embeddings (B, D), which begin at row `first_row` of their file.
            reach: as for `doubt`.
            encoder: where their cosines were not measured: gives an encoder that costs nothing, if there is one. Those
                of the first few of a file are measured then.

        Raises:
            EncoderError: the encoder fails.
        """
        before = self.cosines if first_row else ()
        cosines = [one.cosine for one in found]
        if encoder and reach and found and not self.said and (wanted := SAMPLE - len(before)) > 0:
            at_hand = encoder()
            cosines = sampled_cosines(found, e_BD, wanted, at_hand) if at_hand else []
        known = [cosine for cosine in cosines if cosine is not None]
        kept = (*before, *known)[-max(SAMPLE, len(known)) :]
        message = doubt(kept, reach, recipe_name) if known and not self.said else None
        return Doubts(kept, self.said or message is not None), message


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
        f"held-out texts {reach:.2f}; `unembed align` makes an aligner for another encoder's"
    )
