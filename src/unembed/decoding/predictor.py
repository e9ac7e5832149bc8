"""The predictor: passes of the denoiser for the frames of a strategy, and what to make of their logits.

The logits of a pass, (rows, vocabulary), are by far the largest tensor of an inversion, and all that is done
with them waits for memory. They are therefore computed once, in the denoiser's precision, and looked at a few rows at
a time. Passes of several predictors may be computed as one.

Shape suffixes as in denoiser/model.py; C: rows looked at together; K: alternatives.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unembed.decoding.options import Decoding
from unembed.decoding.steering import Steering, growth
from unembed.decoding.strategies import STRATEGIES, Alternatives, Canvas, Frame, Noise, Prediction
from unembed.decoding.token_counts import Balance
from unembed.denoiser.model import Denoiser, Modulation
from unembed.errors import InputError

CHUNK = {"cpu": 2**20}  # logits looked at together: on a CPU what its cache holds, elsewhere what memory can spare
LARGE_CHUNK = 2**26


class Question(NamedTuple):
    """Logits that a pass must compute: those of the `wanted` positions of some canvases."""

    ids: Tensor  # (B, L) int64
    wanted: Tensor  # (B, L) bool
    modulation: Modulation  # of B rows


@torch.inference_mode()
def compute(denoiser: Denoiser, questions: Sequence[Question]) -> list[Tensor]:
    """Logits (R, V) of each question, R its wanted positions, by one pass of the denoiser over all of them."""
    ids_BL, wanted_BL, modulation = questions[0]
    if len(questions) > 1:
        ids_BL = torch.cat([question.ids for question in questions])
        wanted_BL = torch.cat([question.wanted for question in questions])
        modulation = Modulation(
            torch.cat([question.modulation.blocks for question in questions]),
            torch.cat([question.modulation.final for question in questions]),
        )
    reduced = denoiser.precision != torch.float32
    with torch.autocast(ids_BL.device.type, torch.bfloat16, enabled=reduced):
        logits_RV = denoiser.logits(denoiser.hidden(ids_BL, modulation)[wanted_BL])
    return list(torch.split(logits_RV, [int(question.wanted.sum()) for question in questions]))


class Predictor:
    """Answers frames: a pass of the denoiser over the rows that want one.

    A call does all; whoever computes the passes of many predictors together puts the `questions` of all of them
    to `compute` and has each `answer` with its own logits.

    Args:
        modulation: what the embeddings do to the network, computed once.
        rows: the rows' numbers, which decide their random streams.
        alternatives: K, how many of the likeliest tokens to tell for each position.
        steering: of the same embeddings, without which `decoding.steering` changes nothing.
        counts: row of the batch -> how often each token stands in its text (V,), where that is known before the first
            pass, which else says so.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        modulation: Modulation,
        decoding: Decoding,
        rows: Sequence[int],
        alternatives: int = 0,
        steering: Steering | None = None,
        counts: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.modulation = modulation
        self.unconditional = denoiser.unconditional(1) if decoding.guidance else None
        self.decoding = decoding
        self.noise = Noise(decoding.seed, rows, stream=1)
        self.balance = Balance(decoding.balance, denoiser.mask_id, denoiser.end_ids, decoding.tuning)
        self.expected = dict(counts or {})  # row of the batch -> token counts (V,), of all from the first pass on
        self.given: dict[int, float] = {}  # row of the batch -> content tokens that were visible at first
        self.alternatives = alternatives
        self.steering = steering if decoding.steering else None

    def __call__(self, frame: Frame) -> Prediction:
        """The prediction for the positions that `frame` wants."""
        return self.answer(frame, compute(self.denoiser, self.questions(frame)))

    @torch.inference_mode()
    def questions(self, frame: Frame) -> list[Question]:
        """What to compute for `frame`: one question, and with guidance a second one without the embeddings."""
        active_B = frame.wanted.any(1).nonzero().squeeze(1)
        asked = Question(frame.ids[active_B], frame.wanted[active_B], self.modulation.rows(active_B))
        if self.unconditional is None:
            return [asked]
        return [asked, asked._replace(modulation=self.unconditional.repeat(len(active_B)))]

    @torch.inference_mode()
    def answer(self, frame: Frame, logits: Sequence[Tensor]) -> Prediction:
        """The prediction for `frame` by the logits (R, V) of each of its questions.

        A few canvases at a time, whose rows are still in the cache when they are read again.
        """
        standing_R, temperature = frame.ids[frame.wanted], self.decoding.sampling
        uniform_R = self._uniform(frame.wanted) if temperature else None
        chosen_R, confidence_R = standing_R.clone(), frame.confidence[frame.wanted]
        ending_R = torch.zeros_like(confidence_R)
        best_RK = Alternatives(
            standing_R.new_full((len(standing_R), self.alternatives), -1),
            confidence_R.new_zeros(len(standing_R), self.alternatives),
        )
        most = max(1, CHUNK.get(logits[0].device.type, LARGE_CHUNK) // logits[0].shape[1])
        for canvases, chunk in chunks(frame.wanted.sum(1).tolist(), most):
            logits_CV = self._guided([each_RV[chunk].float() for each_RV in logits])
            if self.decoding.balance or self.steering is not None:
                self._agree(logits_CV, frame, canvases)
            likelihood_CV = logits_CV.log_softmax(-1)
            ending_R[chunk] = likelihood_CV[:, self.balance.end_ids].exp().sum(-1)
            choice_CV = text_or_end(
                likelihood_CV, ending_R[chunk], self.balance.end_ids, temperature, self.decoding.tuning.ending
            )
            if uniform_R is None:
                chosen_R[chunk] = choice_CV.argmax(-1)
            else:
                chosen_R[chunk] = sample(choice_CV, temperature, uniform_R[chunk])
            scored_C = torch.where(standing_R[chunk] == self.denoiser.mask_id, chosen_R[chunk], standing_R[chunk])
            confidence_R[chunk] = likelihood_CV.gather(1, scored_C[:, None]).exp().squeeze(1)
            if self.alternatives:
                best = likelihood_CV.topk(self.alternatives, dim=-1)
                best_RK.ids[chunk], best_RK.chances[chunk] = best.indices, best.values.exp()
        tokens_BL = frame.ids.clone()
        confidence_BL, ending_BL = torch.zeros_like(frame.confidence), torch.zeros_like(frame.confidence)
        tokens_BL[frame.wanted] = chosen_R
        confidence_BL[frame.wanted], ending_BL[frame.wanted] = confidence_R, ending_R
        if not self.alternatives:
            return Prediction(tokens_BL, confidence_BL, ending_BL)
        shape = (*frame.ids.shape, self.alternatives)
        best_BLK = Alternatives(tokens_BL.new_full(shape, -1), confidence_BL.new_zeros(shape))
        best_BLK.ids[frame.wanted], best_BLK.chances[frame.wanted] = best_RK
        return Prediction(tokens_BL, confidence_BL, ending_BL, best_BLK)

    def _guided(self, logits: Sequence[Tensor]) -> Tensor:
        if len(logits) == 1:
            return logits[0]
        with_CV, without_CV = logits
        guided_CV = without_CV + (self.decoding.guidance + 1) * (with_CV - without_CV)
        guided_CV[:, self.denoiser.mask_id] = -torch.inf  # where -inf - -inf is not a number
        return guided_CV

    def _agree(self, logits_CV: Tensor, frame: Frame, canvases: Sequence[int]) -> None:
        """Make the masked positions of some canvases agree, whose wanted positions' logits these are, in place."""
        stop = 0
        for canvas in canvases:
            ids_L, wanted_L = frame.ids[canvas], frame.wanted[canvas]
            start, stop = stop, stop + int(wanted_L.sum())
            masked = (ids_L[wanted_L] == self.denoiser.mask_id).nonzero().squeeze(1) + start
            if not len(masked):
                continue
            logits_RV, n_V = logits_CV[masked], self.balance.visible(ids_L, logits_CV.shape[1])
            masses_RV, factor_V = self.balance.masses(logits_RV), torch.zeros_like(n_V)
            first = canvas not in self.expected
            if not first:
                factor_V = self.balance.factors(masses_RV, self.expected[canvas], n_V)
            if self.steering is not None:
                visible = float(n_V.sum())
                decoded = max(0.0, visible - self.given.setdefault(canvas, visible))
                strength = self.decoding.steering * growth(decoded, len(ids_L), self.decoding.tuning)
                factor_V += self.steering.gains(canvas, masses_RV, n_V, factor_V, strength)
            elif first:  # which balance leaves as it is
                self.expected[canvas] = self.balance.expected(masses_RV, n_V)
                continue
            changed_RV = self.balance.multiplied(logits_RV, masses_RV, factor_V)
            if first:
                self.expected[canvas] = self.balance.expected(self.balance.masses(changed_RV), n_V)
            logits_CV[masked] = changed_RV

    def _uniform(self, wanted_BL: Tensor) -> Tensor:
        """The next random numbers (R,) of the rows that want a pass, float64 on the CPU."""
        wanted_BL = wanted_BL.cpu()
        active_B = wanted_BL.any(1).nonzero().squeeze(1)
        return self.noise.uniform(wanted_BL.shape[1], active_B.tolist())[wanted_BL[active_B]]


def chunks(counts: Sequence[int], most: int) -> Iterator[tuple[list[int], slice]]:
    """Canvases, of whose rows there are `counts`, to be looked at together, and their rows.

    Whole canvases, at least one, and not more than `most` rows of several.
    """
    canvases: list[int] = []
    start = stop = 0
    for canvas, count in enumerate(counts):
        if canvases and stop + count - start > most:
            yield canvases, slice(start, stop)
            canvases, start = [], stop
        if count:
            canvases.append(canvas)
            stop += count
    if canvases:
        yield canvases, slice(start, stop)


def text_or_end(
    likelihood_RV: Tensor, ending_R: Tensor, end_ids: Sequence[int], temperature: float, enough: float
) -> Tensor:
    """Logits (R, V) with which a temperature decides between text and its end first, then which token it is.

    Text is many tokens and its end is two. A temperature below 1 favours the single likeliest token, which is an end
    where text is likelier by far, and texts would come back too short. So to what is of a kind (text, or end)

        log sum exp(l) - T log sum exp(l / T)

    is added: after division by T both kinds have their chances to the power of 1 / T. At T = 0 that leaves the best
    token of the likelier kind, and so the median of the lengths that are possible; from T = 1 on nothing changes. The
    odds of an end are raised a little: it is taken where its chance is above `enough`, so that sentences keep their
    length.

    Args:
        likelihood_RV: logarithms of probabilities.
        ending_R: the probability of an end.
    """
    if not end_ids or temperature >= 1:
        return likelihood_RV
    end_RE = likelihood_RV[:, end_ids]
    text_RV = likelihood_RV.index_fill(1, torch.tensor(end_ids, device=likelihood_RV.device), -torch.inf)
    text_RV += ((1 - ending_R).clamp(min=1e-30).log() - tempered(text_RV, temperature))[:, None]
    raised = (1 - temperature) * math.log((1 - enough) / enough)
    text_RV[:, end_ids] = end_RE + (end_RE.logsumexp(-1) - tempered(end_RE, temperature) + raised)[:, None]
    return text_RV


def tempered(logits_RV: Tensor, temperature: float) -> Tensor:
    """T log sum exp(logits / T) (R,); at 0 its limit, the maximum."""
    if not temperature:
        return logits_RV.amax(-1)
    return temperature * (logits_RV / temperature).logsumexp(-1)


def sample(logits_RV: Tensor, temperature: float, uniform_R: Tensor) -> Tensor:
    """Tokens (R,) from softmax(logits / temperature) by inverse distribution function at `uniform` in [0, 1).

    In float64: the rounding of float32 makes rare tokens rarer than they are (arXiv 2409.02908).
    """
    exact = torch.device("cpu") if logits_RV.device.type == "mps" else logits_RV.device  # MPS has no float64
    table_RV = logits_RV.to(exact, torch.float64)
    table_RV = table_RV.sub_(table_RV.amax(-1, keepdim=True)).div_(temperature).exp_().cumsum_(-1)
    index_R1 = torch.searchsorted(table_RV, uniform_R.to(exact)[:, None] * table_RV[:, -1:], right=True)
    return index_R1.squeeze(1).to(logits_RV.device)


def check(denoiser: Denoiser, decoding: Decoding) -> None:
    """Raise InputError where an option is impossible for this denoiser."""
    decoding.check(denoiser.config.max_tokens)
    if decoding.guidance and not denoiser.null_embedding.any():
        raise InputError(
            f"guidance is {decoding.guidance}, but this inverter was trained without condition dropout: expected 0"
        )


def begin(
    denoiser: Denoiser, decoding: Decoding, rows: Sequence[int], start_BL: Tensor | None = None
) -> Generator[Frame, Prediction, None]:
    """The strategy of `decoding` at work on a canvas of its own, to be driven with `next` and `send`.

    Args:
        rows: the rows' numbers, one for each row of the canvas.
        start_BL: canvas to begin with; all masks where not given. Only masked positions are decoded.

    Raises:
        InputError: an option is impossible.
    """
    check(denoiser, decoding)
    if start_BL is None:
        shape = (len(rows), denoiser.config.max_tokens)
        start_BL = torch.full(shape, denoiser.mask_id, device=denoiser.output_bias.device)
    return STRATEGIES[decoding.strategy](Canvas(start_BL, denoiser.mask_id, denoiser.end_ids, decoding, rows))


def stream(
    denoiser: Denoiser,
    modulation: Modulation,
    decoding: Decoding,
    rows: Sequence[int] | None = None,
    start_BL: Tensor | None = None,
    steering: Steering | None = None,
    counts: Mapping[int, Tensor] | None = None,
) -> Iterator[Frame]:
    """Decode a batch, one frame a pass, beginning with the frame before the first pass.

    Args:
        modulation: of B embeddings (`denoiser.condition`).
        rows: the rows' numbers for their random streams; 0 to B - 1 where not given.
        start_BL: canvas to begin with; all masks where not given. Only masked positions are decoded.
        steering, counts: as `Predictor` takes them.

    Raises:
        InputError: an option is impossible.
    """
    rows = range(len(modulation.final)) if rows is None else rows
    strategy = begin(denoiser, decoding, rows, start_BL)
    predictor = Predictor(denoiser, modulation, decoding, rows, steering=steering, counts=counts)
    frame = next(strategy)
    yield frame
    while not frame.done:
        frame = strategy.send(predictor(frame))
        yield frame


@torch.inference_mode()
def decode(denoiser: Denoiser, e_BD: Tensor, decoding: Decoding) -> Frame:
    """The last frame of decoding embeddings (B, D) from all masks."""
    *_, last = stream(denoiser, denoiser.condition(e_BD), decoding)
    return last
