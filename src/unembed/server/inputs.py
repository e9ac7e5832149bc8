"""Embeddings and texts of a request, checked one by one.

Unusual here: lists are not validated by pydantic, which would note an error for each of their entries. They are bounded
first, so that a body costs no more than what it may hold.
"""

import base64
import binascii
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unembed.config import Recipe
from unembed.encoders.checks import Checked, check_rows, refusal
from unembed.errors import EmbeddingError, InputError
from unembed.server.models import Served
from unembed.server.work import read

ADVICE = ('"normalize": true', '"skip_bad": true')
TOKEN_IDS = "input: found token ids, expected text: the ids of another tokenizer mean nothing to this encoder"


def read_embeddings(value: Any, served: Served, normalize: bool, most: int, skip_bad: bool = False) -> Checked:
    """Embeddings (n, d) of a request.

    Args:
        value: what the body held: numbers, lists of them, or base64.
        normalize: scale to length 1; else another length is an error where the recipe normalises.
        most: n at most.
        skip_bad: tell which are bad; else that is an error.

    Raises:
        EmbeddingError: anything else than 1 to `most` embeddings of the model's recipe.
    """
    recipe = served.inverter.recipe
    several = value if isinstance(value, list) and value and not _is_number(value[0]) else [value]
    if len(several) > most:
        raise EmbeddingError(f"embeddings: found {len(several)}, expected at most {most} in one request")
    rows = [_row(one, recipe, normalize) for one in several]
    bad = {number: row for number, row in enumerate(rows) if isinstance(row, str)}
    whole = [row for row in rows if not isinstance(row, str)]
    if not bad and len({row.shape for row in whole}) == 1 and len(whole[0]) != recipe.dimension:
        check_rows(np.stack(whole), recipe)  # says what they look like
    for number, row in enumerate(rows):
        if not isinstance(row, str) and len(row) != recipe.dimension:
            bad[number] = f"has {len(row)} numbers, expected {recipe.dimension}"
    filler = np.eye(1, recipe.dimension, dtype=np.float32)[0]
    checked = check_rows(
        np.stack([filler if number in bad else row for number, row in enumerate(rows)]), recipe, normalize=normalize
    )
    bad = dict(sorted((checked.bad | bad).items()))
    if bad and not skip_bad:
        raise refusal("embeddings", bad, len(rows), advice=ADVICE)
    return Checked(checked.rows, bad)


def _row(value: Any, recipe: Recipe, normalize: bool) -> NDArray[Any] | str:
    """The numbers of one embedding, or what is wrong with it."""
    if value is None:
        return "is null, expected an embedding"
    if isinstance(value, str):
        return _from_base64(value, recipe.dimension)
    if not isinstance(value, list) or not value:
        return "is no list of numbers or base64"
    if not all(_is_number(one) for one in value):
        return "holds something else than numbers"
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):
        return "holds a number that is too large"
    if found.dtype.kind not in "fiu":
        return "holds a number that is too large"
    if found.dtype.kind == "i" and 8 * len(found) == recipe.dimension and found.min() >= 0 and found.max() <= 255:
        packed = found.astype(np.uint8)
        return np.unpackbits(packed).astype(np.float32) * 2 - 1 if normalize else packed
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _from_base64(value: str, dimension: int) -> NDArray[np.float32] | str:
    try:
        raw = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return "is not base64"
    if len(raw) != 4 * dimension:
        looks = ": they look like float64" if len(raw) == 8 * dimension else ""
        return f"is base64 of {len(raw)} bytes, expected {4 * dimension} ({dimension} float32 values){looks}"
    return np.frombuffer(raw, dtype="<f4")


class TextInputs(NamedTuple):
    """Texts of a request by their number, each either good or bad."""

    texts: dict[int, str]
    ids: dict[int, list[int]]  # content ids of the good, as many as the encoder reads
    bad: dict[int, str]  # what is wrong with the others


def read_texts(value: Any, served: Served, most: int, most_characters: int, skip_bad: bool = False) -> TextInputs:
    """Texts of a request. It tokenises, which may take long: not for the event loop.

    Args:
        value: what the body held: a text, or a list of them.
        most: texts at most.
        most_characters: of one text.
        skip_bad: tell which are bad; else that is an error.

    Raises:
        InputError: anything else than 1 to `most` texts that hold something to embed.
    """
    several = value if isinstance(value, list) else [value]
    if not 1 <= len(several) <= most:
        raise InputError(f"input has {len(several)} texts, expected 1 to {most}")
    if all(_is_number(one) or (isinstance(one, list) and one and _is_number(one[0])) for one in several):
        raise InputError(TOKEN_IDS)
    bad = {number: why for number, one in enumerate(several) if (why := text_problem(one, most_characters))}
    texts = {number: one for number, one in enumerate(several) if number not in bad}
    ids = dict(zip(texts, read(served, list(texts.values())), strict=True))
    for number in [number for number, row in ids.items() if not row]:
        bad[number] = "is empty to the encoder, expected words"
        del texts[number], ids[number]
    if bad and not skip_bad:
        number, why = min(bad.items())
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(f"text {why}" if len(several) == 1 else f"text {number} {why}{more}")
    return TextInputs(texts, ids, dict(sorted(bad.items())))


def text_problem(text: Any, most_characters: int) -> str | None:
    """What is wrong with a text to embed, if anything."""
    if not isinstance(text, str):
        return f"is {'null' if text is None else 'no string'}, expected a string"
    if not text.strip():
        return "is empty, expected words"
    if len(text) > most_characters:
        return f"has {len(text)} characters, expected at most {most_characters}"
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "has half of a character (a lone surrogate), expected whole ones"
    return None
