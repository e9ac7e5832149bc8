"""Fitting an aligner: from texts with another encoder's vectors to a map into an inverter's space.

The inverter's own encoder embeds the texts, so that each has a vector in both spaces. Both maps are ridge regressions
(`alignment.linear`), of vectors and of bags of tokens. The one into the inverter's space is mended by the nearest pairs
(`alignment.residuals`) where that brings held-out pairs nearer. Where the other encoder can be asked about single words
too, these lift both maps (`alignment.words`). Cross-validation tells how good the first is: every pair is mapped by a
fit that has not seen it.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.alignment import unpaired
from unembed.alignment.aligner import Aligner
from unembed.alignment.identify import identify
from unembed.alignment.linear import Linear, normalised, ridge
from unembed.alignment.residuals import Residuals
from unembed.alignment.words import Added, Words, fit_bag
from unembed.config import Recipe
from unembed.encoders.checks import LENGTH_TOLERANCE
from unembed.encoders.encoder import Encoder
from unembed.errors import DataError, InputError, UnembedError
from unembed.evaluation import metrics
from unembed.inverter import Inverter

FEWEST = 8  # pairs of which a map can be fitted and judged
FOLDS = 5
IDENTIFIED = 500  # vectors that are looked at to name their encoder
MEANS = 2000  # texts without vectors of which the mean is taken
KEPT = 20_000  # pairs by which a map is mended: 46 MB for vectors of 768 and 384 numbers
JUDGED = 100  # held-out pairs whose texts are recovered, to say how much comes back

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Texts with their vectors by another encoder, (n, S) of length 1."""

    texts: list[str]
    vectors: Floats
    normalized: bool  # whether they had length 1
    skipped: int = 0  # rows that were left out: without a text, or without a vector


def read_pairs(rows: Iterable[tuple[str, NDArray[Any] | None]], limit: int, name: str = "pairs") -> Pairs:
    """The first `limit` pairs that can be used.

    Args:
        rows: texts and vectors, such as `corpus.sources.Source.pairs` gives.

    Raises:
        DataError: rows have no vectors or differ in dimension, or fewer than 8 can be used.
    """
    texts: list[str] = []
    vectors: list[NDArray[Any]] = []
    skipped = 0
    for text, vector in islice(rows, 10 * limit):  # a file of nothing but bad rows comes to an end
        if vector is None or not text.strip() or not np.isfinite(vector).all() or not vector.any():
            skipped += 1
            continue
        if vectors and len(vector) != len(vectors[0]):
            raise DataError(f"{name}: vectors have {len(vectors[0])} and {len(vector)} dimensions, expected one number")
        texts.append(text)
        vectors.append(vector)
        if len(texts) == limit:
            break
    if len(texts) < FEWEST:
        raise DataError(f"{name}: {len(texts)} rows have a text and a vector, expected at least {FEWEST}")
    found = np.stack(vectors).astype(np.float32)
    normalized = bool((np.abs(np.linalg.norm(found, axis=1) - 1) <= LENGTH_TOLERANCE).all())
    return Pairs(texts, normalised(found), normalized, skipped)


def asked_pairs(texts: Iterable[str], encoder: Encoder, limit: int, show_progress_bar: bool = False) -> Pairs:
    """Pairs of one's own, by asking an encoder. Raises DataError, EncoderError."""
    chosen = list(islice((text for text in texts if text.strip()), limit))
    if len(chosen) < FEWEST:
        raise DataError(f"{len(chosen)} texts, expected at least {FEWEST}")
    vectors = encoder.encode(chosen, show_progress_bar=show_progress_bar)
    return Pairs(chosen, normalised(vectors), encoder.recipe.normalize)


def asked_words(inverter: Inverter, encoder: Encoder, limit: int, show_progress_bar: bool = False) -> Words:
    """The `limit` most frequent tokens of an inverter, each embedded alone by both encoders. Raises EncoderError.

    How frequent a token is the denoiser has learned. One that continues a word stands without its mark, "ing" for
    "##ing"; those that no text has, such as "[unused7]", are left out.
    """
    tokenizer, special = inverter.tokenizer, set(inverter.tokenizer.special_ids)
    frequent = [i for i in inverter.denoiser.output_bias.argsort(descending=True).tolist() if i not in special]
    words = {i: tokenizer.token(i).removeprefix("##").strip() for i in frequent}
    words = {i: word for i, word in words.items() if word and not (word[0] == "[" and word[-1] == "]")}
    chosen = dict(islice(words.items(), limit))
    vectors, own = (
        one.encode(list(chosen.values()), show_progress_bar=show_progress_bar) for one in (encoder, inverter)
    )
    return Words(np.array(list(chosen)), normalised(vectors), own)


def align(
    inverter: Inverter,
    pairs: Pairs,
    source: Recipe | str,
    *,
    words: Words | None = None,
    more_texts: Sequence[str] = (),
    seed: int = 0,
    show_progress_bar: bool = False,
) -> Aligner:
    """Fit an aligner for an inverter.

    Args:
        source: the other encoder's recipe, or what to call it.
        words: single tokens with their vectors, as `asked_words` makes them.
        more_texts: without vectors, of the kind that is searched for. The mean of their vectors by the inverter's own
            encoder lifts a map of few pairs.

    Returns:
        The aligner. Its `about` says: `pairs`; `words`; `penalty`; `cosine` of mapped vectors to the true ones,
        cross-validated, with its 95 % interval; `nearest`, the share of them whose true vector is the nearest of all
        pairs; of the texts that were recovered their number and `token_f1` with its interval.

    Raises:
        InputError: the recipe gives vectors of another dimension.
        EncoderError: the inverter's encoder fails.
    """
    dimension = pairs.vectors.shape[1]
    recipe = source if isinstance(source, Recipe) else Recipe(source, dimension, normalize=pairs.normalized)
    if recipe.dimension != dimension:
        raise InputError(f"the vectors have {dimension} dimensions, {recipe.encoder} gives {recipe.dimension}")
    targets = inverter.encode(pairs.texts, show_progress_bar=show_progress_bar)
    others = inverter.encode(more_texts[:MEANS], show_progress_bar=show_progress_bar) if more_texts else targets[:0]
    all_D = np.concatenate([targets, others]).mean(0) if len(others) else None
    prior_SD, every = None if words is None else words.prior(), np.arange(len(targets))
    back, added = _bag(inverter, pairs, targets, every, words)

    def fitted(rows: NDArray[np.int64], mean_D: Floats | None, about: dict[str, Any]) -> Aligner:
        vectors, wanted = pairs.vectors[rows], targets[rows]
        forth, penalty = ridge(vectors, wanted, mean_D=mean_D, prior_SD=prior_SD)
        of_pairs = forth.centred(vectors[:KEPT]), wanted[:KEPT] - forth.before_length(vectors[:KEPT])
        residuals = Residuals(*(part.astype(np.float16).astype(np.float32) for part in of_pairs))
        return Aligner(recipe, inverter.recipe, forth, back, about | {"penalty": penalty}, residuals, added)

    linear, mapped = np.empty_like(targets), np.empty_like(targets)
    for rest, held in reversed(list(_folds(len(targets), seed))):  # the first, of which texts are recovered, comes last
        mean_D = np.concatenate([targets[rest], others]).mean(0) if len(others) else None
        fold = fitted(rest, mean_D, {})
        linear[held], mapped[held] = fold.forth(pairs.vectors[held]), fold(pairs.vectors[held])
    if not (mended := metrics.cosine(mapped, targets).value > metrics.cosine(linear, targets).value):
        mapped = linear
    cosines = metrics.cosine(mapped, targets)
    about: dict[str, Any] = {
        "pairs": len(targets),
        "words": 0 if words is None else len(words.tokens),
        "method": "ridge and nearest pairs" if mended else "ridge",
        "cosine": _figure(cosines),
        "nearest": _nearest(mapped, targets),
    }
    told = [row for row in held[:JUDGED].tolist() if inverter.tokenizer.encode(pairs.texts[row])]
    if told:
        unseen, more = _bag(inverter, pairs, targets, rest, words)
        judged = replace(fold, back=unseen, words=more, residuals=fold.residuals if mended else None)
        before = _recovered(
            inverter.aligned(judged), [pairs.texts[row] for row in told], pairs.vectors[told], show_progress_bar
        )
        about |= {"recovered": len(told), "token_f1": _figure(before)}
    found = fitted(every, all_D, about)
    return found if mended else replace(found, residuals=None)


def _bag(
    inverter: Inverter, pairs: Pairs, targets: Floats, rows: NDArray[np.int64], words: Words | None
) -> tuple[Linear, Added | None]:
    """What takes the inverter's bag of tokens into the other space, by some of the pairs."""
    several = inverter.tokenizer.encode_batch([pairs.texts[row] for row in rows])
    told = [(row, ids) for row, ids in zip(rows.tolist(), several, strict=True) if ids]
    kept = [row for row, _ in told]
    if inverter.surrogate is None or len(kept) < 2:
        return ridge(targets[rows], pairs.vectors[rows]).linear, None
    contributions_VD, bias_D = inverter.surrogate.x_VD, inverter.surrogate.fitted.bias.numpy()
    return fit_bag(contributions_VD, bias_D, [ids for _, ids in told], pairs.vectors[kept], targets[kept], words)


def _recovered(inverter: Inverter, texts: list[str], vectors: Floats, show_progress_bar: bool) -> metrics.Scores:
    """Token F1 of what comes back blindly of texts, from the other encoder's vectors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "these vectors are probably not")  # whose they are is known here
        found = inverter.invert(vectors, measure_cosine=False, show_progress_bar=show_progress_bar)
    truths = [ids[: inverter.length] for ids in inverter.tokenizer.encode_batch(texts)]
    return metrics.token_f1([inverter.tokenizer.content(one.ids) for one in found], truths)


def align_unpaired(
    inverter: Inverter, vectors: Floats, texts: Sequence[str], source: Recipe | str, *, seed: int = 0,
    show_progress_bar: bool = False,
) -> Aligner:  # fmt: skip
    """Fit an aligner without pairs: vectors of the other encoder, and other texts of the same kind.

    Args:
        vectors: (n, S).

    Returns:
        The aligner; its `about` holds what `alignment.unpaired` says of itself.

    Raises:
        UnembedError: no map was found, since there are too few vectors or texts, or of different kinds.
        EncoderError: the inverter's encoder fails.
    """
    normalized = bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) <= LENGTH_TOLERANCE).all())
    targets = inverter.encode(texts, show_progress_bar=show_progress_bar)
    linear, fit = unpaired.align_unpaired(normalised(vectors), targets, seed=seed, show_progress_bar=show_progress_bar)
    if not fit.found:
        raise UnembedError(
            f"no map was found between {len(vectors):,} vectors and {len(texts):,} texts (two runs agree on "
            f"{fit.same:.0%}, expected half): more of both are needed, and texts of the same kind"
        )
    recipe = source if isinstance(source, Recipe) else Recipe(source, vectors.shape[1], normalize=normalized)
    back = Linear.of(linear.mean_target, linear.mean_source, linear.weight.T)
    about = {"pairs": 0, "vectors": len(vectors), "texts": len(texts), "method": "unpaired"}
    kept = {name: value if isinstance(value, bool) else round(float(value), 4) for name, value in fit._asdict().items()}
    return Aligner(recipe, inverter.recipe, linear, back, about=about | kept)


def name_of(vectors: Floats) -> tuple[str, str]:
    """What to call the encoder of vectors (n, S) that nobody has named, and a note on why."""
    guesses = identify(vectors[:IDENTIFIED])
    likely = [one for one in guesses if one.likelihood in ("very likely", "likely")]
    if len(likely) == 1:
        return likely[0].name, f"these vectors are probably {likely[0].name}'s ({'; '.join(likely[0].reasons)})"
    names = ", ".join(one.name for one in guesses if one.likelihood == "possible")
    possible = f"possible are {names}" if names else "none that is known fits"
    return "unknown", f"nothing says which encoder made these vectors; {possible}"


def _folds(n: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit and rows held out, `FOLDS` times."""
    order = np.random.default_rng(seed).permutation(n)
    for held in np.array_split(order, FOLDS):
        yield np.setdiff1d(order, held), held


def _nearest(mapped: Floats, targets: Floats, block: int = 1024) -> float:
    hits = 0
    for start in range(0, len(mapped), block):
        hits += int(
            (
                (mapped[start : start + block] @ targets.T).argmax(1)
                == np.arange(start, min(start + block, len(mapped)))
            ).sum()
        )
    return round(hits / len(mapped), 4)


def _figure(scores: metrics.Scores) -> dict[str, Any]:
    low, high = scores.interval()
    return {"value": round(scores.value, 4), "interval": [round(low, 4), round(high, 4)]}
