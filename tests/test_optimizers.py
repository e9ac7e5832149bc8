"""Optimizers: which weights move, by which optimizer, and how fast."""

import dataclasses
from functools import partial

import pytest
import torch

from fakes import tiny_config, tiny_tokenizer
from unembed.config import TrainingConfig
from unembed.errors import ConfigError
from unembed.storage.checkpoint import build_denoiser
from unembed.training.optimizers import StackedMuon, freeze, make_optimizers, newton_schulz, rate_factor, set_rates


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    config = TrainingConfig(steps=100, warmup_steps=4, decay_share=0.2)
    found = [rate_factor(step, step / 100, config) for step in range(101)]
    expected = [0.2, 0.4, 0.6, 0.8] + [1.0] * 76 + [1 - i / 20 for i in range(21)]
    assert found == pytest.approx(expected)
    assert rate_factor(50, 1.2, config) == 0.0  # past a time box
    never = TrainingConfig(steps=10, warmup_steps=0, decay_share=0.0)
    assert [rate_factor(step, step / 10, never) for step in range(10)] == [1.0] * 10
    always = TrainingConfig(steps=10, warmup_steps=0, decay_share=1.0)
    assert [rate_factor(step, step / 10, always) for step in range(10)] == pytest.approx(
        [1 - i / 10 for i in range(10)]
    )


def test_rates_are_shares_of_each_groups_own_peak() -> None:
    optimizers = make_optimizers(build_denoiser(tiny_config(), tiny_tokenizer()), tiny_config().training)
    for factor in (0.5, 0.25, 1.0):
        set_rates(optimizers, factor)
        assert [group["lr"] for group in optimizers[0].param_groups] == [1e-3 * factor] * 2
        assert [group["lr"] for group in optimizers[1].param_groups] == [6e-3 * factor]


def test_every_parameter_has_one_optimizer() -> None:
    denoiser = build_denoiser(tiny_config(), tiny_tokenizer())
    names = {id(parameter): name for name, parameter in denoiser.named_parameters()}

    def grouped(optimizer: str, **changes: float) -> list[list[str]]:
        config = dataclasses.replace(tiny_config().training, optimizer=optimizer, **changes)
        found = [
            [names[id(parameter)] for parameter in group["params"]]
            for one in make_optimizers(denoiser, config)
            for group in one.param_groups
        ]
        assert sorted(name for group in found for name in group) == sorted(names.values())
        return found

    decayed, plain, muon = grouped("muon")
    matrices = ("attention.qkv", "attention.out", "feed_forward.0", "feed_forward.2")
    assert muon == [f"blocks.{i}.{name}.weight" for i in range(2) for name in matrices]
    assert {"table.weight", "projection.0.weight", "blocks.0.adaln.up.weight", "final_adaln.up.weight"} <= set(decayed)
    assert {"positions", "null_embedding", "output_bias", "embedding_norm.weight"} <= set(plain)
    assert all(name.endswith("bias") for name in plain if name.startswith(("blocks", "projection", "final")))
    decayed, plain = grouped("adamw")
    assert set(muon) <= set(decayed)
    rates = {"final_learning_rate": 0.03, "table_learning_rate": 0.01}
    *_, final, table = grouped("adamw", **rates)
    assert (final, table) == (["final_adaln.up.weight", "final_adaln.up.bias"], ["table.weight"])
    config = dataclasses.replace(tiny_config().training, **rates)
    optimizers = make_optimizers(denoiser, config)
    set_rates(optimizers, 0.5)
    assert [group["lr"] for group in optimizers[0].param_groups] == [config.learning_rate / 2] * 2 + [0.015, 0.005]


def test_what_is_frozen_has_no_gradient_and_no_optimizer() -> None:
    denoiser = build_denoiser(tiny_config(), tiny_tokenizer())
    freeze(denoiser, ["table", "positions", "embedding_norm", "blocks"])
    moving = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in moving} == {
        "output_bias", "null_embedding", "projection", "final_adaln",
    }  # fmt: skip
    (optimizer,) = make_optimizers(denoiser, dataclasses.replace(tiny_config().training, table_learning_rate=0.01))
    names = {id(parameter): name for name, parameter in denoiser.named_parameters()}
    assert {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]} == moving
    freeze(denoiser, [])
    assert all(parameter.requires_grad for parameter in denoiser.parameters())


def test_a_part_that_there_is_not_cannot_be_frozen_nor_everything() -> None:
    denoiser = build_denoiser(tiny_config(), tiny_tokenizer())
    with pytest.raises(ConfigError, match="training.freeze names 'block', expected some of output_bias, positions, "):
        freeze(denoiser, ["block"])
    with pytest.raises(ConfigError, match="names every part"):
        freeze(denoiser, [name.partition(".")[0] for name, _ in denoiser.named_parameters()])


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_stacked_muon_steps_as_torchs_muon_does_but_for_its_rounding(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(one, generator=generator) for one in (shape, shape, (3, 7), shape)]
    gradients = [[torch.randn(one.shape, generator=generator) for one in start[:3]] for _ in range(3)]
    found = []
    for make in (torch.optim.Muon, partial(StackedMuon, precision=torch.float32)):
        parameters = [torch.nn.Parameter(one.clone()) for one in start]
        optimizer = make(parameters, lr=0.1, weight_decay=0.5)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=False):  # the last one is not used
                parameter.grad = gradient.clone()
            optimizer.step()
        assert torch.equal(parameters[3], start[3])
        found.append(([parameter.detach() for parameter in parameters[:3]], optimizer.state_dict()))
    (theirs, their_state), (ours, our_state) = found
    for one, other, before in zip(ours, theirs, start, strict=False):
        assert not torch.equal(one, before)
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.01)
    assert our_state["state"].keys() == their_state["state"].keys() == {0, 1, 2}
    for number in range(3):
        torch.testing.assert_close(our_state["state"][number], their_state["state"][number])


def test_newton_schulz_makes_singular_values_near_one_and_keeps_the_vectors() -> None:
    stack = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stack[1] *= 1e4
    for x, found in zip(stack, newton_schulz(stack, (3.4445, -4.7750, 2.0315), 5, 1e-7), strict=True):
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        middle = u.T @ found @ v.T
        assert middle.diagonal().min() > 0.6
        assert middle.diagonal().max() < 1.3
        torch.testing.assert_close(middle, torch.diag(middle.diagonal()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_muon_multiplies_in_the_precision_of_training(precision: str) -> None:
    config = dataclasses.replace(tiny_config().training, precision=precision)
    optimizers = make_optimizers(build_denoiser(tiny_config(), tiny_tokenizer()), config)
    assert isinstance(optimizers[1], StackedMuon)
    assert optimizers[1].precision is getattr(torch, precision)
