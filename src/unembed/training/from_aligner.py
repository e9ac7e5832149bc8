"""Starting a denoiser for another encoder from an inverter and an aligner.

An aligned inverter maps each vector and then reads it by its projection and by AdaLN's. All three are linear in the
vector, so that one matrix can take the place of two. The denoiser that results reads the other encoder's vectors
itself, computes at first what the aligned inverter does, and can be trained from there. Only the length that the
aligner brings each vector to is taken for the mean one, and what the nearest pairs mend is left out.

    projection (m A + b) = (projection A') x + ...,    m = s ((x - mean_S) W + mean_D)

Shape suffixes: S dimensions of the other encoder's vectors, D of the inverter's, C of the condition, H of the network.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from unembed.alignment.aligner import Aligner
from unembed.denoiser.model import Denoiser
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import ConfigError

LEAST_SHARED = 0.5  # of the other tokenizer's tokens that the inverter's must know


def start_from_aligner(
    denoiser: Denoiser, before: Mapping[str, Tensor], own: Tokenizer, other: Tokenizer, aligner: Aligner,
    vectors: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Weights for `denoiser` (S dimensions, `other` tokens) that compute what the inverter's do behind the aligner.

    Args:
        before: the inverter's weights (D dimensions, `own` tokens).
        vectors: some of the other encoder's (n, S), of length 1.

    Raises:
        ConfigError: the tokenizers have too few tokens in common.
    """
    old = dict(before)
    a_SD, b_D = _affine(aligner, vectors)
    ids_V = shared_ids(own, other)
    known_V = ids_V >= 0
    if (share := float(known_V.float().mean())) < LEAST_SHARED:
        raise ConfigError(
            f"the other encoder's tokenizer shares {share:.0%} of its tokens with the inverter's, expected half: train "
            "from nothing instead (without --aligner)"
        )
    found = {name: tensor.clone() for name, tensor in old.items() if not name.startswith("feedback.")}
    table = denoiser.table.weight.detach().clone()
    table[known_V] = old["table.weight"][ids_V[known_V]]
    bias = old["output_bias"].min().repeat(len(ids_V))  # of tokens that the inverter has never seen
    bias[known_V] = old["output_bias"][ids_V[known_V]]
    found |= {"table.weight": table, "output_bias": bias, "null_embedding": denoiser.null_embedding.detach().clone()}
    found["projection.0.weight"] = old["projection.0.weight"] @ a_SD.T
    found["projection.0.bias"] = old["projection.0.bias"] + old["projection.0.weight"] @ b_D
    for adaln in sorted({name.rpartition("adaln.")[0] + "adaln" for name in old if "adaln." in name}):
        reads = f"{adaln}.down.weight" if f"{adaln}.down.weight" in old else f"{adaln}.up.weight"
        of_condition, of_vector = old[reads][:, : -len(b_D)], old[reads][:, -len(b_D) :]
        found[reads] = torch.cat([of_condition, of_vector @ a_SD.T], 1)
        constant = of_vector @ b_D
        constant = old[f"{adaln}.up.weight"] @ constant if reads.endswith("down.weight") else constant
        found[f"{adaln}.up.bias"] = old[f"{adaln}.up.bias"] + constant
    return found


def shared_ids(own: Tokenizer, other: Tokenizer) -> Tensor:
    """Of each of the other tokenizer's ids the own one of the same token, (V,); -1 where there is none."""
    ids = own.vocabulary()
    found = torch.full((other.vocab_size,), -1)
    for token, number in other.vocabulary().items():
        found[number] = ids.get(token, -1)
    for name in ("mask_id", "eos_id", "pad_id"):
        found[getattr(other, name)] = getattr(own, name)
    return found


def _affine(aligner: Aligner, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """What an aligner does to a vector in the scale of `Denoiser.condition`: x -> x A + b, A (S, D), b (D,)."""
    linear = aligner.forth
    constant_D = linear.mean_target - linear.mean_source @ linear.weight
    length = float(np.linalg.norm(vectors.numpy() @ linear.weight + constant_D, axis=1).mean())
    s, d = linear.weight.shape
    scale = d**0.5 / length
    return torch.from_numpy(linear.weight * (scale / s**0.5)), torch.from_numpy(constant_D * scale)
