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
            zeros, or, where the recipe normalises, has a length further than 0.01 from 1.
    """
    found = _array(embeddings, recipe, source)
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
    named = "; ".join(f"row {row} {why}" for row, why in list(bad.items())[:NAMED])
    lengths = all(why.startswith("has length") for why in bad.values())
    if count > 1:
        more = f"; and {count - NAMED:,} more" if count > NAMED else ""
        named = f"{count:,} of {rows:,} rows are no embeddings: {named}{more}"
    if advice is None:
        return EmbeddingError(f"{source}: {named}")
    scale, leave = advice
    option = f"{scale} scales to length 1" if lengths else f"{leave} leaves {'them' if count > 1 else 'it'} out"
    return EmbeddingError(f"{source}: {named}; {option}")


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


def _array(embeddings: Any, recipe: Recipe, source: str) -> NDArray[Any]:
    if isinstance(embeddings, Tensor):
        embeddings = embeddings.detach().to("cpu", torch.float32).numpy()
    try:
        found = np.asarray(embeddings)
        if found.dtype == object and found.ndim == 1:  # a column of arrays, as pandas has it
            found = np.array([np.asarray(row) for row in found])
    except ValueError as error:
        raise EmbeddingError(f"{source}: rows differ in length, expected {recipe.dimension} numbers in each") from error
    if found.dtype.kind not in "fiu":
        raise EmbeddingError(f"{source}: values are of type {found.dtype}, expected real numbers")
    if found.ndim not in (1, 2):
        raise EmbeddingError(f"{source}: array has {found.ndim} axes, expected (n, {recipe.dimension})")
    return found


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
    return said
