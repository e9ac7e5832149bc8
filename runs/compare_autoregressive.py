"""Masked diffusion beside its autoregressive twin, on the same held-out texts and the same machine.

    python runs/compare_autoregressive.py --denoiser RUN/inverter --twin RUN_TWIN/inverter --texts SHARDS/test.txt

A twin is trained by the same configuration with `model.causal: true`, which `--set model.causal=true` sets in
`unembed train` and in `runs/remote start`. Both get the embeddings of the same texts in the same batches, the length is
not given, and seconds are those of decoding alone, after one batch that does not count. A pass of a denoiser is over
the whole canvas, one of the twin over one token, so that passes cost different amounts: compare seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scripts import run
from tqdm import tqdm

from unembed.corpus.held_out import Truths, parse_tokens, truths
from unembed.corpus.sources import read_texts
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.errors import RecipeError
from unembed.evaluation.evaluate import compare
from unembed.files.atomic import atomic_file
from unembed.inverter import Inverter
from unembed.objective.autoregressive import generate
from unembed.storage.checkpoint import load_inverter

METRICS = {"token_accuracy": 3, "exact_match": 3, "token_f1": 3, "bleu": 1, "cosine": 3}

Decode = Callable[[np.ndarray, int], tuple[list[list[int]], float]]  # embeddings, first row -> ids and mean passes


def measure(
    name: str, decode: Decode, truth: Truths, embeddings: np.ndarray, encoder: Encoder, batch_size: int, results: Any
) -> dict[str, Any]:
    """One row: what `decode` makes of the embeddings, and what it took."""
    decode(embeddings[:batch_size], 0)
    ids: list[list[int]] = []
    passes = 0.0
    started = time.perf_counter()
    for start in tqdm(range(0, len(embeddings), batch_size), desc=name, disable=not sys.stderr.isatty()):
        found, mean = decode(embeddings[start : start + batch_size], start)
        ids += found
        passes += mean * len(found)
    seconds = time.perf_counter() - started
    content = [encoder.tokenizer.content(row) for row in ids]
    texts = [encoder.tokenizer.decode(row) for row in content]
    scores = compare((texts, content, encoder.encode(texts)), (truth.texts, truth.ids, embeddings))
    row: dict[str, Any] = {"name": name, "n": len(texts), "truths_sha256": truth.sha256}
    for metric in METRICS:
        row |= {metric: scores[metric].value, f"{metric}_interval": list(scores[metric].interval())}
    row |= {"passes": passes / len(texts), "seconds_per_text": seconds / len(texts)}
    return row | {key: results.get(key) for key in ("steps", "sequences", "training_seconds")}


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, 95 % intervals in brackets."""
    header = ["", "n", *(name.replace("_", " ") for name in METRICS), "passes", "s/text", "sequences trained on"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        figures = []
        for name, digits in METRICS.items():
            low, high = row[f"{name}_interval"]
            figures.append(f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        trained = "?" if row["sequences"] is None else f"{row['sequences']:,}"
        costs = [f"{row['passes']:.1f}", f"{row['seconds_per_text']:.4f}", trained]
        lines.append([row["name"], str(row["n"]), *figures, *costs])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command(help=__doc__)
@click.option("--denoiser", default=None, help="inverter by masked diffusion; left out if not given")
@click.option("--twin", required=True, type=click.Path(path_type=Path), help="folder of the autoregressive twin")
@click.option("--texts", required=True, help="file of held-out texts, one a line")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--tokens", default="32", show_default=True, help="content tokens per text: 32, natural, or 6-16")
@click.option("--limit", default=1000, show_default=True, help="texts measured at most")
@click.option("--steps", "all_steps", multiple=True, type=int, default=[8, 32], show_default=True)
@click.option("--strategy", default="confidence", show_default=True)
@click.option("--temperature", default=0.0, show_default=True, help="of the twin; 0 is greedy")
@click.option("--batch-size", default=64, show_default=True)
@click.option("-o", "--output", default=None, type=click.Path(path_type=Path), help="JSON file for the rows")
def main(
    denoiser: str | None,
    twin: Path,
    texts: str,
    device: str,
    precision: str,
    tokens: str,
    limit: int,
    all_steps: tuple[int, ...],
    strategy: str,
    temperature: float,
    batch_size: int,
    output: Path | None,
) -> None:
    parts = load_inverter(twin, causal=True)
    parts.denoiser.to(device).precision = getattr(torch, precision)
    encoder = load_encoder(parts.config.encoder, device)
    length = parts.config.model.max_tokens
    truth = truths(read_texts(texts), encoder.tokenizer, parse_tokens(tokens), length, limit)
    embeddings = encoder.encode(truth.texts)
    rows = []
    if denoiser is not None:
        inverter = Inverter.from_pretrained(denoiser, device=device, precision=precision)
        if (inverter.recipe, inverter.length) != (parts.config.encoder, length):
            raise RecipeError(f"{denoiser} and {twin} are of different encoders or lengths, expected the same")
        for steps in all_steps:

            def fill(e: np.ndarray, first: int, steps: int = steps) -> tuple[list[list[int]], float]:
                found = inverter.invert(
                    e, steps=steps, strategy=strategy, batch_size=batch_size, measure_cosine=False, first_row=first
                )
                return [inversion.ids for inversion in found], float(np.mean([f.passes for f in found]))

            kind = "" if strategy == "confidence" else f" ({strategy})"
            name = f"diffusion{kind}, {steps} pass{'es' if steps > 1 else ''}"
            rows.append(measure(name, fill, truth, embeddings, encoder, batch_size, inverter.results))

    def write(e: np.ndarray, first: int) -> tuple[list[list[int]], float]:
        found = generate(parts.denoiser, torch.from_numpy(e).to(device), temperature, first_row=first)
        return found.ids.tolist(), found.passes.float().mean().item()

    name = "autoregressive, " + (f"temperature {temperature:g}" if temperature else "greedy")
    rows.append(measure(name, write, truth, embeddings, encoder, batch_size, parts.results))
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    click.echo(markdown(rows))


if __name__ == "__main__":
    run(main)
