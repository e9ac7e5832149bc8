"""Corruption and loss: how a masked diffusion denoiser is trained.

A time t in (0, 1] is drawn for each canvas; every position, EOS and PAD included, is masked with
probability t; the denoiser predicts what stood there. `elbo` weighting is the continuous-time bound

    -log p(x | e) <= E_t (1/t) sum_{i masked} -log p(x_i | z_t, e)          (arXiv 2406.07524, eq. 10)

for the linear schedule alpha_t = 1 - t, here in nats per position. `plain` weighting is the mean
over all masked positions of the batch: heavier on large t, where decoding starts.

Shape suffixes as in denoiser/model.py; M: positions that are trained on, over the whole batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unembed.config import DiffusionConfig
from unembed.denoiser.model import Denoiser

LEAST_SHARE = 1e-3  # of the draws of t, the lowest are drawn as one, which keeps 1/t within bounds


class Corrupted(NamedTuple):
    """A canvas after the forward process."""

    ids: Tensor  # (B, L) what the denoiser sees
    targets: Tensor  # (B, L) bool: positions that are masked, were replaced, or were kept to be trained on


class Hypotheses(NamedTuple):
    """Guesses at the texts of a batch's first F rows, to train feedback on (see `feedback`)."""

    ids: Tensor  # (F, L) what the denoiser sees: the guess, with masks
    e_hat: Tensor  # (F, D) embeddings of the guesses, without the masks


class Loss(NamedTuple):
    """The loss to minimise, and what the log shows of it."""

    loss: Tensor  # scalar
    accuracy: Tensor  # scalar: share of the trained-on positions whose best token is right
    trained: Tensor  # scalar: number of positions trained on


# hidden (M, H), targets (M,), table (V, H), bias (V,) -> losses (M,), right (M,)
CrossEntropy = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers from 0 to 1 on `device`, drawn where the generator is: on a GPU nothing then waits for a copy."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def sample_times(batch: int, skew: float, generator: torch.Generator) -> Tensor:
    """Mask probabilities t (B,), density k t^(k-1) for skew k, one from each of B equal strata.

    Stratified over the batch (the antithetic sampling of arXiv 2107.00630, appendix I.1), so that
    every batch sees all noise levels and the loss varies less. Order is random by construction of
    the caller's batch. The lowest `LEAST_SHARE` of the draws all stand at that quantile.
    """
    offset = torch.rand((), generator=generator, device=generator.device)
    u_B = (offset + torch.arange(batch, device=generator.device) / batch) % 1
    return u_B.clamp(min=LEAST_SHARE).pow(1 / skew)


def bound_weights(t_B: Tensor, skew: float) -> Tensor:
    """1 / (t density(t)) (B,): what makes the mean over times from `sample_times` the bound's integral over t.

    A draw at the lowest t stands for the whole interval below it, over which the integrand hardly changes.
    """
    u_B = t_B.pow(skew)
    return torch.where(u_B > LEAST_SHARE * (1 + 1e-4), 1 / (skew * u_B), 1 / LEAST_SHARE)


def corrupt(
    canvas_BL: Tensor,
    t_B: Tensor,
    mask_id: int,
    corrupt_visible: float,
    generator: torch.Generator,
    keep_visible: float = 0.0,
) -> Corrupted:
    """Mask each position of the canvas with its row's probability t.

    `corrupt_visible` of the positions that stay are replaced by tokens drawn from the batch and
    trained on as well, so that the denoiser learns to doubt what it sees (arXiv 2503.04482). A share
    `keep_visible` stays as it is and is trained on too: without it every visible token that counts is
    wrong, and nothing teaches the denoiser to leave a right one.
    """
    draw_BL = uniform(canvas_BL.shape, generator, canvas_BL.device)
    t_B1 = t_B.to(canvas_BL.device)[:, None]
    masked_BL = draw_BL < t_B1
    ids_BL = canvas_BL.masked_fill(masked_BL, mask_id)
    if not corrupt_visible + keep_visible:
        return Corrupted(ids_BL, masked_BL)
    # The same draw, rescaled over the visible positions, is uniform there.
    replaced_BL = ~masked_BL & ((draw_BL - t_B1) < corrupt_visible * (1 - t_B1))
    trained_BL = masked_BL | ((draw_BL - t_B1) < (corrupt_visible + keep_visible) * (1 - t_B1))
    other = torch.randint(canvas_BL.numel(), canvas_BL.shape, generator=generator, device=generator.device)
    ids_BL = torch.where(replaced_BL, canvas_BL.flatten()[other.to(canvas_BL.device)], ids_BL)
    return Corrupted(ids_BL, trained_BL)


def noisy(e_BD: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Embeddings (B, D) of unit length with Gaussian noise on each coordinate, which is what a vector store may keep.

    A row's standard deviation is uniform from 0 to `largest`. (Noise as a defence: arXiv 2310.06816.) The result is
    not brought back to unit length: `Denoiser.condition` takes directions only.
    """
    if not largest:
        return e_BD
    deviation_B1 = largest * torch.rand(len(e_BD), 1, generator=generator, device=generator.device)
    noise_BD = deviation_B1 * torch.randn(e_BD.shape, generator=generator, device=generator.device)
    return F.normalize(e_BD.float(), dim=-1) + noise_BD.to(e_BD.device)


def training_loss(
    denoiser: Denoiser,
    canvas_BL: Tensor,
    e_BD: Tensor,
    config: DiffusionConfig,
    generator: torch.Generator,
    hypotheses: Hypotheses | None = None,
    compiled: CrossEntropy | None = None,
) -> Loss:
    """The loss of one batch. All randomness comes from `generator` (on any device), so a step can be repeated.

    Args:
        canvas_BL: true tokens (B, L), padded with EOS and PAD.
        e_BD: their embeddings (B, D).
        hypotheses: what to show of the first rows instead of corrupting them; every position of theirs is a target.
        compiled: `whole_cross_entropy`, compiled. All shapes then depend on those of the arguments alone, so that it
            is compiled once, and the device is never waited for.
    """
    batch, length = canvas_BL.shape
    guessed = len(hypotheses.ids) if hypotheses is not None else 0
    t_B = sample_times(batch - guessed, config.time_skew, generator)
    drop_B = uniform((batch,), generator, canvas_BL.device) < config.condition_dropout
    corrupted = corrupt(
        canvas_BL[guessed:], t_B, denoiser.mask_id, config.corrupt_visible, generator, config.keep_visible
    )
    e_hat_BD: Tensor | None = None
    if hypotheses is not None:
        everywhere_FL = torch.ones_like(hypotheses.ids, dtype=torch.bool)
        corrupted = Corrupted(torch.cat([hypotheses.ids, corrupted.ids]), torch.cat([everywhere_FL, corrupted.targets]))
        e_hat_BD = torch.cat([hypotheses.e_hat, torch.zeros_like(e_BD[guessed:])])

    hidden_BLH = denoiser.hidden(corrupted.ids, denoiser.condition(e_BD, drop_B, e_hat_BD))
    chosen_N = corrupted.targets.flatten()
    if compiled is None:
        index_M = chosen_N.nonzero().squeeze(1)
    else:
        most = guessed * length + most_targets(batch - guessed, length, config)
        index_M = chosen_N.byte().argsort(descending=True, stable=True)[:most]
    is_target_M = chosen_N[index_M]
    losses_M, right_M = cross_entropy(
        denoiser, hidden_BLH.flatten(0, 1).index_select(0, index_M), canvas_BL.flatten()[index_M],
        config.vocabulary_sample, generator, compiled,
    )  # fmt: skip
    trained = is_target_M.sum()
    if config.weighting == "elbo":
        weight_B = bound_weights(t_B, config.time_skew).to(canvas_BL.device)
        weight_M = weight_B[:, None].expand(batch, length).flatten()[index_M] * is_target_M
        loss = (weight_M * losses_M).sum() / (batch * length)
    else:
        loss = (losses_M * is_target_M).sum() / trained.clamp(min=1)  # a small batch may have no mask at all
    return Loss(loss, (right_M & is_target_M).sum() / trained.clamp(min=1), trained)


def most_targets(rows: int, length: int, config: DiffusionConfig) -> int:
    """How many positions of a corrupted batch are targets at most, but for a chance below one in a billion.

    The mean is that of the draws, which the strata's common offset moves by less than a row; beside it eight standard
    deviations of as many fair coins, more than what is drawn here has.
    """
    masked = config.time_skew / (config.time_skew + 1)
    share = masked + (1 - masked) * (config.corrupt_visible + config.keep_visible)
    positions = rows * length
    return min(positions, math.ceil(share * positions + 4 * math.sqrt(positions)) + length)


def cross_entropy(
    denoiser: Denoiser,
    hidden_MH: Tensor,
    targets_M: Tensor,
    vocabulary_sample: int,
    generator: torch.Generator,
    compiled: CrossEntropy | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy (M,) in float32, and whether the best token considered is the target (M,).

    With `vocabulary_sample` n > 0 the softmax's normaliser is estimated from the batch's own targets and
    n other tokens drawn without replacement, each standing for (others / n) tokens: an unbiased
    estimate of the sum at a fraction of its cost (importance sampling as in arXiv 1412.2007). The
    accuracy is then over the tokens considered, so slightly too high.
    """
    if not vocabulary_sample:
        return (compiled or whole_cross_entropy)(hidden_MH, targets_M, denoiser.table.weight, denoiser.allowed_bias())
    ids_S, index_M, stands_for_S = sampled_vocabulary(
        targets_M, denoiser.table.num_embeddings, denoiser.mask_id, vocabulary_sample, generator
    )
    logits_MS = F.linear(hidden_MH, denoiser.table.weight[ids_S], denoiser.output_bias[ids_S]).float()
    right_M = logits_MS.argmax(-1) == index_M
    return F.cross_entropy(logits_MS + stands_for_S, index_M, reduction="none"), right_M


def whole_cross_entropy(
    hidden_MH: Tensor, targets_M: Tensor, table_VH: Tensor, bias_V: Tensor
) -> tuple[Tensor, Tensor]:
    """`cross_entropy` over all tokens, as a function of tensors alone: most of a step's memory traffic on a GPU."""
    logits_MV = F.linear(hidden_MH, table_VH, bias_V).float()
    return F.cross_entropy(logits_MV, targets_M, reduction="none"), logits_MV.argmax(-1) == targets_M


def sampled_vocabulary(
    targets: Tensor, vocab_size: int, mask_id: int, sample: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens to consider instead of the whole vocabulary.

    Returns:
        ids_S: the distinct targets, then up to `sample` other tokens (never the mask).
        index: where each of `targets` (any shape) stands in ids_S.
        stands_for_S: what to add to their logits: the log of how many tokens each one represents.
    """
    own_T, index = torch.unique(targets, return_inverse=True)
    is_other_V = torch.ones(vocab_size, dtype=torch.bool)
    is_other_V[own_T.cpu()] = False
    is_other_V[mask_id] = False
    others = is_other_V.nonzero().squeeze(1)
    drawn = others[torch.randperm(others.numel(), generator=generator, device=generator.device)[:sample].cpu()]
    stands_for_S = torch.zeros(own_T.numel() + drawn.numel())
    if drawn.numel():
        stands_for_S[own_T.numel() :] = math.log(others.numel() / drawn.numel())
    return torch.cat([own_T, drawn.to(own_T.device)]), index, stands_for_S.to(own_T.device)
