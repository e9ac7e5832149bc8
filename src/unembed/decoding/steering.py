"""Steering: what is predicted is drawn towards tokens whose bag has the embedding.

The positions of a pass do not know of each other, but the embedding is that of all of them together. Of two words that
say the same thing each is likely, and both are one too many; and what nobody expects may be just what is missing. The
surrogate (`surrogate`) says what embedding a bag of tokens has, on average:

    y(m) ~ sum over tokens t of m_t x_t / sum of m_t + b,

where m_t is how often t stands in the text: as often as it is visible, and as the pass expects it beside that. So
instead of the pass' distributions p_r, one for each masked position r, those are taken which minimise

    sum over r of KL(q_r | p_r) - strength cos(y(m(q)), e):

the nearest to the denoiser's that agree with the embedding as a whole. At the minimum

    q_r(t) ~ p_r(t) exp(g_t),      g_t = strength d cos / d m_t,

which is one factor for each token, the same at every position, and is found by mean field iteration (Wainwright and
Jordan 2008, section 5), halved at each step so that it does not swing. EOS and PAD keep their probabilities, so that
the length is not affected. No text is embedded for it, by nobody: m is no text, and what is asked of it is linear.

The strength grows while a canvas fills (`growth`): what a first pass expects is spread over many tokens, later there
are few that can still mend what the guesses that stand have made of the embedding. Tokens that were given are no
guesses: what their bag lacks is more likely the surrogate's error. A short text's tokens weigh more in its bag, so
that they gain more anyway: it grows with the share of the canvas, not of the text.

Shape suffixes as in denoiser/model.py; R: positions of one canvas that are to be filled; T: tokens that may change.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from unembed.decoding.options import DecodingTuning
from unembed.decoding.token_counts import MOST

STEPS = 3  # of the iteration
NEGLIGIBLE = 1e-4  # a token that no position expects so much keeps its probability


class Steering:
    """The embeddings of a batch, and what a bag of tokens adds up to.

    Args:
        x_VD: what each token contributes, (V, D); tokens of the denoiser that it does not hold contribute nothing.
        bias_D: b.
        e_BD: the embeddings, of any length but zero, one for each row of the batch.
    """

    def __init__(self, x_VD: Tensor, bias_D: Tensor, e_BD: Tensor) -> None:
        self.x_VD = x_VD
        self.bias_D = bias_D
        self.e_BD = F.normalize(e_BD.float(), dim=-1)

    def gains(self, row: int, masses_RV: Tensor, n_V: Tensor, factor_V: Tensor, strength: float) -> Tensor:
        """g (V,) for the canvas of a row.

        Args:
            masses_RV: the probabilities of a pass, 0 for what is not counted: [MASK], EOS and PAD.
            n_V: how often each token is visible, (V,).
            factor_V: logarithms (V,) of what the probabilities are multiplied by already.
        """
        known = len(self.x_VD)
        tokens_T = (masses_RV[:, :known].amax(0) > NEGLIGIBLE).nonzero().squeeze(1)
        chances_RT, x_TD = masses_RV[:, tokens_T], self.x_VD[tokens_T]
        content_R1, factor_T = masses_RV.sum(-1, keepdim=True), factor_V[tokens_T]
        rest_R1 = (content_R1 - chances_RT.sum(-1, keepdim=True)).clamp(min=0)  # what keeps its probability
        seen_T = n_V[:known].nonzero().squeeze(1)  # a few of V, whose product would take as long as all the rest
        visible_D, count = n_V[seen_T] @ self.x_VD[seen_T], (n_V.sum() + content_R1.sum()).clamp(min=1)
        gain_T = torch.zeros_like(factor_T)
        for _ in range(STEPS):
            scaled_RT = chances_RT * (factor_T + gain_T).clamp(-MOST, MOST).exp()
            share_R1 = content_R1 / (rest_R1 + scaled_RT.sum(-1, keepdim=True)).clamp(min=1e-30)
            y_D = (visible_D + (share_R1 * scaled_RT).sum(0) @ x_TD) / count + self.bias_D
            size = y_D.norm().clamp(min=1e-9)
            towards_D = (self.e_BD[row] - (self.e_BD[row] @ y_D) / size**2 * y_D) / size  # d cos / d y
            gain_T = ((gain_T + strength / count * (x_TD @ towards_D)) / 2).clamp(-MOST, MOST)
        gain_V = torch.zeros_like(factor_V)
        gain_V[tokens_T] = gain_T
        return gain_V


def growth(decoded: float, length: int, tuning: DecodingTuning) -> float:
    """What the strength is multiplied by for a canvas of `length` positions.

    Args:
        decoded: content tokens that are visible and were not from the beginning.
    """
    return tuning.early + (tuning.late - tuning.early) * decoded / length
