"""Training: interrupted equals uninterrupted, schedules and averages by hand, refusals, two processes."""

import collections
import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import unembed.training.step
import unembed.training.train
from fakes import FakeEncoder, fake_encoder, tiny_config, tiny_surrogate, tiny_texts, tiny_tokenizer
from unembed.config import Config, config_to_dict
from unembed.corpus.prepare import prepare
from unembed.corpus.windows import Shards, Windows
from unembed.denoiser.model import Denoiser
from unembed.errors import CheckpointError, ConfigError, InputError, OutputError, TrainingError
from unembed.inverter import Inverter
from unembed.objective.diffusion import Loss
from unembed.storage.checkpoint import build_denoiser, load_inverter, load_training, training_checkpoints
from unembed.surrogate.bag import FILE
from unembed.training.initialise import start_from_frequencies
from unembed.training.optimizers import StackedMuon
from unembed.training.step import autocast
from unembed.training.train import averaged, train, update_average

STEPS = 12
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def settings(**changes: Any) -> Config:
    """The tiny configuration, logging every step."""
    config = tiny_config()
    defaults = {"steps": STEPS, "log_every": 1, "validate_every": 1000, "warmup_steps": 3}
    return dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, **(defaults | changes)),
        diffusion=dataclasses.replace(config.diffusion, corrupt_visible=0.1, vocabulary_sample=30),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 300 tiny texts."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny.txt").write_text("".join(text + "\n" for text in tiny_texts(300)))
    prepare(settings(), [str(folder / "tiny.txt")], folder / "shards", fake_encoder())
    return folder / "shards"


def run(config: Config, data: Path, out: Path, **options: Any) -> Path:
    return train(config, data, out, encoder=fake_encoder(), show_progress_bar=False, **options)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(settings(), data, out)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> dict[int, tuple[float, float, float]]:
    """Step -> what must not depend on when a run was interrupted."""
    return {row["step"]: (row["loss"], row["gradient_norm"], row["rate"]) for row in rows(out) if "loss" in row}


def tensors(out: Path) -> dict[str, Tensor]:
    """Everything that the newest checkpoint holds."""
    (folder,) = training_checkpoints(out)
    return {f"{path.name}:{name}": t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert sorted(losses(one)) == list(range(1, STEPS + 1))
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    inverters = [load_inverter(out / "inverter").denoiser.state_dict() for out in (one, other)]
    assert all(torch.equal(inverters[0][name], inverters[1][name]) for name in inverters[0])


# --- a run


def test_a_run_leaves_an_inverter_logs_and_a_checkpoint(whole: Path, data: Path, fake: FakeEncoder) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        f"checkpoint-{STEPS:08d}",
        "inverter",
        "log.jsonl",
        "stable-00000010",
        "tensorboard",
    ]
    inverter = Inverter.from_pretrained(whole / "inverter", encoder=fake)
    assert inverter.config == settings()
    average = load_training(training_checkpoints(whole)[0]).average
    assert all(torch.equal(average[name], tensor) for name, tensor in inverter.denoiser.state_dict().items())
    assert inverter.surrogate is None  # that is for `fit`
    assert inverter.results["steps"] == STEPS
    assert inverter.results["sequences"] == STEPS * 16
    assert inverter.results["parts"] == {"tiny": Shards.open(data).manifest.parts[0].passages["train"]}
    assert set(inverter.results["validation"]) == {
        "accuracy_10", "accuracy_50", "accuracy_100", "token_accuracy", "cosine",
    }  # fmt: skip
    train_rows = [row for row in rows(whole) if "loss" in row]
    assert [row["step"] for row in train_rows] == list(range(1, STEPS + 1))
    assert train_rows[-1]["sequences"] == STEPS * 16
    assert any((whole / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_run_and_another_does_not(whole: Path, data: Path, tmp_path: Path) -> None:
    run(settings(), data, tmp_path / "again")
    assert_same_run(whole, tmp_path / "again")
    run(settings(seed=1, steps=2), data, tmp_path / "other")
    assert losses(tmp_path / "other")[1] != losses(whole)[1]


def test_losses_are_those_of_a_loop_written_by_hand(whole: Path, data: Path, fake: FakeEncoder) -> None:
    """Warm-up, AdamW with Muon, clipping and the average, without any of train.py but its seeds."""
    config = settings()
    torch.manual_seed(0)
    denoiser = build_denoiser(config, fake.tokenizer)
    windows = Windows(Shards.open(data), config.data, fake.tokenizer, 16, 16, 0)
    start_from_frequencies(denoiser, windows)
    named = dict(denoiser.named_parameters())
    muon = [n for n in named if n.startswith("blocks.") and "adaln" not in n and n.endswith("weight")]
    decayed = [n for n in named if named[n].ndim == 2 and n not in muon and n != "positions"]
    plain = [n for n in named if n not in muon and n not in decayed]
    groups = [{"params": [named[n] for n in names], "weight_decay": w} for names, w in ((decayed, 0.01), (plain, 0.0))]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
    # torch's own but for its rounding, as tests/test_optimizers.py shows.
    others = StackedMuon([named[n] for n in muon], precision=torch.float32, lr=6e-3, weight_decay=0.01)
    average = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    expected = {}
    for step in range(STEPS):
        rate = min((step + 1) / 4, (1 - step / STEPS) / 0.2, 1.0)
        for group in adamw.param_groups:
            group["lr"] = 1e-3 * rate
        for group in others.param_groups:
            group["lr"] = 6e-3 * rate
        batch = windows.batch(step)
        e = torch.from_numpy(fake.encode([fake.tokenizer.decode(row) for row in batch.canvas.tolist()]))
        generator = torch.Generator().manual_seed(step * 1_009)
        loss = unembed.training.step.training_loss(denoiser, batch.canvas, e, config.diffusion, generator).loss
        adamw.zero_grad()
        others.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in named.values()]).norm()
        for p in named.values():
            p.grad.mul_(min(1.0, 1.0 / (norm.item() + 1e-6)))
        adamw.step()
        others.step()
        decay = min(0.999, (1 + step) / (10 + step))
        for name, tensor in denoiser.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * tensor
        expected[step + 1] = (loss.item(), norm.item(), rate)
    for step, found in losses(whole).items():
        assert found == pytest.approx(expected[step], rel=1e-3)
    for name, tensor in load_inverter(whole / "inverter").denoiser.state_dict().items():
        torch.testing.assert_close(tensor, average[name], rtol=1e-3, atol=1e-3)


# --- interrupted


class EndedError(Exception):
    """Stands for whatever ends a process."""


def interrupt() -> None:
    raise EndedError


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ("update_average", 4),
        ("save_training", 9),
        ("save_training", 11),  # just before the stable point is kept
        ("save_inverter", 12),
        ("save_training", 13),  # the last one
    ],
)
def test_interrupted_anywhere_and_resumed_equals_uninterrupted(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, at: int
) -> None:
    config = settings(checkpoint_minutes=1e-9)  # one a step
    function, calls = getattr(unembed.training.train, where), []

    def at_last(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            interrupt()
        return function(*arguments, **options)

    monkeypatch.setattr(unembed.training.train, where, at_last)
    with pytest.raises(EndedError):
        run(config, data, tmp_path / "run")
    monkeypatch.undo()
    assert len(training_checkpoints(tmp_path / "run")) == 1
    run(settings(), data, tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")
    assert [path.name for path in training_checkpoints(tmp_path / "run", "stable")] == ["stable-00000010"]


KILLED = """
import sys, time
import torch
import unembed.denoiser.precision
from fakes import fake_encoder
from test_train import settings
from unembed.corpus.windows import Windows
from unembed.training.train import train
torch.set_num_threads(1)
unembed.denoiser.precision.slowdown = lambda: 0.5  # as in the process of the tests
batch = Windows.batch

def slow_at_last(self, step, *ranks):
    if ranks and step == 8:
        time.sleep(3600)  # until killed
    return batch(self, step, *ranks)

Windows.batch = slow_at_last
train(settings(checkpoint_minutes=1e-9), sys.argv[1], sys.argv[2], encoder=fake_encoder(), show_progress_bar=False)
"""


def environment() -> dict[str, str]:
    paths = [str(REPOSITORY / "src"), str(REPOSITORY / "tests")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}


def test_killed_and_resumed_equals_uninterrupted(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(data), str(out)], env=environment())
    try:
        limit = time.monotonic() + 600
        while not any(int(path.name[-8:]) >= 3 for path in training_checkpoints(out)):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    run(settings(), data, out, resume=True)
    assert_same_run(whole, out)


def test_resuming_a_finished_run_changes_nothing(whole: Path, data: Path) -> None:
    before = {
        path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and "tensorboard" not in path.parts
    }
    assert run(settings(), data, whole, resume=True) == whole / "inverter"
    after = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    assert after == before


def test_resuming_nothing_starts(whole: Path, data: Path, tmp_path: Path) -> None:
    run(settings(), data, tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_a_resumed_run_may_be_longer(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(settings(steps=4), data, out)
    run(settings(steps=8), data, out, resume=True)
    assert [row["step"] for row in rows(out) if "loss" in row] == list(range(1, 9))
    assert [path.name for path in training_checkpoints(out, "stable")] == ["stable-00000007"]


# --- refused


def test_a_folder_with_a_run_is_not_overwritten(whole: Path, data: Path) -> None:
    with pytest.raises(InputError, match="whole: holds a run already; continue it with --resume") as caught:
        run(settings(), data, whole)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "learning_rate", 0.5),
        ("training", "batch_size", 8),
        ("training", "seed", 9),
        ("model", "width", 64),
        ("diffusion", "time_skew", 3.0),
        ("data", "min_tokens", 3),
    ],
)
def test_a_run_is_not_resumed_with_another_configuration(
    whole: Path, data: Path, section: str, key: str, value: Any
) -> None:
    config = settings()
    old = getattr(getattr(config, section), key)
    other = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{key: value})})
    with pytest.raises(ConfigError, match=rf"the run has {section}\.{key} {old}, the configuration {value}"):
        run(other, data, whole, resume=True)


def test_a_run_is_not_resumed_on_other_shards(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text("".join(text + "\n" for text in tiny_texts(301)))
    prepare(settings(), [str(tmp_path / "tiny.txt")], tmp_path / "shards", fake_encoder())
    with pytest.raises(InputError, match="was trained on other shards than those in"):
        run(settings(steps=14), tmp_path / "shards", whole, resume=True)


def test_what_only_shows_a_run_may_change(whole: Path, data: Path) -> None:
    config = settings(log_every=5, validate_every=3, validation_texts=4, checkpoint_minutes=1.0)
    run(config, data, whole, resume=True)


def test_an_output_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        run(settings(), data, tmp_path / "file" / "run")


def broken(step: int, loss: Callable[[Loss], Tensor]) -> Callable[..., Loss]:
    """The training loss, but for one step (counted from 1)."""
    original, calls = unembed.training.step.training_loss, []

    def training_loss(*arguments: Any) -> Loss:
        calls.append(1)
        found = original(*arguments)
        return found._replace(loss=loss(found)) if len(calls) == step else found

    return training_loss


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize(
    "loss",
    [
        lambda found: found.loss * torch.nan,
        lambda found: found.loss + (found.loss - found.loss).sqrt(),  # finite, but its gradient is not
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int, loss: Callable[[Loss], Tensor]
) -> None:
    monkeypatch.setattr(unembed.training.step, "training_loss", broken(7, loss))
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match="at step 7") as caught:
        run(settings(checkpoint_minutes=1e-9, log_every=log_every), data, out)
    assert "\n" not in str(caught.value)
    (kept,) = training_checkpoints(out)  # the last good one
    assert kept.name == "checkpoint-00000006"
    assert all(tensor.isfinite().all() for tensor in load_training(kept).weights.values())


def test_without_checkpoints_in_between_it_ends_all_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unembed.training.step, "training_loss", broken(3, lambda found: found.loss * torch.nan))
    with pytest.raises(TrainingError, match="the loss is nan at step 5"):
        run(settings(log_every=5), data, tmp_path / "run")
    assert not training_checkpoints(tmp_path / "run")


@pytest.mark.parametrize("causal", [False, True])
def test_the_loss_sees_noisy_embeddings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    name = "autoregressive_loss" if causal else "training_loss"
    original, seen = getattr(unembed.training.step, name), []

    def look(denoiser: Denoiser, canvas: Tensor, e: Tensor, *arguments: Any) -> Loss:
        seen.append(e)
        return original(denoiser, canvas, e, *arguments)

    monkeypatch.setattr(unembed.training.step, name, look)
    config = settings(steps=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, causal=causal))
    for run_name, largest in (("clean", 0.0), ("noisy", 0.5)):
        noisy = dataclasses.replace(config.diffusion, embedding_noise=largest)
        run(dataclasses.replace(config, diffusion=noisy), data, tmp_path / run_name)
    deviations = (seen[1] - seen[0]).std(1)
    assert torch.equal(seen[0].norm(dim=1).round(decimals=4), torch.ones(len(seen[0])))
    assert 0 < deviations.min() < 0.2 < 0.3 < deviations.max() < 0.8


# --- starting from


def test_a_run_can_start_from_the_stable_point_of_another(whole: Path, data: Path, tmp_path: Path) -> None:
    (stable,) = training_checkpoints(whole, "stable")
    first: list[dict[str, Tensor]] = []
    weights = load_training(stable).weights
    out = tmp_path / "longer"
    with pytest.MonkeyPatch.context() as patch:
        original = unembed.training.step.training_loss

        def look(denoiser: torch.nn.Module, *arguments: Any) -> Loss:
            first.append({name: tensor.clone() for name, tensor in denoiser.state_dict().items()})
            return original(denoiser, *arguments)  # type: ignore[arg-type]

        patch.setattr(unembed.training.step, "training_loss", look)
        run(settings(steps=2), data, out, start_from=stable)
    assert all(torch.equal(first[0][name], tensor) for name, tensor in weights.items())
    assert [row["step"] for row in rows(out) if "loss" in row] == [1, 2]
    # The card says what the weights have cost over all runs: here, and after a third that starts from the second.
    config, steps = settings(steps=2), int(stable.name.removeprefix("stable-"))
    found = load_inverter(out / "inverter").results
    assert (found["steps"], found["sequences"]) == (steps + 2, (steps + 2) * config.training.batch_size)
    # So are the passages: the most of each part that any of the runs had.
    third = shutil.copytree(out / "inverter", tmp_path / "more")
    tree = json.loads((third / "config.json").read_text())
    tree["results"]["parts"] |= {"texts": 10**6, "lost": 5}
    (third / "config.json").write_text(json.dumps(tree))
    run(config, data, tmp_path / "third", start_from=third)
    found = load_inverter(tmp_path / "third" / "inverter").results
    assert found["steps"] == steps + 4
    assert found["parts"] == tree["results"]["parts"]


def test_a_run_can_start_from_an_inverter(whole: Path, data: Path, tmp_path: Path) -> None:
    run(
        settings(steps=1, learning_rate=1e-12, muon_learning_rate=1e-12),
        data,
        tmp_path / "run",
        start_from=whole / "inverter",
    )
    found = load_training(training_checkpoints(tmp_path / "run")[0]).weights
    for name, tensor in load_inverter(whole / "inverter").denoiser.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


def test_what_is_frozen_stays_and_the_rest_moves(whole: Path, data: Path, tmp_path: Path) -> None:
    config = settings(steps=4, freeze=("table", "blocks"))
    inverter = run(config, data, tmp_path / "run", start_from=whole / "inverter")
    before = load_inverter(whole / "inverter").denoiser.state_dict()
    for name, tensor in load_inverter(inverter).denoiser.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(("table", "blocks")), name
    with pytest.raises(ConfigError, match="training.freeze"):
        run(settings(steps=8), data, tmp_path / "run", resume=True)
    run(settings(steps=8, freeze=("table", "blocks")), data, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="training.freeze names 'head'"):
        run(settings(freeze=("head",)), data, tmp_path / "other")


def test_a_run_can_start_from_an_inverter_with_fewer_blocks(whole: Path, data: Path, tmp_path: Path) -> None:
    start = load_inverter(whole / "inverter")
    config = settings(steps=1, learning_rate=1e-12, muon_learning_rate=1e-12)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, blocks=5))
    inverter = run(config, data, tmp_path / "run", start_from=whole / "inverter")
    deeper = load_inverter(inverter).denoiser
    assert len(deeper.blocks) == 5
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, (7, config.model.max_tokens), generator=generator)
    e = torch.randn(7, deeper.dimension, generator=generator)
    torch.testing.assert_close(deeper(ids, e), start.denoiser(ids, e), rtol=1e-4, atol=1e-4)
    # closed as they are, the new blocks learn: their gates have a gradient
    deeper.requires_grad_(True)
    deeper(ids, e)[..., :3].sum().backward()
    added = [deeper.blocks[number].adaln.up.bias for number in (1, 2, 4)]
    assert all(bias.detach().view(6, -1)[[2, 5]].allclose(torch.tensor(-1.0)) for bias in added)
    assert all((bias.grad.view(6, -1)[[2, 5]] != 0).any() for bias in added)
    with pytest.raises(ConfigError, match="model.blocks is 2, but the weights to start from have 5 blocks"):
        run(settings(), data, tmp_path / "other", start_from=inverter)


@pytest.mark.parametrize("freeze", [("table",), ()])
def test_a_surrogate_stays_with_the_table_that_it_was_fitted_to(
    whole: Path, data: Path, tmp_path: Path, freeze: tuple[str, ...]
) -> None:
    start = shutil.copytree(whole / "inverter", tmp_path / "start")
    fitted = tiny_surrogate()
    fitted.save(start / FILE)
    run(settings(steps=2, freeze=freeze, checkpoint_minutes=1e-9), data, tmp_path / "run", start_from=start)
    found = load_inverter(tmp_path / "run" / "inverter").surrogate
    assert (found is None) == (not freeze)
    fitted.save(tmp_path / "run" / "inverter" / FILE)
    run(settings(steps=4, freeze=freeze), data, tmp_path / "run", resume=True)
    found = load_inverter(tmp_path / "run" / "inverter").surrogate
    assert (found is None) == (not freeze)
    if found is not None:
        assert torch.equal(found.weight, fitted.weight)
        assert torch.equal(found.bias, fitted.bias)


def test_a_run_cannot_start_from_another_shape(whole: Path, data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(settings(), model=dataclasses.replace(settings().model, feed_forward=32))
    for start in (whole / "inverter", training_checkpoints(whole, "stable")[0]):
        with pytest.raises(CheckpointError, match=r"tensor blocks\.0\.feed_forward\.0\.\w+ has shape"):
            run(config, data, tmp_path / "run", start_from=start)
    with pytest.raises(CheckpointError, match="there is no such inverter"):
        run(config, data, tmp_path / "run", start_from=tmp_path / "nothing")


def test_output_bias_starts_at_how_often_tokens_occur(data: Path, fake: FakeEncoder) -> None:
    denoiser = build_denoiser(settings(), fake.tokenizer)
    windows = Windows(Shards.open(data), settings().data, fake.tokenizer, 16, 16, 0)
    start_from_frequencies(denoiser, windows, batches=3)
    tokens = np.concatenate([windows.batch(step).canvas.numpy().ravel() for step in range(3)])
    counts = np.bincount(tokens, minlength=fake.tokenizer.vocab_size) + 1
    np.testing.assert_allclose(denoiser.output_bias.detach(), np.log(counts / counts.sum()), rtol=1e-5)


# --- the time box


def test_the_time_box_ends_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    config = settings(steps=10**6, warmup_steps=0)
    ticks = itertools.count()
    # Asked the time twice in a step, which takes 0.1 s.
    monkeypatch.setattr(unembed.training.train, "time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.05))
    run(config, data, out, minutes=2 / 60)
    state = load_training(training_checkpoints(out)[0]).state["progress"]
    assert state["seconds"] == pytest.approx(2.0, abs=0.11)
    found = [row for row in rows(out) if "loss" in row]
    assert found[-1]["step"] == state["step"] == pytest.approx(20, abs=1)
    rates = [row["rate"] for row in found]
    assert rates[:15] == [1.0] * 15
    assert rates[-4:] == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=0.26)  # the decay ended with it
    assert rates[-1] < 0.3
    (stable,) = training_checkpoints(out, "stable")
    assert load_training(stable).state["step"] == pytest.approx(17, abs=1)
    run(config, data, out, resume=True, minutes=2 / 60)  # the box is over all sessions, so nothing happens
    assert load_training(training_checkpoints(out)[0]).state["progress"] == state


def test_validation_is_inside_the_time_box(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()

    def slow(*args: object) -> dict[str, float]:
        collections.deque(itertools.islice(clock, 30), maxlen=0)  # a second and a half
        return {"token_accuracy": 0.0}

    monkeypatch.setattr(unembed.training.train, "time", SimpleNamespace(monotonic=lambda: next(clock) * 0.05))
    monkeypatch.setattr(unembed.training.train, "validate", slow)
    run(settings(steps=10**6, validate_every=3), data, tmp_path / "run", minutes=2 / 60)
    assert rows(tmp_path / "run")[-1]["step"] <= 9  # 20 steps without


# --- its parts


def test_the_average_equals_a_loop_by_hand() -> None:
    denoiser = build_denoiser(settings(), tiny_tokenizer())
    average = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    expected = {name: tensor.double() for name, tensor in average.items()}
    for step in range(30):
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(torch.randn_like(parameter))
        update_average(average, denoiser, 0.7, step)
        decay = min(0.7, (1 + step) / (10 + step))
        for name, tensor in denoiser.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor
    for name, tensor in average.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def assert_holds(denoiser: torch.nn.Module, state: dict[str, Tensor]) -> None:
    assert all(torch.equal(state[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_the_average_is_there_for_a_moment_only() -> None:
    denoiser = build_denoiser(settings(), tiny_tokenizer())
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    average = {name: tensor + 1 for name, tensor in before.items()}
    with averaged(denoiser, average):
        assert_holds(denoiser, average)
    with pytest.raises(EndedError), averaged(denoiser, average):
        interrupt()
    assert_holds(denoiser, before)


def test_precision_may_change_from_run_to_run(data: Path, tmp_path: Path) -> None:
    """Two runs of one process, the second in bf16: weights stay float32."""
    run(settings(steps=1), data, tmp_path / "one")
    run(settings(steps=1, precision="bfloat16"), data, tmp_path / "two")
    assert {tensor.dtype for tensor in load_training(training_checkpoints(tmp_path / "two")[0]).weights.values()} == {
        torch.float32
    }
    one, two = losses(tmp_path / "one")[1], losses(tmp_path / "two")[1]
    assert one[0] != two[0] == pytest.approx(one[0], rel=0.02)
    for precision, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        config = dataclasses.replace(settings().training, precision=precision)
        with autocast(torch.device("cpu"), config):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_where_bfloat16_is_emulated_training_runs_in_float32(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so; the run's configuration stays, so that it goes on elsewhere in bfloat16."""
    run(settings(steps=3), data, tmp_path / "exact")
    monkeypatch.setattr("unembed.denoiser.precision.slowdown", lambda: 6.4)
    with pytest.warns(UserWarning, match="float32 is used"):
        run(settings(steps=3, precision="bfloat16"), data, tmp_path / "wish")
    assert losses(tmp_path / "wish") == losses(tmp_path / "exact")
    state = load_training(training_checkpoints(tmp_path / "wish")[0]).state
    assert state["config"]["training"]["precision"] == "bfloat16"


# --- two processes

PROCESS = """
import itertools, os, sys
from pathlib import Path
from types import SimpleNamespace
import torch
import unembed.corpus.windows, unembed.denoiser.precision, unembed.training.train
from fakes import fake_encoder
from test_train import settings
torch.set_num_threads(1)
rank, (data, out) = int(os.environ["RANK"]), sys.argv[1:3]
unembed.denoiser.precision.slowdown = lambda: (0.5, 6.4)[rank]  # processors that disagree
seen = {"batches": [], "weights": []}
batch, average = unembed.corpus.windows.Windows.batch, unembed.training.train.update_average

def look_at_batch(self, step, *ranks):
    found = batch(self, step, *ranks)
    if ranks:
        seen["batches"].append(found.canvas)
    return found

def look_at_weights(averages, denoiser, *rest):
    average(averages, denoiser, *rest)
    seen["weights"].append(torch.cat([p.detach().flatten().clone() for p in denoiser.parameters()]))

unembed.corpus.windows.Windows.batch, unembed.training.train.update_average = look_at_batch, look_at_weights
ticks = itertools.count()
unembed.training.train.time = SimpleNamespace(monotonic=lambda: next(ticks) * (0.1 + 0.15 * rank))
config = settings(steps=10**6, validate_every=4, precision="bfloat16")
unembed.training.train.train(config, data, out, encoder=fake_encoder(), minutes=1 / 60, show_progress_bar=False)
torch.save(seen, Path(out) / f"rank-{rank}.pt")
"""


def test_two_processes_share_their_weights_and_not_their_batches(data: Path, tmp_path: Path) -> None:
    """Under a time box; neither clocks nor processors that disagree lead them to other rates, ends or formats."""
    out = tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # What torchrun sets. (`accelerate launch` would want mpirun for several processes on a CPU.)
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(data), str(out)],
            env=environment() | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    one, two = (torch.load(out / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    steps = len(one["weights"])
    assert steps == len(two["weights"]) > 5
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one["weights"][0], one["weights"][-1])
    windows = Windows(Shards.open(data), settings().data, tiny_tokenizer(), 16, 16, 0)
    for step, (a, b) in enumerate(zip(one["batches"], two["batches"], strict=True)):
        assert torch.equal(torch.cat([a, b]), windows.batch(step).canvas)  # together, those of one process
        assert not torch.equal(a, b)
    train_rows = [row for row in rows(out) if "loss" in row]
    assert [row["step"] for row in train_rows] == list(range(1, steps + 1))  # one log, not two
    assert train_rows[-1]["sequences"] == 16 * steps
    assert json.loads((out / "inverter" / "config.json").read_text())["config"] == config_to_dict(
        settings(steps=10**6, validate_every=4, precision="bfloat16")
    )
