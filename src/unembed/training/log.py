"""What a training run says while it runs: a progress bar, `log.jsonl` and TensorBoard."""

import json
import time
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from tqdm import tqdm

from unembed.errors import extra
from unembed.files.atomic import atomic_file, output_errors
from unembed.objective.diffusion import Loss

with extra("train", "training"):
    from torch.utils.tensorboard import SummaryWriter


class TrainingLog:
    """Collects steps and writes a row each `flush`. Lines that a killed run wrote past its checkpoint are dropped.

    Args:
        out: folder of the run.
        step: the step the run (re)starts at.
        peak: the device's FLOP/s where known.
        flops: floating-point operations per sequence.
    """

    def __init__(self, out: Path, step: int, peak: float | None, flops: float, show_progress_bar: bool) -> None:
        self.peak, self.flops = peak, flops
        self.path = out / "log.jsonl"
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            rows = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            kept = [row for row in rows if json.loads(row)["step"] <= step] if step else []
            with atomic_file(self.path) as temporary:
                temporary.write_text("".join(row + "\n" for row in kept), encoding="utf-8")
            self.file = self.path.open("a", encoding="utf-8")
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step)
        self.bar = tqdm(
            total=1000, unit="", disable=not show_progress_bar, bar_format="{percentage:5.1f}%|{bar:20}| {desc}"
        )
        self.last_validation: dict[str, float] = {}
        self._since, self._sequences = time.monotonic(), 0
        self._window: list[tuple[Tensor, Tensor, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        self.board.close()
        self.file.close()

    def step(self, loss: Loss, norm: Any, sequences: int) -> None:
        """Note one step. Nothing is read from the device until `flush`."""
        self._window.append((loss.loss.detach(), loss.accuracy.detach(), norm))
        self._sequences += sequences

    def flush(self, step: int, seconds: float, sequences: int, fraction: float, rate: float) -> float:
        """Write the means of the steps since the last flush; returns the mean loss.

        Args:
            seconds: time trained so far; `fraction` of the run is over; `rate` is the learning rate's factor.
        """
        now = time.monotonic()
        speed = self._sequences / (now - self._since)
        loss, accuracy, norm = (sum(float(row[i]) for row in self._window) / len(self._window) for i in range(3))
        row = {"step": step, "seconds": round(seconds, 1), "sequences": sequences, "loss": loss, "accuracy": accuracy}
        row |= {"gradient_norm": norm, "rate": rate, "sequences_per_second": speed}
        if self.peak:
            row["share_of_peak"] = speed * self.flops / self.peak
        self._write(row, "train")
        left = seconds * (1 - fraction) / fraction if fraction else 0.0
        self.bar.n = round(1000 * min(fraction, 1.0))
        share = f"  {row['share_of_peak']:.0%} of peak" if self.peak else ""
        shown = "  ".join(f"{key} {value:.3f}" for key, value in self.last_validation.items())
        self.bar.set_description_str(
            f"step {step}  loss {loss:.3f}  {speed:.0f} sequences/s{share}  {left / 60:.0f} min left  {shown}"
        )
        self._window, self._since, self._sequences = [], now, 0
        return loss

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Write the figures of one validation; its time does not count as training."""
        self.last_validation = values
        self._write({"step": step} | values, "validation")
        self._since = time.monotonic()

    def _write(self, row: dict[str, Any], group: str) -> None:
        with output_errors(self.path):
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        for key, value in row.items():
            if key != "step":
                self.board.add_scalar(f"{group}/{key}", value, row["step"])


class SilentLog(TrainingLog):
    """The log of all processes but the first, which writes nothing."""

    def __init__(self) -> None:
        self.last_validation = {}

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, loss: Loss, norm: Any, sequences: int) -> None:
        pass

    def flush(self, step: int, seconds: float, sequences: int, fraction: float, rate: float) -> float:
        return 0.0

    def validation(self, step: int, values: dict[str, float]) -> None:
        pass
