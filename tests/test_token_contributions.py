"""Contributions against encoders that are what they are taken for."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unembed.surrogate import token_contributions
from unembed.surrogate.bag import Fitted, Surrogate, directions, fit
from unembed.surrogate.pairs import Texts
from unembed.surrogate.token_contributions import refine, shares

V, H, D, L = 40, 6, 16, 12
GENERATOR = torch.Generator().manual_seed(1)
TABLE = torch.randn(V, H, generator=GENERATOR)
OWN = torch.randn(V, D, generator=GENERATOR) * torch.rand(V, 1, generator=GENERATOR)  # nothing of it in the table
UNUSED = 7


def texts(count: int, seed: int) -> Texts:
    """Random texts of any tokens but one, embedded as bags."""
    noise = np.random.default_rng(seed)
    lengths = torch.from_numpy(noise.integers(1, L + 1, count))
    ids = torch.from_numpy(noise.choice([token for token in range(V) if token != UNUSED], (count, L)))
    ids[torch.arange(L) >= lengths[:, None]] = 0
    e = torch.stack([OWN[row[:length]].mean(0) for row, length in zip(ids, lengths.tolist(), strict=True)])
    return Texts(ids, lengths, F.normalize(e, dim=-1))


def cosine(fitted: Fitted, told: Texts) -> float:
    found = torch.from_numpy(Surrogate(TABLE, fitted).embed(told.rows()))
    return float((found * told.e).sum(-1).mean())


def linear(told: Texts) -> Fitted:
    return fit(TABLE, told.rows(), told.e)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_contributions, "BATCH", 64)


@pytest.mark.usefixtures("small_steps")
def test_of_a_bag_they_learn_what_directions_cannot_tell() -> None:
    told, unseen = texts(3000, 2), texts(300, 3)
    ridge = linear(told)
    *_, refined = refine(ridge, directions(TABLE), told, epochs=8, size=D)
    assert cosine(ridge, unseen) < 0.8
    assert cosine(refined, unseen) > 0.97


@pytest.mark.usefixtures("small_steps")
def test_a_token_that_no_text_holds_contributes_by_its_direction() -> None:
    told = texts(600, 4)
    *_, refined = refine(linear(told), directions(TABLE), told, epochs=1, size=4)
    assert refined.own is not None
    assert refined.own.loudness[UNUSED] == 1
    assert not refined.own.code[UNUSED].any()
    x_D = Surrogate(TABLE, refined).x_VD[UNUSED]
    np.testing.assert_allclose(x_D, directions(TABLE)[UNUSED] @ refined.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_steps")
def test_there_is_one_after_each_epoch_and_the_same_for_the_same_seed() -> None:
    told = texts(200, 5)
    one, other = (list(refine(linear(told), directions(TABLE), told, 2, 3, seed=1)) for _ in range(2))
    assert len(one) == 2
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.weight, b.weight)
        assert a.own is not None
        assert b.own is not None
        assert torch.equal(a.own.code, b.own.code)
    assert one[0].own is not None
    assert one[1].own is not None
    assert not torch.equal(one[0].own.code, one[1].own.code)


def test_shares_are_those_of_the_tokens_inside() -> None:
    tokens_T, shares_BT = shares(torch.tensor([[5, 2, 5, 0], [2, 0, 0, 0]]), torch.tensor([3, 1]))
    of = dict(zip(tokens_T.tolist(), shares_BT.T.tolist(), strict=True))
    assert of[5] == pytest.approx([2 / 3, 0])
    assert of[2] == pytest.approx([1 / 3, 1])
    assert of[0] == [0, 0]
