"""The forecast against its features counted one by one, and the posterior in its other form."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_surrogate import LINEAR, TABLE, TEXTS, D, V, linear, unit
from unembed.search.gaussian_process import Answers, Features, Forecast
from unembed.search.options import Kernel
from unembed.surrogate.bag import Surrogate

SURROGATE = Surrogate(TABLE, LINEAR)
KERNEL = Kernel()
BASE = (3, 9, 8, 20, 31, 8)
E = unit(linear([3, 9, 8, 21, 30, 2]))
Ids = tuple[int, ...]


def phi(ids: Ids, known: set[int] | None = None) -> Counter[tuple]:
    """The features of a text as the module's head says; what involves a token that is not known is one of its own."""
    found: Counter[tuple] = Counter()

    def count(value: float, *feature: Any) -> None:
        strange = known is not None and any(isinstance(part, int) and part not in known for part in feature[1:3])
        found[(*feature, len(found)) if strange else feature] += value

    for place, token in enumerate(ids):
        count(KERNEL.token, "token", token)
        for later in ids[place + 1 : place + 1 + KERNEL.window]:
            count(KERNEL.near, "near", token, later)
        at = place / (len(ids) - 1) if len(ids) > 1 else 0.5
        for number in range(KERNEL.places):
            share = math.exp(-0.5 * ((at - number / (KERNEL.places - 1)) / KERNEL.softness) ** 2)
            count(KERNEL.place * share, "place", token, f"at {number}")
    for one, other in zip(("start", *ids), (*ids, "end"), strict=True):
        count(KERNEL.pair, "pair", one, other)
    return Counter({feature: value / len(ids) for feature, value in found.items()})


def kernel(one: Ids, other: Ids) -> float:
    first, second = phi(one), phi(other)
    return sum(value * second[feature] for feature, value in first.items())


def texts(seed: int, count: int, tokens: int = V) -> list[Ids]:
    noise = np.random.default_rng(seed)
    return [tuple(noise.integers(tokens, size=noise.integers(1, 9)).tolist()) for _ in range(count)]


def around(seed: int, count: int) -> list[Ids]:
    """Texts that have much in common with BASE."""
    noise = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ids = noise.permutation(BASE) if noise.random() < 0.5 else np.array(BASE)
        ids[noise.integers(len(ids))] = noise.integers(V)
        found.append(tuple(ids.tolist()))
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_the_kernel_counts_what_texts_have_in_common(seed: int, count: int) -> None:
    several = texts(seed, count, tokens=6)
    answers = Answers(KERNEL)
    for first in range(0, count, 3):  # bit by bit
        answers.take(several[first : first + 3], otherwise(first, len(several[first : first + 3])))
    expected = [[kernel(one, other) for other in several] for one in several]
    np.testing.assert_allclose(answers.gram_NN, expected, atol=1e-9)


def test_what_is_not_known_has_no_features() -> None:
    features = Features([(1, 2, 3)], KERNEL)
    phi_PK, _ = features.of([(1, 2, 3), (1, 7, 3), (9, 9, 9, 9)])
    shared = (phi_PK @ phi_PK[:1].T).toarray()[:, 0]
    np.testing.assert_allclose(shared, [kernel((1, 2, 3), ids) for ids in [(1, 2, 3), (1, 7, 3), (9, 9, 9, 9)]])
    assert shared[2] == 0


def made(answered: list[Ids], e_ND: np.ndarray) -> Forecast:
    """Of changes to BASE."""
    answers = Answers(KERNEL)
    answers.take(answered, e_ND)
    return Forecast(SURROGATE, answers, BASE, embedded(BASE))


def embedded(ids: Ids) -> np.ndarray:
    """What the surrogate's own encoder answers."""
    return unit(linear(list(ids)))


def otherwise(seed: int, count: int) -> np.ndarray:
    """Embeddings of which the surrogate knows nothing."""
    return np.stack([unit(row) for row in np.random.default_rng(seed).normal(size=(count, D))]).astype(np.float32)


def bag(ids: Ids) -> np.ndarray:
    return SURROGATE.x_VD[list(ids)].astype(np.float64).mean(0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_it_is_the_posterior(seed: int, count: int) -> None:
    """In the space of features: weights (F, D) of covariance (1 + Phi^T S Phi)^-1, S the inverse variances."""
    answered, asked = [BASE, *around(seed, count)], around(seed + 1, 5)
    e_ND = otherwise(seed, len(answered))
    known = {token for ids in answered for token in ids}
    told = {ids: phi(ids, known) for ids in answered + asked}
    # What is strange of one text is so of no other.
    told = {ids: {(*f, ids) if f not in phi(ids) else f: v for f, v in one.items()} for ids, one in told.items()}
    features = sorted({feature for one in told.values() for feature in one}, key=repr)
    rows = {ids: np.array([one.get(feature, 0.0) for feature in features]) for ids, one in told.items()}
    phi_NF = np.stack([rows[ids] for ids in answered])
    weight_N = np.array([len(ids) ** 2 / KERNEL.noise for ids in answered])
    d_ND = np.stack([SURROGATE.unnormalised(ids, e_D) - bag(ids) for ids, e_D in zip(answered, e_ND, strict=True)])
    d_ND -= d_ND.mean(0)
    covariance_FF = np.linalg.inv(np.eye(len(features)) + phi_NF.T @ (weight_N[:, None] * phi_NF))
    w_FD = covariance_FF @ phi_NF.T @ (weight_N[:, None] * d_ND)
    gram_NN = phi_NF @ phi_NF.T + np.diag(1 / weight_N)
    scale = np.trace(d_ND.T @ np.linalg.solve(gram_NN, d_ND)) / d_ND.size
    expected = []
    for ids in asked:
        change_F = rows[ids] - rows[BASE]
        y_D = SURROGATE.unnormalised(BASE, embedded(BASE)) + bag(ids) - bag(BASE) + change_F @ w_FD
        spread = KERNEL.caution * D * scale * (change_F @ covariance_FF @ change_F)
        expected.append(y_D @ E / math.sqrt(y_D @ y_D + spread))
    np.testing.assert_allclose(made(answered, e_ND).embeddings(asked) @ E, expected, atol=1e-4)


def test_of_a_hypothesis_itself_it_is_certain() -> None:
    forecast = made([BASE, *around(0, 20)], otherwise(0, 21))
    assert forecast.embeddings([BASE])[0] @ E == pytest.approx(float(embedded(BASE) @ E), abs=1e-5)


def test_the_less_is_known_the_less_is_promised() -> None:
    """Of texts that the surrogate takes for the same as the hypothesis: orders of its words."""
    answered = [BASE, *around(3, 40)]
    forecast = made(answered, otherwise(1, len(answered)))
    noise = np.random.default_rng(0)
    orders = [tuple(noise.permutation(BASE).tolist()) for _ in range(200)]
    swapped = (BASE[1], BASE[0], *BASE[2:])
    before, near, *far = forecast.embeddings([BASE, swapped, *orders]) @ E
    assert np.mean(far) < near < before + 0.05
    assert np.mean(far) < before


def learned(right: set[tuple[int, int]], leads: np.ndarray, ids: Ids) -> np.ndarray:
    """An encoder that is moved by each of some pairs of neighbours, of which a bag of tokens knows nothing."""
    return unit(linear(list(ids)) + leads * len(right & set(itertools.pairwise(ids)))).astype(np.float32)


def test_it_learns_which_orders_are_good() -> None:
    right = set(itertools.pairwise(BASE))
    noise = np.random.default_rng(0)
    leads = 0.3 * (E - (E @ embedded(BASE)) * embedded(BASE))
    orders = [tuple(noise.permutation(BASE).tolist()) for _ in range(120)]
    known, asked = [BASE, *orders[:80]], orders[80:]
    e_ND = np.stack([learned(right, leads, ids) for ids in known])
    answers = Answers(KERNEL)
    answers.take(known, e_ND)
    forecast = Forecast(SURROGATE, answers, BASE, e_ND[0])
    measured = [float(learned(right, leads, ids) @ E) for ids in asked]
    assert np.corrcoef(forecast.embeddings(asked) @ E, measured)[0, 1] > 0.6


def test_what_mends_the_same_does_not_help_twice() -> None:
    """Two changes that each lead halfway to e are seen one by one; both together lead there, and a third beyond it."""
    start_D, twice_D = embedded(BASE).astype(np.float64), E - (E @ embedded(BASE)) * embedded(BASE)
    several = [(8, 3, 9, *BASE[3:]), (*BASE[:3], 31, 20, 8), (*BASE[:2], 20, 8, *BASE[4:])]
    known = [BASE] * 3 + [ids for ids in several for _ in range(3)]
    e_ND = np.stack([start_D] * 3 + [start_D + 1.0 * twice_D] * 9)
    forecast = made(known, (e_ND / np.linalg.norm(e_ND, axis=1, keepdims=True)).astype(np.float32))
    one, other, none, joined = forecast.embeddings([*several[:2], BASE, (8, 3, 9, 31, 20, 8)]) @ E
    scalar = 2 * (max(one, other) - none)  # what cosines alone would foresee of both
    both = joined - none
    assert both < 0.9 * scalar


def test_only_the_latest_answers_count() -> None:
    answers, latest = Answers(Kernel(memory=4)), Answers(Kernel(memory=4))
    answered = [tuple(ids) for ids in TEXTS[:9]]
    e_ND = otherwise(0, 9)
    answers.take(answered[:6], e_ND[:6])
    answers.take(answered[6:], e_ND[6:])
    latest.take(answered[5:], e_ND[5:])
    assert answers.texts == latest.texts
    np.testing.assert_array_equal(answers.e_ND, latest.e_ND)
    np.testing.assert_array_equal(answers.gram_NN, latest.gram_NN)
    # A hypothesis that is no longer among them can still be changed.
    gone = Forecast(SURROGATE, answers, BASE, embedded(BASE))
    assert np.isfinite(gone.embeddings([BASE, (1, 2)])).all()
    assert len(E) == D
