"""Contributions against encoders that are what they are taken for, and the script that fits them."""

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from fakes import fake_encoder, save_tiny_inverter, tiny_config, tiny_texts
from unembed.corpus.prepare import prepare
from unembed.inverter import Inverter
from unembed.surrogate import contributions
from unembed.surrogate.bag import Fitted, Surrogate, directions, fit
from unembed.surrogate.contributions import Texts, refine, shares

RUNS = Path(__file__).parents[1] / "runs"
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
    rows = zip(told.ids.tolist(), told.lengths.tolist(), strict=True)
    found = torch.from_numpy(Surrogate(TABLE, fitted).embed([ids[:length] for ids, length in rows]))
    return float((found * told.e).sum(-1).mean())


def linear(told: Texts) -> Fitted:
    rows = zip(told.ids.tolist(), told.lengths.tolist(), strict=True)
    return fit(TABLE, [ids[:length] for ids, length in rows], told.e)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contributions, "BATCH", 64)


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


# --- the script


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RUNS / "surrogate.py")))


@pytest.mark.usefixtures("small_steps")
def test_the_script_fits_them_and_goes_on(
    script: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, config = fake_encoder(), tiny_config()
    corpus, folder = tmp_path / "corpus.txt", save_tiny_inverter(tmp_path / "inverter")
    corpus.write_text("\n".join(tiny_texts(400)), encoding="utf-8")
    data = dataclasses.replace(config.data, held_out=0.2)
    prepare(dataclasses.replace(config, data=data), [str(corpus)], tmp_path / "shards", encoder)
    load = Inverter.from_pretrained
    monkeypatch.setattr(Inverter, "from_pretrained", lambda path: load(path, encoder=encoder))
    for name, value in (("CHUNK", 512), ("EXCHANGES", 10)):
        monkeypatch.setitem(script.embed.__globals__, name, value)
    command = ["--model", str(folder), "--data", str(tmp_path / "shards")]
    first = CliRunner().invoke(script.main, command, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    table_VH = load(folder).denoiser.table.weight
    ridge = Fitted.load(folder, *table_VH.shape, encoder.recipe.dimension)
    assert ridge is not None
    assert ridge.own is None
    refused = CliRunner().invoke(script.main, [*command, "--texts", "1000"])
    assert refused.exit_code == 2
    assert "--texts needs --work" in refused.output

    command += ["--texts", "1000", "--work", str(tmp_path / "work"), "--epochs", "4", "--size", "8"]
    told = CliRunner().invoke(script.main, command, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert [line.split(":")[0] for line in told.stdout.splitlines()] == [
        "cosine of the embeddings", "correlation of the cosines"
    ]  # fmt: skip
    refined = Fitted.load(folder, *table_VH.shape, encoder.recipe.dimension)
    assert refined is not None
    assert refined.own is not None
    assert refined.own.code.shape == (len(table_VH), 8)
    unseen = script.load([tmp_path / "work" / "validation_0_0.npz"])
    rows = [ids[:length] for ids, length in zip(unseen.ids.tolist(), unseen.lengths.tolist(), strict=True)]
    bag, better = (
        float((torch.from_numpy(Surrogate(table_VH, one).embed(rows)) * unseen.e).sum(-1).mean())
        for one in (ridge, refined)
    )
    assert better > bag + 0.01
    assert f"{better:.3f}" in told.stdout
    # Embeddings are those of the windows, and are not asked for again.
    torch.testing.assert_close(
        torch.from_numpy(encoder.encode([encoder.tokenizer.decode(ids) for ids in rows[:20]])), unseen.e[:20],
        atol=2e-3, rtol=0,
    )  # fmt: skip
    (tmp_path / "work" / "train_0_1.npz").unlink()
    calls = encoder.calls
    again = CliRunner().invoke(script.main, command, catch_exceptions=False)
    assert again.stdout == told.stdout
    assert 0 < encoder.calls - calls < calls / 2
