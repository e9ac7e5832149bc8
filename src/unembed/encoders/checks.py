"""Embeddings, checked: which rows are embeddings of a recipe, which are not, and what to do about those."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.config import Recipe
from unembed.encoders.recipes import RECIPES
from unembed.errors import EmbeddingError, RecipeError

LENGTH_TOLERANCE = 1e-2  # float16 and int8 rounding stay below that
NAMED = 5  # bad rows that a message names


class Checked(NamedTuple):
    """Rows of embeddings, and what is wrong with some of them."""

    rows: NDArray[np.float32]  # (n, d), contiguous; a bad one is a unit vector that means nothing
    bad: dict[int, str]  # number of a row -> what is wrong with it


def check_rows(embeddings: Any, recipe: Recipe, source: str = "embeddings", normalize: bool = False) -> Checked:
    """Embeddings as the inverter takes them, row by row.

    Args:
        embeddings: one (d,) or many (n, d); an array, a tensor or nested lists, of any real number format.
        recipe: what they must fit.
        source: what messages call them, such as a file's name.
        normalize: scale rows to length 1, int8 values too; bits packed into bytes become +1 and -1 first.

    Raises:
        EmbeddingError: wrong rank, dimension or type of number. A row is bad that has NaN or infinity, is nothing but
            zeros, or, where the recipe normalises, has a length further than 0.01 from 1; of a list or column of rows,
            also one that is missing or no row of so many numbers.
    """
    found, unread = _array(embeddings, recipe, source)
    if normalize and found.dtype == np.uint8 and 8 * found.shape[-1] == recipe.dimension:
        found = np.unpackbits(np.atleast_2d(found), axis=1).astype(np.float32) * 2 - 1
    if found.shape[-1] != recipe.dimension:
        raise EmbeddingError(f"{source}: {_other_dimension(found, recipe)}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, and is reported as such
        rows = np.ascontiguousarray(np.atleast_2d(found), dtype=np.float32)
    finite, lengths = np.isfinite(rows).all(axis=1), np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    zero = ~rows.any(axis=1)
    if normalize:
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = (rows / lengths[:, None]).astype(np.float32)
    bad = {int(row): "has NaN or infinite values, expected finite ones" for row in np.flatnonzero(~finite)}
    bad |= unread
    bad |= {int(row): "is all zeros, expected an embedding" for row in np.flatnonzero(zero)}
    if recipe.normalize and not normalize:
        for row in np.flatnonzero(finite & ~zero & (np.abs(lengths - 1.0) > LENGTH_TOLERANCE)):
            bad[int(row)] = f"has length {lengths[row]:.4g}, expected 1 ({recipe.encoder} embeddings are normalised)"
    if bad:
        rows = rows.copy()  # they may be the caller's own
        rows[list(bad)] = np.eye(1, recipe.dimension, dtype=np.float32)
    return Checked(rows, dict(sorted(bad.items())))


def check_embeddings(
    embeddings: Any, recipe: Recipe, source: str = "embeddings", first_row: int = 0, normalize: bool = False
) -> NDArray[np.float32]:
    """Embeddings (n, d) float32 as the inverter takes them, all of them good.

    Args:
        embeddings, recipe, source, normalize: as for `check_rows`.
        first_row: the number of the first row in messages, where this is a part of a larger file.

    Raises:
        EmbeddingError: also where a row is bad; the first five are named.
    """
    checked = check_rows(embeddings, recipe, source, normalize)
    if checked.bad:
        bad = {first_row + row: why for row, why in checked.bad.items()}
        raise refusal(source, bad, len(checked.rows), advice=None)
    return checked.rows


def refusal(
    source: str,
    bad: Mapping[int, str],
    rows: int,
    count: int | None = None,
    advice: tuple[str, str] | None = ("--normalize", "--skip-bad"),
) -> EmbeddingError:
    """The error that names bad rows.

    Args:
        bad: the first of them, or all.
        rows: of how many.
        count: how many are bad, where `bad` holds a part.
        advice: the options that scale rows and leave them out, as the caller spells them, where there are any.
    """
    count = len(bad) if count is None else count
    named = named_rows(bad, rows, count, "embeddings")
    lengths = all(why.startswith("has length") for why in bad.values())
    if advice is None:
        return EmbeddingError(f"{source}: {named}")
    scale, leave = advice
    option = f"{scale} scales to length 1" if lengths else f"{leave} leaves {'them' if count > 1 else 'it'} out"
    return EmbeddingError(f"{source}: {named}; {option}")


def named_rows(bad: Mapping[int, str], rows: int, count: int, what: str) -> str:
    """The first bad rows and what is wrong with each, as a part of a line; how many of how many are not `what`."""
    named = "; ".join(f"row {row} {why}" for row, why in list(bad.items())[:NAMED])
    more = f"; and {count - NAMED:,} more" if count > NAMED else ""
    return f"{count:,} of {rows:,} rows are no {what}: {named}{more}" if count > 1 else named


def check_recipe(found: Recipe, expected: Recipe) -> None:
    """Compare what embeddings were made with to what an inverter was trained for.

    Two names of one known encoder are the same, and so are two names whose files have the same hashes. Hashes and
    revisions count only where both recipes state them.

    Raises:
        RecipeError: names each field that differs, with both values.
    """
    one, other = dataclasses.asdict(_canonical(found)), dataclasses.asdict(_canonical(expected))
    for field in ("sha256", "revision"):
        if not (one[field] and other[field]):
            one[field] = other[field] = None
    if one["sha256"] and one["sha256"] == other["sha256"]:
        one["encoder"] = other["encoder"]
    differences = [f"{name} is {one[name]!r}, expected {other[name]!r}" for name in one if one[name] != other[name]]
    if differences:
        raise RecipeError(f"embeddings of another recipe: {'; '.join(differences)}")


def _canonical(recipe: Recipe) -> Recipe:
    known = RECIPES.get(recipe.encoder)
    return recipe if known is None else dataclasses.replace(recipe, encoder=known.encoder)


def _array(embeddings: Any, recipe: Recipe, source: str) -> tuple[NDArray[Any], dict[int, str]]:
    """The embeddings as an array, and which of several are no rows of numbers, and why; these are NaN."""
    if isinstance(embeddings, Tensor):
        embeddings = _plain(embeddings)
    elif isinstance(embeddings, list | tuple):
        embeddings = [_plain(row) for row in embeddings]
    unread: dict[int, str] = {}
    try:
        found = np.asarray(embeddings)
    except ValueError:  # rows that differ in length
        found = np.empty(len(embeddings), dtype=object)
        for number, row in enumerate(embeddings):
            found[number] = row
    if found.dtype == object and found.ndim in (1, 2) and any(_row(row).ndim for row in found):
        found, unread = _rows(found, recipe.dimension)
    if found.dtype.kind not in "fiu":
        raise EmbeddingError(f"{source}: values are of type {found.dtype}, expected real numbers")
    if found.ndim not in (1, 2):
        raise EmbeddingError(f"{source}: array has {found.ndim} axes, expected (n, {recipe.dimension})")
    return found, unread


def _rows(values: NDArray[Any], dimension: int) -> tuple[NDArray[Any], dict[int, str]]:
    """A column of arrays, as pandas has it, or lists of which some are no rows of numbers, as rows (n, dimension)."""
    rows = [_row(value) for value in values]
    good = [row.ndim == 1 and row.dtype.kind in "fiu" for row in rows]
    lengths = {len(row) for row, fine in zip(rows, good, strict=True) if fine}
    if all(good) and len(lengths) == 1:
        return np.stack(rows), {}
    array = np.full((len(rows), min(lengths) if len(lengths) == 1 else dimension), np.nan)
    unread = {}
    for number, (row, fine) in enumerate(zip(rows, good, strict=True)):
        if fine and len(row) == array.shape[1]:
            array[number] = row
        elif fine:
            unread[number] = f"has {len(row)} numbers, expected {dimension}"
        else:
            missing = row.ndim == 0 and (row.item() is None or row.item() != row.item())
            unread[number] = f"holds {'no value' if missing else 'something else'}, expected a list of numbers"
    return array, unread


def _row(value: Any) -> NDArray[Any]:
    """One of several embeddings as an array; without axes where it is none."""
    try:
        return np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else _plain(value))
    except ValueError:  # lists of different lengths
        return np.asarray("")


def _plain(values: Any) -> Any:
    """A tensor as an array."""
    return values.detach().to("cpu", torch.float32).numpy() if isinstance(values, Tensor) else values


def _other_dimension(found: NDArray[Any], recipe: Recipe) -> str:
    """What a wrong dimension looks like, and what to do."""
    dimension, expected = found.shape[-1], recipe.dimension
    said = f"embedding has {dimension} dimensions, this inverter takes {expected} ({recipe.encoder})"
    if found.ndim == 2 and found.shape[0] == expected:
        return f"{said}; ({found.shape[0]}, {dimension}) looks transposed, expected a row for each embedding"
    if found.dtype == np.uint8 and 8 * dimension == expected:
        return f"{said}; they look like bits packed into bytes, which --normalize reads as +1 and -1, at a loss"
    if 0 < dimension < expected and dimension & (dimension - 1) == 0 and dimension >= 32:
        return f"{said}; they look truncated, expected whole ones"
    return f"{said}; an aligner reads another encoder's (`unembed align`)"
