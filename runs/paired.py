"""Is one inverter better than another, or than itself with another setting? Both invert the same texts; print the
differences with their intervals.

    python runs/paired.py OLD NEW --texts validation.txt --limit 300
    python runs/paired.py OLD --texts validation.txt --set balance=0.5 --set unembed.decoding.balance.SHARPNESS=1
    python runs/paired.py OLD --texts validation.txt --tokens 6-16 --max-calls 500 --set search.refills=8

`--set` takes an option of `Inverter.invert`, search.FIELD, a field of `search.options.Tuning`, where --seconds or
--max-calls make inversions guided, or a constant of the module that reads it (one that is the default of an option is
not read there: set the option). Several inverters and settings may be named: each is compared with OLD as it
is.

Intervals are 95 % bootstrap intervals over texts, both inversions of a text drawn together: narrower than those of the
two figures, which differ between texts more than between inverters.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import click
import yaml
from scripts import run

from unembed.corpus.sources import read_texts
from unembed.corpus.truths import parse_tokens, truths
from unembed.errors import InputError
from unembed.evaluation import metrics
from unembed.evaluation.evaluate import compare, read_back
from unembed.evaluation.metrics import Scores
from unembed.evaluation.tables import figure
from unembed.inverter import Inverter
from unembed.search.options import Tuning

SEARCH = "search."  # before a field of Tuning
TUNED = {field.name for field in fields(Tuning)}
FIGURES = ("token_accuracy", "exact_match", "token_f1", "bleu", "cosine")
OPTIONS = set(inspect.signature(Inverter.invert).parameters) - {"self", "embeddings"}


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
    others = [(name, name, {}) for name in new] + [(setting, old, parsed(setting)) for setting in settings]
    if not others:
        raise InputError("nothing to compare: name a second inverter, or a setting (--set)")
    guided = {name: n for name, n in (("seconds", seconds), ("max_calls", max_calls)) if n is not None}
    if not guided and (search := next((s for s in settings if s.startswith(SEARCH)), None)):
        raise InputError(f"--set {search}: these inversions are blind, expected --seconds or --max-calls beside it")
    cut = parse_tokens(tokens)
    passages = list(read_texts(texts))

    def scores(model: str, setting: Mapping[str, Any]) -> dict[str, Scores]:
        inverter = Inverter.from_pretrained(model, precision=precision)
        truth = truths(passages, inverter.tokenizer, cut, inverter.length, limit)
        embeddings = inverter.encode(truth.texts)
        options = {"steps": steps, "candidates": candidates, "seed": seed} | guided
        options |= {name: value for name, value in setting.items() if name in OPTIONS}
        with constants({name: value for name, value in setting.items() if name not in OPTIONS}):
            inversions = inverter.invert(embeddings, measure_cosine=False, show_progress_bar=True, **options)
        return compare(read_back(inverter, inversions), (truth.texts, truth.ids, embeddings))

    before = scores(old, {})
    click.echo(f"{len(before['cosine'].rows)} texts")
    for name, model, setting in others:
        after = scores(model, setting)
        click.echo(f"\n| | {old} | {name} | difference |\n| --- | ---: | ---: | ---: |")
        for score in FIGURES:
            columns = before[score], after[score], metrics.difference(after[score], before[score])
            cells = [figure(score, one.value, one.interval(seed=seed)) for one in columns]
            click.echo(f"| {score.replace('_', ' ')} | {' | '.join(cells)} |")


def parsed(setting: str) -> dict[str, Any]:
    """NAME=VALUE, the value as YAML. Raises InputError where nothing has that name."""
    name, equals, value = setting.partition("=")
    if equals and name.startswith(SEARCH) and (field := name.removeprefix(SEARCH)) in TUNED:
        return {"tuning": Tuning(**{field: yaml.safe_load(value)})}
    module, dot, constant = name.rpartition(".")
    known = name in OPTIONS
    if dot:
        try:
            known = hasattr(importlib.import_module(module), constant)
        except ImportError:
            known = False
    if not equals or not known:
        raise InputError(
            f"--set {setting}: expected NAME=VALUE, NAME an option of Inverter.invert, search.FIELD or MODULE.CONSTANT"
        )
    return {name: yaml.safe_load(value)}


@contextmanager
def constants(values: Mapping[str, Any]) -> Iterator[None]:
    """Constants of modules, by their full names, changed for a while."""
    kept = []
    for name, value in values.items():
        path, _, constant = name.rpartition(".")
        module = importlib.import_module(path)
        kept.append((module, constant, getattr(module, constant)))
        setattr(module, constant, value)
    try:
        yield
    finally:
        for module, constant, value in reversed(kept):
            setattr(module, constant, value)


if __name__ == "__main__":
    run(main)
