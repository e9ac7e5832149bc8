"""The denoiser's part in a search: how likely a text's tokens are, and others in their places and between them.

It sees the embedding, and with feedback (`model.Denoiser`) also that of the hypothesis that it looks at, so that it can
tell what is missing.

Shape suffixes as in denoiser/model.py; P: texts; R: positions of a batch that are predicted; T: tokens of a text.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.decoding.predictor import Question, compute
from unembed.denoiser.model import Denoiser, Modulation
from unembed.encoders.tokenizer import Tokenizer

GAPS = 4  # a token is thought of in one gap of so many at a time
ENDING = 2  # positions of a canvas behind its text: the end, and one more

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class Conditioned:
    """A denoiser conditioned on one embedding.

    Args:
        e_D: the embedding, as the encoder that is asked gives them.
        inner: makes embeddings (P, d) of those that the denoiser knows, (P, D).

    Attributes:
        passes: made so far, one for each text and time.
    """

    def __init__(
        self, denoiser: Denoiser, tokenizer: Tokenizer, e_D: Floats, inner: Callable[[Floats], Floats] = lambda e: e
    ) -> None:
        self.denoiser = denoiser
        self.tokenizer = tokenizer
        self.inner = inner
        self.device = denoiser.output_bias.device
        self.e_1D = (e_D[None] / np.linalg.norm(e_D)).astype(np.float32)
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

    def _canvas(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = min(self.length, max(len(row) for row in rows) + ENDING)
        return torch.tensor([self.tokenizer.canvas(row, width) for row in rows], device=self.device)

    def _modulation(self, e_hats: Sequence[Floats]) -> Modulation:
        e_1D, hats_PD = (torch.from_numpy(self.inner(e)).to(self.device) for e in (self.e_1D, np.stack(e_hats)))
        return self.denoiser.condition(e_1D.expand(len(e_hats), -1), hypothesis_BD=hats_PD)

    def _logits(self, canvas_BL: Tensor, wanted_BL: Tensor, modulation: Modulation) -> Tensor:
        self.passes += len(canvas_BL)
        (logits_RV,) = compute(self.denoiser, [Question(canvas_BL, wanted_BL, modulation)])
        return logits_RV.float()
