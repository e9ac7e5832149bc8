"""Feedback: hypotheses to train on, so that a denoiser learns from what a guess's own embedding still lacks.

Guided inversion has of every hypothesis y also its embedding e_hat. A denoiser with feedback takes both, and
predicts the true token of every position, whether it sees a token of y there or a mask. (Vec2Text's corrector, arXiv
2310.06816, section 3.2, is a second network of that purpose; here it is the same one, blind where there is no e_hat.)

Hypotheses are made by the weights that shall mend them, at a temperature of each row's own. Of six rows

    four are decoded blindly, one in 4 passes, one in 2, two in a single one;
        of these, two are then corrected by a pass with their own embeddings, and one of the two by another one;
    two are the true text after a few edits (`edits`), which the denoiser fills.

So they range from a guess out of the blue to a text that is right but for one word, and what the denoiser makes of its
own hypotheses is among them. A row's number decides its kind: all shapes are the same in every step.

Shape suffixes as in denoiser/model.py; F: rows that hypotheses are made for; G: those of them that are corrected.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unembed.decoding.guesses import Choose, Guesser, choose, ended
from unembed.denoiser.model import Denoiser
from unembed.objective.diffusion import Hypotheses, uniform
from unembed.objective.edits import edited

ROWS = 6  # that have every kind of hypothesis among them
PASSES, EMBEDDINGS = 13 / 6, 9 / 6  # that a row takes, on average
WHOLE = 0.5  # share of hypotheses that are seen without masks

Embed = Callable[[Tensor, Tensor], Tensor]  # content ids (F, L) and their numbers (F,) -> embeddings (F, D)


def guessed_rows(share: float, batch: int) -> int:
    """Rows of a batch that hypotheses are made for: about a share of them, a multiple of `ROWS`."""
    return ROWS * min(round(share * batch / ROWS), batch // ROWS)


@torch.no_grad()
def make_hypotheses(
    denoiser: Denoiser,
    embed: Embed,
    canvas_FL: Tensor,
    e_FD: Tensor,
    generator: torch.Generator,
    choose: Choose = choose,
) -> Hypotheses:
    """Guesses at some texts, by the denoiser. All randomness comes from `generator` (on any device).

    Args:
        embed: the encoder's `encode_tokens`.
        canvas_FL: true tokens (F, L), padded with EOS and PAD; F is a multiple of `ROWS`.
        e_FD: their embeddings (F, D).
        choose: `guesses.choose`, or what it was compiled to.
    """
    rows, device, mask_id, end_ids = len(canvas_FL), canvas_FL.device, denoiser.mask_id, denoiser.end_ids
    assert rows % ROWS == 0
    part = rows // ROWS
    guesser = Guesser(denoiser, generator, part, choose)
    temperature_F1 = uniform((rows, 1), generator, device)

    nothing_FL = torch.full_like(canvas_FL[: 4 * part], mask_id)
    seen_FL, barred_FL = edited(canvas_FL[4 * part :], mask_id, end_ids, generator)
    y_FL, barred_FL = torch.cat([nothing_FL, seen_FL]), torch.cat([nothing_FL, barred_FL])
    modulation = denoiser.condition(e_FD)
    left_F = torch.ones_like(canvas_FL[:, 0])
    left_F[: 2 * part], left_F[:part] = 2, 4
    for count in (rows, 2 * part, part, part):  # rows that have masks, in passes of as few shapes as can be
        y_FL[:count] = guesser.filled(
            y_FL[:count], modulation.rows(slice(count)), temperature_F1[:count], left_F[:count], barred_FL[:count]
        )
        left_F -= 1
    for every in (2, 4):  # of the blind ones, so that some of each number of passes are corrected
        some = slice(0, 4 * part, every)
        y_GL, lengths_G = ended(y_FL[some], end_ids)
        told = denoiser.condition(e_FD[some], hypothesis_BD=embed(y_GL, lengths_G))
        doubt_G1 = uniform((len(y_GL), 1), generator, device)
        y_FL[some] = guesser.revised(y_GL, told, temperature_F1[some], doubt_G1)
    y_FL, lengths_F = ended(y_FL, end_ids)
    e_hat_FD = embed(y_FL, lengths_F)

    s_F1 = uniform((rows, 1), generator, device) * (uniform((rows, 1), generator, device) >= WHOLE)
    hidden_FL = uniform(y_FL.shape, generator, device) < s_F1
    return Hypotheses(y_FL.masked_fill(hidden_FL, mask_id), e_hat_FD)
