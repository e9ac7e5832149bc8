"""Balance against the same in plain Python, and what it must leave alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unembed.config import ModelConfig
from unembed.decoding.options import STRATEGIES, Decoding, DecodingTuning
from unembed.decoding.predictor import chunks, stream
from unembed.decoding.token_counts import Balance
from unembed.denoiser.model import Denoiser

V, L, D = 12, 7, 5
MASK, EOS, PAD = 11, 9, 10
COUNTED = range(9)
TUNING = DecodingTuning()


def logits_like(seed: int, rows: int) -> Tensor:
    logits_RV = 2 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))
    logits_RV[:, MASK] = -torch.inf
    return logits_RV


def balanced(balance: Balance, logits_RV: Tensor, c_V: Tensor, n_V: Tensor) -> Tensor:
    """The logits of a pass after balancing."""
    masses_RV = balance.masses(logits_RV)
    return balance.multiplied(logits_RV, masses_RV, balance.factors(masses_RV, c_V, n_V))


def by_hand(logits: list[list[float]], c: list[float], n: list[int], strength: float) -> list[list[float]]:
    """Probabilities after balancing, one number at a time."""
    chances = []
    for row in logits:
        total = math.fsum(math.exp(x) for x in row)
        chances.append([math.exp(x) / total for x in row])
    m = [math.fsum(row[v] for row in chances) for v in range(V)]
    result = []
    for row in chances:
        scaled = list(row)
        for v in COUNTED:
            scaled[v] = row[v] * ((max(c[v] - n[v], 0) + TUNING.floor) / (m[v] + TUNING.floor)) ** strength
        content, was = math.fsum(scaled[v] for v in COUNTED), math.fsum(row[v] for v in COUNTED)
        for v in COUNTED:
            scaled[v] *= was / content
        result.append(scaled)
    return result


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, L),
    visible=st.lists(st.integers(0, V - 1), max_size=L),
    strength=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_it_is_its_formula(seed: int, rows: int, visible: list[int], strength: float) -> None:
    balance = Balance(strength, MASK, [EOS, PAD], TUNING)
    logits_RV = logits_like(seed, rows)
    n_V = balance.visible(torch.tensor(visible, dtype=torch.int64), V)
    assert n_V.tolist() == [visible.count(v) if v in COUNTED else 0 for v in range(V)]
    c_V = balance.expected(balance.masses(logits_like(seed + 1, L)), torch.zeros(V))
    found_RV = balanced(balance, logits_RV, c_V, n_V).softmax(-1)
    expected = by_hand(logits_RV.tolist(), c_V.tolist(), [int(n) for n in n_V], strength)
    torch.testing.assert_close(found_RV, torch.tensor(expected), rtol=1e-4, atol=2e-3 * strength + 1e-6)
    before_RV = logits_RV.softmax(-1)
    for kept in (MASK, EOS, PAD):
        torch.testing.assert_close(found_RV[:, kept], before_RV[:, kept])


def test_expected_counts_are_those_of_the_pass_sharpened_beside_what_is_visible() -> None:
    logits_RV = logits_like(3, L)
    n_V = torch.zeros(V)
    n_V[4] = 2.0
    balance = Balance(1.0, MASK, [EOS, PAD], TUNING)
    found_V = balance.expected(balance.masses(logits_RV), n_V)
    m = [math.fsum(logits_RV.softmax(-1)[:, v].tolist()) if v in COUNTED else 0.0 for v in range(V)]
    share = math.fsum(m) / math.fsum(x**TUNING.sharpness for x in m)
    torch.testing.assert_close(found_V, torch.tensor([x**TUNING.sharpness * share for x in m]) + n_V)
    assert found_V.sum().item() == pytest.approx(math.fsum(m) + 2)


def test_a_word_that_is_there_goes_and_one_that_is_missing_comes() -> None:
    """Two words are expected once each; one is visible, and the pass would put it down again."""
    balance = Balance(1.0, MASK, [EOS, PAD], TUNING)
    c_V = torch.zeros(V)
    c_V[[1, 2]] = 1.0
    n_V = balance.visible(torch.tensor([1, MASK, PAD]), V)
    logits_RV = torch.full((1, V), -20.0)
    logits_RV[0, [1, 2]] = torch.tensor([0.6, 0.4]).log()
    found_V = balanced(balance, logits_RV, c_V, n_V).softmax(-1)[0]
    one, two = 0.6 * TUNING.floor / (0.6 + TUNING.floor), 0.4 * (1 + TUNING.floor) / (0.4 + TUNING.floor)
    assert found_V[1].item() == pytest.approx(one / (one + two), abs=1e-4)


def test_where_everything_ends_nothing_changes() -> None:
    logits_RV = torch.full((2, V), -1e4)
    logits_RV[:, PAD] = 0.0
    balance = Balance(1.0, MASK, [EOS, PAD], TUNING)
    c_V = balance.expected(balance.masses(logits_RV), torch.zeros(V))
    found_RV = balanced(balance, logits_RV, c_V, torch.zeros(V))
    assert found_RV.isfinite().all()
    torch.testing.assert_close(found_RV.softmax(-1), logits_RV.softmax(-1))


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), sure=st.floats(5, 60), strength=st.sampled_from([0.5, 0.7, 1.0]))
def test_where_an_end_is_all_but_sure_logits_stay_finite(seed: int, sure: float, strength: float) -> None:
    """Whatever of the content is suppressed: its chance is as small as the rounding of the end's."""
    balance = Balance(strength, MASK, [EOS, PAD], TUNING)
    logits_RV = logits_like(seed, L)
    logits_RV[1:, EOS] += sure
    logits_RV[:, :3] += 5  # what is there already, so that most of the content is suppressed
    c_V = balance.expected(balance.masses(logits_like(seed + 1, L)), torch.zeros(V))
    found_RV = balanced(balance, logits_RV, c_V, balance.visible(torch.tensor([0, 1, 2] * 9), V))
    found_RV[:, MASK] = 0.0
    assert found_RV.isfinite().all()


# --- in a decoding


def denoiser() -> Denoiser:
    torch.manual_seed(1)
    config = ModelConfig(max_tokens=L, width=8, blocks=1, heads=2, feed_forward=16, adaln_rank=0)
    found = Denoiser(V, D, MASK, config, (EOS, PAD))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return found.eval()


@torch.inference_mode()
def naive(model: Denoiser, e_D: Tensor) -> Tensor:
    """One row, one position a pass from the left, with whole passes of the denoiser."""
    balance = Balance(Decoding.balance, MASK, [EOS, PAD], TUNING)
    ids_L = torch.full((L,), MASK)
    c_V: Tensor | None = None
    for place in range(L):
        logits_RV = model(ids_L[None], e_D[None])[0, place:]
        n_V = balance.visible(ids_L, V)
        if c_V is None:
            c_V = balance.expected(balance.masses(logits_RV), n_V)
        else:
            logits_RV = balanced(balance, logits_RV, c_V, n_V)
        ids_L[place] = logits_RV[0].argmax()
    return ids_L


def test_decoding_keeps_to_the_first_pass_of_each_row() -> None:
    model, e_BD = denoiser(), torch.randn(6, D, generator=torch.Generator().manual_seed(2))
    expected_BL = torch.stack([naive(model, e_D) for e_D in e_BD])
    with torch.inference_mode():
        *_, last = stream(model, model.condition(e_BD), Decoding(L, "sequential"))
        *_, without = stream(model, model.condition(e_BD), Decoding(L, "sequential", balance=0.0))
    assert torch.equal(last.ids, expected_BL)
    assert not torch.equal(without.ids, expected_BL)  # so the comparison says something


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_single_pass_is_as_it_is(strategy: str) -> None:
    model, e_BD = denoiser(), torch.randn(6, D, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        *_, last = stream(model, model.condition(e_BD), Decoding(1, strategy))
        *_, without = stream(model, model.condition(e_BD), Decoding(1, strategy, balance=0.0))
    assert torch.equal(last.ids, without.ids)
    assert torch.equal(last.confidence, without.confidence)


@given(counts=st.lists(st.integers(0, 9), max_size=12), most=st.integers(1, 20))
def test_chunks_are_whole_canvases(counts: list[int], most: int) -> None:
    found = list(chunks(counts, most))
    assert [canvas for canvases, _ in found for canvas in canvases] == [i for i, count in enumerate(counts) if count]
    stop = 0
    for canvases, rows in found:
        assert (rows.start, rows.stop - rows.start) == (stop, sum(counts[i] for i in canvases))
        assert len(canvases) == 1 or rows.stop - rows.start <= most
        stop = rows.stop
