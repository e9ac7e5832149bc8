"""Measure guided inversion against the number of encoder calls; print a table and draw a plot for docs/results.md.

    python runs/guided_curve.py --texts held-out.txt --limit 100 --calls 400 -o curve.jsonl --plot docs/guided.svg

One search of each text gives the whole curve: what was best when so many calls were spent. All attackers see the
same texts. `no prior` is the white box's search with a denoiser that finds every token equally likely, from random
words, exchanging tokens for random ones as the forecast advises: what the encoder gives away without a model of
language. Finished attackers are kept in the JSONL file, so that the script goes on where it stopped.
"""

import copy
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from plots import Point, draw_curves
from scripts import run
from tqdm import tqdm

from unembed import metrics
from unembed.edits import CONSIDERED, Choices
from unembed.evaluate import compare, describe_machine, describe_model
from unembed.files import atomic_file
from unembed.guidance import Guide
from unembed.inverter import Inverter
from unembed.refill import Judged, Text
from unembed.search import BLACK_BOX, WHITE_BOX, Row, Search
from unembed.sources import read_texts
from unembed.tables import figure
from unembed.truths import parse_tokens, truths

BUDGETS = (0, 4, 20, 50, 100, 200, 400, 1000, 2000, 4000, 10_000)
FIGURES = ("token_accuracy", "exact_match", "bleu", "token_f1", "cosine")
NO_PRIOR = "no prior"
ATTACKERS = (BLACK_BOX, WHITE_BOX, NO_PRIOR)
STARTS = 8


class Ignorant(Guide):
    """A search that knows nothing of texts: no token is likelier than another, none more doubtful.

    All of its drafts are edits, which the surrogate chooses: what such a denoiser writes is noise.
    """

    edits = 1.0, 1.0

    def _likelihoods(self, texts: Sequence[Text], e_hats: Mapping[Text, Any] | None = None) -> dict[Text, Judged]:
        judged = {}
        for text in texts:
            choices = None
            if self.surrogate is not None:
                size = len(text.ids), CONSIDERED
                tokens = self.rows[text.row].noise.choice(np.flatnonzero(self.tokenizer.starts_word), size)
                choices = Choices(tokens, np.zeros(size, np.float32))
            judged[text] = Judged(np.full(len(text.ids) + 1, 0.9), choices)
        return judged


@dataclasses.dataclass
class Curve:
    """What one attacker had recovered of each text at each budget of encoder calls."""

    attacker: str
    texts: dict[int, list[str]]  # budget -> the best text of each row
    seconds: float
    rounds: float  # mean


@click.command(help=__doc__)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="32", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=100, show_default=True, help="texts measured at most")
@click.option("--calls", default=400, show_default=True, help="encoder calls per text at most")
@click.option("--proposals", default=Search.proposals, show_default=True, help="texts asked about per round, at most")
@click.option("--attacker", "attackers", multiple=True, type=click.Choice(ATTACKERS), help="default: all")
@click.option("--seed", default=0, show_default=True)
@click.option("--batch-size", default=10, show_default=True, help="texts searched side by side")
@click.option("--plot", default=None, type=click.Path(path_type=Path), help="SVG to draw")
@click.option("-o", "--output", default="guided_curve.jsonl", show_default=True, type=click.Path(path_type=Path))
def main(
    texts: str, model: str | None, precision: str, tokens: str, limit: int, calls: int,
    proposals: int, attackers: tuple[str, ...], seed: int, batch_size: int, plot: Path | None,
    output: Path,
) -> None:  # fmt: skip
    inverter = Inverter.from_pretrained(model, precision=precision)
    cut = parse_tokens(tokens)
    truth = truths(read_texts(texts), inverter.tokenizer, cut, inverter.length, limit)
    embeddings = inverter.encode(truth.texts)
    options = {"max_calls": calls, "proposals": proposals, "seed": seed}
    about = {
        "model": describe_model(inverter), "machine": describe_machine(inverter), "precision": precision,
        "truths": truth.sha256, "n": len(truth.texts), "tokens": cut,
        "search": dataclasses.asdict(Search(**options)), "surrogate": inverter.surrogate is not None,
    }  # fmt: skip
    about = json.loads(json.dumps(about))
    known = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []
    curves = []
    for attacker in attackers or ATTACKERS:
        found = [row for row in known if row["about"] == about and row["curve"]["attacker"] == attacker]
        if not found:
            curve = measure(inverter, embeddings, attacker, options, batch_size)
            known.append({"about": about, "curve": dataclasses.asdict(curve)})
            with atomic_file(output) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in known), encoding="utf-8")
            found = [json.loads(json.dumps(known[-1]))]
        curves.append(scored(inverter, found[0]["curve"], truth, embeddings, seed))
    click.echo(table(curves))
    if plot is not None:
        draw(curves, plot, f"{len(truth.texts)} texts, {tokens} tokens")


def measure(
    inverter: Inverter, embeddings: np.ndarray, attacker: str, options: dict[str, int], batch_size: int
) -> Curve:
    """Search for every text, keeping what was best at each budget. Options: of `Search`."""
    calls, seed = options["max_calls"], options["seed"]
    budgets = [budget for budget in BUDGETS if budget <= calls]
    best: dict[int, list[str]] = {budget: [] for budget in budgets}
    rounds: list[int] = []
    search = Search(rounds=10**6, attacker=BLACK_BOX if attacker == BLACK_BOX else WHITE_BOX, **options)
    denoiser = inverter.denoiser
    if attacker == NO_PRIOR:
        denoiser = copy.deepcopy(denoiser)
        with torch.no_grad():
            denoiser.table.weight.zero_()  # all logits equal
            denoiser.output_bias.zero_()
    started = time.perf_counter()
    for first in tqdm(
        range(0, len(embeddings), batch_size), desc=attacker, unit="batch", disable=not sys.stderr.isatty()
    ):
        part = embeddings[first : first + batch_size]
        kind = Ignorant if attacker == NO_PRIOR else Guide
        if attacker == NO_PRIOR:
            starts = random_texts(inverter, len(part), [seed, first])
        else:
            several = inverter.invert(part, candidates=STARTS, seed=seed, first_row=first, measure_cosine=False)
            starts = [[one.text for one in found.candidates] for found in several]
        four = [nearest(inverter, texts[:4], e_D) for texts, e_D in zip(starts, part, strict=True)]
        current = {0: [texts[0] for texts in starts], 4: four}
        reached: dict[int, list[str]] = {budget: list(current[min(4, budget)]) for budget in budgets}
        guide = kind(denoiser, inverter.tokenizer, inverter.encoder, part, starts, search, first, inverter.surrogate)
        rows: list[Row] = []
        for rows in guide.run():
            for number, row in enumerate(rows):
                for budget in budgets:
                    if row.beam and STARTS <= row.calls <= budget:
                        reached[budget][number] = row.beam[0].text
        rounds += [row.rounds for row in rows]
        for budget in budgets:
            best[budget] += reached[budget]
    return Curve(attacker, best, time.perf_counter() - started, float(np.mean(rounds)))


def nearest(inverter: Inverter, texts: list[str], e_D: np.ndarray) -> str:
    """Of some texts the one of which the embedding is nearest."""
    return texts[int((inverter.encode(texts) @ e_D).argmax())]


def random_texts(inverter: Inverter, count: int, seed: list[int]) -> list[list[str]]:
    """STARTS texts of random words for each row."""
    generator = np.random.default_rng(seed)
    words = np.flatnonzero(inverter.tokenizer.starts_word)
    draws = generator.choice(words, (count, STARTS, inverter.length // 2))
    return [[inverter.tokenizer.decode(ids.tolist()) for ids in row] for row in draws]


def scored(inverter: Inverter, curve: dict[str, Any], truth: Any, embeddings: np.ndarray, seed: int) -> dict[str, Any]:
    """Figures and intervals at each budget."""
    rows: dict[int, dict[str, Any]] = {}
    for budget, texts in curve["texts"].items():
        ids = inverter.tokenizer.encode_batch(texts)
        scores = compare((texts, ids, inverter.encode(texts)), (truth.texts, truth.ids, embeddings))
        rows[int(budget)] = {name: (scores[name].value, scores[name].interval(seed=seed)) for name in FIGURES}
        lengths = metrics.by_length(scores["token_f1"], [len(row) for row in truth.ids])
        rows[int(budget)]["by_length"] = {label: (part.value, len(part.rows)) for label, part in lengths.items()}
    return {**curve, "rows": rows, "n": len(truth.texts)}


def table(curves: list[dict[str, Any]]) -> str:
    """Markdown: a row for each attacker and budget."""
    names = [name.replace("_", " ") for name in FIGURES]
    lines = [f"| attacker | encoder calls | {' | '.join(names)} | s/text |", "| --- | ---: " + "| ---: " * 6 + "|"]
    for curve in curves:
        last = max(curve["rows"])
        for budget, row in curve["rows"].items():
            cells = []
            for name in FIGURES:
                cells.append(figure(name, *row[name]))
            seconds = f"{curve['seconds'] / curve['n']:.1f}" if budget == last else ""
            lines.append(f"| {curve['attacker']} | {budget} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


def draw(curves: list[dict[str, Any]], path: Path, title: str) -> None:
    """A panel for each figure against the encoder calls."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for name in ("cosine", "token_f1", "token_accuracy"):
        panels[name.replace("_", " ")] = {
            curve["attacker"]: [(max(budget, 1), row[name][0], *row[name][1]) for budget, row in curve["rows"].items()]
            for curve in curves
        }
    draw_curves(path, title, "encoder calls (leftmost: none)", panels)


if __name__ == "__main__":
    run(main)
