"""bfloat16 where it pays, and float32, with a word about it, where it does not."""

import warnings
from pathlib import Path

import pytest
import torch

from fakes import save_tiny_inverter
from unembed.denoiser import precision
from unembed.denoiser.precision import granted
from unembed.inverter import Inverter

measured = precision.slowdown  # before a fixture puts another in its place


@pytest.mark.parametrize(
    ("wish", "device", "slowdown", "expected"),
    [
        ("float32", "cpu", 0.2, "float32"),
        ("bfloat16", "cpu", 0.2, "bfloat16"),
        ("bfloat16", "cpu", 1.0, "bfloat16"),
        ("bfloat16", torch.device("cuda", 1), 30.0, "bfloat16"),
        ("float32", "cpu", 30.0, "float32"),
    ],
)
def test_a_wish_is_granted_where_it_costs_no_time(
    monkeypatch: pytest.MonkeyPatch, wish: str, device: str | torch.device, slowdown: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: slowdown)
    assert granted(wish, device) == expected


def test_an_inverter_runs_in_float32_where_bfloat16_is_emulated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_tiny_inverter(tmp_path)
    assert Inverter.from_pretrained(folder, precision="bfloat16").denoiser.precision == torch.bfloat16
    monkeypatch.setattr(precision, "slowdown", lambda: 6.4)
    with pytest.warns(UserWarning, match="bfloat16 takes 6.4 times as long as float32 on this processor: float32"):
        found = Inverter.from_pretrained(folder, precision="bfloat16")
    assert found.denoiser.precision == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Inverter.from_pretrained(folder)


def test_what_is_measured_is_a_ratio_and_the_threads_stay() -> None:
    torch.set_num_threads(2)
    try:
        measured.cache_clear()
        assert 0.01 < measured() < 1000
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
