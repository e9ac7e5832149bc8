"""Calibration: from the confidence of a recovered token to the probability that it is right at its place.

The raw confidence is the denoiser's probability of a token when it was committed, in a context of its own earlier
guesses: of a whole text recovered from masks it is far too high. A logistic map (Platt 1999) corrects it,

    log-odds P(right) = intercept + weights . (log-odds of the confidence, their mean over the text, 1 / (1 + place))

fitted on texts that were recovered and whose truth is known. The mean tells how well the text went as a whole, the
place that one token too many shifts all that follow: the first tokens are right far more often than all the others.
All three come from the confidences of the finished text, so that calibrating costs no pass. The mean of the
calibrated confidences is the expected share of right tokens in a text.

A map holds for the inverter, and roughly for the options, that it was fitted with: it stands in the inverter's folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unembed.errors import CheckpointError, InputError
from unembed.files.json_files import read_json

FILE = "calibration.json"  # beside config.json
FEATURES = ("log_odds", "mean_log_odds", "start")
LEAST = 1e-6  # a confidence is taken to be at least so far from 0 and 1
RIDGE = 1e-3  # keeps the weights finite where the fitting texts can be told apart without error
ITERATIONS = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A fitted map.

    Attributes:
        weights: one for each of `FEATURES`.
        about: how it was fitted and what it reached, for the reader of the file.
    """

    intercept: float
    weights: tuple[float, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def apply(self, confidence: Sequence[float]) -> list[float]:
        """The probabilities that the tokens of one text, T raw confidences from its first token on, are right."""
        if not confidence:
            return []
        found: list[float] = _sigmoid(features(confidence) @ np.array(self.weights) + self.intercept).tolist()
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"format": 1, "features": list(FEATURES)} | asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises InputError."""
        try:
            if tree["format"] != 1 or tuple(tree["features"]) != FEATURES:
                raise InputError(f"is no map of {', '.join(FEATURES)} (format 1)")
            weights = tuple(float(weight) for weight in tree["weights"])
            found = cls(float(tree["intercept"]), weights, dict(tree.get("about", {})))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"is no calibration ({error})") from error
        if len(weights) != len(FEATURES) or not np.isfinite([found.intercept, *weights]).all():
            raise InputError(f"has {len(weights)} weights, expected {len(FEATURES)} finite ones")
        return found

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The map in an inverter's folder; None where there is none. Raises CheckpointError."""
        path = folder / FILE
        if not path.exists():
            return None
        tree = read_json(path, CheckpointError)
        try:
            return cls.from_dict(tree)
        except InputError as error:
            raise CheckpointError(f"{path}: {error}") from error


def features(confidence: Sequence[float]) -> Floats:
    """(T, 3): what the map sees of one text's T raw confidences, `FEATURES` in order."""
    clipped = np.clip(np.asarray(confidence, np.float64), LEAST, 1 - LEAST)
    log_odds = np.log(clipped / (1 - clipped))
    return np.stack([log_odds, np.full_like(log_odds, log_odds.mean()), 1 / (1 + np.arange(len(log_odds)))], axis=1)


def fit(confidence: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> Calibration:
    """The map that makes `right` likeliest, by Newton's method.

    Args:
        confidence: for each text its tokens' raw confidences; texts without tokens say nothing.
        right: whether each of these tokens is right.

    Raises:
        InputError: no token, or numbers that do not match.
    """
    if [len(one) for one in confidence] != [len(one) for one in right]:
        raise InputError("confidences and outcomes differ in number, expected one outcome for each confidence")
    if not any(len(one) for one in confidence):
        raise InputError("no tokens to fit on, expected at least 1")
    inputs = np.concatenate([features(one) for one in confidence if len(one)])
    inputs = np.concatenate([np.ones((len(inputs), 1)), inputs], axis=1)
    outcomes = np.concatenate([np.asarray(one, np.float64) for one in right])
    penalty = np.full(inputs.shape[1], RIDGE)

    def loss(w: Floats) -> float:
        z = inputs @ w
        return float((np.logaddexp(0, z) - outcomes * z).sum() + (penalty * w * w).sum() / 2)

    w = np.zeros(inputs.shape[1])
    for _ in range(ITERATIONS):
        p = _sigmoid(inputs @ w)
        gradient = inputs.T @ (p - outcomes) + penalty * w
        step = np.linalg.solve((inputs * (p * (1 - p))[:, None]).T @ inputs + np.diag(penalty), gradient)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-12:  # too long where the curvature changes
            step /= 2
        w = w - step
        if np.abs(step).max() < 1e-10:
            break
    return Calibration(float(w[0]), tuple(w[1:].tolist()))


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)), np.float64)  # which overflows nowhere
