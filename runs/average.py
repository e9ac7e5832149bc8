"""Average the weights of two inverters, the second trained on from the first.

    python runs/average.py EARLIER LATER -o OUT --share 0.5

Both ends of a stage are noisy in directions of their own; between them the loss is often lower than at either (arXiv
2203.05482, 2109.01903). What only the later one has, such as feedback, is taken as it is. Configuration and totals are
the later one's.
"""

import click
from scripts import run

from unembed.errors import InputError
from unembed.inverter import Inverter


@click.command(help=__doc__)
@click.argument("earlier")
@click.argument("later")
@click.option("--share", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="of the later weights")
@click.option("-o", "--output", required=True, help="folder of the average, weights in float32")
def main(earlier: str, later: str, share: float, output: str) -> None:
    inverter, start = Inverter.from_pretrained(later), Inverter.from_pretrained(earlier)
    weights, others = inverter.denoiser.state_dict(), start.denoiser.state_dict()
    if others.keys() - weights.keys() or any(others[name].shape != weights[name].shape for name in others):
        raise InputError(f"{earlier}: is not of the shape of {later}")
    for name, tensor in others.items():
        weights[name].lerp_(tensor, 1 - share)
    inverter.save_pretrained(output)
    click.echo(f"{share:g} of {later} and {1 - share:g} of {earlier} -> {output}")


if __name__ == "__main__":
    run(main)
