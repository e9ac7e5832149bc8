"""A request's work as a generator: it yields what it needs of torch next and is sent the answer.

Unusual here: the generators neither call the denoiser nor the encoder. They yield a `Pass` or `Texts`, and
whoever runs them (`batching`) answers many requests' needs at once. What they recover is what `Inverter.invert`
recovers, row by row.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.errors import InputError
from unembed.inverter import Inversion, Inverter
from unembed.model import Modulation
from unembed.server.models import Served
from unembed.strategies import STRATEGIES, Canvas, Frame, Options, Prediction, Predictor

Alternatives = list[tuple[int, float]]  # token ids with their probabilities, the likeliest first


@dataclass
class Pass:
    """Needs one pass of the denoiser for `frame`; the answer is a `Prediction`."""

    predictor: "SharedPredictor"
    frame: Frame


@dataclass
class Texts:
    """Needs embeddings of `texts`; the answer is an array (n, d) float32."""

    texts: list[str]


@dataclass
class Pause:
    """Needs nothing, and lets requests that wait go first."""


Need = Pass | Texts | Pause
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


@dataclass(frozen=True)
class Embedded:
    """Embeddings (n, d) of texts, and the content ids that the encoder read."""

    vectors: NDArray[np.float32]
    ids: list[list[int]]


class SharedPredictor(Predictor):
    """A predictor whose logits were computed elsewhere, together with those of other requests.

    `questions` are what a pass must compute for a frame; `answer` takes the logits and goes on as a predictor of
    its own would, with its own temperature, guidance and random streams.
    """

    def __init__(
        self, inverter: Inverter, modulation: Modulation, options: Options, rows: Sequence[int], alternatives: int = 0
    ) -> None:
        super().__init__(inverter.denoiser, modulation, options, rows)
        self._ready: Iterator[Tensor] = iter(())
        self._wanted_BL = torch.empty(0)
        self._best = alternatives
        shape = (len(modulation.final), inverter.length, alternatives)
        self.alternative_ids = torch.full(shape, -1, device=modulation.final.device)
        self.alternative_chances = torch.zeros(shape, device=modulation.final.device)

    def questions(self, frame: Frame) -> list[tuple[Tensor, Tensor, Modulation]]:
        """Canvas (B', L), wanted positions (B', L) and modulation of the rows that want a pass; twice if guided."""
        active_B = frame.wanted.any(1).nonzero().squeeze(1)
        ids_BL, wanted_BL = frame.ids[active_B], frame.wanted[active_B]
        asked = [(ids_BL, wanted_BL, self.modulation.rows(active_B))]
        if self.unconditional is not None:
            asked.append((ids_BL, wanted_BL, self.unconditional.repeat(len(active_B))))
        return asked

    def answer(self, frame: Frame, logits: Sequence[Tensor]) -> Prediction:
        """The prediction by the logits (R, V) of each question."""
        self._ready = iter(logits)
        self._wanted_BL = frame.wanted
        return self(frame)

    def _logits(self, ids_BL: Tensor, wanted_BL: Tensor, modulation: Modulation) -> Tensor:
        return next(self._ready)

    def _choose(self, logits_RV: Tensor, active_B: Tensor, wanted_BL: Tensor) -> Tensor:
        if self._best:
            best = logits_RV.topk(self._best, dim=-1)
            self.alternative_ids[self._wanted_BL] = best.indices
            self.alternative_chances[self._wanted_BL] = (best.values - logits_RV.logsumexp(-1, keepdim=True)).exp()
        return super()._choose(logits_RV, active_B, wanted_BL)

    def best(self) -> list[list[Alternatives]] | None:
        """The alternatives of each row and position so far."""
        if not self._best:
            return None
        rows = zip(self.alternative_ids.tolist(), self.alternative_chances.tolist(), strict=True)
        return [
            [[pair for pair in zip(i, p, strict=True) if pair[0] >= 0] for i, p in zip(ids, chances, strict=True)]
            for ids, chances in rows
        ]


def predict(passes: Sequence[Pass]) -> list[Prediction]:
    """Answer several requests of one inverter with one pass of its denoiser."""
    denoiser = passes[0].predictor.denoiser
    asked = [one.predictor.questions(one.frame) for one in passes]
    every = [question for questions in asked for question in questions]
    wanted_BL = torch.cat([wanted for _, wanted, _ in every])
    modulation = Modulation(
        torch.cat([part.blocks for _, _, part in every]), torch.cat([part.final for _, _, part in every])
    )
    hidden_BLH = denoiser.hidden(torch.cat([ids for ids, _, _ in every]), modulation)
    logits_RV = denoiser.logits(hidden_BLH[wanted_BL]).float()
    parts = iter(torch.split(logits_RV, [int(wanted.sum()) for _, wanted, _ in every]))
    return [
        one.predictor.answer(one.frame, [next(parts) for _ in questions])
        for one, questions in zip(passes, asked, strict=True)
    ]


def invert(
    served: Served,
    e_BD: NDArray[np.float32],
    options: Options,
    candidates: int = 1,
    alternatives: int = 0,
    cosine: bool = True,
    at_once: int = 16,
    watch: Callable[[Snapshot], None] | None = None,
) -> Generator[Need, Any, list[Recovered]]:
    """Recover texts from checked embeddings (n, d), `at_once` canvases at a time.

    Args:
        candidates: texts for each embedding.
        alternatives: likeliest tokens to keep for each position.
        cosine: embed each text that was recovered.
        watch: told every frame, where all canvases fit at once.
    """
    inverter = served.inverter
    step = max(1, at_once // candidates)
    found: list[Recovered] = []
    for start in range(0, len(e_BD), step):
        if start:
            yield Pause()
        chunk_BD = torch.tensor(e_BD[start : start + step], device=inverter.device)
        modulation = inverter.denoiser.condition(chunk_BD).repeat(candidates)
        rows = range(start * candidates, (start + len(chunk_BD)) * candidates)
        predictor = SharedPredictor(inverter, modulation, options, rows, alternatives)
        masks_BL = torch.full((len(rows), inverter.length), inverter.denoiser.mask_id, device=inverter.device)
        decoding = STRATEGIES[options.strategy](Canvas(masks_BL, inverter.denoiser.mask_id, options, rows))
        frame = next(decoding)
        while not frame.done:
            if watch is not None:
                watch(_snapshot(frame, predictor))
            prediction = yield Pass(predictor, frame)
            frame = decoding.send(prediction)
        if watch is not None:
            watch(_snapshot(frame, predictor))
        found += _recovered(inverter, frame, predictor, candidates)
    if cosine:
        vectors = yield Texts([one.text for several in found for one in several.inversions])
        found = _with_cosines(found, vectors, e_BD)
    return found


def embed(served: Served, texts: list[str], with_ids: bool = False) -> Generator[Need, Any, Embedded]:
    """Embed texts; `with_ids` also tells their content ids, as many as the encoder reads.

    Raises:
        InputError: a text has no content token.
    """
    inverter = served.inverter
    tokenizer = inverter.tokenizer
    room = inverter.recipe.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
    ids = tokenizer.encode_batch(texts)
    for number, row in enumerate(ids):
        if not row:
            raise InputError(f"text {number} is empty to the encoder, expected words")
    vectors = yield Texts(texts)
    return Embedded(vectors, [row[:room] for row in ids] if with_ids else [])


def _snapshot(frame: Frame, predictor: SharedPredictor) -> Snapshot:
    return Snapshot(
        frame.step,
        frame.total,
        frame.done,
        frame.ids.tolist(),
        frame.changed.tolist(),
        frame.confidence.tolist(),
        frame.passes.tolist(),
        predictor.best(),
    )


def _recovered(inverter: Inverter, frame: Frame, predictor: SharedPredictor, candidates: int) -> list[Recovered]:
    """The candidates of each embedding in the batch, ranked as `Inverter.invert` ranks them."""
    every = predictor.best()
    found = []
    for first in range(0, len(frame.ids), candidates):
        rows = range(first, first + candidates)
        several = [(inverter.inversion(frame, row), every[row] if every else None) for row in rows]
        several.sort(key=lambda pair: -pair[0].score)
        found.append(Recovered([inversion for inversion, _ in several], [best for _, best in several]))
    return found


def _with_cosines(found: list[Recovered], vectors: NDArray[np.float32], e_BD: NDArray[np.float32]) -> list[Recovered]:
    left = iter(vectors)

    def measured(inversion: Inversion, e_D: NDArray[np.float32]) -> Inversion:
        vector = next(left)
        value = float(vector @ e_D / (np.linalg.norm(vector) * np.linalg.norm(e_D)))
        return Inversion(**{**vars(inversion), "cosine": value})

    return [
        Recovered([measured(inversion, e_D) for inversion in several.inversions], several.alternatives)
        for several, e_D in zip(found, e_BD, strict=True)
    ]
