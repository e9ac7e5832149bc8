"""Fit the surrogate of an inverter's encoder, as the end of a training does, and with --texts what tokens contribute.

    python runs/surrogate.py --model DIR --data SHARDS --texts 245760 --work FOLDER

Writes DIR/surrogate.safetensors; a student that is there goes, for it has learned beside other contributions. Embeds
windows of the training split first (about 200 texts a second on one core), which are kept in FOLDER; killed at any
moment, the same command goes on with those that are there. What it is judged by: of held-out windows, the mean cosine
of what the bag says to the encoder's embedding, and among 100 exchanges of one token of a text for another at random,
the correlation of the cosine that it foresees with the one that the encoder measures.
"""

import dataclasses
import sys
from pathlib import Path

import click
import numpy as np
import torch
from chunks import embedded
from scripts import run
from torch.nn import functional as F
from tqdm import tqdm

from unembed.corpus.windows import Shards, Windows
from unembed.files.atomic import atomic_file
from unembed.inverter import Inverter
from unembed.surrogate.bag import FILE, Fitted, Surrogate
from unembed.surrogate.contributions import CODE, Texts, refine
from unembed.training.train import fit_surrogate

TEXTS, EXCHANGES, BATCH = 40, 100, 256
CHUNK = 2048  # windows that are embedded and kept together
FULL = 0.4  # share of the windows that fill the canvas, the others being of every length


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True), help="folder of an inverter")
@click.option("--data", required=True, help="shards")
@click.option("--texts", default=0, show_default=True, help="windows to learn contributions from; 0: directions only")
@click.option("--work", type=click.Path(path_type=Path), help="folder for their embeddings")
@click.option("--epochs", default=8, show_default=True)
@click.option("--size", default=CODE, show_default=True, help="numbers in a token's code, each a byte")
@click.option("--seed", default=0, show_default=True)
def main(model: Path, data: str, texts: int, work: Path | None, epochs: int, size: int, seed: int) -> None:
    if texts and work is None:
        raise click.UsageError("--texts needs --work, a folder for embeddings")
    inverter = Inverter.from_pretrained(model)
    table_VH, shards = inverter.denoiser.table.weight, Shards.open(data)
    windows, held_out = (
        Windows(shards, inverter.config.data, inverter.tokenizer, inverter.length, BATCH, seed, split)
        for split in ("train", "validation")
    )
    fitted = fit_surrogate(table_VH, windows, inverter.encoder, 0)
    if work is not None and texts:
        work.mkdir(parents=True, exist_ok=True)
        told = load(
            [
                embed(inverter, shards, "train", seed, number, work)
                for number in tqdm(range(-(-texts // CHUNK)), "embed", disable=not sys.stderr.isatty())
            ]
        )
        refining = refine(fitted, Surrogate(table_VH, fitted).u_VH, told, epochs, size, seed)
        for fitted in tqdm(refining, "fit", epochs, unit="epoch", disable=not sys.stderr.isatty()):  # noqa: B007
            pass
    with atomic_file(model / FILE) as temporary:
        fitted.save(temporary)
    fitted = Fitted.load(model, *table_VH.shape, inverter.recipe.dimension) or fitted  # judged as it is stored
    if work is not None and texts:
        unseen = load([embed(inverter, shards, "validation", seed, 0, work)])
        rows = zip(unseen.ids.tolist(), unseen.lengths.tolist(), strict=True)
        e_ND = torch.from_numpy(Surrogate(table_VH, fitted).embed([ids[:length] for ids, length in rows]))
        click.echo(f"cosine of the embeddings: {(e_ND * unseen.e).sum(-1).mean():.3f}, n = {len(e_ND)}")
    click.echo(f"correlation of the cosines: {foresight(inverter, fitted, held_out, seed):.3f}")


def embed(inverter: Inverter, shards: Shards, split: str, seed: int, number: int, work: Path) -> Path:
    """The file of a chunk of windows with their embeddings, which is made where it is not there yet."""
    path = work / f"{split}_{seed}_{number}.npz"
    if path.exists():
        return path
    config = dataclasses.replace(inverter.config.data, full_windows=FULL, short_share=0.0)
    windows = Windows(shards, config, inverter.tokenizer, inverter.length, CHUNK, seed, split)
    rows = [inverter.tokenizer.content(row) for row in windows.batch(number).canvas.tolist()]
    ids, lengths, e = embedded(inverter.encoder, rows, inverter.length)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, ids=ids, lengths=lengths, e=e)
    return path


def load(paths: list[Path]) -> Texts:
    """Chunks from their files."""
    files = [dict(np.load(path)) for path in paths]
    ids, lengths, e = (
        torch.from_numpy(np.concatenate([file[name] for file in files])) for name in ("ids", "lengths", "e")
    )
    return Texts(ids.long(), lengths.long(), F.normalize(e.float(), dim=-1))


@torch.no_grad()
def foresight(inverter: Inverter, fitted: Fitted, held_out: Windows, seed: int) -> float:
    """Mean correlation over texts of the change in cosine that was foreseen with the one measured."""
    surrogate, noise = Surrogate(inverter.denoiser.table.weight, fitted), np.random.default_rng(seed)
    words = np.flatnonzero(inverter.tokenizer.starts_word)
    found = []
    for row in held_out.batch(0).canvas.tolist()[:TEXTS]:
        ids = inverter.tokenizer.content(row)
        changed = []
        for _ in range(EXCHANGES):
            place, token = int(noise.integers(len(ids))), int(noise.choice(words))
            changed.append([*ids[:place], token, *ids[place + 1 :]])
        e_ND = inverter.encode([inverter.tokenizer.decode(one) for one in (ids, *changed)])
        start_D = surrogate.unnormalised(ids, e_ND[0])
        foreseen_ND = start_D + np.stack([surrogate.x_VD[one].mean(0) - surrogate.x_VD[ids].mean(0) for one in changed])
        foreseen_N = foreseen_ND @ e_ND[0] / np.linalg.norm(foreseen_ND, axis=1)
        found.append(np.corrcoef(foreseen_N, e_ND[1:] @ e_ND[0])[0, 1])
    return float(np.mean(found))


if __name__ == "__main__":
    run(main)
