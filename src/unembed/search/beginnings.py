"""Beginnings: texts that a search starts from, decoded by the denoiser.

At first these are blind candidates. A search that is stuck has most of the words by then, but in an order, or beside
others, from which no small change leads on. So it decodes again from all masks, with what the answers have taught:

- how far the surrogate's bag of tokens is wrong about such texts, on average over the nearest hypotheses. That is added
  to the bag that steers (`steering`).
- how often each token stands in the text, by the mean of the same hypotheses. Every second text keeps to these counts
  (`token_counts`); the others keep to what their first pass expects, since a word may be missing in all hypotheses.

The canvas ends a few positions behind the longest of these hypotheses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from unembed.decoding.options import Decoding
from unembed.decoding.predictor import stream
from unembed.decoding.steering import Steering
from unembed.search.likelihoods import Conditioned
from unembed.search.options import SearchTuning
from unembed.surrogate.bag import Surrogate

BEGIN_AGAIN = 7919  # added to the seed each time that a search begins again
ROOM = 4  # positions behind the longest of the nearest hypotheses

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class Beginnings:
    """Texts to begin a search for one embedding's text.

    Args:
        surrogate: of the encoder that is asked.
        decoding: how masks become tokens; with the row its seed decides the random numbers.
    """

    def __init__(
        self, denoiser: Conditioned, surrogate: Surrogate, decoding: Decoding, tuning: SearchTuning, row: int
    ) -> None:
        self.denoiser = denoiser
        self.surrogate = surrogate
        self.decoding = decoding
        self.tuning = tuning
        self.row = row

    def blind(self, times: int, count: int) -> list[Ids]:
        """`count` blind candidates, others for each number of `times` that the search has begun."""
        steps = min(self.decoding.steps, self.tuning.start_steps)
        found = self._decoded(self._sampled(times, count, steps), self.denoiser.length)
        assert found is not None
        return found

    def again(self, times: int, count: int, near: Sequence[tuple[Ids, Floats]], over: Callable[[], bool]) -> list[Ids]:
        """`count` texts decoded from all masks, with what the nearest hypotheses say.

        Args:
            near: tokens and embedding (D,) of each, one at least.
            over: whether time is over, asked after each pass; no text comes back then.
        """
        width = min(self.denoiser.length, max(len(ids) for ids, _ in near) + ROOM)
        decoding = replace(self._sampled(times, count, min(self.decoding.steps, width)), balance=1.0)
        size = self.denoiser.denoiser.table.num_embeddings
        told = torch.tensor([i for ids, _ in near for i in ids], device=self.denoiser.device)
        counts = dict.fromkeys(range(0, count, 2), torch.bincount(told, minlength=size) / len(near))
        bias_D = np.mean(
            [self.surrogate.unnormalised(ids, e_hat) - self.surrogate.x_VD[list(ids)].mean(0) for ids, e_hat in near],
            axis=0,
        )
        return self._decoded(decoding, width, counts, torch.from_numpy(bias_D), over) or []

    def _sampled(self, times: int, count: int, steps: int) -> Decoding:
        temperature = self.decoding.temperature or None  # at 0 all are alike
        seed = self.decoding.seed + BEGIN_AGAIN * times
        return replace(self.decoding, steps=steps, candidates=count, temperature=temperature, seed=seed)

    @torch.inference_mode()
    def _decoded(
        self,
        decoding: Decoding,
        width: int,
        counts: Mapping[int, torch.Tensor] | None = None,
        bias_D: torch.Tensor | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> list[Ids] | None:
        """Texts decoded on canvases of `width` positions; None where time is over."""
        conditioned, count = self.denoiser, decoding.candidates
        denoiser, device = conditioned.denoiser, conditioned.device
        e_1D, steering = torch.from_numpy(conditioned.e_1D).to(device), None
        if self.surrogate.steers:
            x_VD, own_D = self.surrogate.bag(device)
            steering = Steering(x_VD, own_D if bias_D is None else bias_D.to(device), e_1D.expand(count, -1))
        start_BL = torch.full((count, width), denoiser.mask_id, device=device)
        rows = range(self.row * count, (self.row + 1) * count)
        inner_1D = torch.from_numpy(conditioned.inner(conditioned.e_1D)).to(device)
        modulation = denoiser.condition(inner_1D).repeat(count)
        frames = stream(denoiser, modulation, decoding, rows, start_BL, steering, counts)
        frame = next(frames)
        while not frame.done and not over():
            frame = next(frames)
        conditioned.passes += int(frame.passes.sum())
        return [tuple(conditioned.tokenizer.content(ids)) for ids in frame.ids.tolist()] if frame.done else None
