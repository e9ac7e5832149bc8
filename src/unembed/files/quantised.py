"""Matrices in 8 bits: half the space of bfloat16, so that a deeper denoiser fits the package.

A matrix W (R rows, K columns) is stored as integers q (R, K) from -127 to 127 under its own name, with one scale s (R,)
for each row under `<name>.scale`, so that W ~ s q and a row's largest weight is 127 of its steps. Smaller scales, which
clip the largest weights and round all others less, were tried on the packaged weights: the best of 31 for each row,
down to 0.7 of it, makes the error 0.943 % -> 0.937 %, which is not worth it.

Scales are bfloat16. Eight bits are enough, since q is chosen for the scale as it is stored; and their products with q
are exact in float32, so that storing what was restored gives the same tensors again, and an inverter keeps its
fingerprint.

The token table stays as it is, since the surrogate was fitted to its rows; so do the positions and all that is small,
where little would be saved.
"""

from pathlib import Path

import torch
from torch import Tensor

from unembed.errors import CheckpointError, OutputError

SCALE = ".scale"  # behind the name of the matrix
LEAST = 2**16  # weights in a matrix that is worth it
KEPT = ("table.weight", "positions")
STEPS = 127  # from zero to a row's largest weight


def quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A denoiser's tensors as they are stored: large matrices in 8 bits beside their scales, the rest in bfloat16.

    Raises:
        OutputError: a matrix has weights that are not finite, which 8 bits cannot tell.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if large(tensor) and name not in KEPT:
            stored |= in_8_bits(name, tensor)
        else:
            stored[name] = tensor.detach().to("cpu", torch.bfloat16).contiguous()
    return stored


def large(tensor: Tensor) -> bool:
    """Whether it is a matrix that 8 bits are worth it for."""
    return tensor.dim() == 2 and tensor.numel() >= LEAST


def in_8_bits(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A matrix (R, K) in 8 bits under its name, and its scales (R,) beside it.

    Raises:
        OutputError: it has weights that are not finite, which 8 bits cannot tell.
    """
    if not tensor.isfinite().all():
        raise OutputError(f"tensor {name} has weights that are not finite, which cannot be stored in 8 bits")
    weights_RK = tensor.detach().to("cpu", torch.float32)
    smallest = torch.finfo(torch.bfloat16).tiny  # a row of zeros has a scale too
    scales_R = (weights_RK.abs().amax(1) / STEPS).clamp_min(smallest).bfloat16()
    rounded_RK = (weights_RK / scales_R.float()[:, None]).round().clamp(-STEPS, STEPS)
    return {name: rounded_RK.to(torch.int8), name + SCALE: scales_R}


def restored(stored: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The denoiser's tensors: those in 8 bits as float32, others as they are.

    Raises:
        CheckpointError: a scale is missing, has no matrix, or is of the wrong shape, not finite or not above zero.
    """
    scales, matrices = scale_names(stored), {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    for name in sorted(scales - {matrix + SCALE for matrix in matrices}):
        raise CheckpointError(f"{source}: scales {name} are there, but no matrix in 8 bits that is theirs")
    state = {name: tensor for name, tensor in stored.items() if name not in scales}
    for name in sorted(matrices):
        matrix, scale = stored[name], stored.get(name + SCALE)
        if scale is None:
            raise CheckpointError(f"{source}: tensor {name} is in 8 bits, but its scales {name}{SCALE} are missing")
        if matrix.dim() != 2 or scale.shape != matrix.shape[:1]:
            shapes = f"{tuple(scale.shape)} for a tensor of {tuple(matrix.shape)}"
            raise CheckpointError(f"{source}: scales {name}{SCALE} have shape {shapes}, expected one for each row")
        if not scale.is_floating_point() or not (scale.isfinite() & (scale > 0)).all():
            raise CheckpointError(f"{source}: scales {name}{SCALE} are not all finite numbers above zero")
        state[name] = matrix.float() * scale.float()[:, None]
    return state


def scale_names(stored: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are scales of others, and no parameters."""
    return {name for name in stored if name.endswith(SCALE)}
