"""Matrices in 8 bits: how far they are off, what is refused, what the card says, and that inversion hardly notices."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from fakes import fake_encoder, save_tiny_inverter, tiny_config, tiny_denoiser, tiny_parts, tiny_texts, tiny_tokenizer
from unembed.denoiser.model import count_parameters
from unembed.errors import CheckpointError, OutputError
from unembed.files import quantised
from unembed.files.quantised import KEPT, LEAST, SCALE
from unembed.inverter import Inverter
from unembed.storage import checkpoint
from unembed.storage.checkpoint import load_inverter, save_inverter, save_pt
from unembed.storage.fingerprint import fingerprint

MATRIX = "blocks.0.attention.qkv.weight"  # (96, 32) in the tiny inverter
FILE = "model.safetensors"


@pytest.fixture
def small_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny inverter's matrices of 512 weights and more go to 8 bits."""
    monkeypatch.setattr(quantised, "LEAST", 512)


@pytest.fixture
def folder(tmp_path: Path, small_is_worth_it: None) -> Path:
    """The tiny inverter, stored in 8 bits."""
    return save_int8(tmp_path / "inverter")


def save_int8(path: Path) -> Path:
    parts = tiny_parts()
    save_inverter(path, parts.denoiser.state_dict(), parts.tokenizer, parts.config, parts.results, torch.int8)
    return path


def there_and_back(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return quantised.restored(quantised.quantised(state), Path("here"))


# --- what is stored


def test_each_weight_is_within_half_a_step_of_its_row() -> None:
    torch.manual_seed(0)
    spread = torch.logspace(-30, 30, 300)[:, None]  # of the rows
    weights = torch.randn(300, 400) * spread
    weights[7], weights[8, 0] = 0.0, 1e3 * weights[8].abs().max()  # an empty row, and one with an outlier
    found = there_and_back({"w": weights})["w"]
    assert found.dtype == torch.float32
    half_a_step = weights.abs().amax(1, keepdim=True) / 254
    assert ((found - weights).abs() <= half_a_step * 1.005).all()  # scales are rounded to bfloat16
    assert ((found - weights) / spread)[9:].norm() < 0.01 * (weights / spread)[9:].norm()
    assert not found[7].any()


def test_large_matrices_are_in_8_bits_and_nothing_else() -> None:
    side = int(LEAST**0.5)
    state = {
        "large": torch.randn(side, side),
        "small": torch.randn(side, side - 1),
        "bias": torch.randn(LEAST),
        **{name: torch.randn(side, side) for name in KEPT},
    }
    stored = quantised.quantised(state)
    assert {name: tensor.dtype for name, tensor in stored.items() if tensor.dtype != torch.bfloat16} == {
        "large": torch.int8
    }
    assert stored.keys() - state.keys() == {"large" + SCALE}
    assert (stored["large"].shape, stored["large" + SCALE].shape) == ((side, side), (side,))
    found = quantised.restored(stored, Path("here"))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name].bfloat16()) for name in state.keys() - {"large"})


def test_storing_what_was_restored_changes_nothing(folder: Path, tmp_path: Path) -> None:
    Inverter.from_pretrained(folder).save_pretrained(tmp_path / "again", torch.int8)
    assert (tmp_path / "again" / FILE).read_bytes() == (folder / FILE).read_bytes()
    prints = [fingerprint(load_inverter(path).denoiser) for path in (folder, tmp_path / "again")]
    assert prints[0] == prints[1]


def test_no_parameter_looks_like_a_scale() -> None:
    assert not quantised.scale_names(tiny_denoiser(0.1).state_dict())


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_stored(tmp_path: Path, small_is_worth_it: None, weight: float) -> None:
    denoiser = tiny_denoiser(0.1)
    state = denoiser.state_dict()
    state[MATRIX][3, 4] = weight
    with pytest.raises(OutputError, match=rf"{MATRIX} has weights that are not finite"):
        save_inverter(tmp_path / "inverter", state, tiny_tokenizer(), tiny_config(), {}, torch.int8)
    assert not list(tmp_path.iterdir())


# --- what is loaded


def test_both_forms_load(folder: Path, tmp_path: Path) -> None:
    before = tiny_parts().denoiser.state_dict()
    for path in (folder, save_tiny_inverter(tmp_path / "whole")):
        found = load_inverter(path).denoiser.state_dict()
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        for name, tensor in found.items():
            assert (tensor - before[name]).norm() < 0.01 * before[name].norm(), name
    stored = load_file(folder / FILE)
    assert sum(tensor.dtype == torch.int8 for tensor in stored.values()) == len(quantised.scale_names(stored)) > 10


def test_a_matrix_and_its_scales_may_be_in_different_shards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_SIZE", "2KB")
    sharded = save_int8(tmp_path / "sharded")
    assert len(list(sharded.glob("*.safetensors"))) > 10
    assert fingerprint(load_inverter(sharded).denoiser) == fingerprint(load_inverter(folder).denoiser)


def test_a_pt_file_holds_whole_tensors(folder: Path, tmp_path: Path) -> None:
    parts = load_inverter(folder)
    path = tmp_path / "inverter.pt"
    save_pt(path, parts.denoiser.state_dict(), parts.tokenizer, parts.config, parts.results)
    tree = torch.load(path, weights_only=True)
    assert {tensor.dtype for tensor in tree["state"].values()} == {torch.float32}
    assert fingerprint(load_inverter(path).denoiser) == fingerprint(parts.denoiser)
    tree["state"][MATRIX] = torch.ones(96, 32, dtype=torch.int8)
    torch.save(tree, path)
    with pytest.raises(CheckpointError, match=rf"tensor {MATRIX} holds int8, expected floating-point numbers"):
        load_inverter(path)


def one_scale(value: float) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: state[MATRIX + SCALE].__setitem__(5, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(MATRIX + SCALE), f"{MATRIX} is in 8 bits, but its scales {MATRIX}{SCALE} are missing"),
        (lambda state: state.pop(MATRIX), f"scales {MATRIX}{SCALE} are there, but no matrix in 8 bits that is theirs"),
        (lambda state: state.update({MATRIX: torch.ones(96, 32)}), f"scales {MATRIX}{SCALE} are there, but no matrix"),
        (lambda state: state.update({"more.scale": torch.ones(3)}), "scales more.scale are there, but no matrix"),
        (lambda state: state.update({MATRIX + SCALE: torch.ones(32)}), r"have shape \(32,\) for a tensor of \(96, 32"),
        (lambda state: state.update({MATRIX + SCALE: torch.ones(96, 1)}), r"have shape \(96, 1\) for .*, expected one"),
        (lambda state: state.update({MATRIX + SCALE: torch.ones(())}), r"have shape \(\) for a tensor"),
        (
            lambda state: state.update({MATRIX + SCALE: torch.ones(96, dtype=torch.int32)}),
            "are not all finite numbers above zero",
        ),
        (one_scale(float("nan")), f"scales {MATRIX}{SCALE} are not all finite numbers above zero"),
        (one_scale(float("inf")), "are not all finite numbers above zero"),
        (one_scale(0.0), "are not all finite numbers above zero"),
        (one_scale(-1.0), "are not all finite numbers above zero"),
        (
            lambda state: state.update(
                {"output_bias": torch.ones(69, dtype=torch.int8), "output_bias.scale": torch.ones(69)}
            ),
            r"output_bias.scale have shape \(69,\) for a tensor of \(69,\), expected one for each row",
        ),
        (
            lambda state: state.update({"output_bias": torch.ones(69, dtype=torch.int32)}),
            "tensor output_bias holds int32, expected floating-point numbers",
        ),
        (
            lambda state: state.update(
                {MATRIX: torch.ones(95, 32, dtype=torch.int8), MATRIX + SCALE: torch.ones(95)}
            ),
            rf"tensor {MATRIX} has shape \(95, 32\), expected \(96, 32\)",
        ),
    ],
)  # fmt: skip
def test_scales_that_do_not_fit(folder: Path, change: Callable[[dict[str, Tensor]], Any], message: str) -> None:
    state = load_file(folder / FILE)
    change(state)
    save_file(state, folder / FILE)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_inverter(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


# --- what becomes of it


@pytest.mark.parametrize(("steps", "least"), [(1, 0.95), (4, 0.8)])  # in bfloat16 it is 0.995 and 0.94
def test_a_blind_inversion_gives_mostly_the_same_tokens(folder: Path, steps: int, least: float) -> None:
    """Although it is untrained, so that many of its guesses are close calls, and a pass goes on from those before."""
    fake = fake_encoder()
    embeddings = fake.encode(tiny_texts(100, seed=5))
    whole, packed = (Inverter(parts, encoder=fake) for parts in (tiny_parts(), load_inverter(folder)))
    pairs = zip(*(inverter.invert(embeddings, steps=steps) for inverter in (whole, packed)), strict=True)
    same = [one == other for a, b in pairs for one, other in zip(a.ids, b.ids, strict=False)]
    assert len(same) > 1000
    assert sum(same) > least * len(same)


def rows(card: Path) -> dict[str, str]:
    """The card's tables of two columns."""
    cells = (line.split("|") for line in card.read_text(encoding="utf-8").splitlines() if line.count("|") == 3)
    return {name.strip(): value.strip() for _, name, value, _ in cells}


def test_the_card_says_how_weights_are_stored(folder: Path) -> None:
    denoiser, stored = tiny_parts().denoiser, load_file(folder / FILE)
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    packed = sum(tensor.numel() for tensor in stored.values() if tensor.dtype == torch.int8)
    found = rows(folder / "README.md")
    assert found["parameters"] == f"{total:,}"
    assert found["without the token table"] == f"{count_parameters(denoiser):,}"
    assert found["stored as"] == (
        f"{packed:,} of them in 8 bits, with a scale for each row of their matrices; {total - packed:,} in bfloat16"
    )


def test_the_script_packages_in_8_bits(tmp_path: Path, small_is_worth_it: None) -> None:
    source = save_tiny_inverter(tmp_path / "run")
    main = runpy.run_path(str(Path(__file__).parents[1] / "runs" / "package.py"))["main"]
    for target, options, expected in (
        ("half", [], {torch.bfloat16}),
        ("int8", ["--int8"], {torch.int8, torch.bfloat16}),
    ):
        result = CliRunner().invoke(main, [str(source), str(tmp_path / target), *options])
        assert result.exit_code == 0, result.output
        assert {tensor.dtype for tensor in load_file(tmp_path / target / FILE).values()} == expected
    assert load_inverter(tmp_path / "int8").config == load_inverter(source).config
