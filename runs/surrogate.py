"""Fit the surrogate of an inverter's encoder, as the end of a training does, and say how well it foresees exchanges.

    python runs/surrogate.py --model DIR --data SHARDS

Writes DIR/surrogate.safetensors. What it is judged by: among 100 exchanges of one token of a held-out text for
another at random, the correlation of the cosine that it foresees with the one that the encoder measures.
"""

from pathlib import Path

import click
import numpy as np
import torch
from scripts import run

from unembed.data import Shards, Windows
from unembed.files import atomic_file
from unembed.inverter import Inverter
from unembed.surrogate import FILE, Fitted, Surrogate
from unembed.train import fit_surrogate

TEXTS, EXCHANGES, BATCH = 40, 100, 256


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True), help="folder of an inverter")
@click.option("--data", required=True, help="shards")
@click.option("--seed", default=0, show_default=True)
def main(model: Path, data: str, seed: int) -> None:
    inverter = Inverter.from_pretrained(model)
    table_VH, shards = inverter.denoiser.table.weight, Shards.open(data)
    windows, held_out = (
        Windows(shards, inverter.config.data, inverter.tokenizer, inverter.length, BATCH, seed, split)
        for split in ("train", "validation")
    )
    fitted = fit_surrogate(table_VH, windows, inverter.encoder, 0)
    with atomic_file(model / FILE) as temporary:
        fitted.save(temporary)
    click.echo(f"correlation of the cosines: {foresight(inverter, fitted, held_out, seed):.3f}")


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
