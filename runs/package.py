"""Store a trained inverter as the package carries it: weights in bfloat16, shards under 50 MB.

python runs/package.py RUN/inverter src/unembed/weights/minilm
"""

import click
import torch

from unembed.inverter import Inverter


@click.command(help=__doc__)
@click.argument("source")
@click.argument("target")
def main(source: str, target: str) -> None:
    Inverter.from_pretrained(source).save_pretrained(target, dtype=torch.bfloat16)
    click.echo(f"{source} -> {target}")


if __name__ == "__main__":
    main()
