"""An honest measurement of an inverter: real texts, all masks at the start, length not given, chance beside it.

The metrics are those of `metrics`, the texts those of `truths`; this module decides what they compare. What is unusual
here:

- Encoder calls are the inversion's own. Embedding the truths and measuring the cosine of what came back cost none.
- Two baselines tell what a score is worth: `random_vector`, what the inverter says when the vector means nothing, and
  `shuffled_pairs`, how alike any two of these texts are. What a vector leaks is what lies above them.
- `cloze_accuracy_10` is there to compare with published figures that were measured with 90 % of the tokens visible.
"""

import copy
import dataclasses
import hashlib
import itertools
import os
import platform
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from unembed import __version__
from unembed.corpus.held_out import Truths, truths
from unembed.decoding.options import Decoding
from unembed.decoding.predictor import stream
from unembed.encoders.texts import TextScan, sound_texts
from unembed.errors import InputError
from unembed.evaluation import metrics
from unembed.evaluation.metrics import Scores
from unembed.search.options import Options, Search, options_of, plan
from unembed.storage.fingerprint import fingerprint

if TYPE_CHECKING:
    from unembed.decoding.inversion import Inversion
    from unembed.inverter import Inverter

CLOZE_SHARE = 0.1
LISTED = 100  # rows left out that a report names
RANDOM_VECTORS = 100  # a level of chance needs no more, and each costs a whole inversion
GUIDED_RANDOM_VECTORS = 2  # no text has them, so that each costs all that a search may spend
BASELINE_METRICS = ("token_accuracy", "token_f1", "bleu", "cosine")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Report:
    """One inverter measured with one strategy on one set of texts. Every field is JSON-ready.

    Attributes:
        n, skipped: texts measured, and texts passed over because they were of another length.
        bad, bad_rows: rows left out because they are no texts, and number -> what is wrong of the first hundred.
        tokens: 32 (or another number of content tokens per text), "natural", or a range such as "6-16".
        token_accuracy, exact_match, token_f1, rouge_l, cosine, cloze_accuracy_10: rates, 0..1.
        bleu: corpus BLEU, 0..100.
        intervals: metric name -> [low, high], 95 % bootstrap over texts.
        token_accuracy_by_length: tokens of the truth ("5-8") -> its n, token_accuracy and intervals.
        passes, encoder_calls: mean per text.
        seconds, seconds_per_text: wall time of the inversion alone, embedding and measuring left out.
        strategy, steps, options: how masks became tokens, and what a guided inversion might spend.
        seed: of the inversion, the cloze masks, the random vectors and the bootstrap.
        baselines: `random_vector` (None where left out) and `shuffled_pairs` (None for a single text): n, metrics and
            intervals of each.
        truths_sha256: which texts.
        model: encoder id, SHA-256 of the weights and of the surrogate, parameters (token table included), max_tokens.
        machine: cpu, cores, threads, device, and the versions of torch and unembed.
        calls_per_second: texts that the encoder embedded in a second of `seconds`; None where blind.
        seconds_to_exact: median time of the searches that ended at the very text; None where none did, or blind.
    """

    n: int
    skipped: int
    tokens: int | str
    token_accuracy: float
    exact_match: float
    token_f1: float
    bleu: float
    rouge_l: float
    cosine: float
    cloze_accuracy_10: float
    intervals: dict[str, list[float]]
    token_accuracy_by_length: dict[str, dict[str, Any]]
    passes: float
    encoder_calls: float
    seconds: float
    seconds_per_text: float
    strategy: str
    steps: int
    options: dict[str, Any]
    seed: int
    baselines: dict[str, dict[str, Any] | None]
    truths_sha256: str
    model: dict[str, Any]
    machine: dict[str, Any]
    calls_per_second: float | None = None
    seconds_to_exact: float | None = None
    bad: int = 0
    bad_rows: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `json.dumps` takes them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**tree)


def evaluate(
    inverter: "Inverter",
    texts: Iterable[str | None],
    decoding: Decoding | None = None,
    search: Search | None = None,
    *,
    tokens: int | str = 32,
    limit: int | None = None,
    skip_bad: bool = False,
    source: str = "texts",
    batch_size: int = 64,
    random_vectors: int | None = None,
    show_progress_bar: bool = False,
    **options: Unpack[Options],
) -> Report:
    """Embed texts, invert the embeddings, and compare.

    Args:
        inverter: what is measured; its own encoder embeds the texts.
        texts: passages, best such that the inverter was not trained on.
        tokens, limit: see `truths`.
        skip_bad: leave out what is no text: None, something else than a string, half characters. An empty text is
            passed over as one that is too short, in any case.
        source: what messages call the texts, such as a file's name.
        decoding, search, batch_size, show_progress_bar, options: as in `Inverter.invert`; the seed also draws cloze
            masks, random vectors and resamples.
        random_vectors: how many, for the baseline of that name; 0 leaves it out. By default 100, or where inversion is
            guided 2, since each of their searches spends all that it may.

    Raises:
        InputError: a negative seed; also as `truths` and `Inverter.invert` do.
        DataError: some of the texts that were read are none: how many, and the first five by number, from 0.
    """
    decoding, search = plan(decoding, search, **options)
    if (seed := decoding.seed) < 0:
        raise InputError(f"seed is {seed}, expected 0 or more")
    if random_vectors is None:
        random_vectors = RANDOM_VECTORS if search is None else GUIDED_RANDOM_VECTORS
    length = inverter.config.model.max_tokens
    scan = TextScan()
    sound = sound_texts([texts] if isinstance(texts, str) else texts, scan, source, skip_bad)
    truth = truths(sound, inverter.tokenizer, tokens, length, limit)
    if scan.count:  # of those that were read, where the limit came first
        scan.check(source, skip_bad)
    n = len(truth.texts)
    embeddings = inverter.encode(truth.texts)

    def invert(vectors: Floats, by: "Inverter" = inverter) -> "list[Inversion]":
        return by.invert(vectors, decoding, search, batch_size=batch_size, show_progress_bar=show_progress_bar)

    start = time.perf_counter()
    inversions = invert(embeddings)
    took = time.perf_counter() - start
    exact = [one.seconds for one in inversions if one.seconds is not None and one.exact]
    found = read_back(inverter, inversions)

    scores = compare(found, (truth.texts, truth.ids, embeddings))
    scores["cloze_accuracy_10"] = cloze_accuracy(inverter, truth, embeddings, decoding, batch_size=batch_size)

    baselines: dict[str, dict[str, Any] | None] = {"random_vector": None, "shuffled_pairs": None}
    if random_vectors:
        random = _random_vectors(embeddings[:random_vectors], seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "these vectors are probably not")  # they are nobody's
            inverted = invert(random, copy.copy(inverter))  # which is not to doubt others less for it
        chance = compare(
            read_back(inverter, inverted),
            (truth.texts[: len(random)], truth.ids[: len(random)], embeddings[: len(random)]),
        )
        baselines["random_vector"] = _summary(chance, BASELINE_METRICS, seed)
    if n > 1:
        # Half a list away, not the next one: neighbours in a file are often of one document.
        others = np.roll(np.arange(n), n // 2)
        shuffled = compare(
            found, ([truth.texts[i] for i in others], [truth.ids[i] for i in others], embeddings[others])
        )
        baselines["shuffled_pairs"] = _summary(shuffled, BASELINE_METRICS, seed)

    lengths = metrics.by_length(scores["token_accuracy"], [len(ids) for ids in truth.ids])
    return Report(
        n=n,
        skipped=truth.skipped,
        tokens=tokens,
        **{name: score.value for name, score in scores.items()},
        intervals={name: list(score.interval(seed=seed)) for name, score in scores.items()},
        token_accuracy_by_length={
            label: _summary({"token_accuracy": part}, ("token_accuracy",), seed) for label, part in lengths.items()
        },
        passes=float(np.mean([inversion.passes for inversion in inversions])),
        encoder_calls=float(np.mean([inversion.encoder_calls for inversion in inversions])),
        seconds=took,
        seconds_per_text=took / n,
        strategy=decoding.strategy,
        steps=decoding.steps,
        options=reported(decoding, search) | {"batch_size": batch_size},
        seed=seed,
        baselines=baselines,
        truths_sha256=truth.sha256,
        model=describe_model(inverter),
        machine=describe_machine(inverter),
        calls_per_second=sum(one.encoder_calls for one in inversions) / took if search is not None else None,
        seconds_to_exact=float(np.median(exact)) if exact else None,
        bad=scan.count,
        bad_rows={str(row): why for row, why in itertools.islice(scan.bad.items(), LISTED)},
    )


def reported(decoding: Decoding, search: Search | None) -> dict[str, Any]:
    """The options of a report that have no field of their own there."""
    own = ("strategy", "steps", "seed")
    found = {name: value for name, value in options_of(decoding, search).items() if name not in own}
    return found | {"temperature": decoding.sampling}


def compare(
    recovered: tuple[Sequence[str], Sequence[Sequence[int]], Floats],
    truth: tuple[Sequence[str], Sequence[Sequence[int]], Floats],
) -> dict[str, Scores]:
    """Every metric of n recovered texts against n truths, each given as texts, content ids and embeddings (n, d)."""
    (texts, ids, embeddings), (true_texts, true_ids, true_embeddings) = recovered, truth
    return {
        "token_accuracy": metrics.token_accuracy(ids, true_ids),
        "exact_match": metrics.exact_match(texts, true_texts),
        "token_f1": metrics.token_f1(ids, true_ids),
        "bleu": metrics.bleu(texts, true_texts),
        "rouge_l": metrics.rouge_l(texts, true_texts),
        "cosine": metrics.cosine(embeddings, true_embeddings),
    }


@torch.inference_mode()
def cloze_accuracy(
    inverter: "Inverter",
    truth: Truths,
    embeddings: Floats,
    decoding: Decoding,
    *,
    share: float = CLOZE_SHARE,
    batch_size: int = 64,
) -> Scores:
    """Share of masked positions that one pass restores, by argmax, when only `share` of each truth is masked.

    Of each text's content positions a fixed number is masked, `share` of them rounded and at least one; EOS and PAD
    stay visible and are never asked for, since in a text shorter than the canvas they would be given away.

    Args:
        embeddings: (n, d) float32, of the truths.
        decoding: its steering and its seed count.
    """
    length = inverter.config.model.max_tokens
    once = Decoding(1, steering=decoding.steering, tuning=decoding.tuning)
    device = next(inverter.denoiser.parameters()).device
    generator = np.random.default_rng((decoding.seed, 1))
    predicted: list[list[int]] = []
    masked: list[list[int]] = []
    for start in range(0, len(truth.ids), batch_size):
        batch = truth.ids[start : start + batch_size]
        canvas_BL = torch.tensor([inverter.tokenizer.canvas(ids, length) for ids in batch])
        holes_BL = torch.zeros_like(canvas_BL, dtype=torch.bool)
        for row, ids in enumerate(batch):
            content = min(len(ids), length)
            count = max(1, round(share * content))
            holes_BL[row, torch.from_numpy(generator.choice(content, count, replace=False))] = True
        e_BD = torch.from_numpy(embeddings[start : start + batch_size]).to(device)
        start_BL = canvas_BL.masked_fill(holes_BL, inverter.tokenizer.mask_id).to(device)
        modulation, steered_by = inverter.condition(e_BD), inverter.steering(e_BD)
        *_, last = stream(inverter.denoiser, modulation, once, None, start_BL, steered_by)
        best_BL = last.ids.cpu()
        predicted += [best[holes].tolist() for best, holes in zip(best_BL, holes_BL, strict=True)]
        masked += [ids[holes].tolist() for ids, holes in zip(canvas_BL, holes_BL, strict=True)]
    return metrics.restored(predicted, masked)


def describe_model(inverter: "Inverter") -> dict[str, Any]:
    """Which inverter was measured."""
    return {
        "encoder": inverter.recipe.encoder,
        "sha256": fingerprint(inverter.denoiser),
        "surrogate": fingerprint(inverter.surrogate) if inverter.surrogate else None,
        "parameters": sum(p.numel() for p in inverter.denoiser.parameters()),
        "max_tokens": inverter.config.model.max_tokens,
        "precision": str(getattr(inverter.denoiser, "precision", torch.float32)).removeprefix("torch."),
    }


def describe_machine(inverter: "Inverter") -> dict[str, Any]:
    """What the seconds were measured on."""
    device = next(inverter.denoiser.parameters()).device
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),
        "unembed": __version__,
        "code": _code(),
    }


@cache
def _code() -> str:
    """Digits of a hash of this package's source, so that figures of other code are not taken for its own."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def read_back(inverter: "Inverter", inversions: "Sequence[Inversion]") -> tuple[list[str], list[list[int]], Floats]:
    """Texts, content ids and embeddings of what came back."""
    texts = [inversion.text for inversion in inversions]
    return texts, [inverter.tokenizer.content(inversion.ids) for inversion in inversions], inverter.encode(texts)


def _random_vectors(embeddings: Floats, seed: int) -> Floats:
    """Directions uniform on the sphere, as long as embeddings are."""
    noise = np.random.default_rng((seed, 2)).standard_normal(embeddings.shape)
    size = np.linalg.norm(embeddings, axis=1).mean()
    noise *= size / np.linalg.norm(noise, axis=1, keepdims=True)
    return noise.astype(np.float32)


def _summary(scores: Mapping[str, Scores], names: Sequence[str], seed: int) -> dict[str, Any]:
    return {
        "n": len(scores[names[0]].rows),
        **{name: scores[name].value for name in names},
        "intervals": {name: list(scores[name].interval(seed=seed)) for name in names},
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
