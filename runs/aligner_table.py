"""How much do so many pairs give of another encoder's vectors? Print Markdown tables; every finished row is kept.

    python runs/aligner_table.py --encoder out/mpnet --pairs PAIRS.txt --texts IN.txt --texts OUT.txt -o table.jsonl

PAIRS.txt holds one text a line, which the other encoder embeds; an aligner is fitted to the first 10, 100, 1,000 and
8,000 of them. Held-out texts, one file a domain, are cut to 32 tokens, embedded by the other encoder and recovered
blindly. --words: how many single words both encoders embed besides. --defence does to every
vector of the other encoder what a defence would, pairs and words included: int8, a random rotation, or Gaussian noise
of a standard deviation that is a share of a coordinate's.
Started again, the script goes on where it stopped.

Names are the words of the truth that begin with a capital away from the text's start, and its numbers; the share of
them that is among the recovered words is given, whatever the case.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import ortho_group
from scripts import run

from unembed.alignment.linear import normalised
from unembed.corpus.held_out import truths
from unembed.corpus.sources import read_texts
from unembed.denoiser.precision import granted
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.evaluation import metrics
from unembed.inverter import Inverter
from unembed.training.align import Pairs, align, asked_words

DEFENCES = ("none", "rotation", "int8", "noise-0.25", "noise-0.5", "noise-1")
METRICS = ("bleu", "rouge_l", "token_f1", "names", "exact_match", "cosine")

Floats = NDArray[np.float32]


@click.command(help=__doc__)
@click.option("--encoder", required=True, help="the other encoder: a folder or a known name")
@click.option("--pairs", required=True, help="texts that it embeds, to fit to")
@click.option("--texts", "domains", required=True, multiple=True, help="held-out texts, one file a domain")
@click.option("--count", "counts", multiple=True, type=int, default=(10, 100, 1000, 8000), show_default=True)
@click.option("--words", "word_counts", multiple=True, type=int, default=(0, 30_000), show_default=True)
@click.option("--defence", "defences", multiple=True, type=click.Choice(DEFENCES), default=("none",), show_default=True)
@click.option("--limit", default=200, show_default=True, help="texts a domain")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="finished rows, JSON lines")
def main(
    encoder: str, pairs: str, domains: tuple[str, ...], counts: tuple[int, ...], word_counts: tuple[int, ...],
    defences: tuple[str, ...], limit: int, output: Path,
) -> None:  # fmt: skip
    inverter, other = Inverter.from_pretrained(), load_encoder(encoder)
    kept = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    texts = [text for text in read_texts(pairs) if text.strip()][: max(counts)]
    vectors = _embedded(other, texts, output.with_suffix(".npy"))
    held: dict[str, tuple[Any, Floats]] = {}
    for domain in domains:
        truth = truths(read_texts(domain), inverter.tokenizer, 32, inverter.length, limit)
        held[Path(domain).stem] = truth, other.encode(truth.texts)
    cased = {Path(domain).stem: _cased(domain, held[Path(domain).stem][0].texts) for domain in domains}
    alone = {number: asked_words(inverter, other, number, True) for number in word_counts if number}
    for defence, count, number in product(defences, counts, word_counts):
        wanted = {"defence": defence, "pairs": count, "words": number, "encoder": encoder, "n": limit}
        if any(wanted.items() <= row.items() for row in kept):
            continue
        change = _defence(defence, vectors.shape[1], float(vectors.std()))
        found = Pairs(texts[:count], change(vectors[:count]), True)
        words = alone[number]._replace(vectors=change(alone[number].vectors)) if number else None
        fitted = inverter.aligned(align(inverter, found, other.recipe, words=words), other)
        for domain, (truth, embeddings) in held.items():
            scores = _measured(fitted, truth, change(embeddings), embeddings, cased[domain])
            row = wanted | {"domain": domain, "fit": fitted.aligner.about["cosine"]["value"]}
            for name, score in scores.items():
                row[name], row[f"{name}_interval"] = score.value, list(score.interval())
            kept.append(row)
            click.echo(json.dumps(row))
        output.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    for line in table(kept):
        click.echo(line)


def _embedded(encoder: Encoder, texts: list[str], cache: Path) -> Floats:
    """The pairs' vectors, from an earlier run that had as many; in bfloat16 (cosine to float32: .9999)."""
    if cache.exists() and len(found := np.load(cache)) >= len(texts):
        kept: Floats = found[: len(texts)]
        return kept
    fast = load_encoder(replace(encoder.recipe, precision=granted("bfloat16", "cpu")))
    vectors = fast.encode(texts, batch_size=64, show_progress_bar=True)
    np.save(cache, vectors)
    return vectors


def _measured(
    inverter: Inverter, truth: Any, embeddings: Floats, true: Floats, originals: list[str]
) -> dict[str, metrics.Scores]:
    """Of what comes back; cosines by the other encoder, to the vectors without a defence."""
    found = inverter.invert(embeddings, measure_cosine=False)
    recovered = [one.text for one in found]
    ids = [inverter.tokenizer.content(one.ids) for one in found]
    return {
        "bleu": metrics.bleu(recovered, truth.texts),
        "rouge_l": metrics.rouge_l(recovered, truth.texts),
        "token_f1": metrics.token_f1(ids, truth.ids),
        "names": metrics.mean(list(_names(recovered, originals))),
        "exact_match": metrics.exact_match(recovered, truth.texts),
        "cosine": metrics.cosine(inverter.encode(recovered), true),
    }


def _names(recovered: list[str], originals: list[str]) -> Iterator[float]:
    """Of each text that has names or numbers, the share that is among the recovered words."""
    for found, original in zip(recovered, originals, strict=True):
        words = re.findall(r"\w+", original)
        names = {word.lower() for word in words[1:] if word[0].isupper() or word[0].isdigit()} - {"i"}
        if names:
            yield len(names & {word.lower() for word in re.findall(r"\w+", found)}) / len(names)


def _cased(domain: str, cut: list[str]) -> list[str]:
    """The truths as they were written: an uncased tokenizer has taken their capitals away."""
    lower: dict[str, str] = {}
    for text in read_texts(domain):
        lower["".join(re.findall(r"\w", text.lower()))[:60]] = text
    found = []
    for text in cut:
        key = "".join(re.findall(r"\w", text.lower()))
        original = lower.get(key[:60], text)
        seen, end = 0, len(original)
        for place, letter in enumerate(original):
            seen += bool(re.match(r"\w", letter))
            if seen == len(key):
                end = place + 1
                break
        found.append(original[:end])
    return found


def _defence(name: str, dimension: int, deviation: float) -> Any:
    """A change of vectors (n, d) of length 1, to such of length 1."""
    random = np.random.default_rng(0)
    if name == "rotation":
        turn = ortho_group.rvs(dimension, random_state=0).astype(np.float32)
        return lambda x: x @ turn
    if name == "int8":
        return lambda x: normalised(np.round(x * (127 / (4 * deviation))).clip(-127, 127))
    if name.startswith("noise-"):
        strength = float(name.removeprefix("noise-")) * deviation
        return lambda x: normalised(x + random.normal(0, strength, x.shape))
    return lambda x: x


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown."""
    yield "| domain | defence | pairs | words | map | " + " | ".join(METRICS) + " |"
    yield "| --- | --- | ---: | ---: | ---: |" + " ---: |" * len(METRICS)
    for row in rows:
        cells = []
        for name in METRICS:
            low, high = row[f"{name}_interval"]
            digits = 1 if name == "bleu" else 3
            cells.append(f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        yield (
            f"| {row['domain']} | {row['defence']} | {row['pairs']:,} | {row['words']:,} | {row['fit']:.3f} | "
            + " | ".join(cells) + " |"
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
