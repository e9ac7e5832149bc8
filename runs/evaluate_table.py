"""Measure every strategy at 8 and 32 passes on held-out texts; print the Markdown tables of docs/results.md.

    python runs/evaluate_table.py --texts held-out.txt --limit 500 -o table.jsonl

With --plot, token accuracy and cosine are drawn against the passes (--steps 1 --steps 2 and so on).

Each finished row is kept in the JSONL file. Started again with the same options, the script goes on where it
stopped; rows of other weights, code, texts or options in that file are left alone and not printed.
"""

import json
import os
from pathlib import Path

import click
from plots import Point, draw_curves
from scripts import run

from unembed.corpus.held_out import NATURAL, parse_tokens, truths
from unembed.corpus.sources import read_texts
from unembed.decoding.options import STRATEGIES, Decoding
from unembed.errors import DataError
from unembed.evaluation.evaluate import Report, describe_machine, describe_model, evaluate, reported
from unembed.evaluation.tables import baseline_rows, length_rows, rows
from unembed.inverter import Inverter
from unembed.search.options import plan


def read_reports(path: Path) -> list[Report]:
    """Every row that earlier runs finished. Raises DataError."""
    if not path.exists():
        return []
    reports = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            reports.append(Report.from_dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a row of this script ({error})") from error
    return reports


def write_reports(path: Path, reports: list[Report]) -> None:
    """Write the rows whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(report.to_dict()) + "\n" for report in reports)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@click.command(help=__doc__)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="32", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=500, show_default=True, help="texts measured at most")
@click.option("--steps", "all_steps", multiple=True, type=int, default=[8, 32], show_default=True)
@click.option("--strategy", "strategies", multiple=True, type=click.Choice(STRATEGIES), help="default: all")
@click.option("--candidates", default=1, show_default=True)
@click.option("--seconds", default=None, type=float, help="guided inversion: of each search, at most")
@click.option("--max-calls", default=None, type=int, help="guided inversion: encoder calls of each search, at most")
@click.option("--guidance", default=0.0, show_default=True)
@click.option("--balance", default=Decoding.balance, show_default=True)
@click.option("--steering", default=Decoding.steering, show_default=True)
@click.option("--temperature", default=None, type=float, help="default: 0, or 0.5 for several candidates")
@click.option("--seed", default=0, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--plot", default=None, type=click.Path(path_type=Path), help="SVG to draw")
@click.option("-o", "--output", default="evaluate_table.jsonl", show_default=True, type=click.Path(path_type=Path))
def main(
    texts: str,
    model: str | None,
    device: str,
    precision: str,
    tokens: str,
    limit: int,
    all_steps: tuple[int, ...],
    strategies: tuple[str, ...],
    candidates: int,
    seconds: float | None,
    max_calls: int | None,
    guidance: float,
    balance: float,
    steering: float,
    temperature: float | None,
    seed: int,
    batch_size: int,
    plot: Path | None,
    output: Path,
) -> None:
    cut = parse_tokens(tokens)
    decoding, search = plan(
        candidates=candidates, seconds=seconds, max_calls=max_calls, guidance=guidance, balance=balance,
        steering=steering, temperature=temperature, seed=seed,
    )  # fmt: skip
    options = reported(decoding, search) | {"batch_size": batch_size}
    inverter = Inverter.from_pretrained(model, device=device, precision=precision)
    passages = list(read_texts(texts))
    truth = truths(passages, inverter.tokenizer, cut, inverter.config.model.max_tokens, limit)
    same = (describe_model(inverter), describe_machine(inverter)["code"], truth.sha256, options, seed)

    reports = read_reports(output)
    table = []
    for strategy in strategies or tuple(STRATEGIES):
        for steps in all_steps:
            report = next(
                (
                    r
                    for r in reports
                    if (r.strategy, r.steps) == (strategy, steps)
                    and (r.model, r.machine.get("code"), r.truths_sha256, r.options, r.seed) == same
                ),
                None,
            )
            if report is None:
                report = evaluate(
                    inverter, passages, decoding, search, tokens=cut, limit=limit, steps=steps, strategy=strategy,
                    random_vectors=None if steps <= 8 else 0,  # chance hardly depends on the passes
                    batch_size=batch_size,
                )  # fmt: skip
                reports.append(report)
                write_reports(output, reports)
                click.echo(f"{strategy}, {steps} steps: {report.seconds:.0f} s", err=True)
            table.append(report)
    click.echo(rows(table))
    click.echo(baseline_rows(table))
    if cut == NATURAL:
        click.echo(length_rows(table))
    if plot is not None:
        draw(table, plot, f"{len(truth.texts)} texts, {tokens} tokens")


def draw(table: list[Report], path: Path, title: str) -> None:
    """Token accuracy and cosine against the passes, a line for each strategy."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for name in ("token_accuracy", "cosine", "bleu"):
        series = panels.setdefault(name.replace("_", " "), {})
        for report in table:
            low, high = report.intervals[name]
            series.setdefault(report.strategy, []).append((report.steps, getattr(report, name), low, high))
    draw_curves(path, title, "passes", panels, base=2)


if __name__ == "__main__":
    run(main)
