"""A request's work as a generator: it yields what it needs of torch next and is sent the answer.

Unusual here: the generators neither call the denoiser nor the encoder. They yield a `Pass` or `Texts`, and
whoever runs them (`batching`) answers many requests' needs at once. What they recover is what `Inverter.invert`
recovers, row by row. Guided inversion's generator is in `guided`.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding
from unembed.decoding.predictor import Predictor, begin, compute
from unembed.decoding.strategies import Frame, Prediction
from unembed.inverter import Inverter
from unembed.server.models import Served

FRAME = 2  # tokens that stand around a text's own, about
Alternatives = list[tuple[int, float]]  # token ids with their probabilities, the likeliest first


@dataclass
class Pass:
    """Needs one pass of the denoiser for `frame`; the answer is a `Prediction`."""

    predictor: Predictor
    frame: Frame


@dataclass
class Texts:
    """Needs embeddings of `texts`; the answer is an array (n, d) float32."""

    texts: list[str]
    tokens: list[int]  # that the encoder reads of each


class Ended:
    """Says that a search has no further round."""


ENDED = Ended()


@dataclass
class Round:
    """Needs the next round of a guided inversion; the answer is the best so far, or ENDED."""

    search: Iterator[Inversion]
    before: Inversion | None  # the best before it
    left: float  # seconds that the request's searches may still take


@dataclass
class Pause:
    """Needs nothing, and lets requests that wait go first."""


Need = Pass | Texts | Round | Pause
Work = Generator[Need, Any, Any]


@dataclass(frozen=True)
class Snapshot:
    """A frame as plain lists, one entry for each candidate."""

    step: int
    total: int
    done: bool
    ids: list[list[int]]
    changed: list[list[bool]]
    confidence: list[list[float]]
    passes: list[int]
    alternatives: list[list[Alternatives]] | None  # of each position, empty where no pass has looked at it


@dataclass(frozen=True)
class Recovered:
    """What came back from one embedding: the candidates, best first, each with its alternatives."""

    inversions: list[Inversion]
    alternatives: list[list[Alternatives] | None]
    passes: int  # over all candidates
    rounds: int = 0  # of a guided inversion


@dataclass(frozen=True)
class Embedded:
    """Embeddings (n, d) of texts, and the content ids that the encoder read."""

    vectors: NDArray[np.float32]
    ids: list[list[int]]


class Best:
    """The alternatives of each row and position, as the last pass that looked at it saw them."""

    def __init__(self, rows: int, length: int, alternatives: int, device: torch.device) -> None:
        shape = (rows, length, alternatives)
        self.ids = torch.full(shape, -1, device=device)
        self.chances = torch.zeros(shape, device=device)

    def update(self, wanted_BL: Tensor, prediction: Prediction) -> None:
        """Take over what a pass said about the positions that it was asked for."""
        if prediction.alternatives is not None:
            self.ids[wanted_BL] = prediction.alternatives.ids[wanted_BL]
            self.chances[wanted_BL] = prediction.alternatives.chances[wanted_BL]

    def lists(self) -> list[list[Alternatives]] | None:
        """As plain lists, one entry for each row; None where no alternatives were asked for."""
        if not self.ids.shape[2]:
            return None
        return [
            [[pair for pair in zip(i, p, strict=True) if pair[0] >= 0] for i, p in zip(ids, chances, strict=True)]
            for ids, chances in zip(self.ids.tolist(), self.chances.tolist(), strict=True)
        ]


def predict(passes: Sequence[Pass]) -> list[Prediction]:
    """Answer several requests of one inverter with one pass of its denoiser."""
    asked = [one.predictor.questions(one.frame) for one in passes]
    logits = iter(compute(passes[0].predictor.denoiser, [question for questions in asked for question in questions]))
    return [
        one.predictor.answer(one.frame, [next(logits) for _ in questions])
        for one, questions in zip(passes, asked, strict=True)
    ]


def invert(
    served: Served,
    e_BD: NDArray[np.float32],
    decoding: Decoding,
    alternatives: int = 0,
    cosine: bool = True,
    at_once: int = 16,
    watch: Callable[[Snapshot], None] | None = None,
) -> Generator[Need, Any, list[Recovered]]:
    """Recover texts from checked embeddings (n, d), `at_once` canvases at a time.

    Args:
        alternatives: likeliest tokens to keep for each position.
        cosine: embed each text that was recovered.
        watch: told every frame, where all canvases fit at once.
    """
    inverter, candidates = served.inverter, decoding.candidates
    step = max(1, at_once // candidates)
    found: list[Recovered] = []
    for start in range(0, len(e_BD), step):
        if start:
            yield Pause()
        chunk_BD = torch.tensor(e_BD[start : start + step], device=inverter.device)
        modulation = inverter.condition(chunk_BD).repeat(candidates)
        rows = range(start * candidates, (start + len(chunk_BD)) * candidates)
        steering = inverter.steering(chunk_BD, candidates)
        predictor = Predictor(inverter.denoiser, modulation, decoding, rows, alternatives, steering)
        best = Best(len(rows), inverter.length, alternatives, inverter.device)
        strategy = begin(inverter.denoiser, decoding, rows)
        frame = next(strategy)
        while not frame.done:
            if watch is not None:
                watch(_snapshot(frame, best))
            prediction = yield Pass(predictor, frame)
            best.update(frame.wanted, prediction)
            frame = strategy.send(prediction)
        if watch is not None:
            watch(_snapshot(frame, best))
        found += _recovered(inverter, frame, best, e_BD[start : start + step], decoding)
    if cosine:
        every = [one for several in found for one in several.inversions]
        vectors = yield Texts([one.text for one in every], [len(one.tokens) + FRAME for one in every])
        found = _with_cosines(found, vectors, e_BD)
    return found


def read(served: Served, texts: list[str]) -> list[list[int]]:
    """Content ids of texts, as many as the encoder reads; none of a text that is empty to it."""
    inverter = served.inverter
    tokenizer = inverter.tokenizer
    room = inverter.recipe.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
    return [row[:room] for row in tokenizer.encode_batch(texts)]


def embed(texts: list[str], ids: list[list[int]]) -> Generator[Need, Any, Embedded]:
    """Embed texts, whose content ids these are (`read`)."""
    vectors = yield Texts(texts, [len(row) + FRAME for row in ids])
    return Embedded(vectors, ids)


def _snapshot(frame: Frame, best: Best) -> Snapshot:
    return Snapshot(
        frame.step,
        frame.total,
        frame.done,
        frame.ids.tolist(),
        frame.changed.tolist(),
        frame.confidence.tolist(),
        frame.passes.tolist(),
        best.lists(),
    )


def _recovered(
    inverter: Inverter, frame: Frame, best: Best, e_BD: NDArray[np.float32], decoding: Decoding
) -> list[Recovered]:
    """The candidates of each embedding in the batch, ranked as `Inverter.invert` ranks them."""
    every = best.lists()
    found = []
    for number, e_D in enumerate(e_BD):
        rows = range(number * decoding.candidates, (number + 1) * decoding.candidates)
        several = inverter.ranked(frame, rows, e_D, decoding)
        alternatives = [every[row] if every else None for row, _ in several]
        found.append(Recovered([one for _, one in several], alternatives, sum(one.passes for _, one in several)))
    return found


def _with_cosines(found: list[Recovered], vectors: NDArray[np.float32], e_BD: NDArray[np.float32]) -> list[Recovered]:
    left = iter(vectors)

    def measured(inversion: Inversion, e_D: NDArray[np.float32]) -> Inversion:
        vector = next(left)
        value = float(vector @ e_D / (np.linalg.norm(vector) * np.linalg.norm(e_D)))
        return replace(inversion, cosine=value)

    return [
        replace(several, inversions=[measured(inversion, e_D) for inversion in several.inversions])
        for several, e_D in zip(found, e_BD, strict=True)
    ]
