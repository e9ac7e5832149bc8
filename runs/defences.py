"""What defences of a vector store take from an attacker, and what they cost its search; a table for docs/results.md.

    python runs/defences.py --texts held-out.txt --limit 500

The store changes each embedding before it keeps it, as the page's "Protect it before it leaks" does: Gaussian noise on
each number, rounding to a few bits, dropping numbers from the end. The attacker inverts what is kept. `cosine` is that
of the recovered text to the embedding as it was. `neighbours kept` says what is left of the store's use: of the ten
texts nearest to each one, the share still found when all others are kept so and the question is not.

The attacker here is not adapted to the defence; that of `unembed audit --defences` is.
"""

from collections.abc import Callable

import click
import numpy as np
from numpy.typing import NDArray
from scripts import run

from unembed.audit.stored_forms import noise, rounding
from unembed.corpus.held_out import parse_tokens, truths
from unembed.corpus.sources import read_texts
from unembed.evaluation.evaluate import compare, read_back
from unembed.evaluation.tables import figure
from unembed.inverter import Inverter

Floats = NDArray[np.float32]
Defence = Callable[[Floats, np.random.Generator], Floats]

FIGURES = ("token_accuracy", "token_f1", "bleu", "cosine")
NEIGHBOURS = 10


def noisy(deviation: float) -> Defence:
    """Gaussian noise of a standard deviation on each number of a unit vector."""
    return lambda e_BD, generator: noise(deviation, generator)(e_BD)


def rounded(bits: int) -> Defence:
    """Symmetric levels on one scale for each vector; a single bit keeps the sign."""
    return lambda e_BD, _: rounding(bits)(e_BD)


def dropping(share: float) -> Defence:
    """Only the first numbers are kept; the others are zero."""

    def apply(e_BD: Floats, _: np.random.Generator) -> Floats:
        return np.where(np.arange(e_BD.shape[1]) < round((1 - share) * e_BD.shape[1]), e_BD, np.float32(0))

    return apply


DEFENCES: dict[str, Defence] = {
    "none": lambda e_BD, _: e_BD,
    "noise of .005": noisy(0.005),
    "noise of .01": noisy(0.01),
    "noise of .02": noisy(0.02),
    "noise of .05": noisy(0.05),
    "noise of .1": noisy(0.1),
    "8 bits": rounded(8),
    "4 bits": rounded(4),
    "2 bits": rounded(2),
    "1 bit": rounded(1),
    "half dropped": dropping(1 / 2),
    "three quarters dropped": dropping(3 / 4),
}


def protect(e_BD: Floats, name: str, seed: int) -> Floats:
    """Embeddings (B, D) of unit length as a defence leaves them, brought back to unit length."""
    kept_BD = DEFENCES[name](e_BD, np.random.default_rng(seed))
    length_B1 = np.linalg.norm(kept_BD, axis=1, keepdims=True)
    return (kept_BD / length_B1).astype(np.float32)


def neighbours(e_BD: Floats, store_BD: Floats) -> NDArray[np.intp]:
    """The ten nearest of a store (B, D) to each text, itself left out, (B, 10) in no order."""
    similarity_BB = e_BD @ store_BD.T
    np.fill_diagonal(similarity_BB, -np.inf)
    return np.argpartition(-similarity_BB, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def overlap(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    """Mean share of each row of one that the other has too."""
    return float(np.mean([len(np.intersect1d(*pair)) / NEIGHBOURS for pair in zip(one, other, strict=True)]))


@click.command(help=__doc__)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="32", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=500, show_default=True, help="texts inverted at most", type=click.IntRange(min=2))
@click.option("--pool", default=5000, show_default=True, help="texts in the store at most")
@click.option("--defence", "defences", multiple=True, type=click.Choice(list(DEFENCES)), help="default: all")
@click.option("--seconds", default=None, type=float, help="guided inversion: of each search, at most")
@click.option("--max-calls", default=None, type=int, help="guided inversion: encoder calls of each search, at most")
@click.option("--seed", default=0, show_default=True)
def main(
    texts: str, model: str | None, precision: str, tokens: str, limit: int, pool: int, defences: tuple[str, ...],
    seconds: float | None, max_calls: int | None, seed: int,
) -> None:  # fmt: skip
    inverter = Inverter.from_pretrained(model, precision=precision)
    cut = parse_tokens(tokens)
    stored = truths(read_texts(texts), inverter.tokenizer, cut, inverter.length, max(pool, limit))
    n = min(limit, len(stored.texts))
    e_BD = inverter.encode(stored.texts)
    truth = (stored.texts[:n], stored.ids[:n], e_BD[:n])
    click.echo(f"{n} texts inverted, {len(stored.texts)} in the store\n", err=True)
    nearest = neighbours(e_BD, e_BD)
    names = [name.replace("_", " ") for name in FIGURES]
    click.echo(f"| defence | similarity kept | neighbours kept | {' | '.join(names)} |")
    click.echo("| --- | ---: | ---: " + "| ---: " * len(names) + "|")
    for name in defences or DEFENCES:
        kept_BD = protect(e_BD, name, seed)
        inversions = inverter.invert(kept_BD[:n], seconds=seconds, max_calls=max_calls, seed=seed)
        scores = compare(read_back(inverter, inversions), truth)
        cells = [f"{float((e_BD * kept_BD).sum(1).mean()):.3f}", f"{overlap(nearest, neighbours(e_BD, kept_BD)):.2f}"]
        cells += [figure(each, scores[each].value, scores[each].interval(seed=seed)) for each in FIGURES]
        click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
