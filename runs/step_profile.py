"""Where the time of a training step goes on a GPU, kernel by kernel: random tokens and embeddings in the real shapes.

    python runs/step_profile.py configs/minilm_gpu.yaml

Without the encoder and the data, which run beside it. A bare checkout is enough.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import click
import torch
from scripts import run
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from unembed.config import load_config
from unembed.denoiser.model import Denoiser
from unembed.errors import InputError
from unembed.training.optimizers import freeze, make_optimizers
from unembed.training.step import TrainingStep

BERT = 30522, 103, (102, 0)  # rows of the vocabulary, [MASK], EOS and PAD
WARM_UP_STEPS = 3  # compile, and set kernels up


@click.command(help=__doc__)
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--steps", default=3, show_default=True)
@click.option("--lines", default=28, show_default=True, help="Kernels shown.")
def main(path: Path, steps: int, lines: int) -> None:
    if not torch.cuda.is_available():
        raise InputError("there is no CUDA device here, expected one to profile")
    config = load_config(path)
    vocab_size, mask_id, end_ids = BERT
    denoiser = Denoiser(vocab_size, config.encoder.dimension, mask_id, config.model, end_ids)
    freeze(denoiser, config.training.freeze)

    def embeddings(ids_BL: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:  # in the encoder's place
        return F.normalize(torch.randn(len(ids_BL), config.encoder.dimension, device="cuda"), dim=-1)

    step = TrainingStep(denoiser, config, cast(Any, SimpleNamespace(encode_tokens=embeddings))).cuda()
    if config.training.compile:
        step.compile_parts()
    optimizers = make_optimizers(denoiser, config.training)
    # Not below 1,000, where [MASK] is, which is never a target.
    canvas_BL = torch.randint(1000, vocab_size, (config.training.batch_size, config.model.max_tokens), device="cuda")
    e_BD = embeddings(canvas_BL, canvas_BL)

    def once() -> None:
        step(canvas_BL, e_BD, torch.Generator("cuda").manual_seed(0)).loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), config.training.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    for _ in range(WARM_UP_STEPS):
        once()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            once()
        torch.cuda.synchronize()
    kernels = [row for row in found.key_averages() if row.self_device_time_total and not row.self_cpu_time_total]
    total = sum(row.self_device_time_total for row in kernels)
    click.echo(f"kernels: {total / steps / 1e3:.1f} ms a step")
    for row in sorted(kernels, key=lambda row: -row.self_device_time_total)[:lines]:
        milliseconds = row.self_device_time_total / steps / 1e3
        share = row.self_device_time_total / total
        click.echo(f"{milliseconds:8.2f} ms {share:4.0%} {row.count // steps:4d} times  {row.key[:95]}")


if __name__ == "__main__":
    run(main)
