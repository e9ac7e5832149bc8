"""Fit the map from confidences to probabilities on one half of held-out texts; print what it does on the other half.

    python runs/calibrate.py --texts validation.txt --model DIR -o DIR/calibration.json

The texts must not be among those that the inverter was trained on. Beside the confidence at which a token was
committed, the table judges another one: the probability that one more pass over the finished canvas gives the token.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scripts import run

from unembed.corpus.sources import read_texts
from unembed.corpus.truths import NATURAL, parse_tokens, truths
from unembed.decoding.calibration import Calibration, fit
from unembed.decoding.predictor import Predictor, stream
from unembed.decoding.strategies import Decoding
from unembed.errors import UnembedError
from unembed.evaluation.metrics import auroc, expected_calibration_error, reliability
from unembed.files.atomic import atomic_file
from unembed.inverter import Inverter


class Recovered:
    """Confidences of recovered texts, and which of their tokens are right at their place."""

    def __init__(self) -> None:
        self.committed: list[list[float]] = []
        self.rescored: list[list[float]] = []
        self.right: list[list[bool]] = []

    def half(self, first: int) -> "Recovered":
        """Every second text."""
        found = Recovered()
        for name, values in vars(self).items():
            setattr(found, name, values[first::2])
        return found


@torch.inference_mode()
def recover(
    inverter: Inverter, e_BD: NDArray[np.float32], truth: list[list[int]], options: Decoding, batch: int
) -> Recovered:
    """Invert embeddings of texts whose content ids are known."""
    found = Recovered()
    for start in range(0, len(e_BD), batch):
        rows = range(start, min(start + batch, len(e_BD)))
        chunk_BD = torch.tensor(e_BD[start : rows.stop], device=inverter.device)
        modulation = inverter.denoiser.condition(chunk_BD)
        *_, last = stream(inverter.denoiser, modulation, options, rows, steering=inverter.steering(chunk_BD))
        everywhere = replace(last, wanted=torch.ones_like(last.wanted))
        again = Predictor(inverter.denoiser, modulation, options, rows)(everywhere)
        for row, ids in enumerate(last.ids.tolist()):
            content, true = inverter.tokenizer.content(ids), truth[start + row]
            found.committed.append(last.confidence[row, : len(content)].tolist())
            found.rescored.append(again.confidence[row, : len(content)].tolist())
            found.right.append([place < len(true) and token == true[place] for place, token in enumerate(content)])
    return found


def table(fitted: Calibration, test: Recovered) -> tuple[str, dict[str, float]]:
    """Markdown of what each confidence is worth on the texts of `test`, and the figures to keep."""
    every = {
        "when committed": test.committed,
        "one more pass over the finished canvas": test.rescored,
        "when committed, calibrated": [fitted.apply(one) for one in test.committed],
    }
    lines = ["| confidence | mean | ECE (95 % interval) | AUROC |", "| --- | --- | --- | --- |"]
    figures = {}
    for name, values in every.items():
        error = expected_calibration_error(values, test.right)
        low, high = error.interval()
        figures[name] = error.value
        mean = np.concatenate(values).mean()
        lines.append(
            f"| {name} | {mean:.3f} | {error.value:.4f} ({low:.4f} to {high:.4f}) | {auroc(values, test.right):.3f} |"
        )
    calibrated = every["when committed, calibrated"]
    pairs = np.array([(np.mean(p), np.mean(r)) for p, r in zip(calibrated, test.right, strict=True) if p])
    lines += ["", f"Right at their place are {np.concatenate(test.right).mean():.3f} of the recovered tokens."]
    lines += [
        f"Expected share of right tokens in a text: off by {np.abs(pairs[:, 0] - pairs[:, 1]).mean():.3f} on average "
        f"({np.abs(pairs[:, 1].mean() - pairs[:, 1]).mean():.3f} if the mean share were said of each text), "
        f"correlation {np.corrcoef(pairs.T)[0, 1]:.2f}."
    ]
    lines += ["", "| calibrated confidence | tokens | mean | right |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row.low:.3f} to {row.high:.3f} | {row.tokens:,} | {row.confidence:.3f} | {row.right:.3f} |"
        for row in reliability(calibrated, test.right, bins=10)
    ]
    kept = {"ece_before": figures["when committed"], "ece_after": figures["when committed, calibrated"]}
    return "\n".join(lines), {name: round(value, 5) for name, value in kept.items()}


@click.command(help=__doc__)
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--model", default=None, help="name, folder, Hub id or .pt file; the packaged inverter if not given")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="float32", show_default=True, help="of the passes: float32 or bfloat16")
@click.option("--tokens", default=NATURAL, show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=1000, show_default=True, help="texts used at most, both halves together")
@click.option("--steps", default=8, show_default=True)
@click.option("--strategy", default="confidence", show_default=True)
@click.option("--temperature", default=0.0, show_default=True)
@click.option(
    "--seed", default=0, show_default=True, help="of which texts are taken, and of what is random in decoding"
)
@click.option("--batch-size", default=64, show_default=True)
@click.option("-o", "--output", default=None, type=click.Path(path_type=Path), help="where to write the map")
def main(
    texts: str,
    model: str | None,
    device: str,
    precision: str,
    tokens: str,
    limit: int,
    steps: int,
    strategy: str,
    temperature: float,
    seed: int,
    batch_size: int,
    output: Path | None,
) -> None:
    try:
        inverter = Inverter.from_pretrained(model, device, precision=precision)
        passages = list(read_texts(texts))
        random.Random(seed).shuffle(passages)  # a file may be in order of its sources
        truth = truths(passages, inverter.tokenizer, parse_tokens(tokens), inverter.length, limit)
        options = Decoding(steps, strategy, temperature=temperature, seed=seed)
        options.check(inverter.length)
        found = recover(inverter, inverter.encode(truth.texts), truth.ids, options, batch_size)
        train, test = found.half(0), found.half(1)
        fitted = fit(train.committed, train.right)
        shown, figures = table(fitted, test)
    except (UnembedError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"Fitted on {len(train.right)} texts, measured on {len(test.right)} others; {steps} passes, {strategy}.\n"
    )
    click.echo(shown)
    about = {"fitted_on": len(train.right), "measured_on": len(test.right), "tokens": tokens, "steps": steps}
    about |= {"strategy": strategy, "temperature": temperature, "precision": precision, "seed": seed} | figures
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(json.dumps(replace(fitted, about=about).to_dict(), indent=1), encoding="utf-8")


if __name__ == "__main__":
    run(main)
