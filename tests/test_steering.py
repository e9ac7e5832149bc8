"""Steering against the minimum that it is to find, found otherwise, and what it must leave alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from test_token_counts import EOS, MASK, PAD, D, L, V, denoiser, logits_like
from unembed.decoding import steering
from unembed.decoding.options import STRATEGIES, Decoding, DecodingTuning
from unembed.decoding.predictor import Predictor, stream
from unembed.decoding.steering import Steering, growth
from unembed.decoding.token_counts import Balance

COUNTED = torch.tensor([token not in (MASK, EOS, PAD) for token in range(V)])
GENERATOR = torch.Generator().manual_seed(5)
E = torch.randn(6, D, generator=GENERATOR)
X = torch.randn(V, D, generator=GENERATOR)
BIAS = torch.randn(D, generator=GENERATOR)
TUNING = DecodingTuning()
STEERING = Steering(X, BIAS, E)
BALANCE = Balance(0.0, MASK, [EOS, PAD], TUNING)
NOTHING = torch.zeros(V)


def steered(logits_RV: Tensor, n_V: Tensor, row: int, strength: float, factor_V: Tensor = NOTHING) -> Tensor:
    """The probabilities of a pass after steering."""
    masses_RV = BALANCE.masses(logits_RV)
    gain_V = STEERING.gains(row, masses_RV, n_V, factor_V, strength)
    return BALANCE.multiplied(logits_RV, masses_RV, factor_V + gain_V).softmax(-1)


def cosine(q_RV: Tensor, n_V: Tensor, row: int) -> Tensor:
    """Of the bag that is visible and expected, to the row's embedding."""
    m_V = n_V.to(q_RV) + (q_RV * COUNTED).sum(0)
    return F.cosine_similarity(m_V @ X.to(q_RV) / m_V.sum() + BIAS.to(q_RV), E[row].to(q_RV), dim=0)


def objective(q_RV: Tensor, p_RV: Tensor, n_V: Tensor, row: int, strength: float) -> Tensor:
    """What steering is to minimise, as its module says."""
    divergence = (q_RV * (q_RV / p_RV.to(q_RV)).log())[:, torch.arange(V) != MASK].sum()
    return divergence - strength * cosine(q_RV, n_V, row)


def minimum(p_RV: Tensor, n_V: Tensor, row: int, strength: float) -> Tensor:
    """The distributions at the minimum, by Newton's relatives on all logits of all positions, ends held."""
    p_RV = p_RV.double()
    free_RV = p_RV[:, COUNTED].log().requires_grad_(True)
    content_R1 = p_RV[:, COUNTED].sum(1, keepdim=True)

    def distributions() -> Tensor:
        q_RV = p_RV.clone()
        q_RV[:, COUNTED] = free_RV.softmax(1) * content_R1
        return q_RV

    optimizer = torch.optim.LBFGS([free_RV], max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(distributions(), p_RV, n_V, row, strength)
        loss.backward()
        return loss

    optimizer.step(closure)
    return distributions().detach()


@pytest.mark.parametrize("strength", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_minimum(seed: int, strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "STEPS", 200)
    monkeypatch.setattr(steering, "NEGLIGIBLE", 0.0)
    logits_RV, row = logits_like(seed, L), seed % len(E)
    n_V = BALANCE.visible(torch.tensor([1, 1, 4, MASK, PAD]), V) if seed % 2 else NOTHING
    found_RV = steered(logits_RV, n_V, row, strength)
    torch.testing.assert_close(found_RV.double(), minimum(logits_RV.softmax(-1), n_V, row, strength), rtol=0, atol=2e-4)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, L),
    visible=st.lists(st.integers(0, V - 1), max_size=L),
    strength=st.floats(0.1, 20),
)
def test_a_few_steps_come_nearer_and_ends_keep_their_chances(
    seed: int, rows: int, visible: list[int], strength: float
) -> None:
    logits_RV, row = logits_like(seed, rows), seed % len(E)
    n_V = BALANCE.visible(torch.tensor(visible, dtype=torch.int64), V)
    before_RV, found_RV = logits_RV.softmax(-1), steered(logits_RV, n_V, row, strength)
    assert (
        objective(found_RV, before_RV, n_V, row, strength) <= objective(before_RV, before_RV, n_V, row, strength) + 1e-4
    )
    torch.testing.assert_close(found_RV.sum(-1), torch.ones(rows))
    for kept in (MASK, EOS, PAD):
        torch.testing.assert_close(found_RV[:, kept], before_RV[:, kept])


def test_what_balance_has_multiplied_is_where_it_begins() -> None:
    """As if the balanced probabilities had been the pass' own."""
    logits_RV, n_V = logits_like(7, L), BALANCE.visible(torch.tensor([2, 3, MASK]), V)
    factor_V = torch.where(COUNTED, torch.linspace(-1, 1, V), 0.0)
    balanced_RV = BALANCE.multiplied(logits_RV, BALANCE.masses(logits_RV), factor_V)
    torch.testing.assert_close(steered(logits_RV, n_V, 1, 20.0, factor_V), steered(balanced_RV, n_V, 1, 20.0))


def test_the_length_of_an_embedding_says_nothing() -> None:
    logits_RV = logits_like(8, L)
    masses_RV = BALANCE.masses(logits_RV)
    longer = Steering(X, BIAS, 3 * E)
    for row in range(len(E)):
        expected_V = STEERING.gains(row, masses_RV, NOTHING, NOTHING, 10.0)
        torch.testing.assert_close(longer.gains(row, masses_RV, NOTHING, NOTHING, 10.0), expected_V)


def test_a_missing_word_comes_and_one_too_many_goes() -> None:
    """Two words say nearly the same; one is visible, so that the other is one too many, and a third is missing."""
    x_VD = torch.zeros(V, D)
    x_VD[1, 0] = x_VD[2, 0] = x_VD[3, 1] = 1.0
    e_BD = (x_VD[1] + x_VD[3])[None]
    masses_RV = torch.zeros(1, V)
    masses_RV[0, [2, 3]] = torch.tensor([0.9, 0.1])
    n_V = BALANCE.visible(torch.tensor([1, MASK]), V)
    gain_V = Steering(x_VD, torch.zeros(D), e_BD).gains(0, masses_RV, n_V, NOTHING, 20.0)
    assert gain_V[3] > gain_V[2] + 2
    assert gain_V[[token for token in range(V) if token not in (2, 3)]].abs().sum() == 0


def test_the_strength_grows_with_what_is_decoded() -> None:
    assert [growth(count, 32, TUNING) for count in (0, 8, 32)] == [
        TUNING.early,
        0.75 * TUNING.early + 0.25 * TUNING.late,
        TUNING.late,
    ]


@pytest.mark.parametrize("given", [0, 3])
def test_tokens_that_were_given_are_not_decoded(given: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = denoiser(), Decoding(L - given, "sequential", balance=0.0, steering=10.0)
    seen: list[float] = []
    monkeypatch.setattr(
        "unembed.decoding.predictor.growth", lambda decoded, length, tuning: seen.append(decoded) or 1.0
    )
    start_BL = torch.full((1, L), MASK)
    start_BL[:, :given] = 1
    with torch.inference_mode():
        *_, last = stream(model, model.condition(E[:1]), options, None, start_BL, Steering(X, BIAS, E[:1]))
    content = COUNTED[last.ids[0]].float()
    assert seen == [float(content[given:place].sum()) for place in range(given, L)]


def test_where_everything_ends_or_nobody_knows_a_token_logits_stay_finite() -> None:
    logits_RV = torch.full((2, V), -1e4)
    logits_RV[:, PAD] = 0.0
    found_RV = steered(logits_RV, NOTHING, 0, 100.0)
    torch.testing.assert_close(found_RV, logits_RV.softmax(-1))
    assert steered(logits_like(3, L), NOTHING, 0, 1e6).isfinite().all()
    few = Steering(X[:4], BIAS, E)  # a denoiser's mask and ends may come after the encoder's tokens
    logits_RV = logits_like(9, L)
    masses_RV = BALANCE.masses(logits_RV)
    gain_V = few.gains(2, masses_RV, BALANCE.visible(torch.tensor([8, 1]), V), NOTHING, 30.0)
    assert gain_V.isfinite().all()
    assert gain_V[4:].abs().sum() == 0
    assert gain_V[:4].abs().sum() > 0


# --- in a decoding


@torch.inference_mode()
def naive(e_D: Tensor, strength: float, balance: float) -> Tensor:
    """One row, one position a pass from the left, with whole passes of the denoiser."""
    model, alone = denoiser(), Steering(X, BIAS, e_D[None])
    balanced = Balance(balance, MASK, [EOS, PAD], TUNING)
    ids_L = torch.full((L,), MASK)
    c_V: Tensor | None = None
    for place in range(L):
        logits_RV = model(ids_L[None], e_D[None])[0, place:]
        n_V = balanced.visible(ids_L, V)
        masses_RV = balanced.masses(logits_RV)
        factor_V = torch.zeros(V) if c_V is None else balanced.factors(masses_RV, c_V, n_V)
        visible = sum(token not in (MASK, EOS, PAD) for token in ids_L.tolist())
        grown = strength * (TUNING.early + (TUNING.late - TUNING.early) * visible / L)
        logits_RV = balanced.multiplied(
            logits_RV, masses_RV, factor_V + alone.gains(0, masses_RV, n_V, factor_V, grown)
        )
        if c_V is None:
            c_V = balanced.expected(balanced.masses(logits_RV), n_V)
        ids_L[place] = logits_RV[0].argmax()
    return ids_L


@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_each_row_is_steered_by_its_own_embedding(balance: float) -> None:
    model, options = denoiser(), Decoding(L, "sequential", balance=balance, steering=20.0)
    expected_BL = torch.stack([naive(e_D, 20.0, balance) for e_D in E])
    with torch.inference_mode():
        *_, last = stream(model, model.condition(E), options, steering=STEERING)
        *_, without = stream(model, model.condition(E), options)
    assert torch.equal(last.ids, expected_BL)
    assert not torch.equal(without.ids, expected_BL)


@pytest.mark.parametrize("balance", [0.7, 20.0, 100.0])
@pytest.mark.parametrize("strength", [0.0, 100.0, 1e4])
def test_however_strong_the_options_chances_stay_numbers(balance: float, strength: float) -> None:
    model, options = denoiser(), Decoding(4, temperature=1.0, balance=balance, steering=strength)
    with torch.inference_mode():
        *_, last = stream(model, model.condition(E), options, steering=STEERING)
    assert last.confidence.isfinite().all()
    assert not (last.ids == MASK).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_at_strength_0_a_decoding_is_as_without(strategy: str) -> None:
    model, options = denoiser(), Decoding(L, strategy, steering=0.0)
    with torch.inference_mode():
        *_, last = stream(model, model.condition(E), options, steering=STEERING)
        *_, without = stream(model, model.condition(E), options)
    assert torch.equal(last.ids, without.ids)
    assert torch.equal(last.confidence, without.confidence)


def test_visible_tokens_are_scored_as_they_were() -> None:
    """A pass that looks at all of a canvas changes the chances of what is masked only."""
    model = denoiser()
    start_BL = torch.full((len(E), L), MASK)
    start_BL[:, ::2] = 1
    options = Decoding(2, "two-stage", steering=20.0)
    with torch.inference_mode():
        *_, last = stream(model, model.condition(E), options, None, start_BL, STEERING)
    assert torch.equal(last.ids[:, ::2], start_BL[:, ::2])
    everywhere = replace(last, wanted=torch.ones_like(last.wanted))  # no mask is left to be steered
    with torch.inference_mode():
        found, expected = (
            Predictor(model, model.condition(E), options, range(len(E)), steering=by)(everywhere)
            for by in (STEERING, None)
        )
    assert torch.equal(found.confidence, expected.confidence)
