"""Tokenizers of strangers: what a checkpoint's `tokenizer.json` may not do.

Its parts change a text one after the other, so that a few of them can lengthen each character without end: forty
replacements of "a" by "aa" make a trillion letters of one. An id far beyond the number of tokens asks for a table of
as many rows.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from unembed.errors import CheckpointError

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
STEPS = ("normalizers", "pretokenizers", "processors", "decoders")  # of a sequence, by what it is a sequence of
# Times that a part may lengthen a text. SentencePiece's own, NFKD and a table of replacements, are at about 200.
MOST = 4096
HOLES = 1024  # ids without a token, beside as many as there are tokens: Qwen3's vocabulary has some hundreds
KNOWN = {"ByteLevel": 2, "BertNormalizer": 3, "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18}  # characters from one


def check_hostile(tree: Mapping[str, Any], backend: Backend, ids: Sequence[Any], prompt: Any) -> None:
    """Refuse a vocabulary that grows texts, has ids without end, or special ids that are none. Raises CheckpointError.

    Args:
        tree: the vocabulary's JSON.
        ids: of what ends a text, of the mask and of padding; None stands for one that is not given.
    """
    for part in PARTS:
        if (times := growth(tree.get(part))) > MOST:
            raise CheckpointError(f"tokenizer JSON's {part} may make a text {times:.3g} times as long, at most {MOST}")
    vocabulary = backend.get_vocab(with_added_tokens=True)
    size = 1 + max(vocabulary.values(), default=-1)
    if not 0 < size <= 2 * len(vocabulary) + HOLES:
        raise CheckpointError(f"tokenizer JSON has ids up to {size - 1} for {len(vocabulary)} tokens")
    for one in ids:
        if one is not None and (type(one) is not int or not 0 <= one <= size):
            raise CheckpointError(f"special id {one!r:.40} is none, expected a number from 0 to {size}")
    if not isinstance(prompt, str):
        raise CheckpointError(f"prompt is {type(prompt).__name__}, expected a string")


def growth(part: Any) -> float:
    """Characters that a part of a tokenizer makes of one, at most; of lists of parts, one after the other."""
    if isinstance(part, list):
        return math.prod(map(growth, part))
    if not isinstance(part, dict):
        return 1
    kind, own = part.get("type"), 1.0
    if kind == "Replace":
        pattern = part["pattern"].get("String", "")  # a regular expression may match nothing at all
        own = len(part["content"]) / len(pattern) if pattern else 1 + len(part["content"])
    elif kind == "Prepend":
        own = 1 + len(part["prepend"])
    elif kind == "Precompiled":
        table = base64.b64decode(part["precompiled_charsmap"])
        own = 1 + max(map(len, table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")))
    elif kind == "TemplateProcessing":
        own = sum("Sequence" in piece for piece in part["single"])
    return max(1, own, KNOWN.get(str(kind), 1)) * math.prod(growth(part.get(step)) for step in STEPS)
