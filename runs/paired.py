"""Is one inverter better than another? Both invert the same texts; print the differences with their intervals.

    python runs/paired.py OLD NEW --texts validation.txt --limit 300

Intervals are 95 % bootstrap intervals over texts, both inversions of a text drawn together: narrower than those of the
two figures, which differ between texts more than between inverters.
"""

import click
from scripts import run

from unembed import metrics
from unembed.evaluate import compare, read_back, truths
from unembed.inverter import Inverter
from unembed.metrics import Scores
from unembed.sources import read_texts
from unembed.tables import figure

FIGURES = ("token_accuracy", "exact_match", "token_f1", "bleu", "cosine")


@click.command(help=__doc__)
@click.argument("old")
@click.argument("new")
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="32", show_default=True, help="content tokens per text, or 'natural'")
@click.option("--limit", default=300, show_default=True, help="texts measured at most")
@click.option("--steps", default=8, show_default=True, help="passes")
@click.option("--candidates", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(
    old: str, new: str, texts: str, precision: str, tokens: str, limit: int, steps: int, candidates: int, seed: int
) -> None:
    cut = int(tokens) if tokens.isdigit() else tokens
    passages = list(read_texts(texts))
    found: list[dict[str, Scores]] = []
    for model in (old, new):
        inverter = Inverter.from_pretrained(model, precision=precision)
        truth = truths(passages, inverter.tokenizer, cut, inverter.length, limit)
        embeddings = inverter.encode(truth.texts)
        inversions = inverter.invert(
            embeddings, steps, candidates=candidates, seed=seed, measure_cosine=False, show_progress_bar=True
        )
        found.append(compare(read_back(inverter, inversions), (truth.texts, truth.ids, embeddings)))
    click.echo(f"{len(truth.texts)} texts\n\n| | {old} | {new} | difference |\n| --- | ---: | ---: | ---: |")
    for name in FIGURES:
        before, after = (scores[name] for scores in found)
        columns = before, after, metrics.difference(after, before)
        cells = [figure(name, one.value, one.interval(seed=seed)) for one in columns]
        click.echo(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
