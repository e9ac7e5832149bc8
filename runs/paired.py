"""Is one inverter better than another, or than itself with another setting? Both invert the same texts; print the
differences with their intervals.

    python runs/paired.py OLD NEW --texts validation.txt --limit 300
    python runs/paired.py OLD --texts validation.txt --set balance=0.5 --set decoding.sharpness=1
    python runs/paired.py OLD --texts validation.txt --tokens 6-16 --max-calls 500 --set search.frugal_nat=.001

`--set` takes a field of `Decoding` or `Search`, or a tuned constant: decoding.FIELD, search.FIELD or
search.kernel.FIELD (`unembed.decoding.options`, `unembed.search.options`). Several inverters and settings may be named:
each is compared with OLD as it is.

Intervals are 95 % bootstrap intervals over texts, both inversions of a text drawn together: narrower than those of the
two figures, which differ between texts more than between inverters.
"""

from collections.abc import Sequence

import click
from scripts import changed, run

from unembed.corpus.held_out import parse_tokens, truths
from unembed.corpus.sources import read_texts
from unembed.decoding.options import Decoding
from unembed.errors import InputError
from unembed.evaluation import metrics
from unembed.evaluation.evaluate import compare, read_back
from unembed.evaluation.metrics import Scores
from unembed.evaluation.tables import figure
from unembed.inverter import Inverter
from unembed.search.options import Search, plan

FIGURES = ("token_accuracy", "exact_match", "token_f1", "bleu", "cosine")


@click.command(help=__doc__)
@click.argument("old")
@click.argument("new", nargs=-1)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="OLD with this option or constant")
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="32", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=300, show_default=True, help="texts measured at most")
@click.option("--steps", default=8, show_default=True, help="passes")
@click.option("--candidates", default=1, show_default=True)
@click.option("--seconds", default=None, type=float, help="guided inversion: of each search, at most")
@click.option("--max-calls", default=None, type=int, help="guided inversion: encoder calls of each search, at most")
@click.option("--seed", default=0, show_default=True)
def main(
    old: str,
    new: Sequence[str],
    texts: str,
    settings: Sequence[str],
    precision: str,
    tokens: str,
    limit: int,
    steps: int,
    candidates: int,
    seconds: float | None,
    max_calls: int | None,
    seed: int,
) -> None:
    as_it_is = plan(steps=steps, candidates=candidates, seed=seed, seconds=seconds, max_calls=max_calls)
    others = [(name, name, as_it_is) for name in new]
    others += [(setting, old, changed(*as_it_is, [setting])) for setting in settings]
    if not others:
        raise InputError("nothing to compare: name a second inverter, or a setting (--set)")
    cut = parse_tokens(tokens)
    passages = list(read_texts(texts))

    def scores(model: str, planned: tuple[Decoding, Search | None]) -> dict[str, Scores]:
        inverter = Inverter.from_pretrained(model, precision=precision)
        truth = truths(passages, inverter.tokenizer, cut, inverter.length, limit)
        embeddings = inverter.encode(truth.texts)
        inversions = inverter.invert(embeddings, *planned, measure_cosine=False, show_progress_bar=True)
        return compare(read_back(inverter, inversions), (truth.texts, truth.ids, embeddings))

    before = scores(old, as_it_is)
    click.echo(f"{len(before['cosine'].rows)} texts")
    for name, model, planned in others:
        after = scores(model, planned)
        click.echo(f"\n| | {old} | {name} | difference |\n| --- | ---: | ---: | ---: |")
        for score in FIGURES:
            columns = before[score], after[score], metrics.difference(after[score], before[score])
            cells = [figure(score, one.value, one.interval(seed=seed)) for one in columns]
            click.echo(f"| {score.replace('_', ' ')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
