"""The forecast against its features counted one by one, and the posterior in its other form."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_surrogate import LINEAR, TABLE, TEXTS, D, V, linear, unit
from unembed import forecast as module
from unembed.forecast import (
    LOSS,
    MEMORY,
    NEAR,
    NEARBY,
    NOISE,
    PAIR,
    PLACE,
    PLACES,
    SOFTNESS,
    SURE,
    TOKEN,
    WINDOW,
    Answers,
    Features,
    Forecast,
    nearness,
)
from unembed.surrogate import Surrogate

SURROGATE = Surrogate(TABLE, LINEAR)
BASE = (3, 9, 8, 20, 31, 8)
E = unit(linear([3, 9, 8, 21, 30, 2]))
Ids = tuple[int, ...]


def phi(ids: Ids) -> Counter[tuple]:
    """The features of a text as the module's head says."""
    found: Counter[tuple] = Counter()
    for place, token in enumerate(ids):
        found["token", token] += TOKEN
        for later in ids[place + 1 : place + 1 + WINDOW]:
            found["near", token, later] += NEAR
        at = place / (len(ids) - 1) if len(ids) > 1 else 0.5
        for number in range(PLACES):
            found["place", token, number] += PLACE * math.exp(-0.5 * ((at - number / (PLACES - 1)) / SOFTNESS) ** 2)
    for one, other in zip(("start", *ids), (*ids, "end"), strict=True):
        found["pair", one, other] += PAIR
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
    answers = Answers()
    for first in range(0, count, 3):  # bit by bit
        answers.take(several[first : first + 3], [0.5] * len(several[first : first + 3]))
    expected = [[kernel(one, other) for other in several] for one in several]
    np.testing.assert_allclose(answers.gram_NN, expected, atol=1e-9)


def test_what_is_not_known_has_no_features() -> None:
    features = Features([(1, 2, 3)])
    numbers, values = features.of([(1, 2, 3), (1, 7, 3), (9, 9, 9, 9)])
    own = features.weights(numbers[0], values[0])
    shared = (own[numbers] * values).sum(1)
    np.testing.assert_allclose(shared, [kernel((1, 2, 3), ids) for ids in [(1, 2, 3), (1, 7, 3), (9, 9, 9, 9)]])
    assert shared[2] == 0


def made(answered: list[Ids], cosines: list[float], hypotheses: list[Ids]) -> Forecast:
    answers = Answers()
    answers.take(answered, cosines)
    return Forecast(SURROGATE, answers, E, [(ids, unit(linear(list(ids)))) for ids in hypotheses])


def foreseen(ids: Ids, hypothesis: Ids) -> float:
    """The surrogate's cosine."""
    start = SURROGATE.unnormalised(hypothesis, unit(linear(list(hypothesis)))).astype(np.float64)
    reached = start + SURROGATE.x_VD[list(ids)].mean(0) - SURROGATE.x_VD[list(hypothesis)].mean(0)
    return float(reached @ E / np.linalg.norm(reached))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_it_is_the_posterior_mean(seed: int, count: int) -> None:
    """In the space of features, (1 + Phi^T S Phi)^-1 Phi^T S r, S the inverse variances; the loss by least squares."""
    answered, asked = [BASE, *around(seed, count)], around(seed + 1, 5)
    cosines = np.random.default_rng(seed).uniform(0, 1, len(answered))
    features = sorted({feature for ids in answered + asked for feature in phi(ids)}, key=repr)
    rows = {ids: np.array([phi(ids)[feature] for feature in features]) for ids in answered + asked}
    lack = {ids: 1 - kernel(ids, BASE) / kernel(BASE, BASE) for ids in answered + asked}
    errors = np.array([cosine - foreseen(ids, BASE) for ids, cosine in zip(answered, cosines, strict=True)])
    near = [number for number, ids in enumerate(answered) if lack[ids] < NEARBY]
    above = np.array([-lack[answered[number]] for number in near])[:, None]
    cosine = float(unit(linear(list(BASE))) @ E)
    before = LOSS[0] + nearness(cosine) * (LOSS[1] - LOSS[0])
    (loss,), *_ = np.linalg.lstsq(
        np.vstack([above, [[math.sqrt(SURE)]]]), np.append(errors[near], math.sqrt(SURE) * before), rcond=None
    )
    loss = max(loss, 0.0)
    phi_NF = np.stack([rows[ids] for ids in answered])
    weight_N = np.array([len(ids) ** 2 / NOISE for ids in answered])
    residual_N = errors + loss * np.array([lack[ids] for ids in answered])
    w_F = np.linalg.solve(
        np.eye(len(features)) + phi_NF.T @ (weight_N[:, None] * phi_NF), phi_NF.T @ (weight_N * residual_N)
    )
    expected = [foreseen(ids, BASE) - loss * lack[ids] + rows[ids] @ w_F for ids in asked]
    np.testing.assert_allclose(made(answered, cosines.tolist(), [BASE]).cosines(asked, BASE), expected, atol=1e-4)


def test_each_hypothesis_has_a_forecast_of_its_own() -> None:
    answered, asked = [BASE, *around(0, 20)], around(1, 5)
    cosines = np.random.default_rng(0).uniform(0.5, 1, len(answered)).tolist()
    hypotheses = answered[:3]
    together = made(answered, cosines, hypotheses)
    found = [together.cosines(asked, ids) for ids in hypotheses]
    for ids, cosines_P in zip(hypotheses, found, strict=True):
        np.testing.assert_allclose(cosines_P, made(answered, cosines, [ids]).cosines(asked, ids), atol=1e-6)
    assert not np.allclose(found[0], found[1])


def test_without_other_answers_what_it_expects_is_a_loss_and_what_the_surrogate_foresees() -> None:
    forecast = made([BASE], [float(unit(linear(list(BASE))) @ E)], [BASE])
    before = float(unit(linear(list(BASE))) @ E)
    other_order, exchanged = (9, 3, 20, 8, 8, 31), [(*BASE[:3], token, *BASE[4:]) for token in (21, 17)]
    same, order, good, other = forecast.cosines([BASE, other_order, *exchanged], BASE)
    assert same == pytest.approx(before, abs=0.01)
    assert order < before - 0.02
    assert good > other  # token 21 is in the text that is searched for


def test_it_learns_which_orders_are_good() -> None:
    """An encoder for which the cosine tells how many neighbours are right, of which a bag of tokens knows nothing."""
    right = set(itertools.pairwise(BASE))

    def measured(ids: Ids) -> float:
        return 0.5 + 0.1 * len(right & set(itertools.pairwise(ids)))

    noise = np.random.default_rng(0)
    orders = [tuple(noise.permutation(BASE).tolist()) for _ in range(120)]
    known, asked = [BASE, *orders[:80]], orders[80:]
    forecast = made(known, [measured(ids) for ids in known], [BASE])
    found = np.corrcoef(forecast.cosines(asked, BASE), [measured(ids) for ids in asked])[0, 1]
    assert found > 0.6


def test_tokens_are_ranked_as_the_surrogate_does_with_what_was_learned() -> None:
    learned = {5: 0.4, 6: -0.4}  # tokens that turned out otherwise than foreseen
    answered, cosines = [BASE], [float(unit(linear(list(BASE))) @ E)]
    for place in range(len(BASE)):
        for token, more in learned.items():
            ids = (*BASE[:place], token, *BASE[place + 1 :])
            answered.append(ids)
            cosines.append(foreseen(ids, BASE) + more)
    none, forecast = made(answered[:1], cosines[:1], [BASE]), made(answered, cosines, [BASE])
    tokens = np.tile(np.arange(V), (len(BASE), 1))
    before, after = none.replacing(BASE, tokens), forecast.replacing(BASE, tokens)
    start = SURROGATE.unnormalised(BASE, unit(linear(list(BASE))))
    moved = (SURROGATE.x_VD[17] - SURROGATE.x_VD[BASE[2]]) / len(BASE)
    length = math.sqrt(start @ start + 2 * start @ moved)
    loss_of_its_own = none.replacing(BASE, np.array([[BASE[2]]] * len(BASE)))[2, 0]
    assert loss_of_its_own == pytest.approx(cosines[0], abs=1e-4)
    gained = before[2, 17] - (start + moved) @ E / length
    assert abs(gained) < 0.1  # the token that goes was learned to be worth something
    change = (after - before).mean(0)
    assert change[5] > change[17] > change[6]
    added, added_before = forecast.adding(BASE, np.arange(V)), none.adding(BASE, np.arange(V))
    assert (added - added_before)[5] > (added - added_before)[17] > (added - added_before)[6]


def test_only_the_latest_answers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MEMORY >= 400
    monkeypatch.setattr(module, "MEMORY", 4)
    answers, latest = Answers(), Answers()
    answered = [tuple(ids) for ids in TEXTS[:9]]
    answers.take(answered[:6], [0.1] * 6)
    answers.take(answered[6:], [0.2] * 3)
    latest.take(answered[5:], [0.1, 0.2, 0.2, 0.2])
    assert (answers.texts, answers.cosines) == (latest.texts, latest.cosines)
    np.testing.assert_array_equal(answers.gram_NN, latest.gram_NN)
    # A hypothesis that is no longer among them can still be changed.
    gone = Forecast(SURROGATE, answers, E, [(BASE, unit(linear(list(BASE))))])
    assert np.isfinite(gone.cosines([BASE, (1, 2)], BASE)).all()
    assert len(E) == D
