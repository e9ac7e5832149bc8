"""How much arithmetic training takes, and how much the device could do."""

import torch

from unembed.config import Config
from unembed.denoiser.model import Denoiser, count_parameters
from unembed.encoders.encoder import Encoder
from unembed.objective.feedback import EMBEDDINGS, PASSES

# Dense bf16 FLOP/s from the makers' data sheets, by a part of the device's name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "V100": 125e12}


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of a known GPU, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def flops_per_sequence(denoiser: Denoiser, encoder: Encoder, config: Config) -> float:
    """Useful floating-point operations to train on one sequence, by the rule 6 N per token (arXiv 2001.08361).

    Parameters of the AdaLN layers and the projection act once per sequence, those of the blocks at each
    position, the token table at each position trained on: 4 N where it is frozen. The frozen encoder counts 2 N per
    token, where it runs. The mean over canvases of both lengths.
    """
    data = config.data
    whole = _flops_of_canvas(denoiser, encoder, config, config.model.max_tokens)
    if not data.short_share:
        return whole
    short = _flops_of_canvas(denoiser, encoder, config, data.short_canvas)
    return (1 - data.short_share) * whole + data.short_share * short


def _flops_of_canvas(denoiser: Denoiser, encoder: Encoder, config: Config, length: int) -> float:
    """`flops_per_sequence` for a canvas of `length` positions."""
    model = config.model
    by_text = ("adaln", "projection", "feedback")
    once = sum(p.numel() for name, p in denoiser.named_parameters() if any(part in name for part in by_text))
    each = count_parameters(denoiser) - once
    attention = 2 * model.blocks * length * model.width  # two products of L x L x H per block
    skew = config.diffusion.time_skew
    masked = skew / (skew + 1)  # mean of t
    vocabulary = config.diffusion.vocabulary_sample or denoiser.table.num_embeddings
    trained = length * (masked + (1 - masked) * (config.diffusion.corrupt_visible + config.diffusion.keep_visible))
    if model.causal:  # every position predicts its next token
        trained = length
    # Hypotheses are made by whole passes, embedded, and trained on everywhere.
    guessed = config.diffusion.feedback_share
    trained = (1 - guessed) * trained + guessed * length
    denoising: float = 6 * (once + length * (each + attention))
    denoising += (6 if denoiser.table.weight.requires_grad else 4) * trained * vocabulary * model.width
    whole = length * (each + attention + denoiser.table.num_embeddings * model.width)
    denoising += 2 * guessed * PASSES * (once + whole)
    network = getattr(encoder, "network", None)
    frozen = sum(p.numel() for name, p in network.named_parameters() if "embed" not in name) if network else 0
    texts = guessed * EMBEDDINGS + (config.data.embeddings == "fly")
    return float(denoising + 2 * texts * length * frozen)
