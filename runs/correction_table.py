"""Measure correction by steps against encoder calls, as Vec2Text is measured; print a table for experiments/LOG.md.

    python runs/correction_table.py --texts held-out.txt --limit 100 --calls 1 --calls 5 --calls 20 --beam 1 --beam 4

A beam's first calls are for its blind candidates, so fewer are not shown. Shown is the nearest text that was asked
about (by its cosine), and what one pass more makes of it, which nobody was asked about: a step of Vec2Text ends there.
`runs/search_curve.py` gives the same table of the guided search.
"""

import sys
from collections.abc import Sequence

import click
import numpy as np
from scripts import run
from tqdm import tqdm

from unembed.corpus.held_out import Truths, parse_tokens, truths
from unembed.corpus.sources import read_texts
from unembed.errors import InputError
from unembed.evaluation.evaluate import compare
from unembed.evaluation.tables import figure
from unembed.inverter import Inverter
from unembed.search.correction import Corrector
from unembed.search.encoder_calls import EncoderCalls
from unembed.search.options import Search
from unembed.search.state import Hypothesis

FIGURES = ("exact_match", "bleu", "token_f1", "cosine")

Texts = tuple[str, str]  # the nearest that was asked about, and what a pass more makes of it


@click.command(help=__doc__)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default="32", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=100, show_default=True, help="texts measured at most")
@click.option("--calls", "budgets", multiple=True, type=int, default=[1, 5, 20, 50], show_default=True)
@click.option("--beam", "beams", multiple=True, type=int, default=[1, 4, 8], show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(
    texts: str, model: str | None, precision: str, tokens: str, limit: int, budgets: Sequence[int],
    beams: Sequence[int], seed: int,
) -> None:  # fmt: skip
    inverter = Inverter.from_pretrained(model, precision=precision)
    if inverter.denoiser.feedback is None:
        raise InputError("this inverter takes no feedback, expected one that was trained with model.feedback")
    truth = truths(read_texts(texts), inverter.tokenizer, parse_tokens(tokens), inverter.length, limit)
    embeddings = inverter.encode(truth.texts)
    header = " | ".join(name.replace("_", " ") for name in FIGURES)
    click.echo(f"{len(truth.texts)} texts\n\n| beam | calls | text | {header} |")
    click.echo("| ---: | ---: | --- " + "| ---: " * len(FIGURES) + "|")
    for beam in beams:
        bar = tqdm(enumerate(embeddings), total=len(embeddings), disable=not sys.stderr.isatty())
        found = [corrected(inverter, e_D, row, beam, sorted(budgets), seed) for row, e_D in bar]
        for budget in sorted(budget for budget in budgets if budget >= beam):
            for which, name in enumerate(("asked about", "one pass more")):
                several = [one[budget][which] for one in found]
                click.echo(f"| {beam} | {budget} | {name} | {cells(inverter, truth, embeddings, several, seed)} |")


def corrected(
    inverter: Inverter, e_D: np.ndarray, row: int, beam: int, budgets: Sequence[int], seed: int
) -> dict[int, Texts]:
    """What is best for one embedding (D,) when so many calls are spent."""
    blind = inverter.invert(e_D[None], candidates=beam, seed=seed, first_row=row, measure_cosine=False)[0]
    starts = [tuple(inverter.tokenizer.content(one.ids)) for one in blind.candidates or [blind]]
    calls = EncoderCalls(
        inverter.encoder, None, inverter.tokenizer, Search(max_calls=budgets[-1]), inverter.recipe.dimension
    )
    corrector = Corrector(inverter.denoiser, inverter.tokenizer, calls, e_D, beam, seed * 1_000_003 + row)
    best: dict[int, Hypothesis] = {}
    for several in corrector.run(starts):
        best |= {budget: several[0] for budget in budgets if calls.calls <= budget or budget not in best}
    decode = inverter.tokenizer.decode
    return {
        budget: (decode(found.ids), decode(corrector.revisions([found], tries=1)[0])) for budget, found in best.items()
    } or dict.fromkeys(budgets, (blind.text, blind.text))  # of which no text could be asked about


def cells(inverter: Inverter, truth: Truths, embeddings: np.ndarray, texts: list[str], seed: int) -> str:
    """The figures of some texts, with their intervals."""
    recovered = texts, inverter.tokenizer.encode_batch(texts), inverter.encode(texts)
    scores = compare(recovered, (truth.texts, truth.ids, embeddings))
    return " | ".join(figure(name, scores[name].value, scores[name].interval(seed=seed)) for name in FIGURES)


if __name__ == "__main__":
    run(main)
