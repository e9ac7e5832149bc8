"""Which encoder made these vectors? From the vectors, and from what a store says.

**Dimension and lengths.** They leave out most encoders, and tell none from another of its size.

**Coordinates.** An encoder's coordinates differ in their mean square whatever the texts are: all-MiniLM-L6-v2 has two
of 384 that are nearly zero. The logarithms of the mean squares, less their median, correlate with those stored for the
encoder by about

    r = R s / sqrt(s^2 + 2/n)       s: their standard deviation, n: number of vectors, R: 0.85 for texts of another kind

and by 0 +- 1/sqrt(d) with those of an unrelated or a rotated one. A constant direction does less: where it is as small
as all-MiniLM-L6-v2's (0.15) the mean of a sample is the topic of its texts (cosine 0.28 from one topic to another).

**Mean cosine** of two vectors, the square of the constant direction's length: at least 0.7 for encoders trained at the
temperature of E5.

The table is known_encoders.json. Only what an encoder's publisher states stands in it, and coordinates measured here.
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictBool, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unembed.alignment.linear import normalised
from unembed.config import STRICT
from unembed.errors import DataError, EmbeddingError, printable

TABLE = Path(__file__).with_name("known_encoders.json")
_LARGEST_TABLE = 16 << 20  # bytes
_ROWS = 10_000  # most vectors that are looked at
_OTHER_TEXTS = 0.85  # R above
_WORDS = ((5.0, "very likely"), (0.5, "likely"), (-2.0, "possible"))  # from so many points

_WORD = r"[\s\"',;=/|(){}\[\]]+|--"  # between words: a/b, {"model": "b"}, models--a--b
_PART = rf"{_WORD}|:"  # openai:b, b:latest

_Dimension = Annotated[StrictInt, Field(gt=0, le=1 << 20)]


@dataclass(frozen=True, config=STRICT)
class KnownEncoder:
    """What is known of an encoder's vectors; None is not known.

    Attributes:
        name: as its publisher spells it.
        dimension: by default.
        others: dimensions to which its vectors may be shortened or that can be asked for.
        aliases: other names that stores use.
        normalised: whether vectors of the default dimension have length 1.
        max_tokens: of a text; the rest is cut off.
        least_cosine: what the mean cosine of two of its vectors is at least.
        coordinates: log mean square of each coordinate of vectors of length 1, less the median, between -2 and 2.
        source: where this is stated.
    """

    name: StrictStr
    dimension: _Dimension
    others: tuple[_Dimension, ...] = ()
    aliases: tuple[StrictStr, ...] = ()
    normalised: StrictBool | None = None
    max_tokens: StrictInt | None = None
    least_cosine: float | None = None
    coordinates: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    source: StrictStr = ""


class Guess(NamedTuple):
    """An encoder that may have made the vectors.

    Attributes:
        name: of the encoder.
        likelihood: "very likely", "likely", "possible" or "unlikely". Nothing tells those that are possible
            with one score apart.
        score: points that order the list; the words are ranges of it.
        reasons: what speaks for it and against it, a line each.
    """

    name: str
    likelihood: str
    score: float
    reasons: list[str]


class _Sample(NamedTuple):
    """What the vectors say."""

    n: int
    dimension: int
    unit: bool | None  # None: whole numbers, whose lengths say nothing
    lengths: tuple[float, float]
    cosine: float | None  # mean of two vectors'
    coordinates: NDArray[np.float64]


def identify(vectors: NDArray[Any], said: str | None = None, table: str | Path | None = None) -> list[Guess]:
    """The known encoders that may have made the vectors, best first; empty where none fits.

    Args:
        vectors: (n, d), as they lie in the store. Five tell a known encoder whose coordinates are stored; ten tell
            other pooling from its own.
        said: what the store calls its encoder, in any spelling.
        table: a file like known_encoders.json, whose encoders are added; one of a name that is there replaces it.

    Raises:
        EmbeddingError: not an array (n, d) of numbers, or no row is finite and other than zero.
        DataError: the table cannot be read as one.
    """
    sample = _look(vectors)
    known = _known(Path(table)) if table is not None else _packaged()
    named = _named(said, known.values()) if said else None
    guesses = [_guess(encoder, sample, encoder is named) for encoder in known.values()]
    kept = [one for one in guesses if one is not None]
    certain = {one.name for one, fits in kept if fits}
    found = []
    for guess, fits in kept:
        if certain and not fits:
            against = f"the coordinates fit {', '.join(sorted(certain))}"
            guess = guess._replace(score=guess.score - 3, reasons=[*guess.reasons, against])
        word = next((word for least, word in _WORDS if guess.score >= least), "unlikely")
        found.append(guess._replace(likelihood=word))
    return sorted(found, key=lambda guess: -guess.score)


def coordinate_scales(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """What `KnownEncoder.coordinates` holds, of vectors (n, d): (d,)."""
    found = np.log((normalised(vectors.astype(np.float64)).astype(np.float64) ** 2).mean(0).clip(min=1e-12))
    scales: NDArray[np.float64] = (found - np.median(found)).clip(-2, 2)
    return scales


def _look(vectors: NDArray[Any]) -> _Sample:
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiub":
        raise EmbeddingError(f"array of {vectors.dtype} and shape {vectors.shape}, expected numbers of shape (n, d)")
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _ROWS)).astype(int))
    x_ND = vectors[rows].astype(np.float64)
    lengths_N = np.hypot.reduce(x_ND, axis=1)  # neither overflows nor underflows
    x_ND = x_ND[kept := np.isfinite(lengths_N) & (lengths_N > 0)] / lengths_N[kept][:, None]
    if not len(x_ND):
        raise EmbeddingError(f"none of {len(vectors)} vectors is finite and other than zero, expected embeddings")
    least, most = float(lengths_N[kept].min()), float(lengths_N[kept].max())
    unit = None if vectors.dtype.kind in "iub" else least >= 0.99 and most <= 1.01
    n = len(x_ND)
    cosine = float((np.linalg.norm(x_ND.sum(0)) ** 2 - n) / (n * (n - 1))) if n >= 10 else None
    return _Sample(n, x_ND.shape[1], unit, (least, most), cosine, coordinate_scales(x_ND))


def _guess(encoder: KnownEncoder, sample: _Sample, named: bool) -> tuple[Guess, bool] | None:
    """With whether its coordinates are known and fit; None where nothing speaks for it."""
    d, score, reasons = sample.dimension, 0.0, []
    if named:
        score += 6
        reasons.append("the store names it")
    whole = d == encoder.dimension
    if whole:
        reasons.append(f"{d} dimensions")
    elif d in encoder.others:
        score -= 1
        reasons.append(f"{d} dimensions, one of its sizes besides {encoder.dimension}")
    elif named:
        score -= 9
        reasons.append(f"it has {encoder.dimension} dimensions, these vectors {d}")
    else:
        return None
    if whole and encoder.normalised and sample.unit is False:
        score -= 3
        reasons.append(f"lengths are {sample.lengths[0]:.3g} to {sample.lengths[1]:.3g}, it makes length 1")
    elif whole and encoder.normalised is False and sample.unit:
        reasons.append("lengths are 1, which it does not make and many stores do")
    if encoder.least_cosine is not None and sample.cosine is not None:
        fits = sample.cosine >= encoder.least_cosine - 0.05
        score += 1 if fits else -3
        said = "as of it" if fits else f"of it at least {encoder.least_cosine:.2f}"
        reasons.append(f"the mean cosine of two vectors is {sample.cosine:.2f}, {said}")
    points, reason = _compare(encoder, sample)
    reasons += [reason] if reason else []
    return Guess(encoder.name, "", score + points, reasons), points > 0


def _compare(encoder: KnownEncoder, sample: _Sample) -> tuple[float, str]:
    """Points for the coordinates, and why."""
    stored = np.asarray(encoder.coordinates if encoder.coordinates is not None else [], float)
    if len(stored) != sample.dimension or stored.std() < 1e-6 or sample.coordinates.std() < 1e-6:
        return 0, ""
    r = float(np.corrcoef(stored, sample.coordinates)[0, 1])
    expected = _OTHER_TEXTS * float(stored.std() / np.sqrt(stored.var() + 2 / sample.n))
    chance = 3 / np.sqrt(sample.dimension)
    said = f"the coordinates' mean squares correlate by {r:.2f} with its own (expected {expected:.2f}"
    if expected < 1.5 * chance:
        return 0, f"{sample.n} vectors are too few to compare the coordinates' mean squares"
    if r >= max(chance, 0.6 * expected):
        return 6, f"{said}, by chance 0)"
    if r >= chance:
        return -4, f"{said}): as of the same network with other pooling, prompts or weights"
    return -6, f"{said})"


def _named(said: str, known: Iterable[KnownEncoder]) -> KnownEncoder | None:
    """The encoder of which a name stands in what was said, the longest one where several do."""
    said = said[:500]
    words = {_spelled(word) for pattern in (_WORD, _PART) for word in (said, *re.split(pattern, said))}
    found: list[tuple[int, KnownEncoder]] = []
    for encoder in known:
        names = {
            _spelled(part) for name in (encoder.name, *encoder.aliases) for part in (name, name.rpartition("/")[2])
        }
        found += [(len(name), encoder) for name in names if name in words]
    return max(found, key=lambda one: one[0])[1] if found else None


def _spelled(name: str) -> str:
    """Lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _read(path: Path) -> dict[str, KnownEncoder]:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_TABLE + 1)
        if len(text) > _LARGEST_TABLE:
            raise DataError(f"{path}: more than {_LARGEST_TABLE >> 20} MiB, expected a table of encoders")
        return {one.name: one for one in TypeAdapter(list[KnownEncoder]).validate_json(text)}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = printable(".".join(str(part) for part in first["loc"]))[:100] or "the file"
        raise DataError(
            f"{path}: {where}: {printable(first['msg'])[:200]}; expected a list as known_encoders.json"
        ) from error


def _known(table: Path) -> dict[str, KnownEncoder]:
    return _packaged() | _read(table)


@functools.cache
def _packaged() -> dict[str, KnownEncoder]:
    return _read(TABLE)
