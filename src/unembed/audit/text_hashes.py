"""Hashes of texts that a store keeps: they prove a recovered text without any encoder call.

An inverter's vocabulary may be lower case, and spacing and the last mark are easily wrong. So a recovered text is tried
in a bounded number of spellings.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator

MOST = 4096  # spellings of one text that are tried
ENDS = ("", ".", "?", "!", "\n", ".\n")
KINDS = {"md5": 32, "sha1": 40, "sha256": 64}  # hex digits of each


def proven(text: str, digest: str) -> str | None:
    """The spelling of a recovered text that has a hash such as `md5:...` or `sha256:...`; None where none has."""
    kind, _, wanted = digest.strip().lower().partition(":")
    if len(wanted) != KINDS.get(kind):
        return None
    for spelling in itertools.islice(spellings(text), MOST):
        if hashlib.new(kind, spelling.encode("utf-8", "replace"), usedforsecurity=False).hexdigest() == wanted:
            return spelling
    return None


def spellings(text: str) -> Iterator[str]:
    """How a text may have been written, likelier ones first: the mark at its end, capitals, spaces about marks."""
    bases = dict.fromkeys([text, tight(text)])
    for cased in itertools.chain.from_iterable(zip(*map(_cased, bases), strict=False)):
        body = cased.rstrip(" .?!\n")
        yield cased
        yield from (body + end for end in ENDS if body + end != cased)


def tight(text: str) -> str:
    """The text without the spaces that a tokenizer puts about apostrophes, hyphens, marks and brackets."""
    text = re.sub(r"\s*(['\u2019\-/])\s*", r"\1", text)
    text = re.sub(r"\s+([,.;:?!%)\]])", r"\1", text)
    return re.sub(r"([(\[$#@])\s+", r"\1", text)


def _cased(text: str) -> Iterator[str]:
    """As it is, as sentences, then with one to three words capitalised, as a title, in capitals."""
    yield text
    sentences = re.sub(r"\bi\b", "I", re.sub(r"(^|[.?!]\s+)(\w)", lambda found: found[1] + found[2].upper(), text))
    yield sentences
    yield text.title()
    yield text.upper()
    starts = [found.start() for found in re.finditer(r"(?<![\w'\u2019])[^\W\d_]", sentences)][:64]
    low = [start for start in starts if sentences[start].islower()]
    for count in (1, 2, 3):
        for places in itertools.combinations(low, count):
            letters = list(sentences)
            for place in places:
                letters[place] = letters[place].upper()
            yield "".join(letters)
