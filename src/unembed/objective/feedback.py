"""Feedback: hypotheses to train on, so that a denoiser learns from what a guess's own embedding still lacks.

Guided inversion has of every hypothesis y also its embedding e_hat. A denoiser with feedback takes both, and
predicts the true token of every position, whether it sees a token of y there or a mask. (Vec2Text's corrector, arXiv
2310.06816, section 3.2, is a second network of that purpose; here it is the same one, blind where there is no e_hat.)

Hypotheses are the true text, changed by some moves (`moves`), some tokens masked, and the masks filled by
the denoiser as it is at that step, in one pass. So they range from a guess out of the blue to a text that is right but
for one word, and are always made by the weights that shall mend them.

Shape suffixes as in denoiser/model.py; F: rows that hypotheses are made for; M: positions filled; S: tokens considered.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unembed.decoding.predictor import sample
from unembed.denoiser.model import Denoiser
from unembed.encoders.tokenizer import Tokenizer
from unembed.objective.diffusion import Hypotheses, sampled_vocabulary, uniform
from unembed.objective.random_edits import MASK, draw

TEMPERATURE = 0.7  # of the filling, above the blind candidates'
WHOLE = 0.5  # share of hypotheses that are seen without masks
DOUBT = 0.1  # of every token of the true text, so that a move changes a few
STOP = 0.5  # chance of no further move: one each, on average

Embed = Callable[[Tensor, Tensor], Tensor]  # content ids (F, L) and their numbers (F,) -> embeddings (F, D)


@torch.no_grad()
def make_hypotheses(
    denoiser: Denoiser,
    tokenizer: Tokenizer,
    embed: Embed,
    canvas_FL: Tensor,
    e_FD: Tensor,
    vocabulary_sample: int,
    generator: torch.Generator,
) -> Hypotheses:
    """Guesses at some texts, by the denoiser. All randomness comes from `generator` (on any device).

    Args:
        embed: the encoder's `encode_tokens`.
        canvas_FL: true tokens (F, L), padded with EOS and PAD.
        e_FD: their embeddings (F, D).
        vocabulary_sample: tokens to choose from besides those of the texts; 0: all.
    """
    rows, device = len(canvas_FL), canvas_FL.device
    seen_FL = _moved(tokenizer, canvas_FL, generator)
    t_F1 = uniform((rows, 1), generator, device)
    masked_FL = uniform(seen_FL.shape, generator, device) < t_F1
    seen_FL = seen_FL.masked_fill(masked_FL, denoiser.mask_id)
    y_FL = _filled(denoiser, seen_FL, e_FD, canvas_FL, vocabulary_sample, generator)

    ends_FL = torch.isin(y_FL, torch.tensor(denoiser.end_ids, device=device))
    y_FL[:, 0] = torch.where(ends_FL[:, 0], canvas_FL[:, 0], y_FL[:, 0])  # there is no embedding of no text
    ends_FL[:, 0] = False
    ended_FL = ends_FL.cumsum(1)
    y_FL = torch.where(ended_FL > 0, tokenizer.pad_id, y_FL).masked_fill(ends_FL & (ended_FL == 1), tokenizer.eos_id)
    e_hat_FD = embed(y_FL, (ended_FL == 0).sum(1))

    s_F1 = uniform((rows, 1), generator, device) * (uniform((rows, 1), generator, device) >= WHOLE)
    hidden_FL = uniform(y_FL.shape, generator, device) < s_F1
    return Hypotheses(y_FL.masked_fill(hidden_FL, denoiser.mask_id), e_hat_FD)


def _moved(tokenizer: Tokenizer, canvas_FL: Tensor, generator: torch.Generator) -> Tensor:
    """The canvases after random moves, the masks that these leave included."""
    noise = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    length, mask_id = canvas_FL.shape[1], tokenizer.mask_id
    rows = []
    for ids in canvas_FL.tolist():
        tokens = tokenizer.content(ids)
        for _ in range(int(noise.geometric(STOP)) - 1):
            _, draft = draw(tokens, np.full(len(tokens), DOUBT), tokenizer.starts_word, noise, length)
            tokens = [mask_id if token == MASK else token for token in draft]
        rows.append(tokenizer.canvas(tokens, length))
    return torch.tensor(rows, device=canvas_FL.device)


def _filled(
    denoiser: Denoiser,
    seen_FL: Tensor,
    e_FD: Tensor,
    canvas_FL: Tensor,
    vocabulary_sample: int,
    generator: torch.Generator,
) -> Tensor:
    """The canvases, their masks sampled in one blind pass from a part of the vocabulary, as the loss considers it."""
    masked_FL = seen_FL == denoiser.mask_id
    hidden_MH = denoiser.hidden(seen_FL, denoiser.condition(e_FD))[masked_FL]
    everything = vocabulary_sample or denoiser.table.num_embeddings
    ids_S, _, stands_for_S = sampled_vocabulary(
        canvas_FL, denoiser.table.num_embeddings, denoiser.mask_id, everything, generator
    )
    logits_MS = F.linear(hidden_MH, denoiser.table.weight[ids_S], denoiser.output_bias[ids_S]).float() + stands_for_S
    uniform_M = torch.rand(len(logits_MS), generator=generator, dtype=torch.float64, device=generator.device)
    filled_FL = seen_FL.clone()
    filled_FL[masked_FL] = ids_S[sample(logits_MS, TEMPERATURE, uniform_M)]
    return filled_FL
