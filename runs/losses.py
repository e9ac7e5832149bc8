"""The training loss of inverters on text that they were trained on and on held-out text, the same draws for all.

    python runs/losses.py OLD NEW --data SHARDS

The difference between the two columns is what was learned by heart. Windows and corruption are those of the last
inverter's configuration, on full canvases; a row's interval is of 95 %, over batches.
"""

import dataclasses
from pathlib import Path

import click
import torch
from scripts import run

from unembed.corpus.windows import Shards, Windows
from unembed.encoders.encoder import load_encoder
from unembed.evaluation.metrics import mean
from unembed.evaluation.tables import figure
from unembed.storage.checkpoint import load_inverter
from unembed.training.step import TrainingStep, embedded

SPLITS = "train", "validation"


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--windows", default=1536, show_default=True, help="Of each split.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(models: tuple[str, ...], data: Path, windows: int, batch_size: int, seed: int) -> None:
    config = load_inverter(models[-1]).config
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, short_share=0.0),
        training=dataclasses.replace(config.training, precision="float32", batch_size=batch_size),
    )
    encoder = load_encoder(config.encoder)
    shards, device, batches = Shards.open(data), torch.device("cpu"), -(-windows // batch_size)
    click.echo(f"{batches * batch_size} windows of each split, seed {seed}\n")
    click.echo(f"| inverter | {' | '.join(SPLITS)} |\n| --- |{' ---: |' * len(SPLITS)}")
    for model in models:
        denoiser = load_inverter(model).denoiser.eval()
        step = TrainingStep(denoiser, config, encoder)
        cells = []
        for split in SPLITS:
            drawn = Windows(shards, config.data, encoder.tokenizer, config.model.max_tokens, batch_size, seed, split)
            losses = []
            for number in range(batches):
                canvas_BL, e_BD = embedded(drawn.batch(number), encoder, device)
                with torch.inference_mode():
                    losses.append(float(step(canvas_BL, e_BD, torch.Generator().manual_seed(number)).loss))
            found = mean(losses)
            cells.append(figure("loss", found.value, found.interval()))
        click.echo(f"| {model} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
