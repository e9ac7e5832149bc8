"""Which texts an inverter is measured on: passages cut to a number of tokens, whole ones, or those of some lengths.

A truth is a string that the encoder can really have seen: the first content tokens of a passage decoded. Its token ids
are that string tokenised again.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.encoders.tokenizer import Tokenizer

NATURAL = "natural"


@dataclass(frozen=True)
class Truths:
    """What is embedded and should come back.

    Attributes:
        texts: the strings to embed.
        ids: content tokens of each string; may pass the model's length, whose excess counts as missed.
        skipped: texts that were read but are too short, or for a range too long.
    """

    texts: list[str]
    ids: list[list[int]]
    skipped: int

    @property
    def sha256(self) -> str:
        """Says whether two measurements used the same texts."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()


def parse_tokens(tokens: str) -> int | str:
    """The `tokens` of `truths` that were written as a word. Raises InputError where it says nothing."""
    if tokens.isdecimal():
        return int(tokens)
    if tokens != NATURAL and _span(tokens) is None:
        raise InputError(f"tokens is {tokens!r}, expected a number, a range of them such as 6-16, or {NATURAL!r}")
    return tokens


def truths(
    texts: Iterable[str],
    tokenizer: "Tokenizer",
    tokens: int | str = 32,
    length: int = 32,
    limit: int | None = None,
) -> Truths:
    """Choose texts and cut them to evaluation length; stop after `limit` of them.

    Args:
        texts: passages, read only as far as needed.
        tokenizer: the encoder's.
        tokens: the number of content tokens that each truth is cut to, shorter passages being skipped; "natural":
            the whole passage, cut to `length` where it is longer; or a range such as "6-16": whole passages of so many
            tokens, all others being skipped.
        length: the model's L.
        limit: how many truths at most.

    Raises:
        InputError: an impossible `tokens` or `limit`, or no text of that length.
    """
    if isinstance(tokens, int):
        least, most, longest = tokens, tokens, float("inf")
    elif tokens == NATURAL:
        least, most, longest = 1, length, float("inf")
    else:
        least, most = _span(tokens) or (0, 0)
        longest = most
    if not 1 <= least <= most <= length:
        raise InputError(
            f"tokens is {tokens!r}, expected {NATURAL!r}, or a number from 1 to {length} or a range of them"
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, expected at least 1")
    found = Truths([], [], 0)
    skipped = 0
    rest = iter(texts)
    while len(found.texts) != limit and (batch := list(itertools.islice(rest, 256))):
        whole = tokenizer.encode_batch(batch)
        cut = [tokenizer.decode(ids[:most]) if least <= len(ids) <= longest else "" for ids in whole]
        for text, ids in zip(cut, tokenizer.encode_batch(cut), strict=True):
            if len(found.texts) == limit:
                break
            if ids:
                found.texts.append(text)
                found.ids.append(ids)
            else:
                skipped += 1
    if not found.texts:
        wanted = f"at least {least}" if longest > most else tokens
        raise InputError(f"no text with {wanted} content tokens among {skipped}, expected at least 1")
    return dataclasses.replace(found, skipped=skipped)


def _span(tokens: str) -> tuple[int, int] | None:
    """The two numbers of "6-16"."""
    found = re.fullmatch(r"([0-9]+)-([0-9]+)", tokens)
    return None if found is None else (int(found[1]), int(found[2]))
