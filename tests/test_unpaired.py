"""A map without pairs: what is recovered, and that a failure is told from it."""

from dataclasses import replace

import numpy as np
import pytest

from unembed.alignment.linear import normalised
from unembed.alignment.unpaired import UnpairedSettings, align_unpaired
from unembed.errors import EmbeddingError

QUICK = UnpairedSettings(repetitions=8, kept=3, clusters=60, restarts=1, iterations=15, runs=3)
HASTY = replace(QUICK, repetitions=3, iterations=8, runs=2)


class Mixture:
    """60 anisotropic clusters in 64 dimensions around a constant direction."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self.rng.normal(size=(60, 64)) * np.linspace(1.5, 0.5, 64) + 0.5
        self.axes = self.rng.normal(size=(60, 64, 64)) * np.linspace(0.0875, 0.00875, 64)[:, None]
        self.share = self.rng.dirichlet(np.full(60, 3.0))

    def draw(self, n: int) -> np.ndarray:
        cluster = self.rng.choice(60, n, p=self.share)
        return normalised(
            self.centres[cluster] + np.einsum("nd,ndk->nk", self.rng.normal(size=(n, 64)), self.axes[cluster])
        )


def encoder(dimension: int, scale: float = 1.0, constant: float = 0.0):
    """A noisy isometry into so many dimensions, as another encoder of the same texts."""
    rng = np.random.default_rng(7)
    isometry_SD = np.linalg.qr(rng.standard_normal((max(64, dimension),) * 2))[0][:64, :dimension]
    return lambda x: scale * (x @ isometry_SD + 0.03 * rng.standard_normal((len(x), dimension)) + constant)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((normalised(a) * normalised(b)).sum(1).mean())


@pytest.mark.slow
def test_a_rotation_is_recovered_from_disjoint_samples():
    mixture, other = Mixture(0), encoder(64)
    got = align_unpaired(mixture.draw(4000), other(mixture.draw(4000)), settings=QUICK)
    assert got.fit.found
    assert min(got.fit.agreement, got.fit.same) > 0.9
    assert got.fit.nearest > got.fit.chance + 0.1
    test = mixture.draw(500)
    assert cosine(got.linear(test), other(test)) > 0.9


@pytest.mark.slow
def test_dimensions_lengths_and_means_may_differ():
    mixture, other = Mixture(1), encoder(96, scale=5, constant=0.05)
    got = align_unpaired(mixture.draw(3000), other(mixture.draw(3000)), settings=QUICK)
    assert got.fit.found
    test = mixture.draw(500)
    assert got.linear(test).shape == (500, 96)
    assert cosine(got.linear(test), other(test)) > 0.9
    # The other way, into fewer dimensions.
    got = align_unpaired(other(mixture.draw(3000)), mixture.draw(3000), settings=QUICK, seed=1)
    assert got.fit.found
    assert cosine(got.linear(other(test)), test) > 0.9


@pytest.mark.parametrize("spread", [np.ones(32), np.linspace(2, 0.2, 32)], ids=["isotropic", "anisotropic"])
def test_vectors_without_structure_are_told_as_a_failure(spread):
    rng = np.random.default_rng(3)
    source, target = (rng.standard_normal((1000, 32)) * spread for _ in range(2))
    fit = align_unpaired(source, target, settings=replace(HASTY, runs=3)).fit
    assert not fit.found
    assert fit.agreement < 0.5
    assert fit.runs == 3


def test_one_dominant_direction_is_no_map():
    rng = np.random.default_rng(4)
    source, target = (np.hstack([40 * rng.exponential(size=(1500, 1)), rng.standard_normal((1500, 31))]) for _ in "ab")
    fit = align_unpaired(source, target, settings=HASTY).fit
    assert fit.agreement > 0.8
    assert not fit.found


def test_vectors_of_other_texts_are_told_as_a_failure():
    fit = align_unpaired(Mixture(0).draw(1500), Mixture(5).draw(1500), settings=HASTY).fit
    assert not fit.found


def test_a_seed_gives_one_map():
    source, target = Mixture(2).draw(600), Mixture(2).draw(600)
    quick = replace(HASTY, clusters=20)
    one, same, other = (align_unpaired(source, target, settings=quick, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.linear.weight, same.linear.weight)
    assert one.fit == same.fit
    assert not np.array_equal(one.linear.weight, other.linear.weight)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((1000, 8)), "all 1000 vectors are equal"),
        (np.ones((299, 8)), "with n at least 300"),
        (np.ones(1000), "expected (n, d)"),
        (np.full((1000, 8), np.nan), "NaN, infinity"),
        (np.full((1000, 8), 1e30), "numbers above 1e+15"),
        (np.ones((1000, 0)), "expected (n, d)"),
        (np.full((1000, 8), "x"), "expected (n, d)"),
    ],
)
def test_what_is_no_side_is_refused(source, says):
    good = np.random.default_rng(0).standard_normal((1000, 8))
    for sides, name in (((source, good), "source"), ((good, source), "target")):
        with pytest.raises(EmbeddingError) as caught:
            align_unpaired(*sides, settings=QUICK)
        assert str(caught.value).startswith(f"{name}: ")
        assert says in str(caught.value)
