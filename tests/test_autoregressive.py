"""The autoregressive twin: causal, cached as uncached, its loss by brute force, and it learns."""

import dataclasses
import json
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fakes import FakeEncoder, fake_encoder, tiny_config, tiny_texts
from unembed.config import Config, DiffusionConfig, ModelConfig
from unembed.corpus.prepare import prepare
from unembed.denoiser.model import Denoiser, attend
from unembed.errors import CheckpointError, ConfigError, InputError
from unembed.inverter import Inverter
from unembed.objective.autoregressive import autoregressive_loss, generate, shifted
from unembed.storage.checkpoint import load_inverter, save_inverter, save_pt, training_checkpoints
from unembed.training.optimizers import freeze
from unembed.training.throughput import flops_per_sequence
from unembed.training.train import train

V, D, MASK, EOS, PAD = 11, 6, 3, 1, 0
SHAPE = ModelConfig(
    max_tokens=7, width=16, blocks=2, heads=4, feed_forward=24, adaln_rank=4, condition_width=8, causal=True
)
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def twin(shape: ModelConfig = SHAPE, vocabulary: int = V) -> Denoiser:
    """A network whose every parameter has been moved, so that nothing is zero."""
    torch.manual_seed(5)
    denoiser = Denoiser(vocabulary, D, MASK, shape, end_ids=(EOS, PAD)).requires_grad_(False)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return denoiser.eval()


def inputs(rows: int = 4) -> tuple[Tensor, Tensor]:
    """Canvases of content, EOS and PAD, and embeddings."""
    generator = torch.Generator().manual_seed(1)
    canvas = torch.randint(4, V, (rows, SHAPE.max_tokens), generator=generator)
    for row in range(1, rows):
        canvas[row, SHAPE.max_tokens - row] = EOS
        canvas[row, SHAPE.max_tokens - row + 1 :] = PAD
    return canvas, F.normalize(torch.randn(rows, D, generator=generator), dim=-1)


# --- the network


def test_no_position_sees_a_later_one() -> None:
    denoiser, (canvas, e) = twin(), inputs()
    before = denoiser(canvas, e)
    for place in range(SHAPE.max_tokens):
        changed = canvas.clone()
        changed[:, place] = (changed[:, place] + 1) % 3
        difference = (denoiser(changed, e) - before).nan_to_num().abs().amax(-1)
        assert not difference[:, :place].any()
        assert (difference[:, place:] > 0).all()


def test_it_differs_from_the_denoiser_by_the_mask_alone() -> None:
    denoiser = twin(dataclasses.replace(SHAPE, causal=False))
    causal = twin()
    assert {n: t.shape for n, t in denoiser.state_dict().items()} == {
        n: t.shape for n, t in causal.state_dict().items()
    }
    causal.load_state_dict(denoiser.state_dict())
    canvas, e = inputs()
    torch.testing.assert_close(causal(canvas[:, :1], e), denoiser(canvas[:, :1], e))  # one position: nothing to mask
    assert not torch.allclose(causal(canvas, e)[:, 0, 4:], denoiser(canvas, e)[:, 0, 4:])


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_attention_is_torchs_own(queries: int) -> None:
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend(q[:, :, -queries:], k, v, causal=True), expected[:, :, -queries:])


@pytest.mark.parametrize("sizes", [[1] * 7, [3, 1, 3], [7]])
def test_cached_logits_are_those_without_a_cache(sizes: list[int]) -> None:
    denoiser, (canvas, e) = twin(), inputs()
    modulation = denoiser.condition(e)
    past: list[list[Tensor]] = [[] for _ in denoiser.blocks]
    parts = [denoiser.hidden(ids, modulation, past) for ids in canvas.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), denoiser.hidden(canvas, modulation), rtol=1e-5, atol=1e-5)
    assert all(keys.shape[2] == values.shape[2] == SHAPE.max_tokens for keys, values in past)


# --- its loss


def test_loss_is_the_brute_force_log_likelihood() -> None:
    """Each token given those before it, in a pass of its own over nothing else."""
    denoiser, (canvas, e) = twin(), inputs()
    loss = autoregressive_loss(denoiser, canvas, e, DiffusionConfig(condition_dropout=0.0), torch.Generator())
    nats, right = [], []
    for row in range(len(canvas)):
        seen = [EOS]
        for token in canvas[row].tolist():
            scores = denoiser(torch.tensor([seen]), e[row : row + 1])[0, -1].exp()
            nats.append(-math.log(scores[token] / sum(scores[i] for i in range(V) if i != MASK)))
            right.append(int(scores.argmax()) == token)
            seen.append(token)
    assert loss.loss.item() == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert loss.accuracy.item() == pytest.approx(sum(right) / len(right))
    assert loss.trained == canvas.numel()


def test_it_is_a_distribution_over_canvases() -> None:
    """The likelihoods of all canvases of two tokens sum to one."""
    denoiser = twin(dataclasses.replace(SHAPE, max_tokens=2))
    e = inputs(1)[1]
    total = 0.0
    for one in range(V):
        for other in range(V):
            canvas = torch.tensor([[one, other]])
            if MASK not in (one, other):
                loss = autoregressive_loss(
                    denoiser, canvas, e, DiffusionConfig(condition_dropout=0.0), torch.Generator()
                )
                total += math.exp(-2 * loss.loss.item())
    assert total == pytest.approx(1.0, rel=1e-5)


def test_sampled_vocabulary_and_dropped_conditions() -> None:
    denoiser, (canvas, e) = twin(), inputs()

    def loss(**changes: Any) -> float:
        config = DiffusionConfig(**({"condition_dropout": 0.0} | changes))
        return autoregressive_loss(denoiser, canvas, e, config, torch.Generator().manual_seed(3)).loss.item()

    whole = loss()
    assert loss(vocabulary_sample=V) == pytest.approx(whole, rel=1e-5)  # nothing is left out of so small a vocabulary
    with torch.no_grad():
        without = F.cross_entropy(
            denoiser.logits(denoiser.hidden(shifted(denoiser, canvas), denoiser.unconditional(4))).flatten(0, 1),
            canvas.flatten(),
        )
    assert loss(condition_dropout=0.999999) == pytest.approx(without.item(), rel=1e-5)
    assert without.item() != pytest.approx(whole, rel=1e-3)


# --- writing


def by_hand(denoiser: Denoiser, e: Tensor) -> list[int]:
    """The greedy canvas of one embedding (1, D), without a cache."""
    written: list[int] = []
    while len(written) < denoiser.config.max_tokens:
        written.append(
            int(denoiser(torch.tensor([[EOS, *written]])[:, : denoiser.config.max_tokens], e)[0, -1].argmax())
        )
        if written[-1] in (EOS, PAD):
            break
    return written


def test_greedy_writing_equals_whole_passes() -> None:
    denoiser = twin()
    with torch.no_grad():
        denoiser.output_bias[EOS] += 2.0  # so that some texts end early
    e = F.normalize(torch.randn(40, D, generator=torch.Generator().manual_seed(8)), dim=-1)
    found = generate(denoiser, e)
    lengths = set()
    for row in range(len(e)):
        expected = by_hand(denoiser, e[row : row + 1])
        lengths.add(len(expected))
        assert found.ids[row].tolist() == expected + [PAD] * (SHAPE.max_tokens - len(expected))
        assert int(found.passes[row]) == len(expected)
        assert (found.confidence[row, len(expected) :] == 1).all()
        assert ((found.confidence[row] > 0) & (found.confidence[row] <= 1)).all()
    assert len(lengths) > 2


def test_sampling_follows_the_distribution_and_the_row() -> None:
    denoiser = twin(dataclasses.replace(SHAPE, max_tokens=1))
    e = inputs(1)[1]
    many = generate(denoiser, e.repeat(4000, 1), temperature=0.7)
    expected = (denoiser(torch.tensor([[EOS]]), e)[0, 0] / 0.7).softmax(-1)
    found = many.ids.flatten().bincount(minlength=V) / 4000
    assert (found - expected).abs().max() < 0.03
    assert torch.equal(generate(denoiser, e.repeat(9, 1), 0.7, first_row=5).ids, many.ids[5:14])
    assert not torch.equal(generate(denoiser, e.repeat(50, 1), 0.7, seed=1).ids, many.ids[:50])


def test_what_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="model.causal is false"):
        generate(twin(dataclasses.replace(SHAPE, causal=False)), inputs()[1])
    with pytest.raises(InputError, match="temperature is -1"):
        generate(twin(), inputs()[1], temperature=-1)


# --- trained and kept


def configuration(causal: bool = True, **changes: Any) -> Config:
    config = tiny_config()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, causal=causal),
        diffusion=dataclasses.replace(config.diffusion, vocabulary_sample=30, corrupt_visible=0.1),
        training=dataclasses.replace(config.training, **({"log_every": 1, "validate_every": 100} | changes)),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny.txt").write_text("".join(text + "\n" for text in tiny_texts(400)))
    prepare(configuration(), [str(folder / "tiny.txt")], folder / "shards", fake_encoder())
    return folder / "shards"


def run(config: Config, data: Path, out: Path, **options: Any) -> Path:
    return train(config, data, out, encoder=fake_encoder(), show_progress_bar=False, **options)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "twin"
    return run(configuration(steps=60, learning_rate=1e-2, ema=0.9), data, out)


@pytest.fixture(scope="module")
def denoising(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(configuration(causal=False, steps=2), data, tmp_path_factory.mktemp("runs") / "denoiser")


def rows(inverter: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (inverter.parent / "log.jsonl").read_text().splitlines()]


def test_it_trains_by_configuration(trained: Path) -> None:
    losses = [row["loss"] for row in rows(trained) if "loss" in row]
    assert losses[0] == pytest.approx(2.8, abs=0.2)  # what the frequencies of tokens give
    assert sum(losses[-5:]) / 5 < 2.2
    assert set(rows(trained)[-1]) == {"step", "accuracy_forced", "token_accuracy", "cosine"}
    parts = load_inverter(trained, causal=True)
    assert parts.config.model.causal
    assert set(parts.results["validation"]) == {"accuracy_forced", "token_accuracy", "cosine"}


def test_it_is_resumed_as_any_run(data: Path, tmp_path: Path) -> None:
    whole = run(configuration(steps=6), data, tmp_path / "whole")
    run(configuration(steps=3, decay_share=0.0), data, tmp_path / "part")
    # no decay within three steps of either, so the first half is the same
    first = [row["loss"] for row in rows(whole) if "loss" in row][:3]
    assert [row["loss"] for row in rows(tmp_path / "part" / "inverter") if "loss" in row] == first
    run(configuration(steps=6, decay_share=0.0), data, tmp_path / "part", resume=True)
    assert len([row for row in rows(tmp_path / "part" / "inverter") if "loss" in row]) == 6


def test_a_run_from_before_there_were_twins_goes_on(denoising: Path, data: Path) -> None:
    (checkpoint,) = training_checkpoints(denoising.parent)
    state = json.loads((checkpoint / "state.json").read_text())
    del state["config"]["model"]["causal"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    run(configuration(causal=False, steps=2), data, denoising.parent, resume=True)
    with pytest.raises(ConfigError, match="the run has model.causal False, the configuration True"):
        run(configuration(steps=2), data, denoising.parent, resume=True)


def test_a_twin_is_not_taken_for_an_inverter(trained: Path, denoising: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json: model.causal is True: an autoregressive twin, expected"):
        Inverter.from_pretrained(trained)
    parts = load_inverter(trained, causal=None)
    save_pt(tmp_path / "twin.pt", parts.denoiser.state_dict(), parts.tokenizer, parts.config, {})
    with pytest.raises(CheckpointError, match="twin.pt: model.causal is True"):
        Inverter.from_pretrained(tmp_path / "twin.pt")
    with pytest.raises(
        CheckpointError, match="model.causal is False: an inverter by masked diffusion, expected an auto"
    ):
        load_inverter(denoising, causal=True)
    save_inverter(tmp_path / "again", parts.denoiser.state_dict(), parts.tokenizer, parts.config, {})
    assert load_inverter(tmp_path / "again", causal=True).config == parts.config


def test_neither_starts_from_the_other(trained: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="an autoregressive twin, expected an inverter"):
        run(configuration(causal=False), data, tmp_path / "run", start_from=trained)
    (stable,) = training_checkpoints(trained.parent, "stable")
    with pytest.raises(ConfigError, match="is from a run with model.causal True"):
        run(configuration(causal=False), data, tmp_path / "run", start_from=stable)


def test_arithmetic_counts_every_position(fake: FakeEncoder) -> None:
    plain = dataclasses.replace(configuration(), diffusion=DiffusionConfig(time_skew=1.0))
    other = dataclasses.replace(plain, model=dataclasses.replace(plain.model, causal=False))
    denoiser = Denoiser(69, 16, 4, plain.model, (3, 0))
    more = flops_per_sequence(denoiser, fake, plain) - flops_per_sequence(denoiser, fake, other)
    assert more == 6 * (16 / 2) * 69 * 32  # half of 16 positions, 69 tokens, width 32
    freeze(denoiser, ["table"])  # no gradient of its own
    assert flops_per_sequence(denoiser, fake, plain) + 2 * 16 * 69 * 32 == pytest.approx(
        flops_per_sequence(Denoiser(69, 16, 4, plain.model, (3, 0)), fake, plain)
    )


def test_arithmetic_is_the_mean_of_both_canvases(fake: FakeEncoder) -> None:
    config = configuration(causal=False)
    denoiser = Denoiser(69, 16, 4, config.model, (3, 0))

    def arithmetic(share: float, length: int = 16) -> float:
        data = dataclasses.replace(config.data, short_canvas=8, short_share=share)
        model = dataclasses.replace(config.model, max_tokens=length)
        return flops_per_sequence(denoiser, fake, dataclasses.replace(config, data=data, model=model))

    assert arithmetic(1.0) == arithmetic(0.0, length=8) < arithmetic(0.0)
    assert arithmetic(0.25) == pytest.approx(0.75 * arithmetic(0.0) + 0.25 * arithmetic(1.0))


def test_the_two_are_compared(
    trained: Path, denoising: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("unembed.encoders.encoder.load_encoder", fake_loader())
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", fake_loader())
    arguments = ["--denoiser", str(denoising), "--twin", str(trained), "--texts", str(data / "test.txt")]
    arguments += [
        "--tokens",
        "natural",
        "--limit",
        "10",
        "--steps",
        "1",
        "--steps",
        "4",
        "-o",
        str(tmp_path / "rows.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["compare_autoregressive.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(REPOSITORY / "runs" / "compare_autoregressive.py"), run_name="__main__")
    assert not caught.value.code
    table = capsys.readouterr().out.splitlines()
    names = [line.split("|")[1].strip() for line in table[2:]]
    assert names == ["diffusion, 1 pass", "diffusion, 4 passes", "autoregressive, greedy"]
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert kept[0]["passes"] == 1 <= kept[1]["passes"] <= 4  # fewer where nothing but the end is predicted
    assert 5 < kept[2]["passes"] <= 16
    assert kept[2]["token_f1"] > kept[0]["token_f1"]  # it has been trained for longer
    assert len({row["truths_sha256"] for row in kept}) == 1


def fake_loader() -> Callable[..., FakeEncoder]:
    return lambda *_, **__: fake_encoder()
