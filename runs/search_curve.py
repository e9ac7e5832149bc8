"""Measure guided inversion against time and against encoder calls; print tables and draw a plot for docs/results.md.

    python runs/search_curve.py --texts held-out.txt --tokens 6-16 --limit 50 --seconds 30 -o out/sentences.jsonl
    python runs/search_curve.py --texts held-out.txt --tokens 6-16 --limit 50 --calls 400 -o out/priced.jsonl
    python runs/search_curve.py --texts held-out.txt --tokens 6-16 --limit 50 --seconds 60 --aligner DIR -o out/a.jsonl

One search of each text gives both curves: what was best when so many seconds, or so many calls, were spent. Searches
run one after the other on all threads. Each finished text is a line of the JSONL file, so that the script goes on
where it stopped. `--set` changes a constant, as in paired.py.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from plots import draw_curves
from scripts import changed, run
from tqdm import tqdm

from unembed.corpus.held_out import Truths, parse_tokens, truths
from unembed.corpus.sources import read_texts
from unembed.decoding.inversion import EXACT
from unembed.evaluation.evaluate import compare, describe_machine, describe_model
from unembed.evaluation.tables import figure
from unembed.inverter import Inverter
from unembed.inverter.aligned import AlignedInverter
from unembed.search.options import plan

SECONDS = (1, 3, 10, 30, 60, 120, 300, 600)
CALLS = (50, 100, 200, 400, 1000, 3000, 10_000, 30_000)
FIGURES = ("exact_match", "bleu", "token_f1", "cosine")

Step = tuple[float, int, float, str]  # seconds and calls spent, cosine, text


@click.command(help=__doc__)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--aligner", default=None, help="folder of an aligner: searches ask its encoder")
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="6-16", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=50, show_default=True, help="texts measured at most")
@click.option("--seconds", type=float, default=None, help="for each text")
@click.option("--calls", type=int, default=None, help="for each text")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="another constant of the search")
@click.option("--seed", default=0, show_default=True)
@click.option("--plot", default=None, type=click.Path(path_type=Path), help="SVG to draw")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(
    texts: str, model: str | None, aligner: str | None, precision: str, tokens: str, limit: int,
    seconds: float | None, calls: int | None, settings: Sequence[str], seed: int, plot: Path | None, output: Path,
) -> None:  # fmt: skip
    inverter = Inverter.from_pretrained(model, aligner=aligner, precision=precision)
    decoding, search = changed(*plan(seconds=seconds, max_calls=calls, seed=seed), settings)
    assert search is not None
    truth = truths(read_texts(texts), inverter.tokenizer, parse_tokens(tokens), inverter.length, limit)
    embeddings = inverter.encode(truth.texts)
    about = {
        "model": describe_model(inverter), "machine": describe_machine(inverter), "truths": truth.sha256,
        "tokens": tokens, "seconds": seconds, "calls": calls, "seed": seed, "tuning": dataclasses.asdict(search.tuning),
        **({"aligner": inverter.aligner.fingerprint} if isinstance(inverter, AlignedInverter) else {}),
    }  # fmt: skip
    known = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []
    traces = {one["row"]: one["trace"] for one in known if one["about"] == about}
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8") as file:
        for row, embedding in enumerate(tqdm(embeddings, desc="search", disable=not sys.stderr.isatty())):
            if row in traces:
                continue
            steps: list[Step] = []
            for best in inverter.search(embedding, decoding, search, first_row=row):
                assert best.seconds is not None
                assert best.cosine is not None
                steps.append((round(best.seconds, 3), best.encoder_calls, best.cosine, best.text))
            traces[row] = steps
            file.write(json.dumps({"about": about, "row": row, "trace": steps}) + "\n")
            file.flush()
    ordered = [traces[row] for row in range(len(truth.texts))]
    click.echo(summary(truth, ordered, about))
    for name, column, budgets in (("seconds", 0, SECONDS), ("encoder calls", 1, CALLS)):
        click.echo("\n" + table(inverter, truth, embeddings, ordered, name, column, budgets, seed))
    if plot is not None:
        draw(inverter, truth, embeddings, ordered, plot, f"{len(truth.texts)} texts, {tokens} tokens")


def summary(truth: Truths, traces: Sequence[Sequence[Step]], about: dict[str, Any]) -> str:
    """What the searches cost."""
    spent = np.array([trace[-1][:2] for trace in traces])
    exact = [trace[-1][0] for trace, text in zip(traces, truth.texts, strict=True) if trace[-1][3] == text]
    near = sum(trace[-1][2] >= EXACT for trace in traces)
    every = sorted([*exact, *[np.inf] * (len(traces) - len(exact))])
    return (
        f"{len(traces)} texts, {len(exact)} exact ({near} by the encoder's word); median seconds to the exact text "
        f"{np.median(every):.1f} of all, {np.median(exact) if exact else np.nan:.1f} of those found; "
        f"{spent[:, 1].sum() / spent[:, 0].sum():.0f} encoder calls a second; {about['machine']}"
    )


def table(
    inverter: Inverter, truth: Truths, embeddings: np.ndarray, traces: Sequence[Sequence[Step]], name: str, column: int,
    budgets: Sequence[int], seed: int,
) -> str:  # fmt: skip
    """Markdown: a row for each budget, until no text had more."""
    lines = [f"| {name} | {' | '.join(one.replace('_', ' ') for one in FIGURES)} |", "| ---: " * 5 + "|"]
    longest = max(trace[-1][column] for trace in traces)
    for budget in budgets:
        scores = scored(inverter, truth, embeddings, traces, column, budget)
        cells = [figure(one, scores[one].value, scores[one].interval(seed=seed)) for one in FIGURES]
        lines.append(f"| {budget} | {' | '.join(cells)} |")
        if budget >= longest:
            break
    return "\n".join(lines)


def scored(
    inverter: Inverter,
    truth: Truths,
    embeddings: np.ndarray,
    traces: Sequence[Sequence[Step]],
    column: int,
    budget: float,
) -> Any:
    """Every metric of what was best when the budget was spent; before the first step of a search, of that."""
    texts = [([step for step in trace if step[column] <= budget] or trace[:1])[-1][3] for trace in traces]
    ids = inverter.tokenizer.encode_batch(texts)
    return compare((texts, ids, inverter.encode(texts)), (truth.texts, truth.ids, embeddings))


def draw(
    inverter: Inverter, truth: Truths, embeddings: np.ndarray, traces: Sequence[Sequence[Step]], path: Path, title: str
) -> None:
    """Exact matches against seconds and against calls."""
    for column, across in ((0, "seconds"), (1, "encoder calls")):
        longest = max(trace[-1][column] for trace in traces)
        budgets = np.geomspace(1 if column == 0 else 8, longest, 24)
        series: dict[str, list[Any]] = {"exact match": [], "token F1": []}
        for budget in budgets:
            scores = scored(inverter, truth, embeddings, traces, column, budget)
            for label, key in (("exact match", "exact_match"), ("token F1", "token_f1")):
                series[label].append((budget, scores[key].value, *scores[key].interval(seed=0)))
        name = path.with_stem(f"{path.stem}-{across.split()[-1]}")
        draw_curves(name, title, across, {"share of texts": series})


if __name__ == "__main__":
    run(main)
