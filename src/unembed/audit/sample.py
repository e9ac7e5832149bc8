"""A uniform sample of a collection's rows, in one pass over it and in bounded memory.

Each row gets a random number, and the rows with the smallest are kept: the sample. Those with the largest are kept too,
rows with a text first: an aligner is fitted on them, and searched among. None of them is in the sample. The numbers
depend on the seed and on the row's place alone, so that the same call draws the same rows again.

A row that is no vector (NaN, infinite or all zeros) is read and not drawn.
"""

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError, printable
from unembed.stores.store import Rows

LEAST = 20  # rows of a collection, however small its share: fewer say nothing with an interval
OTHERS = 2000  # rows that are kept beside the sample
LONGEST = 8192  # characters of a text that are kept: an encoder reads fewer
LONGEST_ID = 1000  # characters of an id


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a collection.

    Attributes:
        rows: in random order, so that the first few are a uniform sample too. Metadata is left out.
        others: further rows, those with a text first, none of them in `rows`.
        read: rows that were read, of which `rows` are a sample.
        complete: whether that was all; else the time was over first.
    """

    rows: Rows
    others: Rows
    read: int
    complete: bool

    @property
    def pairs(self) -> Rows:
        """Those of `others` that have a text."""
        return chosen(self.others, [row for row, text in enumerate(self.others.texts) if text and text.strip()])

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Of all rows, the sample's first."""
        return np.concatenate([self.rows.vectors, self.others.vectors]) if len(self.others) else self.rows.vectors

    def with_pairs(self, least: int) -> "Sample":
        """The same with half of the sampled rows as pairs, where there are fewer than `least` pairs and that helps."""
        told, pairs = [row for row, text in enumerate(self.rows.texts) if text and text.strip()], len(self.pairs)
        if pairs >= least or pairs + len(told) // 2 < least:
            return self
        moved = told[len(told) // 2 :]
        kept = sorted({*range(len(self.rows))} - {*moved})
        return replace(self, rows=chosen(self.rows, kept), others=joined([self.others, chosen(self.rows, moved)]))


def allocate(sizes: Sequence[int | None], total: int, least: int = LEAST) -> list[int]:
    """How many rows to draw from each collection: in proportion to its size, `least` or all that it has at the least.

    A size that is not known counts as the mean of those that are.
    """
    known = [size for size in sizes if size is not None]
    mean = sum(known) / len(known) if known else 1.0
    weights = [mean if size is None else size for size in sizes]
    whole = sum(weights) or 1.0
    shares = [max(least, round(total * weight / whole)) for weight in weights]
    return [share if size is None else min(share, size) for share, size in zip(shares, sizes, strict=True)]


def draw(
    batches: Iterable[Rows],
    size: int,
    others: int = OTHERS,
    *,
    seed: int = 0,
    name: str = "",
    until: float | None = None,
    look: Callable[[Rows], Any] = len,
) -> Sample:
    """Draw from rows that are read once.

    Args:
        batches: a collection's rows, as `Store.rows` gives them.
        size: rows of the sample; all where there are fewer.
        others: rows at most that are kept besides.
        name: of the collection, which decides the random numbers too.
        until: `time.monotonic()` at which reading ends, after a batch.
        look: is shown every batch.

    Raises:
        DataError: rows differ in dimension; also as the store raises it.
        UnembedError: as the store raises it.
    """
    generator = np.random.default_rng((seed, zlib.crc32(name.encode("utf-8", "replace"))))
    sample, besides = _Smallest(size), _Smallest(others)
    read, complete = 0, True
    dimension = None
    for rows in batches:
        if dimension not in (None, rows.vectors.shape[1]):
            raise DataError(f"{printable(name)}: rows have {dimension} and {rows.vectors.shape[1]} dimensions")
        dimension = rows.vectors.shape[1]
        look(rows)
        keys = generator.random(len(rows))
        usable = np.isfinite(rows.vectors).all(1) & rows.vectors.any(1)
        silent = np.array([not (text and text.strip()) for text in rows.texts], bool)
        sample.take(np.flatnonzero(usable), keys, read, rows)
        besides.take(np.flatnonzero(usable), 1 - keys + silent, read, rows)
        read += len(rows)
        if until is not None and time.monotonic() >= until:
            complete = False
            break
    sample.prune()
    besides.prune()
    drawn = set(sample.places)
    disjoint = [row for row, place in enumerate(besides.places) if place not in drawn]
    return Sample(sample.rows, chosen(besides.rows, disjoint), read, complete)


class _Smallest:
    """The `size` rows with the smallest keys."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.limit = np.inf  # a row with a larger key is not among them
        self.keys: list[float] = []
        self.places: list[int] = []
        self.parts: list[Rows] = []  # the rows in the order in which they came, in pieces

    def take(self, candidates: NDArray[np.intp], keys: NDArray[np.float64], first: int, rows: Rows) -> None:
        """Look at some rows of a batch that begins at row `first`."""
        kept = candidates[keys[candidates] < self.limit]
        if not len(kept) or not self.size:
            return
        self.keys += keys[kept].tolist()
        self.places += (first + kept).tolist()
        self.parts.append(chosen(rows, kept.tolist()))
        if len(self.keys) > 2 * self.size + len(rows):
            self.prune()

    def prune(self) -> None:
        """Keep the smallest alone, in the order of their keys."""
        if not self.parts:
            return
        order = np.argsort(self.keys, kind="stable")[: self.size].tolist()
        self.keys, self.places = ([values[i] for i in order] for values in (self.keys, self.places))
        self.parts = [chosen(joined(self.parts), order)]
        if len(order) == self.size:
            self.limit = self.keys[-1]

    @property
    def rows(self) -> Rows:
        return self.parts[0] if self.parts else Rows([], np.empty((0, 0), np.float32), [], [])


def chosen(rows: Rows, places: Sequence[int]) -> Rows:
    """Some rows, without their metadata; texts and ids are cut, and what UTF-8 cannot write in them is "?"."""
    texts = [_sound(rows.texts[i], LONGEST) for i in places]
    hashes = None if rows.hashes is None else [rows.hashes[i] for i in places]
    ids = [_sound(rows.ids[i], LONGEST_ID) or "" for i in places]
    return Rows(ids, rows.vectors[places], texts, [{} for _ in places], hashes)


def _sound(text: str | None, longest: int) -> str | None:
    return None if text is None else text[:longest].encode("utf-8", "replace").decode()


def joined(several: Sequence[Rows]) -> Rows:
    """Rows one after the other."""
    several = [rows for rows in several if len(rows)] or list(several[:1])
    hashes = [one for rows in several for one in (rows.hashes or [None] * len(rows))]
    return Rows(
        [one for rows in several for one in rows.ids],
        np.concatenate([rows.vectors for rows in several]),
        [one for rows in several for one in rows.texts],
        [one for rows in several for one in rows.metadata],
        hashes if any(hashes) else None,
    )
