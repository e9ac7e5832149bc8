"""Train the student of an inverter's encoder, which judges blind searches and opens guided ones.

    python runs/student.py --model DIR --data SHARDS --work FOLDER --texts 180000 --minutes 60

Embeds windows of the training split and edits of them (about 100 texts a second on one core), then trains the student
(`unembed.student`) on both and writes it into DIR/surrogate.safetensors, beside the linear surrogate, which must be
there. Killed at any moment, the same command goes on: embeddings and training are kept in FOLDER. Prints what student
and bag say of held-out texts: the cosine of their embedding to the encoder's, and the correlation of the change in
cosine that they foresee when a text becomes another one with the change that the encoder measures.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from chunks import embedded
from scripts import run
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from unembed.contributions import Texts
from unembed.data import Shards, Windows
from unembed.files import atomic_file
from unembed.inverter import Inverter
from unembed.student import Student
from unembed.surrogate import FILE, Surrogate

GROUP = 4  # texts of one origin: a window and edits of it
GROUPS = 1024  # in a chunk, which is embedded and kept as one
BATCH = 128  # groups of a step
ALIKE = 40  # tokens nearest to one that may take its place
RATE, WARMUP = 2e-3, 100
SAVE_SECONDS = 60


class Editor:
    """Makes of a text another one, more or less garbled: what a search asks about."""

    def __init__(self, u_VH: Tensor, length: int, noise: np.random.Generator) -> None:
        self.u_VH = u_VH
        self.length = length
        self.noise = noise
        self.alike: dict[int, np.ndarray] = {}

    def edit(self, ids: Sequence[int], pool: np.ndarray) -> list[int]:
        """One to many exchanges, insertions, deletions and changes of order; new tokens mostly from the `pool`."""
        noise, found = self.noise, list(ids)
        few = noise.random() < 0.7
        count = int(noise.geometric(0.45)) if few else int(noise.integers(1, max(2, len(found) // 2 + 1)))
        for _ in range(count):
            kind, place = noise.random(), int(noise.integers(len(found)))
            if kind < 0.5:
                found[place] = self.like(found[place]) if noise.random() < 0.4 else int(noise.choice(pool))
            elif kind < 0.6 and len(found) < self.length:
                token = int(noise.choice(pool)) if noise.random() < 0.8 else int(noise.choice(found))
                found.insert(int(noise.integers(len(found) + 1)), token)
            elif kind < 0.7 and len(found) > 3:
                del found[place]
            elif kind < 0.95:
                size = min(int(noise.geometric(0.5)), len(found) - 1)
                first = int(noise.integers(len(found) - size + 1))
                taken, rest = found[first : first + size], found[:first] + found[first + size :]
                place = int(noise.integers(len(rest) + 1))
                found = rest[:place] + taken + rest[place:]
            else:
                size = min(int(noise.integers(2, 9)), len(found))
                first = int(noise.integers(len(found) - size + 1))
                found[first : first + size] = noise.permutation(found[first : first + size]).tolist()
        return found

    def like(self, token: int) -> int:
        """One of the tokens whose direction is nearest."""
        if token not in self.alike:
            self.alike[token] = (self.u_VH @ self.u_VH[token]).topk(ALIKE + 1).indices[1:].numpy()
        return int(self.noise.choice(self.alike[token]))


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True), help="folder of an inverter")
@click.option("--data", required=True, help="shards")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="folder for embeddings and progress")
@click.option("--texts", default=180_000, show_default=True, help="texts to embed, edits included")
@click.option("--minutes", default=60.0, show_default=True, help="of training, all sessions together")
@click.option("--width", default=256, show_default=True)
@click.option("--blocks", default=2, show_default=True)
@click.option("--rate", default=RATE, show_default=True, help="learning rate, from which it falls to zero")
@click.option("--go-on", is_flag=True, help="begin with the student that is there, which decides width and blocks")
@click.option("--seed", default=0, show_default=True)
def main(
    model: Path, data: str, work: Path, texts: int, minutes: float, width: int, blocks: int, rate: float, go_on: bool,
    seed: int,
) -> None:  # fmt: skip
    inverter = Inverter.from_pretrained(model)
    if inverter.surrogate is None:
        raise click.UsageError(f"{model} has no surrogate: run runs/surrogate.py first")
    work.mkdir(parents=True, exist_ok=True)
    linear = inverter.surrogate.fitted._replace(student=None)
    surrogate = Surrogate(inverter.denoiser.table.weight, linear)
    chunks = [
        embed(inverter, surrogate, data, "train", seed, number, work)
        for number in tqdm(range(-(-texts // (GROUP * GROUPS))), "embed", disable=not sys.stderr.isatty())
    ]
    held_out = load(embed(inverter, surrogate, data, "validation", seed, 0, work))
    torch.manual_seed(seed)
    student = inverter.surrogate.fitted.student if go_on else None
    if go_on and student is None:
        raise click.UsageError(f"{model} has no student to go on with")
    if student is None:
        student = Student(surrogate.u_VH.shape[1], inverter.recipe.dimension, inverter.length, width, blocks)
    train(student.train().requires_grad_(True), surrogate, chunks, minutes, rate, work / "training.pt", seed)
    fitted = linear._replace(student=student.eval().requires_grad_(False))
    with atomic_file(model / FILE) as temporary:
        fitted.save(temporary)
    for name, one in (("bag", linear), ("student", fitted)):
        cosine, foresight = judge(Surrogate(inverter.denoiser.table.weight, one), held_out)
        click.echo(f"{name}: cosine {cosine:.3f}, correlation of changes {foresight:.3f}, n = {len(held_out.e)}")


def embed(
    inverter: Inverter, surrogate: Surrogate, data: str, split: str, seed: int, number: int, work: Path
) -> Path:  # fmt: skip
    """The file of a chunk, which is made where it is not there yet."""
    path = work / f"{split}_{seed}_{number}.npz"
    if path.exists():
        return path
    # Whole canvases less often than in training: a search is about texts of every length.
    config = dataclasses.replace(inverter.config.data, full_windows=0.35, short_share=0.0)
    windows = Windows(Shards.open(data), config, inverter.tokenizer, inverter.length, GROUPS, seed, split)
    batch = windows.batch(number)
    originals = [inverter.tokenizer.content(row) for row in batch.canvas.tolist()]
    noise = np.random.default_rng([seed, number, split == "train"])
    editor, pool = Editor(surrogate.u_VH, inverter.length, noise), np.concatenate(originals)
    texts: list[list[int]] = []
    for original in originals:
        group = [original]
        while len(group) < GROUP:
            group.append(editor.edit(group[int(noise.integers(len(group)))], pool))
        texts += group
    ids, lengths, e = embedded(inverter, texts)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, tokens=ids, lengths=lengths, e=e)
    return path


def load(path: Path) -> Texts:
    """A chunk from its file, groups together."""
    with np.load(path) as file:
        ids, lengths, e = (torch.from_numpy(file[name]) for name in ("tokens", "lengths", "e"))
    return Texts(ids.long(), lengths.long(), F.normalize(e.float(), dim=-1))


def predict(student: Student, surrogate: Surrogate, ids: Tensor, lengths: Tensor) -> Tensor:
    """The student's embeddings of texts, of length 1, as `Surrogate.embed` computes them."""
    ids = ids[:, : int(lengths.max())]
    inside = torch.arange(ids.shape[1]) < lengths[:, None]
    x_BLD = torch.from_numpy(surrogate.x_VD)[ids] * inside[..., None]
    bag = x_BLD.sum(1) / lengths[:, None] + surrogate.fitted.bias
    return F.normalize(student(surrogate.u_VH[ids], lengths, bag), dim=-1)


def train(
    student: Student, surrogate: Surrogate, chunks: Sequence[Path], minutes: float, rate: float, kept: Path, seed: int
) -> None:  # fmt: skip
    """AdamW on the cosine of each text and the differences within each group, the rate falling to zero."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    seconds, step = 0.0, 0
    if kept.exists():
        saved = torch.load(kept, weights_only=True)
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        seconds, step = saved["seconds"], saved["step"]

    def save() -> None:
        with atomic_file(kept) as temporary:
            states = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(states | {"seconds": seconds, "step": step}, temporary)

    saved_at = seconds
    bar = tqdm(total=round(60 * minutes), initial=round(seconds), unit="s", disable=not sys.stderr.isatty())
    while seconds < 60 * minutes:
        noise = np.random.default_rng([seed, step])
        texts = load(chunks[int(noise.integers(len(chunks)))])
        # Texts of like length share a step, which then holds little padding.
        groups = texts.lengths.view(-1, GROUP).amax(1).argsort(stable=True).view(-1, BATCH)
        for number in noise.permutation(len(groups)).tolist():
            started = time.perf_counter()
            rows = (groups[number][:, None] * GROUP + torch.arange(GROUP)).flatten()
            share = min(seconds / (60 * minutes), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP) * (1 - share)
            found, true = predict(student, surrogate, texts.ids[rows], texts.lengths[rows]), texts.e[rows]
            loss = (1 - (found * true).sum(-1)).mean() + spread(found - true)
            if not math.isfinite(loss.item()):
                raise click.ClickException(f"the loss is {loss.item()} at step {step}")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            seconds += time.perf_counter() - started
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update(round(seconds) - bar.n)
        if seconds - saved_at > SAVE_SECONDS or seconds >= 60 * minutes:
            save()
            saved_at = seconds


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
