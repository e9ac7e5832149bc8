"""What protects vectors, and at what price."""

from typing import Any

import numpy as np
import pytest

from fakes import LocalEncoder, fake_encoder
from memory_store import KnowingInverter, rows, texts
from unembed.audit.defences import FEWEST, FORMS, NONE, adapted, price
from unembed.audit.sample import Sample, draw
from unembed.audit.stored_forms import FORMS as STORED
from unembed.audit.stored_forms import rounding
from unembed.errors import InputError

TEXTS = texts(700)
VECTORS = fake_encoder().encode(TEXTS)
GENERATOR = np.random.default_rng(0)


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sample(told: bool = True, n: int = 700, size: int = 60) -> Sample:
    return draw([rows(VECTORS[:n], TEXTS[:n] if told else None)], size, 600)


@pytest.fixture(scope="module")
def inverter() -> KnowingInverter:
    return KnowingInverter(TEXTS)


@pytest.fixture(scope="module")
def priced(inverter: KnowingInverter) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in price(sample(), True, inverter)}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_leaves_so_many_levels_and_errs_by_half_a_level(bits: int) -> None:
    e = unit(200, 384)
    rounded = rounding(bits)(e)
    assert max(len(np.unique(row)) for row in rounded) <= 2**bits - 1
    level = np.abs(e).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(rounded - e) <= level / 2 + 1e-6).all()


def test_forms_take_as_many_bytes_as_they_say() -> None:
    x = unit(600, 100)
    sizes = {name: fit(x, GENERATOR).bytes for name, fit in STORED.items()}
    assert sizes["none"] == sizes["rotation"] == sizes["noise 0.5"] == 400
    assert sizes["int8"] == 104
    assert sizes["binary"] == sizes["product quantisation"] == 13  # 100 bits; 100 numbers in parts of eight
    assert sizes["half of the dimensions"] == 200
    assert sizes["PCA to a quarter"] == 100
    for fit in STORED.values():
        form = fit(x, GENERATOR)
        assert form.store(x).shape[1] == form.query(x).shape[1]


def test_noise_has_the_length_that_it_says() -> None:
    x = unit(500, 64)
    kept = STORED["noise 1"](x, np.random.default_rng(1)).store(x)
    # A vector of length 1 and noise of length 1, at right angles: the cosine is 1 / sqrt(2).
    assert (kept * x).sum(1).mean() == pytest.approx(2**-0.5, abs=0.02)


def test_rotation_and_principal_directions_keep_dot_products() -> None:
    x = (unit(400, 8) @ np.random.default_rng(3).standard_normal((8, 40))).astype(np.float32)  # of rank 8 in 40
    for name in ("rotation", "PCA to a quarter"):
        form = STORED[name](x, GENERATOR)
        np.testing.assert_allclose(form.query(x) @ form.store(x).T, x @ x.T, atol=1e-3)


def test_bits_of_the_mean_are_balanced_where_there_is_a_constant_direction() -> None:
    x = unit(400, 32) + 0.5
    zero, mean = (STORED[name](x, GENERATOR).store(x) for name in ("binary", "binary at the mean"))
    assert set(np.unique(mean)) == {-1, 1}
    assert abs(zero.mean()) > 0.8
    assert abs(mean.mean()) < 0.1


def test_product_quantisation_is_nearer_than_the_mean_of_all() -> None:
    x = unit(2100, 20)
    form = STORED["product quantisation"](x, np.random.default_rng(0))
    kept = form.store(x)
    assert form.note == ""
    assert ((kept - x) ** 2).sum() < 0.6 * ((x - x.mean(0)) ** 2).sum()
    assert all(len(np.unique(kept[:, part], axis=0)) <= 256 for part in (slice(0, 8), slice(16, 20)))
    assert "12 centroids" in STORED["product quantisation"](x[:100], np.random.default_rng(0)).note


@pytest.mark.parametrize("name", ["none", "int8", "rotation", "half of the dimensions"])
def test_the_attack_is_adapted(name: str) -> None:
    """Vectors of pairs find their way back: a rotation wholly, lost dimensions as far as the others tell them."""
    encoder = LocalEncoder()
    y = encoder.encode(TEXTS)
    form = STORED[name](y, np.random.default_rng(1))
    kept = form.store(y)
    if kept.shape[1] < y.shape[1]:
        kept = np.pad(kept, ((0, 0), (0, y.shape[1] - kept.shape[1])))
    mapped = adapted(kept[:600], y[:600], True, 0)(kept[600:])
    before, after = ((one * y[600:]).sum(1).mean() for one in (kept[600:], mapped))
    assert after > (0.999 if name != "half of the dimensions" else before + 0.05)


def test_rows_say_what_a_defence_costs_and_gives(priced: dict[str, dict[str, Any]]) -> None:
    assert tuple(priced) == FORMS
    none = priced[NONE]
    assert none["recall"]["value"] == none["ndcg"]["value"] == 1
    assert none["measure"] == "token F1"
    for row in priced.values():
        for figure in ("leak", "recall", "ndcg"):
            assert 0 <= row[figure]["low"] <= row[figure]["value"] <= row[figure]["high"] <= 1
            assert row[figure]["n"] == 60
    # A secret rotation costs nothing, and gives nothing to who has pairs.
    assert priced["rotation"]["recall"]["value"] > 0.99
    assert priced["rotation"]["leak"]["value"] > none["leak"]["value"] - 0.01
    # Noise gives both, and more of it more.
    leaks, recalls = (
        [priced[f"noise {length}"][name]["value"] for length in ("0.25", "1", "2")] for name in ("leak", "recall")
    )
    assert leaks == sorted(leaks, reverse=True)
    assert recalls == sorted(recalls, reverse=True)
    assert leaks[-1] < none["leak"]["value"] - 0.2


def test_rescoring_keeps_neighbours_by_keeping_what_leaks(priced: dict[str, dict[str, Any]]) -> None:
    bits, both, none = (priced[name] for name in ("binary", "binary with rescoring", NONE))
    assert both["recall"]["value"] > bits["recall"]["value"]
    assert both["leak"] == none["leak"]
    assert both["bytes"] == bits["bytes"] + none["bytes"]
    assert "full vectors" in both["note"]


def test_neighbours_agree_with_a_search_by_hand(priced: dict[str, dict[str, Any]]) -> None:
    drawn = sample()
    x = np.concatenate([drawn.rows.vectors, drawn.others.vectors])
    bits = np.where(x < 0, -1, 1)
    shares = []
    for i in range(60):
        others = [j for j in range(len(x)) if j != i]
        right = sorted(others, key=lambda j: -float(x[i] @ x[j]))[:10]
        found = sorted(others, key=lambda j: -int(bits[i] @ bits[j]))[:10]
        shares.append(len({*right} & {*found}) / 10)
    assert priced["binary"]["recall"]["value"] == pytest.approx(np.mean(shares), abs=0.02)  # ties go either way


def test_without_texts_the_leak_is_a_cosine(inverter: KnowingInverter) -> None:
    found = list(price(sample(told=False), True, inverter))
    assert {row["measure"] for row in found} == {"cosine"}
    leak = {row["name"]: row["leak"]["value"] for row in found}
    assert leak["none"] > leak["noise 2"]


def test_another_encoders_vectors_are_priced_by_pairs(inverter: KnowingInverter) -> None:
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((16, 16)))[0].astype(np.float32)
    drawn = draw([rows(VECTORS @ turn, TEXTS)], 60, 600)
    leak = {row["name"]: row["leak"]["value"] for row in price(drawn, False, inverter)}
    assert leak["none"] > leak["noise 2"] + 0.2
    with pytest.raises(InputError, match="0 rows besides the sample"):
        next(price(draw([rows(VECTORS @ turn)], 60, 600), False, inverter))


def test_too_few_rows_are_refused(inverter: KnowingInverter) -> None:
    with pytest.raises(InputError, match=f"expected at least {FEWEST}"):
        next(price(sample(n=100, size=60), True, inverter))
