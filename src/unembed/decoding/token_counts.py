"""Balance: how often each token stands in a text is settled by the first pass, whatever later passes put where.

The positions of a pass do not know of each other, and a denoiser that is not perfect goes on expecting a word that it
sees already. But the first pass sees all that a blind inversion will ever know of the text. Its probabilities,
summed over the positions, are how often it expects each token, c (V). What is committed later is a guess and tells
nothing new, so that on average the counts must stay what they were (the law of total expectation): where n of a
token are visible, the masked positions should hold

    r = max(c - n, 0)

of it. Where a pass expects m instead, the token's probability is multiplied by (r + floor) / (m + floor), at every
masked position: one step of iterative proportional fitting (Deming and Stephan 1940, Annals of Mathematical
Statistics 11, 4) towards the counts. EOS and PAD keep their probabilities, so that the length is not affected.
The first pass itself is left as it is.

Shape suffixes as in denoiser/model.py; R: positions of one canvas that are to be filled; T: tokens whose chances
change.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unembed.decoding.options import DecodingTuning

MOST = 60.0  # nats that a token gains or loses, however strong an option is: float32 ends at 88
NEGLIGIBLE = 1e-3  # a token neither expected nor missing this often keeps its logits, which changes them by .01 at most
TINY = 1e-37  # about the least that float32 tells from 0


class Balance:
    """What the counts of one canvas make of its logits.

    Args:
        strength: power of the factor; 1 is the formula above, 0 changes nothing.
        mask_id, end_ids: the tokens that are not counted: [MASK], EOS and PAD.
        tuning: holds the floor, and the sharpness of the expected counts.
    """

    def __init__(self, strength: float, mask_id: int, end_ids: Sequence[int], tuning: DecodingTuning) -> None:
        self.strength = strength
        self.tuning = tuning
        self.end_ids = list(end_ids)
        self.uncounted = [*end_ids, mask_id]

    def visible(self, ids_L: Tensor, vocab_size: int) -> Tensor:
        """How often each token is among `ids` (any number of them), (V,) float32: n."""
        n_V = torch.bincount(ids_L, minlength=vocab_size).float()
        n_V[self.uncounted] = 0.0
        return n_V

    def masses(self, logits_RV: Tensor) -> Tensor:
        """The probabilities of a pass (R, V), 0 for the tokens that are not counted."""
        chances_RV = logits_RV.softmax(-1)
        chances_RV[:, self.uncounted] = 0.0
        return chances_RV

    def expected(self, masses_RV: Tensor, n_V: Tensor) -> Tensor:
        """How often the text holds each token, (V,), by the `masses` of the canvas' first pass: c."""
        m_V = masses_RV.sum(0)
        sharp_V = m_V**self.tuning.sharpness
        return n_V + sharp_V * (m_V.sum() / sharp_V.sum().clamp(min=1e-9))

    def factors(self, masses_RV: Tensor, c_V: Tensor, n_V: Tensor) -> Tensor:
        """Logarithms (V,) of what the probabilities of a pass (`masses`) are to be multiplied by."""
        m_V, r_V = masses_RV.sum(0), (c_V - n_V).clamp(min=0)
        factor_V = self.strength * ((r_V + self.tuning.floor) / (m_V + self.tuning.floor)).log()
        return factor_V.masked_fill(torch.maximum(r_V, m_V) <= NEGLIGIBLE, 0.0)

    def multiplied(self, logits_RV: Tensor, masses_RV: Tensor, factor_V: Tensor) -> Tensor:
        """The logits (R, V) float32 of all positions that are to be filled, each token's factor applied.

        All tokens but EOS and PAD together keep the chance they have.
        """
        # Not 1 less the chance of an end: where that is all but 1, rounding would leave less than what is lost below.
        content_R = masses_RV.sum(-1)
        factor_V = factor_V.clamp(-MOST, MOST)
        kept_R = masses_RV @ factor_V.exp()  # not by expm1: where nearly all is lost, its rounding leaves less than 0
        change_R1 = (kept_R.clamp(min=TINY).log() - content_R.clamp(min=TINY).log())[:, None]
        changed_RV = logits_RV + (factor_V - change_R1)
        changed_RV[:, self.end_ids] = logits_RV[:, self.end_ids]
        return changed_RV
