"""Train the student of an inverter's encoder, which ranks blind candidates.

\b
    python runs/student.py --model DIR --data SHARDS --work FOLDER --texts 180000 --minutes 60
    python runs/student.py --model DIR --data SHARDS --work FOLDER --stream --minutes 4 --batch 1024      on a GPU

Embeds windows of the training split and edits of them (about 100 texts a second on one core), then trains the student
(`unembed.surrogate.student`) on both and writes it into DIR/surrogate.safetensors, beside the linear surrogate, which
must be there. Killed at any moment, the same command goes on: embeddings and training are kept in FOLDER. Prints what
student and bag say of held-out texts: the cosine of their embedding to the encoder's, and the correlation of the
change in cosine that they foresee when a text becomes another one with the change that the encoder measures.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from borrowed_job import training_encoder
from garbled import GROUP, alike
from lessons import GROUPS, Chunks, keep, kept, load, streamed
from scripts import run
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from unembed.files.atomic import atomic_file
from unembed.inverter import Inverter
from unembed.surrogate.bag import FILE, Surrogate
from unembed.surrogate.contributions import Texts
from unembed.surrogate.student import Student

RATE, WARMUP = 2e-3, 100
SAVE_SECONDS = 60
LOOK = 20  # steps between two looks at the loss, for which a GPU has to be waited for

Batches = Callable[[int], Iterator[Texts]]  # without end, from a step on


class Tokens(NamedTuple):
    """What a student is told of tokens, on its device."""

    directions: Tensor  # (V, H): u
    contributions: Tensor  # (V, D): x, of each to a bag
    bias: Tensor  # (D,): b, the bag's

    @classmethod
    def of(cls, surrogate: Surrogate, device: torch.device) -> "Tokens":
        """Those of a surrogate."""
        return cls(surrogate.u_VH.to(device), *surrogate.bag(device))


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True), help="folder of an inverter")
@click.option("--data", required=True, help="shards")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="folder for embeddings and progress")
@click.option("--texts", default=180_000, show_default=True, help="texts to embed, edits included")
@click.option("--stream", is_flag=True, help="make texts as they are needed and embed each once; --texts says nothing")
@click.option("--minutes", default=60.0, show_default=True, help="of training, all sessions together")
@click.option("--batch", default=128, show_default=True, help="groups of four texts in a step")
@click.option("--width", default=256, show_default=True)
@click.option("--blocks", default=2, show_default=True)
@click.option("--rate", default=RATE, show_default=True, help="learning rate, from which it falls to zero")
@click.option("--go-on", is_flag=True, help="begin with the student that is there, which decides width and blocks")
@click.option("--seed", default=0, show_default=True)
def main(
    model: Path, data: str, work: Path, texts: int, stream: bool, minutes: float, batch: int, width: int, blocks: int,
    rate: float, go_on: bool, seed: int,
) -> None:  # fmt: skip
    device = torch.device("cuda" if stream and torch.cuda.is_available() else "cpu")
    inverter = Inverter.from_pretrained(model)
    if inverter.surrogate is None:
        raise click.UsageError(f"{model} has no surrogate: run runs/surrogate.py first")
    encoder = training_encoder(inverter.config) or inverter.encoder
    work.mkdir(parents=True, exist_ok=True)
    linear = inverter.surrogate.fitted._replace(student=None)
    surrogate = Surrogate(inverter.denoiser.table.weight, linear)
    alike_VA = alike(surrogate.u_VH.to(device))
    train_chunks, others = (Chunks(inverter, alike_VA, data, split, seed) for split in ("train", "validation"))
    held_out = load(keep(others, encoder, 0, work))
    texts_of: Batches
    if stream:
        texts_of = partial(streamed, train_chunks, encoder.to(device), device, batch, seed)
    else:
        numbers = tqdm(range(-(-texts // (GROUP * GROUPS))), "embed", disable=not sys.stderr.isatty())
        texts_of = partial(kept, [keep(train_chunks, encoder, number, work) for number in numbers], batch, seed)
    torch.manual_seed(seed)
    student = inverter.surrogate.fitted.student if go_on else None
    if go_on and student is None:
        raise click.UsageError(f"{model} has no student to go on with")
    if student is None:
        student = Student(surrogate.u_VH.shape[1], inverter.recipe.dimension, inverter.length, width, blocks)
    student, tokens = student.requires_grad_(True).to(device), Tokens.of(surrogate, device)
    train(student, tokens, texts_of, minutes, rate, work / "training.pt")
    fitted = linear._replace(student=student.cpu().eval().requires_grad_(False))
    with atomic_file(model / FILE) as temporary:
        fitted.save(temporary)
    for name, one in (("bag", linear), ("student", fitted)):
        cosine, foresight = judge(Surrogate(inverter.denoiser.table.weight, one), held_out)
        click.echo(f"{name}: cosine {cosine:.3f}, correlation of changes {foresight:.3f}, n = {len(held_out.e)}")


def predict(student: Student, tokens: Tokens, ids: Tensor, lengths: Tensor) -> Tensor:
    """The student's embeddings of texts, of length 1, as `Surrogate.embed` computes them."""
    inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    bag = (tokens.contributions[ids] * inside[..., None]).sum(1) / lengths[:, None] + tokens.bias
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        found = student(tokens.directions[ids], lengths, bag)
    return F.normalize(found.float(), dim=-1)


def train(student: Student, tokens: Tokens, texts_of: Batches, minutes: float, rate: float, path: Path) -> None:
    """AdamW on the cosine of each text and the differences within each group, the rate falling to zero."""
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    seconds, step = 0.0, 0
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=tokens.bias.device)
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        seconds, step = saved["seconds"], saved["step"]
    if seconds >= 60 * minutes:
        return

    def save() -> None:
        with atomic_file(path) as temporary:
            states = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(states | {"seconds": seconds, "step": step}, temporary)

    saved_at, counted = seconds, time.perf_counter()
    with tqdm(total=round(60 * minutes), initial=round(seconds), unit="s", disable=not sys.stderr.isatty()) as bar:
        for texts in texts_of(step):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP) * (1 - seconds / (60 * minutes))
            found = predict(student, tokens, texts.ids, texts.lengths)
            loss = (1 - (found * texts.e).sum(-1)).mean() + spread(found - texts.e)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            now = time.perf_counter()
            seconds, counted = seconds + now - counted, now
            over = seconds >= 60 * minutes
            if step % LOOK == 0 or over:
                if not math.isfinite(loss.item()):
                    raise click.ClickException(f"the loss is {loss.item()} at step {step}")
                bar.set_postfix(loss=f"{loss.item():.3f}", step=step, refresh=False)
                bar.update(round(seconds) - bar.n)
            if seconds - saved_at > SAVE_SECONDS or over:
                save()
                saved_at = seconds
            if over:
                break


def spread(error_BD: Tensor) -> Tensor:
    """Mean over pairs of one group of the squared difference of their errors: a search asks for differences."""
    error_GKD = error_BD.view(-1, GROUP, error_BD.shape[1])
    return (error_GKD[:, :, None] - error_GKD[:, None]).pow(2).sum(-1).mean()


@torch.no_grad()
def judge(surrogate: Surrogate, held_out: Texts) -> tuple[float, float]:
    """Mean cosine of the embeddings, and the correlation of changes towards a group's first text."""
    texts = [ids[:length].tolist() for ids, length in zip(held_out.ids, held_out.lengths.tolist(), strict=True)]
    found = torch.from_numpy(surrogate.embed(texts))
    cosine = float((found * held_out.e).sum(-1).mean())
    true_GKD, found_GKD = (tensor.view(-1, GROUP, tensor.shape[1]) for tensor in (held_out.e, found))
    pairs = [(before, after) for before in range(1, GROUP) for after in range(1, GROUP) if before != after]
    measured, foreseen = [], []
    for before, after in pairs:
        aim_GD, start_GD = true_GKD[:, 0], true_GKD[:, before]
        reached_GD = F.normalize(start_GD + found_GKD[:, after] - found_GKD[:, before], dim=-1)
        measured.append(((true_GKD[:, after] - start_GD) * aim_GD).sum(-1))
        foreseen.append(((reached_GD - start_GD) * aim_GD).sum(-1))
    return cosine, float(np.corrcoef(torch.cat(measured), torch.cat(foreseen))[0, 1])


if __name__ == "__main__":
    run(main)
