"""In which form a store may keep its vectors, to protect them or to save room, and what that takes of them.

A form is fitted to vectors (n, d) of length 1. `store` gives what is kept of vectors, as (n, k) numbers. `query` gives
how a question is compared with it, by the dot product. Whoever copies the store has what `store` gives.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.linear import normalised
from unembed.errors import InputError

Floats = NDArray[np.float32]
Map = Callable[[Floats], Floats]
CENTROIDS, PART, ROUNDS = 256, 8, 10  # of product quantisation: centroids and numbers of a part, rounds of k-means


class Form(NamedTuple):
    """bytes: of a vector. note: what a reader of its figures should know."""

    bytes: int
    store: Map
    query: Map
    note: str = ""


Fit = Callable[[Floats, np.random.Generator], Form]


def noise(deviation: float, generator: np.random.Generator) -> Map:
    """Gaussian noise of a standard deviation on each number."""
    return lambda x_ND: x_ND + np.float32(deviation) * generator.standard_normal(x_ND.shape, dtype=np.float32)


def rounding(bits: int) -> Map:
    """Symmetric levels on one scale for each vector; a single bit keeps the sign."""

    def apply(x_ND: Floats) -> Floats:
        if bits == 1:
            return np.where(x_ND < 0, -1, 1).astype(np.float32)
        levels = 2 ** (bits - 1) - 1
        scale_N1 = np.abs(x_ND).max(axis=1, keepdims=True)
        rounded: Floats = np.round(x_ND / scale_N1 * levels) / levels * scale_N1
        return rounded

    return apply


def plain(x_ND: Floats, _: np.random.Generator) -> Form:
    """As they are."""
    return Form(4 * x_ND.shape[1], _same, _same)


def noisy(deviation: float) -> Fit:
    """Gaussian noise of a standard deviation on each number; questions have none."""

    def fit(x_ND: Floats, generator: np.random.Generator) -> Form:
        add = noise(deviation, generator)
        return Form(4 * x_ND.shape[1], lambda x: normalised(add(x)), _same, "questions have no noise")

    return fit


def noisy_by_length(length: float) -> Fit:
    """Noise whose vector has so many times the length of theirs."""
    return lambda x_ND, generator: noisy(length / x_ND.shape[1] ** 0.5)(x_ND, generator)


def rounded(bits: int) -> Fit:
    """So many bits a number, and one scale a vector; a single bit has none, and questions have one bit as well."""

    def fit(x_ND: Floats, _: np.random.Generator) -> Form:
        keep, size = rounding(bits), -(-bits * x_ND.shape[1] // 8)
        return Form(size, keep, keep) if bits == 1 else Form(size + 4, keep, _same)

    return fit


def binary_at_mean(x_ND: Floats, _: np.random.Generator) -> Form:
    """One bit a number: above its dimension's mean. Questions too, so that distance is Hamming's."""
    middle_D = x_ND.mean(0)
    keep: Map = lambda x: rounding(1)(x - middle_D)  # noqa: E731
    return Form(-(-x_ND.shape[1] // 8), keep, keep)


def first(share: float) -> Fit:
    """The first numbers alone, scaled to length 1."""

    def fit(x_ND: Floats, _: np.random.Generator) -> Form:
        k = max(1, round(share * x_ND.shape[1]))
        keep: Map = lambda x: normalised(x[:, :k])  # noqa: E731
        return Form(4 * k, keep, keep)

    return fit


def principal(share: float) -> Fit:
    """The directions in which the vectors are largest (PCA without centring, so that dot products are kept)."""

    def fit(x_ND: Floats, _: np.random.Generator) -> Form:
        k = max(1, min(len(x_ND), round(share * x_ND.shape[1])))
        basis_DK = np.linalg.svd(x_ND, full_matrices=False)[2][:k].T.astype(np.float32)
        keep: Map = lambda x: x @ basis_DK  # noqa: E731
        return Form(4 * k, keep, keep)

    return fit


def rotated(x_ND: Floats, generator: np.random.Generator) -> Form:
    """A random rotation that is kept secret: distances stay as they are."""
    d = x_ND.shape[1]
    turn_DD = np.linalg.qr(generator.standard_normal((d, d)))[0].astype(np.float32)
    keep: Map = lambda x: x @ turn_DD  # noqa: E731
    return Form(4 * d, keep, keep, "the attacker has pairs, from which Procrustes' method finds the rotation")


def product_quantised(x_ND: Floats, generator: np.random.Generator) -> Form:
    """One byte for each eight numbers: the nearest of the centroids that k-means finds for them."""
    d = x_ND.shape[1]
    parts = [slice(start, min(start + PART, d)) for start in range(0, d, PART)]
    count = max(1, min(CENTROIDS, len(x_ND) // 8))
    books = [_centroids(x_ND[:, part], count, generator) for part in parts]

    def keep(x: Floats) -> Floats:
        found = [book[_nearest(x[:, part], book)] for part, book in zip(parts, books, strict=True)]
        return np.concatenate(found, axis=1)

    fewer = f"{count} centroids a part, for lack of rows" if count < CENTROIDS else ""
    return Form(len(parts), keep, _same, fewer)


# Kinds of forms that are fitted to nothing, and what their amount may be.
AMOUNTS = {
    "noise": "a standard deviation above 0, at most 1",
    "rounding": "whole bits from 1 to 8",
    "dropping": "the share of numbers that is kept, above 0, at most 1",
    "rotation": "none: a rotation has no strength",
}

# In this order they are priced; the first is what the others are compared with.
FORMS: dict[str, Fit] = {
    "none": plain,
    "noise 0.25": noisy_by_length(0.25),
    "noise 0.5": noisy_by_length(0.5),
    "noise 1": noisy_by_length(1.0),
    "noise 2": noisy_by_length(2.0),
    "int8": rounded(8),
    "binary": rounded(1),
    "binary at the mean": binary_at_mean,
    "half of the dimensions": first(1 / 2),
    "a quarter of the dimensions": first(1 / 4),
    "PCA to a quarter": principal(1 / 4),
    "rotation": rotated,
    "product quantisation": product_quantised,
}


def chosen(kind: str, amount: float | None) -> Fit:
    """A form that needs no vectors to be fitted to, by its kind and strength.

    Args:
        kind: noise, rounding, dropping or rotation.
        amount: the noise's standard deviation on each number, the bits a number, or the share of numbers that is kept;
            a rotation has none.

    Raises:
        InputError: another kind, or an amount that it does not take.
    """
    if kind not in AMOUNTS:
        raise InputError(f"kind is {kind[:40]!r}, expected one of {', '.join(AMOUNTS)}")
    if amount is None and kind == "rotation":
        return rotated
    if amount is not None:
        if kind == "noise" and 0 < amount <= 1:
            return noisy(amount)
        if kind == "rounding" and amount in range(1, 9):
            return rounded(int(amount))
        if kind == "dropping" and 0 < amount <= 1:
            return first(amount)
    raise InputError(f"amount is {'missing' if amount is None else f'{amount:g}'}, expected {AMOUNTS[kind]}")


def _same(x_ND: Floats) -> Floats:
    return x_ND


def _centroids(x_NP: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Lloyd's k-means from random rows, (count, P). One that nothing is nearest to stays where it is."""
    book_CP = x_NP[generator.choice(len(x_NP), count, replace=False)].copy()
    for _ in range(ROUNDS):
        nearest_N = _nearest(x_NP, book_CP)
        sizes_C = np.bincount(nearest_N, minlength=count)
        sums_CP = np.zeros_like(book_CP)
        np.add.at(sums_CP, nearest_N, x_NP)
        book_CP[sizes_C > 0] = sums_CP[sizes_C > 0] / sizes_C[sizes_C > 0, None]
    return book_CP


def _nearest(x_NP: Floats, book_CP: Floats) -> NDArray[np.intp]:
    found: NDArray[np.intp] = ((book_CP**2).sum(1) - 2 * x_NP @ book_CP.T).argmin(1)
    return found
