"""Calibration: the map against another optimiser, on made-up tokens whose true probabilities are known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import fake_encoder, save_tiny_inverter, tiny_texts
from unembed.decoding.calibration import FILE, Calibration, features, fit
from unembed.errors import CheckpointError, InputError
from unembed.evaluation.calibrate import calibrate
from unembed.evaluation.metrics import expected_calibration_error
from unembed.inverter import Inverter

TRUE = Calibration(-1.5, (0.6, 0.3, 0.8), {"steps": 8})


def made_up(texts: int, seed: int = 0) -> tuple[list[list[float]], list[list[bool]]]:
    """Confidences, and outcomes drawn with the probabilities that `TRUE` gives them."""
    rng = np.random.default_rng(seed)
    confidence = [rng.beta(0.6, 0.8, size=rng.integers(0, 33)).tolist() for _ in range(texts)]
    return confidence, [(rng.random(len(one)) < TRUE.apply(one)).tolist() for one in confidence]


def test_features_are_what_they_are_called() -> None:
    found = features([0.5, 0.9, 1.0])
    sure = math.log((1 - 1e-6) / 1e-6)
    np.testing.assert_allclose(found[:, 0], [0, math.log(9), sure])
    np.testing.assert_allclose(found[:, 1], [(math.log(9) + sure) / 3] * 3)
    np.testing.assert_allclose(found[:, 2], [1, 1 / 2, 1 / 3])


def test_the_fit_is_that_of_another_optimiser() -> None:
    confidence, right = made_up(60)
    inputs = torch.tensor(np.concatenate([features(one) for one in confidence if one]))
    outcomes = torch.tensor([float(hit) for one in right for hit in one], dtype=torch.float64)
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        z = inputs @ w[1:] + w[0]
        value = torch.nn.functional.binary_cross_entropy_with_logits(z, outcomes, reduction="sum")
        value = value + 1e-3 * w.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    found = fit(confidence, right)
    np.testing.assert_allclose([found.intercept, *found.weights], w.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_drew_the_outcomes_is_found_and_calibrates_other_texts() -> None:
    found = fit(*made_up(4000))
    np.testing.assert_allclose([found.intercept, *found.weights], [TRUE.intercept, *TRUE.weights], atol=0.08)
    confidence, right = made_up(1000, seed=1)
    calibrated = [found.apply(one) for one in confidence]
    assert expected_calibration_error(confidence, right).value > 0.1
    assert expected_calibration_error(calibrated, right).value < 0.015
    shares = [(np.mean(p), np.mean(r)) for p, r in zip(calibrated, right, strict=True) if p]
    assert np.mean([expected for expected, _ in shares]) == pytest.approx(np.mean([hit for _, hit in shares]), abs=0.01)


def test_outcomes_that_nothing_contradicts_leave_finite_weights() -> None:
    for right in ([[True, True, False]], [[True] * 3], [[False] * 3]):
        found = fit([[0.9, 0.8, 0.1]], right)
        assert np.isfinite([found.intercept, *found.weights]).all()
        assert all((p > 0.5) == hit for p, hit in zip(found.apply([0.9, 0.8, 0.1]), right[0], strict=True))
    assert found.apply([]) == []


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [([], [], "no tokens to fit on"), ([[]], [[]], "no tokens"), ([[0.5]], [[True, False]], "differ in number")],
)
def test_nothing_to_fit_on_is_refused(confidence: list, right: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(confidence, right)


def test_a_map_is_json_and_comes_back() -> None:
    assert Calibration.from_dict(json.loads(json.dumps(TRUE.to_dict()))) == TRUE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "is no map of log_odds"),
        ({"features": ["log_odds"]}, "is no map of log_odds"),
        ({"weights": [1.0]}, "has 1 weights, expected 3 finite ones"),
        ({"weights": [1.0, 2.0, math.nan]}, "finite"),
        ({"weights": None}, "is no calibration"),
        ({"intercept": "x"}, "is no calibration"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / FILE).write_text(json.dumps(TRUE.to_dict() | change))
    with pytest.raises(CheckpointError, match=message):
        Calibration.load(tmp_path)
    (tmp_path / FILE).write_text("[")
    with pytest.raises(CheckpointError, match=FILE):
        Calibration.load(tmp_path)
    assert Calibration.load(tmp_path / "elsewhere") is None


def test_an_inverter_with_a_map_in_its_folder_is_calibrated(tmp_path: Path) -> None:
    folder, e = save_tiny_inverter(tmp_path / "tiny"), fake_encoder().encode(tiny_texts(3))
    plain = Inverter.from_pretrained(folder, encoder=fake_encoder()).invert(e, candidates=2)
    (folder / FILE).write_text(json.dumps(TRUE.to_dict()))
    inverter = Inverter.from_pretrained(folder, encoder=fake_encoder())
    inverter.save_pretrained(tmp_path / "again")
    for name in (folder, tmp_path / "again"):
        calibrated = Inverter.from_pretrained(name, encoder=fake_encoder()).invert(e, candidates=2)
        for raw, found in zip(plain, calibrated, strict=True):
            assert (found.text, found.score) == (raw.text, raw.score)  # candidates are ranked as before
            assert found.confidence == TRUE.apply(raw.confidence)
            assert [one.confidence for one in found.candidates] == [
                TRUE.apply(one.confidence) for one in raw.candidates
            ]


def test_it_is_fitted_on_one_half_and_measured_on_the_other(tmp_path: Path) -> None:
    inverter = Inverter.from_pretrained(save_tiny_inverter(tmp_path / "tiny"), encoder=fake_encoder())
    texts = tiny_texts(60)
    found = calibrate(inverter, fake_encoder(), texts)
    assert (found.about["fitted_on"], found.about["measured_on"]) == (30, 30)
    assert found.about["ece_after"] < found.about["ece_before"]
    # By hand: the confidences are those of blind inversions by default.
    raw = inverter.invert(inverter.encode(texts))
    truth = inverter.tokenizer.encode_batch(texts)
    right = [
        [place < len(true) and token == true[place] for place, token in enumerate(inverter.tokenizer.content(one.ids))]
        for one, true in zip(raw, truth, strict=True)
    ]
    expected = fit([one.confidence for one in raw[::2]], right[::2])
    assert (found.intercept, found.weights) == (expected.intercept, expected.weights)
    error = expected_calibration_error([expected.apply(one.confidence) for one in raw[1::2]], right[1::2])
    assert found.about["ece_after"] == pytest.approx(error.value, abs=1e-5)
    # An inverter that is calibrated already gives the same map.
    inverter.calibration = TRUE
    assert calibrate(inverter, fake_encoder(), texts) == found
    assert inverter.calibration is TRUE
    with pytest.raises(InputError, match="19 held-out texts, expected at least 20"):
        calibrate(inverter, fake_encoder(), texts[:19])
