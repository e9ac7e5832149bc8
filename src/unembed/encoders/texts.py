"""Texts, checked before anything is embedded: which values an encoder can read, and what to do about the others."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unembed.encoders.checks import NAMED, named_rows
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import DataError

CHUNK = 1024  # texts that are checked and embedded at once
KEPT = 100_000  # bad rows of which the number and what is wrong are kept


class CheckedTexts(NamedTuple):
    """Values of a batch, and what is wrong with some of them."""

    texts: list[str]  # the good ones
    ids: list[list[int]]  # content tokens of these
    bad: dict[int, str]  # place of a value in the batch -> what is wrong with it


@dataclass
class TextScan:
    """What was found among texts: how many rows, how many of them bad, and the first of those (`KEPT`)."""

    rows: int = 0
    count: int = 0
    bad: dict[int, str] = field(default_factory=dict)

    def add(self, rows: int, bad: Mapping[int, str]) -> None:
        """Count a batch; `bad` by the place in it."""
        for place, why in itertools.islice(bad.items(), max(0, KEPT - len(self.bad))):
            self.bad[self.rows + place] = why
        self.count += len(bad)
        self.rows += rows

    def check(self, source: str, skip_bad: bool) -> None:
        """Raise DataError where there are bad rows that are not to be skipped, or no others."""
        if self.rows == 0:
            raise DataError(f"{source}: is empty, expected texts")
        if self.bad and (not skip_bad or self.count == self.rows):
            named = named_rows(self.bad, self.rows, self.count, "texts that the encoder reads")
            advice = "" if skip_bad else f"; --skip-bad leaves {'them' if self.count > 1 else 'it'} out"
            raise DataError(f"{source}: {named}{advice}")

    def note(self) -> str:
        """What is left out, as a line."""
        rows = ", ".join(map(str, itertools.islice(self.bad, NAMED))) + (", ..." if self.count > NAMED else "")
        return f"{self.count:,} of {self.rows:,} texts are left out: row{'s' * (self.count > 1)} {rows}"


def unsound(value: Any) -> str | None:
    """Why a value is no text; None where it is one, be it empty."""
    if value is None or (isinstance(value, float) and value != value):  # NaN is how pandas says that there is none
        return "holds no value, expected a string"
    if not isinstance(value, str):
        return f"holds {type(value).__name__}, expected a string"
    if not value.isascii() and (half := next((letter for letter in value if "\ud800" <= letter <= "\udfff"), None)):
        return f"holds half of a character (U+{ord(half):04X}), expected whole ones"
    return None


def check_texts(values: Sequence[Any], tokenizer: Tokenizer) -> CheckedTexts:
    """Which of the values are texts of at least one content token."""
    bad = {place: why for place, value in enumerate(values) if (why := unsound(value))}
    good = [place for place in range(len(values)) if place not in bad]
    ids = dict(zip(good, tokenizer.encode_batch([values[place] for place in good]), strict=True))
    for place in good:
        if not ids[place]:
            what = "holds nothing that the encoder reads" if values[place].strip() else "is empty"
            bad[place] = f"{what}, expected words"
    good = [place for place in good if place not in bad]
    return CheckedTexts([values[place] for place in good], [ids[place] for place in good], dict(sorted(bad.items())))


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values, `CHUNK` of them at a time."""
    rest = iter(values)
    while batch := list(itertools.islice(rest, CHUNK)):
        yield batch


def sound_texts(values: Iterable[Any], scan: TextScan, source: str, skip_bad: bool) -> Iterator[str]:
    """The values that are texts, be they empty; `scan` counts them and the others.

    Raises:
        DataError: at the end, as `TextScan.check`, where there are others.
    """
    for value in values:
        why = unsound(value)
        scan.add(1, {} if why is None else {0: why})
        if why is None:
            yield value
    if scan.count:
        scan.check(source, skip_bad)
