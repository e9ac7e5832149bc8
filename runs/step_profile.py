"""Where the time of a training step goes on a GPU, by kernel: random tokens and embeddings, real shapes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch.profiler import ProfilerActivity, profile

from unembed.config import load_config
from unembed.model import Denoiser
from unembed.optimizers import make_optimizers
from unembed.train import TrainingStep


class Nothing:
    """In the encoder's place."""

    tokenizer = None
    encode_tokens = None


def main(path: str, steps: int = 3) -> None:
    config = load_config(path)
    torch.manual_seed(0)
    denoiser = Denoiser(30522, 384, 103, config.model, (102, 0)).cuda()
    denoiser.table.requires_grad_(False)
    step = TrainingStep(denoiser, config, Nothing()).cuda()
    if config.training.compile:
        step.compile_parts()
    optimizers = make_optimizers(denoiser, config.training)
    canvas = torch.randint(1000, 30000, (config.training.batch_size, config.model.max_tokens)).cuda()
    e = torch.nn.functional.normalize(torch.randn(len(canvas), 384)).cuda()

    def once() -> None:
        step(canvas, e, torch.Generator("cuda").manual_seed(0)).loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        once()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            once()
        torch.cuda.synchronize()
    rows = [row for row in found.key_averages() if row.self_device_time_total and not row.self_cpu_time_total]
    total = sum(row.self_device_time_total for row in rows)
    print(f"kernels {total / steps / 1e3:.1f} ms a step")
    for row in sorted(rows, key=lambda row: -row.self_device_time_total)[:28]:
        print(f"{row.self_device_time_total / steps / 1e3:7.2f} ms {row.count // steps:4d} {row.key[:95]}")


if __name__ == "__main__":
    main(sys.argv[1])
