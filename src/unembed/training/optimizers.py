"""What moves the weights and how fast: frozen parts, Muon and AdamW with their groups, the learning rate's course."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unembed.config import TrainingConfig
from unembed.denoiser.model import Denoiser
from unembed.errors import ConfigError


class StackedMuon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024), the matrices of one shape multiplied together; states of either fit the other.

    On a GPU the products of one matrix after the other take as long as to start them does. Of Muon's options
    `adjust_lr_fn` is left at the default.

    Args:
        precision: of the Newton-Schulz iteration; torch's own multiplies in bfloat16, whatever that costs.
    """

    def __init__(self, parameters: Iterable[Tensor], *, precision: torch.dtype, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. With a closure, its loss before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
                    if not self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
            for (rows, columns), parameters in by_shape.items():
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                wanted = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
                update_KNM = newton_schulz(
                    torch.stack(wanted).to(self.precision), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                torch._foreach_add_(parameters, update_KNM.to(parameters[0].dtype).unbind(), alpha=-rate)
        return loss


def newton_schulz(x_KNM: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """K matrices with the singular vectors of those in x and singular values near 1, in the number format of x."""
    a, b, c = coefficients
    tall = x_KNM.shape[1] > x_KNM.shape[2]
    wide: Tensor = (x_KNM.mT if tall else x_KNM) / x_KNM.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide


def freeze(denoiser: Denoiser, parts: Sequence[str]) -> None:
    """Keep the named parts as they are: neither gradients nor optimizer state, which makes a step cheaper.

    With everything frozen but `final_adaln`, for example, no gradient passes through the blocks.

    Raises:
        ConfigError: the denoiser has no such part, or nothing is left to train.
    """
    known = list(dict.fromkeys(name.partition(".")[0] for name, _ in denoiser.named_parameters()))
    for part in parts:
        if part not in known:
            raise ConfigError(f"training.freeze names {part!r}, expected some of {', '.join(known)}")
    if not set(known) - set(parts):
        raise ConfigError("training.freeze names every part of the denoiser, expected something left to train")
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] not in parts)


def make_optimizers(denoiser: Denoiser, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices of the blocks, in the precision of training, and AdamW for the rest.

    The last AdaLN and the token table may have rates of their own; they then have no weight decay.
    """
    matrices, decayed, plain, final, table = [], [], [], [], []
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        if settings.final_learning_rate and name.startswith("final_adaln."):
            final.append(parameter)
        elif settings.table_learning_rate and name == "table.weight":
            table.append(parameter)
        elif settings.optimizer == "muon" and "blocks." in name and "adaln" not in name and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim == 2 and "positions" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    for special, rate in ((final, settings.final_learning_rate), (table, settings.table_learning_rate)):
        if special:
            groups.append({"params": special, "weight_decay": 0.0, "lr": rate})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    ]
    if matrices:
        optimizers.append(
            StackedMuon(
                matrices,
                precision=getattr(torch, settings.precision),
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate_factor(step: int, fraction: float, settings: TrainingConfig) -> float:
    """Learning rate as a share of its peak: linear warm-up, stable, linear decay to 0."""
    factor = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    if settings.decay_share and fraction > 1 - settings.decay_share:
        factor = min(factor, (1 - fraction) / settings.decay_share)
    return max(factor, 0.0)


def set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set each group's learning rate to `factor` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
