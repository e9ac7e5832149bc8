"""Guesses: passes over whole batches, for the hypotheses of training and for correction by steps.

`predictor` gives each row random numbers of its own, and balances and steers it: that is Python for every row. Here
every operation is one over all rows, shapes follow from those of the arguments, and nothing is copied to the host, so
that a GPU never waits and what takes longest can be compiled.

Shape suffixes as in denoiser/model.py; R: positions of some rows together.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unembed.decoding.options import Decoding
from unembed.decoding.strategies import Canvas, Prediction, highest, is_end
from unembed.denoiser.model import Denoiser, Modulation

AT_ONCE = 64  # rows whose logits are in memory together, where nothing else is said
LEAST = 1e-6  # probability that is told from none


class Choice(NamedTuple):
    """What a pass says of some positions, each (R,)."""

    tokens: Tensor  # int64: drawn from all but the ends
    chances: Tensor  # the probability of each
    standing: Tensor  # the probability of what stands there
    ending: Tensor  # the probability of EOS or PAD


Choose = Callable[[Tensor, Tensor, Tensor, Sequence[int], Tensor, Tensor, Tensor, Tensor], Choice]


def choose(
    hidden_RH: Tensor,
    table_VH: Tensor,
    bias_V: Tensor,
    end_ids: Sequence[int],
    standing_R: Tensor,
    barred_R: Tensor,
    temperature_R: Tensor,
    race_RV: Tensor,
) -> Choice:
    """Draw a token for each position, as a function of tensors alone: it reads all logits, so it pays to compile it.

    Args:
        standing_R: tokens whose probability is told too.
        barred_R: tokens that are not drawn.
        race_RV: numbers from the exponential distribution: the token whose number, divided by its probability to the
            power of 1 / T, is the least is drawn from the distribution at temperature T; at 0 the likeliest.
    """
    likelihood_RV = F.linear(hidden_RH, table_VH, bias_V).float().log_softmax(-1)
    ids_V = torch.arange(len(bias_V), device=bias_V.device)
    out_RV, ending_R = ids_V == barred_R[:, None], torch.zeros_like(temperature_R)
    for end in end_ids:
        out_RV, ending_R = out_RV | (ids_V == end), ending_R + likelihood_RV[:, end].exp()
    drawn_RV = likelihood_RV - temperature_R[:, None] * race_RV.log()
    tokens_R = drawn_RV.masked_fill(out_RV, -torch.inf).argmax(-1)
    chances_R, told_R = (likelihood_RV.gather(1, ids_R[:, None]).squeeze(1).exp() for ids_R in (tokens_R, standing_R))
    return Choice(tokens_R, chances_R, told_R, ending_R)


class Guesser:
    """A denoiser that guesses; all that is random comes from `generator` (on any device).

    Args:
        rows_at_once: rows whose logits are in memory together.
        choose: the function of that name, or what it was compiled to.
    """

    def __init__(
        self, denoiser: Denoiser, generator: torch.Generator, rows_at_once: int = AT_ONCE, choose: Choose = choose
    ) -> None:
        self.denoiser = denoiser
        self.generator = generator
        self.rows_at_once = rows_at_once
        self.choose = choose

    def filled(
        self, ids_BL: Tensor, modulation: Modulation, temperature_B1: Tensor, left_B: Tensor, barred_BL: Tensor
    ) -> Tensor:
        """One pass of the strategy `confidence`: the canvases with the surest of their masks filled.

        Args:
            left_B: passes that share the text, this one included.
            barred_BL: a token for each mask that is not put there; the mask's own where all may be.
        """
        canvas = Canvas(ids_BL, self.denoiser.mask_id, self.denoiser.end_ids, Decoding(), rows=())
        found, _ = self._predicted(ids_BL, modulation, temperature_B1, barred_BL)
        canvas.reveal(highest(canvas.eagerness(found), canvas.masked, canvas.due(found, left_B)), found)
        return canvas.ids

    def revised(self, ids_BL: Tensor, modulation: Modulation, temperature_B1: Tensor, doubt_B1: Tensor) -> Tensor:
        """One pass over texts: those tokens are drawn anew that are less likely than `doubt`, ends included."""
        nothing_BL = torch.full_like(ids_BL, self.denoiser.mask_id)
        found, standing_BL = self._predicted(ids_BL, modulation, temperature_B1, nothing_BL)
        return torch.where(standing_BL < doubt_B1, found.tokens, ids_BL)

    def _predicted(
        self, ids_BL: Tensor, modulation: Modulation, temperature_B1: Tensor, barred_BL: Tensor
    ) -> tuple[Prediction, Tensor]:
        """A prediction for every position, and the probability of what stands there (B, L).

        Whether it is text or its end is drawn first, since text is many tokens (see `predictor.text_or_end`): each
        has its probability to the power of 1 / T. The first position is always text.
        """
        temperature_BL = temperature_B1.expand(ids_BL.shape)
        several = (self.denoiser.hidden(ids_BL, modulation), ids_BL, barred_BL, temperature_BL)
        parts = zip(*(torch.split(tensor, self.rows_at_once) for tensor in several), strict=True)
        choices = zip(*(self._chosen(*(tensor.flatten(0, 1) for tensor in part)) for part in parts), strict=True)
        tokens_BL, chances_BL, standing_BL, ending_BL = (torch.cat(some).view(ids_BL.shape) for some in choices)
        noise_BL = torch.rand(ids_BL.shape, generator=self.generator, device=self.generator.device).to(ids_BL.device)
        ends_BL = ending_BL.logit(LEAST) + temperature_BL * noise_BL.logit(LEAST) > 0
        ends_BL[:, 0] = False
        tokens_BL = torch.where(ends_BL, self.denoiser.end_ids[0], tokens_BL)
        return Prediction(tokens_BL, torch.where(ends_BL, ending_BL, chances_BL), ending_BL), standing_BL

    def _chosen(self, hidden_RH: Tensor, standing_R: Tensor, barred_R: Tensor, temperature_R: Tensor) -> Choice:
        denoiser = self.denoiser
        race_RV = torch.empty(
            len(standing_R), denoiser.table.num_embeddings, device=self.generator.device
        ).exponential_(generator=self.generator)
        return self.choose(
            hidden_RH, denoiser.table.weight, denoiser.allowed_bias(), denoiser.end_ids, standing_R, barred_R,
            temperature_R, race_RV.to(hidden_RH.device),
        )  # fmt: skip


def ended(ids_BL: Tensor, end_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Texts cut at their first end, as canvases hold them (`laid_out`), and their numbers of tokens (B,)."""
    lengths_B = (is_end(ids_BL, end_ids).cumsum(1) == 0).sum(1)
    return laid_out(ids_BL, lengths_B, end_ids), lengths_B


def laid_out(ids_BL: Tensor, lengths_B: Tensor, end_ids: Sequence[int]) -> Tensor:
    """The first `lengths` tokens of each row, EOS, and PAD."""
    place_L, lengths_B1 = torch.arange(ids_BL.shape[1], device=ids_BL.device), lengths_B[:, None]
    return torch.where(place_L < lengths_B1, ids_BL, torch.where(place_L == lengths_B1, end_ids[0], end_ids[-1]))
