"""The denoiser's part in a search: what it would put down elsewhere, and parts of a text written anew.

It sees the embedding, and with feedback (`model.Denoiser`) also that of the hypothesis that it looks at, so that it can
tell what is missing.

Shape suffixes as in model.py; P: texts or drafts; R: positions of a batch that are predicted; T: tokens of a text.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.decoding.predictor import Question, compute, sample
from unembed.denoiser.model import Denoiser, Modulation
from unembed.encoders.tokenizer import Tokenizer

SPAN = 0.7  # share of refills that write neighbours anew; the others, doubtful tokens anywhere
DOUBT = 0.1  # added to every token's doubt: a denoiser may be sure of what is wrong
GAPS = 4  # a token is thought of in one gap of so many at a time
ENDING = 2  # positions of a canvas behind its text: the end, and one more

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class Conditioned:
    """A denoiser conditioned on one embedding.

    Attributes:
        passes: made so far, one for each text and time.
    """

    def __init__(self, denoiser: Denoiser, tokenizer: Tokenizer, e_D: Floats) -> None:
        self.denoiser = denoiser
        self.tokenizer = tokenizer
        self.device = denoiser.output_bias.device
        self.e_1D = torch.from_numpy(e_D)[None].to(self.device)
        self.length = denoiser.config.max_tokens
        self.passes = 0

    @torch.inference_mode()
    def likelihoods(self, texts: Sequence[Ids], e_hats: Sequence[Floats]) -> list[tuple[Floats, Floats]]:
        """Of each text: how much likelier each token is at each place, (T, V), and what stands there is, (T,), in nats.

        One pass, nothing masked: the denoiser has learned to doubt what it sees (`diffusion.corrupt_visible`). Special
        tokens have -inf, since changes decide a text's length.
        """
        canvas_PL = self._canvas(texts)
        lengths_P = torch.tensor([len(ids) for ids in texts], device=self.device)
        wanted_PL = torch.arange(canvas_PL.shape[1], device=self.device) < lengths_P[:, None]
        logits_RV = self._logits(canvas_PL, wanted_PL, self._modulation(e_hats))
        standing_R1 = logits_RV.gather(1, canvas_PL[wanted_PL][:, None])
        nats_R = (standing_R1 - logits_RV.logsumexp(-1, keepdim=True)).squeeze(1)
        logits_RV -= standing_R1
        logits_RV[:, self.tokenizer.special_ids] = -torch.inf
        counts = lengths_P.tolist()
        several = zip(torch.split(logits_RV.cpu(), counts), torch.split(nats_R.cpu(), counts), strict=True)
        return [(gains.numpy(), nats.numpy()) for gains, nats in several]

    @torch.inference_mode()
    def between(self, ids: Ids, e_hat: Floats) -> Floats:
        """Log-likelihood of a token more before each token and after the last, (T + 1, V); special tokens have -inf.

        A mask stands in every `GAPS`-th gap of a canvas at a time. The text is shorter than the longest.
        """
        mask_id, rows, count = self.tokenizer.mask_id, [], len(ids) + 1
        apart = min(count, max(GAPS, math.ceil(count / (self.length - len(ids)))))  # no row longer than a canvas
        for first in range(apart):
            row: list[int] = []
            for place in range(count):
                row += [mask_id] * (place % apart == first) + list(ids[place : place + 1])
            rows.append(row)
        canvas_PL = self._canvas(rows)
        logits_RV = self._logits(canvas_PL, canvas_PL == mask_id, self._modulation([e_hat] * len(rows)))
        found_RV = logits_RV.log_softmax(-1)
        found_RV[:, self.tokenizer.special_ids] = -torch.inf
        gaps = [place for first in range(apart) for place in range(first, count, apart)]
        between_GV: Floats = found_RV.cpu().numpy()[np.argsort(gaps)]
        return between_GV

    @torch.inference_mode()
    def refill(
        self,
        drafts: Sequence[list[int]],
        e_hats: Sequence[Floats],
        temperature: float,
        steps: int,
        noise: np.random.Generator,
    ) -> list[Ids]:
        """Texts of drafts with masks, which are filled by sampling in `steps` passes, the surest first."""
        mask_id = self.tokenizer.mask_id
        canvas_PL = self._canvas(drafts)
        modulation = self._modulation(e_hats)
        for step in range(steps):
            masked_PL = canvas_PL == mask_id
            open_P = masked_PL.any(1).nonzero().squeeze(1)
            if not len(open_P):
                break
            wanted_BL = masked_PL[open_P]
            logits_RV = self._logits(canvas_PL[open_P], wanted_BL, modulation.rows(open_P))
            logits_RV[:, self.tokenizer.special_ids] = -torch.inf
            chosen_R = sample(logits_RV, temperature, torch.from_numpy(noise.random(len(logits_RV))))
            chance_R = logits_RV.log_softmax(-1).gather(1, chosen_R[:, None]).squeeze(1)
            filled_BL, sure_BL = canvas_PL[open_P], torch.full(wanted_BL.shape, -torch.inf, device=self.device)
            filled_BL[wanted_BL], sure_BL[wanted_BL] = chosen_R, chance_R
            left_B1 = wanted_BL.sum(1, keepdim=True)
            rank_BL = sure_BL.argsort(1, descending=True).argsort(1)
            stands_BL = wanted_BL & (rank_BL < torch.ceil(left_B1 / (steps - step)))
            canvas_PL[open_P] = torch.where(stands_BL, filled_BL, canvas_PL[open_P])
        return [tuple(self.tokenizer.content(row)) for row in canvas_PL.tolist()]

    def drafts(self, ids: Ids, nats_T: Floats, count: int, noise: np.random.Generator) -> list[list[int]]:
        """A text with a random part masked: a span, with one token more or less, or doubtful tokens."""
        mask_id, size = self.tokenizer.mask_id, len(ids)
        doubts_T = DOUBT + 1 - np.exp(nats_T.astype(np.float64))
        found = []
        for _ in range(count):
            row = list(ids)
            if noise.random() < SPAN or size < 3:
                width = int(noise.integers(1, max(1, size // 2) + 1))
                first = int(noise.integers(size - width + 1))
                room = max(size == width, width + int(noise.choice([-1, 0, 0, 1])))
                row[first : first + width] = [mask_id] * room
            else:
                some = int(noise.integers(1, max(2, size // 2)))
                for place in noise.choice(size, some, replace=False, p=doubts_T / doubts_T.sum()):
                    row[place] = mask_id
            found.append(row[: self.length])
        return found

    def _canvas(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = min(self.length, max(len(row) for row in rows) + ENDING)
        return torch.tensor([self.tokenizer.canvas(row, width) for row in rows], device=self.device)

    def _modulation(self, e_hats: Sequence[Floats]) -> Modulation:
        e_PD = self.e_1D.expand(len(e_hats), -1)
        return self.denoiser.condition(e_PD, hypothesis_BD=torch.from_numpy(np.stack(e_hats)).to(self.device))

    def _logits(self, canvas_BL: Tensor, wanted_BL: Tensor, modulation: Modulation) -> Tensor:
        self.passes += len(canvas_BL)
        (logits_RV,) = compute(self.denoiser, [Question(canvas_BL, wanted_BL, modulation)])
        return logits_RV.float()
