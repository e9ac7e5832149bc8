"""Fit an inverter's calibration on one half of held-out texts, and measure it on the other half."""

import copy
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unembed.corpus.held_out import NATURAL, truths
from unembed.decoding.calibration import Calibration, fit
from unembed.encoders.encoder import Encoder
from unembed.errors import InputError
from unembed.evaluation.metrics import expected_calibration_error

if TYPE_CHECKING:
    from unembed.inverter import Inverter

TEXTS, LEAST = 600, 20  # to calibrate with, both halves together
STEPS, STRATEGY = 8, "confidence"  # of the inversions that a map is fitted to


def calibrate(
    inverter: "Inverter", encoder: Encoder, texts: Iterable[str], limit: int = TEXTS, seed: int = 0,
    show_progress_bar: bool = False,
) -> Calibration:  # fmt: skip
    """The map of an inverter's confidences; `about` says how it was fitted and what it reached.

    Args:
        texts: none of which the inverter was trained on; read no further than needed.
        limit: texts used at most, both halves together.

    Raises:
        InputError: too few texts, or no token comes back of any.
    """
    truth = truths(texts, inverter.tokenizer, NATURAL, inverter.length, limit)
    if len(truth.texts) < LEAST:
        raise InputError(f"{len(truth.texts)} held-out texts, expected at least {LEAST} to calibrate with")
    raw = copy.copy(inverter)
    raw.calibration = None
    steps = min(STEPS, inverter.length)
    found = raw.invert(
        encoder.encode(truth.texts), steps=steps, strategy=STRATEGY, seed=seed, measure_cosine=False,
        show_progress_bar=show_progress_bar,
    )  # fmt: skip
    confidence = [inversion.confidence for inversion in found]
    if not any(confidence[0::2]) or not any(confidence[1::2]):
        raise InputError(
            f"no token comes back of {len(found)} held-out texts, expected some; train the inverter longer"
        )
    right = [
        [place < len(true) and token == true[place] for place, token in enumerate(inverter.tokenizer.content(one.ids))]
        for one, true in zip(found, truth.ids, strict=True)
    ]
    fitted, measured = confidence[0::2], confidence[1::2]
    calibration = fit(fitted, right[0::2])
    about = {"fitted_on": len(fitted), "measured_on": len(measured), "tokens": NATURAL, "steps": steps}
    about |= {"strategy": STRATEGY, "temperature": 0.0, "seed": seed}
    for name, values in (("before", measured), ("after", [calibration.apply(one) for one in measured])):
        about[f"ece_{name}"] = round(expected_calibration_error(values, right[1::2]).value, 5)
    return dataclasses.replace(calibration, about=about)
