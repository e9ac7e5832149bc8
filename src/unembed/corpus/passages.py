"""What a passage is: how documents are cut into them, when two are the same, and which split one belongs to.

Two passages are the same if their letters and digits are, in lower case; a 64-bit BLAKE2b hash stands
for that. The split depends on the hash alone, so a text lands on the same side in every run with
the same `held_out`, whatever the sources, their order or the seed. Two hashes collide, and a
passage is dropped wrongly, with a probability under 1 % in 400 M passages.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONGEST_PASSAGE = 2000  # characters; about 512 tokens of English
SENTENCE_END = re.compile(r"""[.!?]["')\]]*\s+|\n+""")
RECENT = 1 << 17  # hashes kept in a Python set before they are sorted
LARGEST_IN_MEMORY = 1 << 22  # hashes in a sorted run that stays in memory; longer ones are mapped from disk

Hashes = NDArray[np.uint64]


def normalised(text: str) -> str:
    """What makes two texts the same: letters and digits, lower case; the text itself where it has neither."""
    return re.sub(r"[\W_]+", "", text.lower()) or " ".join(text.split())


def passage_hash(text: str) -> int:
    """64-bit BLAKE2b of the normalised text."""
    return int.from_bytes(hashlib.blake2b(normalised(text).encode(errors="replace"), digest_size=8).digest(), "little")


def split_of(hashes: Hashes, held_out: float) -> NDArray[np.int64]:
    """Index into SPLITS per hash: the lowest hashes are held out, half for validation, half for test."""
    place = hashes / 2.0**64
    return np.where(place >= held_out, 0, np.where(place < held_out / 2, 1, 2))


def cut_passages(text: str) -> Iterator[str]:
    """Cut a document into passages of at most `LONGEST_PASSAGE` characters, between sentences where there are any."""
    start, end = 0, len(text)
    while end - start > LONGEST_PASSAGE:
        window = text[start : start + LONGEST_PASSAGE]
        cut = max((match.end() for match in SENTENCE_END.finditer(window)), default=window.rfind(" ") + 1)
        start += cut or LONGEST_PASSAGE
        if passage := (window[:cut] if cut else window).strip():
            yield passage
    if passage := text[start:].strip():
        yield passage


class Seen:
    """The hashes met so far: the newest in a set, older ones in sorted runs, long runs on disk.

    Runs are merged when they are of like size, so there are few of them and each hash is sorted
    only O(log n) times; a look-up is a binary search per run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recent: set[int] = set()
        self.runs: list[Hashes] = []
        self.files = 0

    def add(self, hashes: Hashes, where: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Add hashes; returns which of them were new (and, given `where`, asked for)."""
        new = np.ones(len(hashes), dtype=bool) if where is None else where.copy()
        for run in self.runs:
            places = np.searchsorted(run, hashes)
            new &= run[np.minimum(places, len(run) - 1)] != hashes
        for index in np.flatnonzero(new):
            value = int(hashes[index])
            if value in self.recent:
                new[index] = False
            else:
                self.recent.add(value)
        if len(self.recent) >= RECENT:
            self._sort()
        return new

    def _sort(self) -> None:
        run = np.sort(np.fromiter(self.recent, dtype=np.uint64, count=len(self.recent)))
        self.recent.clear()
        while self.runs and len(self.runs[-1]) <= 2 * len(run) and len(run) < LARGEST_IN_MEMORY:
            run = np.sort(np.concatenate([self.runs.pop(), run]))
        if len(run) >= LARGEST_IN_MEMORY:
            path = self.folder / f"sorted-{self.files}.tmp"
            run.tofile(path)
            run = np.asarray(np.memmap(path, dtype=np.uint64, mode="r"))
            self.files += 1
        self.runs.append(run)

    def close(self) -> None:
        """Drop the runs on disk, those that a killed run left included."""
        self.runs.clear()
        for path in self.folder.glob("sorted-*.tmp"):
            path.unlink()
