"""The autoregressive twin: the denoiser's own network under a causal mask, one token a pass.

It exists to be compared with. Width, depth, data, embedding, AdaLN and canvas are those of the denoiser
(`model.causal: true` is all that differs in a configuration), so that what is left is the order of generation:

    sees      EOS  x_1  x_2  ...  x_(L-1)
    predicts  x_1  x_2  x_3  ...  x_L          EOS and PAD included, so that it learns where a text ends

Every position is trained on in every step (teacher forcing), where masked diffusion trains on the masked ones.
Corruption has no part in it: of `diffusion` only `condition_dropout` and `vocabulary_sample` are read.

Shape suffixes as in denoiser/model.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unembed.config import DiffusionConfig
from unembed.corpus.windows import Batch
from unembed.decoding.predictor import sample
from unembed.denoiser.model import Denoiser
from unembed.encoders.encoder import Encoder
from unembed.errors import ConfigError, InputError
from unembed.objective.diffusion import Loss, cross_entropy, uniform


@dataclass(frozen=True)
class Generated:
    """Canvases written from left to right."""

    ids: Tensor  # (B, L) int64: content, EOS if there was room, PAD
    confidence: Tensor  # (B, L) float32: probability of each token when it was written; 1 behind the end
    passes: Tensor  # (B,) int64: tokens that the network wrote for each row, its EOS included


def shifted(denoiser: Denoiser, canvas_BL: Tensor) -> Tensor:
    """What the twin sees when it is to predict `canvas_BL`: EOS in front, the last token left out; (B, L)."""
    return torch.cat([canvas_BL.new_full((len(canvas_BL), 1), denoiser.end_ids[0]), canvas_BL[:, :-1]], dim=1)


def autoregressive_loss(
    denoiser: Denoiser, canvas_BL: Tensor, e_BD: Tensor, config: DiffusionConfig, generator: torch.Generator
) -> Loss:
    """Mean cross-entropy of one batch over all positions, the exact -log p(x | e) / L where the vocabulary is whole.

    All randomness comes from `generator` (on any device), so a step can be repeated.

    Args:
        canvas_BL: true tokens (B, L), padded with EOS and PAD.
        e_BD: their embeddings (B, D).
    """
    drop_B = uniform((len(canvas_BL),), generator, canvas_BL.device) < config.condition_dropout
    hidden_BLH = denoiser.hidden(shifted(denoiser, canvas_BL), denoiser.condition(e_BD, drop_B))
    losses_M, right_M = cross_entropy(
        denoiser, hidden_BLH.flatten(0, 1), canvas_BL.flatten(), config.vocabulary_sample, generator
    )
    return Loss(losses_M.mean(), right_M.float().mean(), torch.tensor(canvas_BL.numel()))


@torch.inference_mode()
def generate(
    denoiser: Denoiser, e_BD: Tensor, temperature: float = 0.0, seed: int = 0, first_row: int = 0
) -> Generated:
    """Write texts from embeddings (B, D), one token a pass; keys and values of what stands are kept.

    Args:
        temperature: 0 takes the best token, more samples from the tempered distribution.
        seed: decides, with a row's number, everything random about that row.
        first_row: number of the first embedding, so that the parts of a larger batch give what the whole would.

    Raises:
        ConfigError: the denoiser is not causal.
        InputError: an impossible temperature.
    """
    if not denoiser.config.causal:
        raise ConfigError("model.causal is false, expected an autoregressive twin (a denoiser fills masks instead)")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature is {temperature}, expected 0 or more")
    batch, length, device = len(e_BD), denoiser.config.max_tokens, denoiser.output_bias.device
    eos_id, pad_id = denoiser.end_ids[0], denoiser.end_ids[-1]
    modulation = denoiser.condition(e_BD)
    ids_BL = torch.full((batch, length), pad_id, device=device)
    confidence_BL = torch.ones(batch, length, device=device)
    passes_B = torch.zeros(batch, dtype=torch.int64, device=device)
    writing_B = torch.ones(batch, dtype=torch.bool, device=device)
    noise = [torch.Generator().manual_seed((seed * 1_000_003 + first_row + row) % 2**63) for row in range(batch)]
    past: list[list[Tensor]] = [[] for _ in denoiser.blocks]
    last_B1 = torch.full((batch, 1), eos_id, device=device)
    for place in range(length):
        with torch.autocast(device.type, torch.bfloat16, enabled=denoiser.precision != torch.float32):
            # Not `denoiser.hidden`: where that is compiled, each length of the past would be compiled anew.
            logits_BV = denoiser.logits(Denoiser.hidden(denoiser, last_B1, modulation, past)[:, 0]).float()
        if temperature == 0:
            chosen_B = logits_BV.argmax(-1)
        else:  # from each row's own numbers
            uniform_B = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in noise])
            chosen_B = sample(logits_BV, temperature, uniform_B)
        chance_B = (logits_BV.gather(1, chosen_B[:, None]).squeeze(1) - logits_BV.logsumexp(-1)).exp()
        ids_BL[:, place] = torch.where(writing_B, chosen_B, pad_id)
        confidence_BL[:, place] = torch.where(writing_B, chance_B, 1.0)
        passes_B += writing_B
        writing_B = writing_B & (chosen_B != eos_id) & (chosen_B != pad_id)
        if not writing_B.any():
            break
        last_B1 = chosen_B[:, None]
    return Generated(ids_BL, confidence_BL, passes_B)


@torch.inference_mode()
def validate_twin(denoiser: Denoiser, encoder: Encoder, batch: Batch, seed: int) -> dict[str, float]:
    """A quick look at a twin while it trains, over the content tokens of a held-out batch; called as `validate` is.

    Returns:
        `accuracy_forced`: next tokens guessed right after the true ones; `token_accuracy` and `cosine` of
        what it writes by itself, the figures that a denoiser's are compared with.
    """
    training, device = denoiser.training, denoiser.output_bias.device
    denoiser.eval()
    batch = batch.to(device)
    e_BD = batch.embeddings if batch.embeddings is not None else encoder.encode_tokens(batch.canvas, batch.lengths)
    content_BL = torch.arange(batch.canvas.shape[1], device=device) < batch.lengths[:, None]
    hidden_BLH = denoiser.hidden(shifted(denoiser, batch.canvas), denoiser.condition(e_BD))
    best_M = denoiser.logits(hidden_BLH[content_BL]).argmax(-1)
    ids_BL = generate(denoiser, e_BD, seed=seed).ids
    texts = [encoder.tokenizer.decode(row) for row in ids_BL.tolist()]
    denoiser.train(training)
    return {
        "accuracy_forced": (best_M == batch.canvas[content_BL]).float().mean().item(),
        "token_accuracy": (ids_BL == batch.canvas)[content_BL].float().mean().item(),
        "cosine": float(np.mean(np.sum(encoder.encode(texts) * e_BD.cpu().numpy(), axis=1))),
    }
