"""How far off texts come back whose embeddings are not the inverter's encoder's; docs/results.md has the table.

    python runs/other_encoders.py --texts CORPUS/dialogue.txt.zst --texts CORPUS/wikipedia-1.txt.zst --limit 24

Prints the cosine of blind inversions: of each file's texts, of random unit vectors, and of embeddings of the first file
in another basis (an orthogonal map, which keeps all angles, and a permutation of the dimensions). `Inverter.invert`
warns where the median lies below its `FAR` times that of held-out texts.
"""

from itertools import islice

import click
import numpy as np
from numpy.typing import NDArray
from scripts import run

from unembed.corpus.sources import find_sources
from unembed.decoding.other_encoders import FAR
from unembed.inverter import Inverter

POOL = 400  # first texts of a file, of which evenly spread ones are taken


@click.command(help=__doc__)
@click.option("--texts", required=True, multiple=True, help="files or folders of texts")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--limit", default=24, show_default=True, help="texts of each file")
@click.option("--seed", default=0, show_default=True)
def main(texts: tuple[str, ...], model: str | None, limit: int, seed: int) -> None:
    inverter, noise = Inverter.from_pretrained(model), np.random.default_rng(seed)
    held_out = inverter.results["evaluation"]["cosine"]
    click.echo(f"held-out texts {held_out:.3f}, so that a median below {FAR * held_out:.3f} is doubted\n")
    click.echo("| embeddings of | n | median | lowest |\n| --- | ---: | ---: | ---: |")

    def show(name: str, e: NDArray[np.float32]) -> None:
        cosines = [inversion.cosine for inversion in inverter.invert(e, normalize=True, seed=seed)]
        click.echo(f"| {name} | {len(cosines)} | {np.median(cosines):.3f} | {min(cosines):.3f} |")

    own = []
    for source in find_sources(texts):
        pool = list(islice(source.texts(), POOL))
        own.append(inverter.encode(pool[:: max(1, len(pool) // limit)][:limit]))
        show(source.part, own[-1])
    dimension = inverter.recipe.dimension
    show("random vectors", noise.standard_normal((limit, dimension)).astype(np.float32))
    basis = np.linalg.qr(noise.standard_normal((dimension, dimension)))[0].astype(np.float32)
    show("the first file, in another basis", own[0] @ basis)
    show("the first file, dimensions permuted", own[0][:, noise.permutation(dimension)])


if __name__ == "__main__":
    run(main)
