"""Which weights: a hash that tells one inverter, or one surrogate, from another."""

import hashlib

import torch
from torch import nn

from unembed.surrogate.bag import Surrogate


def fingerprint(module: nn.Module | Surrogate) -> str:
    """SHA-256 over names and values of a network's or a surrogate's tensors."""
    digest = hashlib.sha256()
    state = module.state_dict() if isinstance(module, nn.Module) else module.fitted.tensors()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
