"""Strategies: the order in which masks become tokens.

A strategy is a generator that owns the canvas and never sees the denoiser. It yields a `Frame`; a frame that is
not done asks for a pass over the positions `wanted` and receives the `Prediction` through `send`. Whoever
drives it decides how passes are computed: `predictor.stream` runs one batch, a server may merge many. All strategies
end with no mask left for every number of steps from 1 to L.

Shape suffixes as in denoiser/model.py. Everything is batched; rows do not influence each other, and a row's
random numbers depend on the seed and its own number alone, not on its neighbours.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.decoding.options import STRATEGIES as NAMES
from unembed.decoding.options import Decoding


class Alternatives(NamedTuple):
    """The K likeliest tokens of each position, the likeliest first; -1 and 0 where the frame wanted nothing."""

    ids: Tensor  # (B, L, K) int64
    chances: Tensor  # (B, L, K) float


@dataclass(frozen=True)
class Prediction:
    """What one pass says, each (B, L); meaningful where the frame wanted it."""

    tokens: Tensor  # int64: the token chosen for a masked position
    confidence: Tensor  # float: probability of that token; at a visible position, of the token that stands there
    ending: Tensor  # float: probability of EOS or PAD
    alternatives: Alternatives | None = None  # where the predictor was asked for them


@dataclass(frozen=True)
class Frame:
    """The canvas after `step` of at most `total` steps."""

    step: int
    total: int
    ids: Tensor  # (B, L) int64
    changed: Tensor  # (B, L) bool: differs from the frame before
    confidence: Tensor  # (B, L) float, 0 where masked
    wanted: Tensor  # (B, L) bool: positions of which the next pass must predict
    passes: Tensor  # (B,) int64: forward calls of the denoiser that each row took so far
    done: bool


class Noise:
    """Uniform numbers for each row from a stream of its own, so that batching changes nothing."""

    def __init__(self, seed: int, rows: Sequence[int], stream: int) -> None:
        seeds = (((seed * 1_000_003 + row) * 4 + stream) % 2**63 for row in rows)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, length: int, index: Sequence[int]) -> Tensor:
        """(len(index), length) float64 in [0, 1), the next numbers of the rows `index`."""
        return torch.stack([torch.rand(length, generator=self.generators[i], dtype=torch.float64) for i in index])


class Canvas:
    """The tokens being decoded, B rows of L positions, and how sure each is.

    Args:
        ids: (B, L) int64, with masks where a token is to be found.
        end_ids: the tokens that fill a canvas behind its text, EOS and PAD.
        rows: the rows' numbers, which decide their random streams.
    """

    def __init__(
        self, ids: Tensor, mask_id: int, end_ids: Sequence[int], decoding: Decoding, rows: Sequence[int]
    ) -> None:
        self.ids = ids
        self.mask_id = mask_id
        self.end_ids = end_ids
        self.decoding = decoding
        self.confidence = torch.zeros(ids.shape, device=ids.device)
        self.passes = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        self.noise = Noise(decoding.seed, rows, stream=0)
        self._before = ids
        self._step = 0

    @property
    def masked(self) -> Tensor:
        """(B, L) bool."""
        return self.ids == self.mask_id

    def uniform(self) -> Tensor:
        """(B, L) float32 in [0, 1], each row's own."""
        return self.noise.uniform(self.ids.shape[1], range(len(self.ids))).float().to(self.ids.device)

    def reveal(self, where: Tensor, prediction: Prediction) -> None:
        """Put the predicted tokens at `where` (B, L)."""
        self.ids = torch.where(where, prediction.tokens, self.ids)
        self.confidence = torch.where(where, prediction.confidence, self.confidence)

    def mask(self, where: Tensor) -> None:
        """Take the tokens at `where` (B, L) away again."""
        self.ids = self.ids.masked_fill(where, self.mask_id)
        self.confidence = self.confidence.masked_fill(where, 0.0)

    def eagerness(self, prediction: Prediction) -> Tensor:
        """(B, L): the order in which to commit masked positions, by confidence, with three exceptions.

        The positions of a pass do not know of each other. So a token waits where another masked position is surer of
        the same token, since one word whose place is open is the best guess for several; and where a masked position
        beside it is surer of its own, since neighbours depend on each other the most. EOS and PAD come after
        everything else: while the length is open, PAD is the best single guess for the canvas' end, and taking it
        early cuts texts short.
        """
        tokens_BL, sure_BL = prediction.tokens, prediction.confidence.masked_fill(~self.masked, -torch.inf)
        same_BLL = tokens_BL[:, :, None] == tokens_BL[:, None, :]
        surer_BLL = sure_BL[:, None, :] > sure_BL[:, :, None]
        equal_BLL = (sure_BL[:, None, :] == sure_BL[:, :, None]).tril(-1)  # of equals the leftmost
        repeated_BL = (same_BLL & (surer_BLL | equal_BLL)).any(2)
        ends_BL = self.ends(prediction)
        beside_BL = F.pad(sure_BL.masked_fill(ends_BL, -torch.inf), (1, 1), value=-torch.inf)
        outdone_BL = torch.maximum(beside_BL[:, :-2], beside_BL[:, 2:]) > sure_BL
        return prediction.confidence - repeated_BL.float() - outdone_BL.float() - 3 * ends_BL.float()

    def due(self, prediction: Prediction, left: int | Tensor) -> Tensor:
        """(B,): how many masks to fill now so that `left` passes, this one included, share the text equally.

        The text is as long as the denoiser expects: the positions behind it are EOS and PAD, which come last and
        together, and take no pass from it. Where nothing else is predicted any more, all are due. `left` may be each
        row's own (B,).
        """
        content_B = ((1 - prediction.ending) * self.masked).sum(1)
        share_B = torch.round(content_B / left).long().clamp(min=1)
        shared_B = (self.masked & ~self.ends(prediction)).any(1) & (left > 1)
        return torch.where(shared_B, share_B, self.masked.sum(1))

    def ends(self, prediction: Prediction) -> Tensor:
        """(B, L) bool: where EOS or PAD is predicted."""
        return is_end(prediction.tokens, self.end_ids)

    def unchanged(self) -> Prediction:
        """The prediction that a canvas without masks needs no pass for."""
        return Prediction(self.ids, self.confidence, torch.zeros_like(self.confidence))

    def frame(self, wanted: Tensor | None = None, last: bool = False) -> Frame:
        """The frame to yield: asks for `wanted`, by default the masked positions, unless it is the last."""
        wanted = self.masked if wanted is None else wanted
        done = last or not bool(wanted.any())
        changed = self.ids != self._before
        frame = Frame(
            self._step, self.decoding.steps, self.ids, changed, self.confidence, wanted, self.passes.clone(), done
        )
        self._before = self.ids
        self._step += 1
        self.passes += wanted.any(1) * (1 if self.decoding.guidance == 0 else 2)
        return frame


Strategy = Callable[[Canvas], Generator[Frame, Prediction, None]]


def confidence(canvas: Canvas) -> Generator[Frame, Prediction, None]:
    """In each pass the most confident masked positions, an equal share of the text (arXiv 2202.04200, linear schedule).

    A row is done as soon as nothing but its end is predicted.
    """
    return surest(canvas, float("inf"))


def sequential(canvas: Canvas) -> Generator[Frame, Prediction, None]:
    """In each pass the leftmost masked positions, equally many each time."""
    leftmost = -torch.arange(canvas.ids.shape[1], device=canvas.ids.device).float().expand(canvas.ids.shape)
    for quota_B in quotas(canvas.masked.sum(1), canvas.decoding.steps):
        prediction = yield canvas.frame()
        canvas.reveal(highest(leftmost, canvas.masked, quota_B), prediction)
    yield canvas.frame(last=True)


def euler(canvas: Canvas) -> Generator[Frame, Prediction, None]:
    """Ancestral sampling: going from time t to s, a mask stays with probability s / t (arXiv 2406.07524, eq. 6)."""
    steps = canvas.decoding.steps
    for step in range(steps):
        prediction = yield canvas.frame()
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        canvas.reveal(canvas.masked & (canvas.uniform() >= s / t), prediction)
    yield canvas.frame(last=True)


def remask(canvas: Canvas) -> Generator[Frame, Prediction, None]:
    """Ancestral sampling that also masks visible tokens again (ReMDM, arXiv 2503.00307, eq. 3 and 4).

    From time t to s a visible token is masked with probability sigma, and a masked one stays masked with
    probability (1 - alpha_s - sigma alpha_t) / (1 - alpha_t), which leaves the marginal at s unchanged. sigma is such
    that `tuning.remasked` tokens of a row are masked again on average, within sigma <= (1 - alpha_s) / alpha_t.
    Only positions that were masked at the start are masked again.
    """
    steps, length = canvas.decoding.steps, canvas.ids.shape[1]
    free_BL = canvas.masked
    for step in range(steps):
        # Where no row has a mask there is nothing to predict, but a later pass may mask again.
        prediction = (yield canvas.frame()) if bool(canvas.masked.any()) else canvas.unchanged()
        visible_t, visible_s = step / steps, (step + 1) / steps  # alpha_t, alpha_s
        sigma = 0.0
        if visible_t > 0:
            sigma = min(canvas.decoding.tuning.remasked / (visible_t * length), (1 - visible_s) / visible_t, 1.0)
        stays = (1 - visible_s - sigma * visible_t) / (1 - visible_t)
        draw_BL, masked_BL = canvas.uniform(), canvas.masked
        canvas.reveal(masked_BL & (draw_BL >= stays), prediction)
        canvas.mask(free_BL & ~masked_BL & (draw_BL < sigma))
    yield canvas.frame(last=True)


def two_stage(canvas: Canvas) -> Generator[Frame, Prediction, None]:
    """First everything by `confidence` in half of the passes, then the doubtful tokens again.

    Each pass of the second stage scores every visible token in its context, fills the masks, and masks the
    least confident tokens for the next pass, fewer each time. Only positions that were masked at the start are revised.
    """
    steps = canvas.decoding.steps
    free_BL = canvas.masked
    first, second = (steps + 1) // 2, steps // 2
    for left in range(first, 0, -1):
        prediction = (yield canvas.frame()) if bool(canvas.masked.any()) else canvas.unchanged()
        canvas.reveal(highest(canvas.eagerness(prediction), canvas.masked, canvas.due(prediction, left)), prediction)
    for step in range(second):
        doubted_B = (free_BL.sum(1) * canvas.decoding.tuning.revised * (second - step) / second).ceil().long()
        canvas.mask(highest(-canvas.confidence, free_BL, doubted_B))
        prediction = yield canvas.frame(wanted=free_BL)
        canvas.reveal(canvas.masked, prediction)
        canvas.confidence = torch.where(free_BL, prediction.confidence, canvas.confidence)
    yield canvas.frame(last=True)


def threshold(canvas: Canvas) -> Generator[Frame, Prediction, None]:
    """As `confidence`, and every position at least `tuning.threshold` confident (Fast-dLLM, arXiv 2505.22618).

    So easy rows take fewer passes.
    """
    return surest(canvas, canvas.decoding.tuning.threshold)


STRATEGIES: dict[str, Strategy] = dict(
    zip(NAMES, (confidence, sequential, euler, remask, two_stage, threshold), strict=True)
)


def surest(canvas: Canvas, certain: float) -> Generator[Frame, Prediction, None]:
    """In each pass the surest masked positions, as many as are `due`, and all others that are at least so `certain`."""
    for left in range(canvas.decoding.steps, 0, -1):
        frame = canvas.frame()
        if frame.done:
            yield frame
            return
        prediction = yield frame
        due_BL = highest(canvas.eagerness(prediction), canvas.masked, canvas.due(prediction, left))
        certain_BL = canvas.masked & (prediction.confidence >= certain) & ~canvas.ends(prediction)
        canvas.reveal(due_BL | certain_BL, prediction)
    yield canvas.frame(last=True)


def is_end(ids: Tensor, end_ids: Sequence[int]) -> Tensor:
    """Where EOS or PAD stands, in the shape of `ids`. Their ids are not copied to a GPU, which would wait for them."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for end in end_ids:
        found |= ids == end
    return found


def quotas(count_B: Tensor, steps: int) -> list[Tensor]:
    """How many of `count_B` masks to reveal in each of `steps` passes: as equal as can be, all in the end."""
    revealed = [-(-count_B * step // steps) for step in range(steps + 1)]
    return [after - before for before, after in pairwise(revealed)]


def highest(score_BL: Tensor, among_BL: Tensor, count_B: Tensor) -> Tensor:
    """(B, L) bool: in each row the `count_B` highest scores `among_BL`; equal scores from the left."""
    order_BL = score_BL.masked_fill(~among_BL, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank_BL = order_BL.argsort(dim=1)
    return among_BL & (rank_BL < count_B[:, None])
