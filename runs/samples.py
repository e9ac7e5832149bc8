"""Invert sentences drawn at random, good results and bad; print the Markdown table of docs/results.md.

    python runs/samples.py --limit 8 --seed 0

Sentences are those of the demo page's dice, half of them easy and half hard, none of which was trained on. Each is
inverted alone, blind and guided, as `unembed invert` would.
"""

import random

import click
from scripts import run

from unembed.inverter import Inverter
from unembed.server.example_sentences import EASY, HARD


@click.command(help=__doc__)
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--limit", default=8, show_default=True, help="sentences drawn")
@click.option("--seconds", default=60.0, show_default=True, help="of the guided inversion, at most")
@click.option("--seed", default=0, show_default=True, help="which sentences; inversions have seed 0")
def main(model: str | None, limit: int, seconds: float, seed: int) -> None:
    inverter = Inverter.from_pretrained(model)
    draw = random.Random(seed)
    sentences = draw.sample(EASY, (limit + 1) // 2) + draw.sample(HARD, limit // 2)
    click.echo("| original | blind | cosine | guided | cosine | seconds | encoder calls |")
    click.echo("| --- | --- | ---: | --- | ---: | ---: | ---: |")
    for sentence in sentences:
        embedding = inverter.encode([sentence])
        (blind,) = inverter.invert(embedding)
        (guided,) = inverter.invert(embedding, seconds=seconds)
        cells = [
            sentence, blind.text, f"{blind.cosine:.3f}", guided.text, f"{guided.cosine:.3f}",
            f"{guided.seconds:.1f}", f"{guided.encoder_calls:,}",
        ]  # fmt: skip
        click.echo(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")


if __name__ == "__main__":
    run(main)
