"""Distillation: a student is trained on the encoder's embeddings of texts and of edits of them, and judged.

The loss is 1 - cosine of each text, and within a group of edits the squared difference of each two texts' errors:
candidates are compared with each other, and what they have in common says nothing. AdamW, the rate falling to zero by
the clock.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from unembed.errors import CheckpointError, TrainingError
from unembed.files.atomic import atomic_file
from unembed.surrogate.bag import Surrogate
from unembed.surrogate.edits import GROUP
from unembed.surrogate.pairs import Texts
from unembed.surrogate.student import Student

WARMUP = 100  # steps
SAVE_SECONDS = 60  # of training that a kill can cost
LOOK = 20  # steps between two looks at the loss, for which a GPU has to be waited for


@dataclass(frozen=True)
class Settings:
    """A student's shape and training; the defaults are the packaged one's."""

    width: int = 256
    blocks: int = 2
    batch: int = 128  # groups in a step
    rate: float = 2e-3


CARD = Settings(blocks=4, batch=1024, rate=3e-3)  # for a stream of fresh texts on a GPU; only rehearsed so far
LATER = 0.6  # of the rate, for a student that has learned before

Batches = Callable[[int], Iterator[Texts]]  # without end, from a step on


def distil(
    student: Student, surrogate: Surrogate, texts_of: Batches, minutes: float, rate: float, path: Path,
    show_progress_bar: bool = False,
) -> None:  # fmt: skip
    """Train a student in place, on its device, or go on from the state that an earlier call left.

    Args:
        surrogate: the bag that the student corrects.
        texts_of: batches of whole groups.
        minutes: of training, over all calls.
        path: file of the training's state, renewed each minute.

    Raises:
        CheckpointError: the state is damaged or of another student.
        TrainingError: the loss is not finite.
        OutputError: the state cannot be written.
    """
    device = student.positions.device
    u_VH, (x_VD, bias_D) = surrogate.u_VH.to(device), surrogate.bag(device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    seconds, step = _load(path, student, optimizer) if path.exists() else (0.0, 0)
    saved_at, counted = seconds, time.perf_counter()
    with tqdm(
        desc="student", total=round(60 * minutes), initial=round(seconds), unit="s", disable=not show_progress_bar
    ) as bar:
        for texts in texts_of(step) if seconds < 60 * minutes else ():
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP) * (1 - seconds / (60 * minutes))
            ids, lengths, e = (tensor.to(device) for tensor in texts)
            inside = torch.arange(ids.shape[1], device=device) < lengths[:, None]
            bag = (x_VD[ids] * inside[..., None]).sum(1) / lengths[:, None] + bias_D
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                found = student(u_VH[ids], lengths, bag)
            error = F.normalize(found.float(), dim=-1) - e
            groups = error.view(-1, GROUP, error.shape[1])
            # 1 - cosine, and the mean over a group's pairs of how much their errors differ.
            loss = error.pow(2).sum(-1).mean() / 2 + (groups[:, :, None] - groups[:, None]).pow(2).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            now = time.perf_counter()
            seconds, counted = seconds + now - counted, now
            over = seconds >= 60 * minutes
            if step % LOOK == 0 or over:
                if not math.isfinite(loss.item()):
                    raise TrainingError(f"{path}: the student's loss is {loss.item()} at step {step}")
                bar.set_postfix(loss=f"{loss.item():.3f}", step=step, refresh=False)
                bar.update(round(seconds) - bar.n)
            if seconds - saved_at > SAVE_SECONDS or over:
                with atomic_file(path) as temporary:
                    states = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
                    torch.save(states | {"seconds": seconds, "step": step}, temporary)
                saved_at = seconds
            if over:
                break


def _load(path: Path, student: Student, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    """Take over the state of a training; returns its seconds and steps."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        return float(saved["seconds"]), int(saved["step"])
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ... by what is wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: is no state of this student ({reason}); delete it to begin anew") from error


@torch.no_grad()
def judge(surrogate: Surrogate, held_out: Texts) -> dict[str, float]:
    """What a surrogate says of held-out groups, against the encoder.

    Returns:
        `cosine`: mean cosine of the embeddings; `correlation`: of the change in cosine to a group's first text that is
        foreseen where another of its texts becomes a third one with the change that is measured; `n` texts.
    """
    found = torch.from_numpy(surrogate.embed(held_out.rows()))
    cosine = float((found * held_out.e).sum(-1).mean())
    true_GKD, found_GKD = (tensor.view(-1, GROUP, tensor.shape[1]) for tensor in (held_out.e, found))
    pairs = [(before, after) for before in range(1, GROUP) for after in range(1, GROUP) if before != after]
    measured, foreseen = [], []
    for before, after in pairs:
        aim_GD, start_GD = true_GKD[:, 0], true_GKD[:, before]
        reached_GD = F.normalize(start_GD + found_GKD[:, after] - found_GKD[:, before], dim=-1)
        measured.append(((true_GKD[:, after] - start_GD) * aim_GD).sum(-1))
        foreseen.append(((reached_GD - start_GD) * aim_GD).sum(-1))
    correlation = float(np.corrcoef(torch.cat(measured), torch.cat(foreseen))[0, 1])
    return {"cosine": cosine, "correlation": correlation, "n": len(held_out.e)}
