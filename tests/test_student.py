"""The student: what it starts as, what it can tell that a bag cannot, its file, and the script that trains it."""

import dataclasses
import itertools
import re
import runpy
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import garbled
import lessons
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from fakes import fake_encoder, save_tiny_inverter, taught, tiny_config, tiny_parts, tiny_surrogate, tiny_texts
from unembed.corpus.prepare import prepare
from unembed.errors import CheckpointError
from unembed.inverter import Inverter
from unembed.surrogate.bag import FILE, Fitted, Surrogate
from unembed.surrogate.student import Student

RUNS = Path(__file__).parents[1] / "runs"
PARTS = tiny_parts()
TABLE = PARTS.denoiser.table.weight
LINEAR = tiny_surrogate()
FEATURES, DIMENSION = LINEAR.weight.shape
TEXTS = [*tiny_texts(12), "cat"]
IDS = PARTS.tokenizer.encode_batch(TEXTS)


TAUGHT = Surrogate(TABLE, taught(LINEAR))


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RUNS / "student.py")))


def test_it_begins_as_the_bag() -> None:
    fresh = LINEAR._replace(student=Student(FEATURES, DIMENSION, positions=16, width=32).eval())
    bag = np.stack([Surrogate(TABLE, LINEAR).x_VD[ids].mean(0) for ids in IDS]) + LINEAR.bias.numpy()
    bag /= np.linalg.norm(bag, axis=1, keepdims=True)
    for fitted in (LINEAR, fresh):
        np.testing.assert_allclose(Surrogate(TABLE, fitted).embed(IDS), bag, atol=1e-6)


def test_a_text_is_embedded_alone_as_among_longer_ones() -> None:
    together = TAUGHT.embed(IDS)
    assert len({len(ids) for ids in IDS}) > 2
    assert min(map(len, IDS)) == 1
    for ids, e_D in zip(IDS, together, strict=True):
        np.testing.assert_allclose(TAUGHT.embed([ids])[0], e_D, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_it_knows_order_and_a_bag_does_not() -> None:
    ids = IDS[0]
    for surrogate, apart in ((TAUGHT, True), (Surrogate(TABLE, LINEAR), False)):
        one, other = surrogate.embed([ids, ids[::-1]])
        assert (np.abs(one - other).max() > 1e-3) == apart


# --- files


def test_saved_and_loaded(tmp_path: Path) -> None:
    """In half precision but for large matrices, which no search can tell."""
    TAUGHT.fitted.save(tmp_path / FILE)
    found = Fitted.load(tmp_path, len(TABLE), FEATURES, DIMENSION)
    assert found is not None
    assert found.student is not None
    assert torch.equal(found.weight, LINEAR.weight)
    np.testing.assert_allclose(Surrogate(TABLE, found).embed(IDS), TAUGHT.embed(IDS), atol=2e-3)
    assert (tmp_path / FILE).stat().st_size < 2.5 * sum(p.numel() for p in TAUGHT.fitted.student.parameters()) + 10_000


def test_large_matrices_are_stored_in_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(5)
    student = Student(FEATURES, DIMENSION, positions=16, width=256, blocks=1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    large = LINEAR._replace(student=student.eval().requires_grad_(False))
    large.save(tmp_path / FILE)
    found = Fitted.load(tmp_path, len(TABLE), FEATURES, DIMENSION)
    assert found is not None
    assert found.student is not None
    assert (tmp_path / FILE).stat().st_size < 1.1 * sum(p.numel() for p in student.parameters()) + 20_000
    given, kept = (Surrogate(TABLE, one).embed(IDS) for one in (large, found))
    assert (given * kept).sum(1).min() > 0.999
    # What was stored once is stored alike again: a package keeps what was measured.
    stored = {name: tensor.clone() for name, tensor in found.tensors().items()}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in large.tensors().items())


def test_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wide = LINEAR._replace(student=Student(FEATURES + 1, DIMENSION, positions=16, width=32))
    wide.save(tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"surrogate.safetensors: its student cannot be read \("):
        Fitted.load(tmp_path, len(TABLE), FEATURES, DIMENSION)


# --- training


def test_tokens_alike_are_those_of_near_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbled, "ROWS", 7)
    angles = torch.arange(20) * 0.1  # neighbours on a circle are neighbours in number
    found = garbled.alike(torch.stack([angles.cos(), angles.sin()], dim=1))
    assert found.shape == (20, 19)
    assert found[0, :4].tolist() == [1, 2, 3, 4]
    assert set(found[10, :4].tolist()) == {8, 9, 11, 12}


def test_edits_are_texts_that_fit() -> None:
    noise = np.random.default_rng(0)
    u_VH = F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    editor = garbled.Editor(garbled.alike(u_VH), 10)
    pool = np.arange(12, 60)
    kept = 0
    for _ in range(500):
        ids = noise.integers(12, 60, size=noise.integers(2, 11)).tolist()
        edited = editor.edit(ids, pool, noise)
        assert 2 <= len(edited) <= 10
        assert all(isinstance(token, int) and 0 <= token < 60 for token in edited)
        kept += sorted(edited) == sorted(ids)
    assert 50 < kept < 250  # some are changes of order alone


def clock(seconds: float) -> SimpleNamespace:
    """A clock by which a step, which looks once, takes so long on every machine."""
    ticks = itertools.count(step=seconds)
    return SimpleNamespace(perf_counter=lambda: next(ticks))


def test_it_learns_what_a_bag_cannot_know(
    script: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake encoder weighs tokens by their places, so that order is half of what there is to learn."""
    encoder = fake_encoder()
    texts = encoder.tokenizer.encode_batch(tiny_texts(600, seed=4))
    noise = np.random.default_rng(0)
    editor = garbled.Editor(garbled.alike(Surrogate(TABLE, LINEAR).u_VH), 16)
    pool = np.concatenate(texts)
    several = [
        one for ids in texts for one in (ids, *(editor.edit(ids, pool, noise) for _ in range(garbled.GROUP - 1)))
    ]
    lengths = torch.tensor([len(ids) for ids in several])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in several], batch_first=True)
    e = F.normalize(encoder.encode_tokens(ids, lengths), dim=-1)
    cut = 500 * garbled.GROUP
    path = tmp_path / "chunk.npz"
    np.savez(path, tokens=ids[:cut].numpy(), lengths=lengths[:cut].numpy(), e=e[:cut].half().numpy())
    held_out = script.Texts(ids[cut:], lengths[cut:], e[cut:])
    torch.manual_seed(0)
    surrogate = Surrogate(TABLE, LINEAR)
    student = Student(FEATURES, DIMENSION, positions=ids.shape[1], width=32, blocks=1)
    monkeypatch.setitem(script.train.__globals__, "time", clock(0.02))
    tokens = script.Tokens.of(surrogate, torch.device("cpu"))
    script.train(student, tokens, partial(lessons.kept, [path], 50, 0), 0.1, 5e-3, tmp_path / "training.pt")
    bag, bag_foresight = script.judge(surrogate, held_out)
    taught, foresight = script.judge(
        Surrogate(TABLE, LINEAR._replace(student=student.eval().requires_grad_(False))), held_out
    )
    assert taught > bag + 0.05
    assert foresight > bag_foresight


def figures(said: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.?\d*", said)]


def test_the_script_teaches_an_inverter_and_goes_on(
    script: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fake_encoder()
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(tiny_texts(400)), encoding="utf-8")
    config = tiny_config()
    data = dataclasses.replace(config.data, held_out=0.2)
    prepare(dataclasses.replace(config, data=data), [str(corpus)], tmp_path / "shards", encoder)
    folder = save_tiny_inverter(tmp_path / "inverter")
    tiny_surrogate().save(folder / FILE)
    load = Inverter.from_pretrained
    monkeypatch.setattr(Inverter, "from_pretrained", lambda path: load(path, encoder=encoder))
    for names in (vars(lessons), script.train.__globals__):
        monkeypatch.setitem(names, "GROUPS", 32)
    monkeypatch.setitem(script.train.__globals__, "time", clock(0.005))
    command = ["--model", str(folder), "--data", str(tmp_path / "shards"), "--work", str(tmp_path / "work")]
    command += ["--texts", "200", "--minutes", "0.01", "--batch", "16", "--width", "32"]
    first = CliRunner().invoke(script.main, command, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    assert [line.split(":")[0] for line in first.stdout.splitlines()] == ["bag", "student"]
    taught = Inverter.from_pretrained(folder).surrogate
    assert taught is not None
    assert taught.fitted.student is not None
    calls = encoder.calls
    again = CliRunner().invoke(script.main, command, catch_exceptions=False)
    assert again.stdout == first.stdout  # all is there already
    assert encoder.calls == calls
    # Made as they are needed, the texts are those of the files, and leave nothing behind.
    inverter = Inverter.from_pretrained(folder)
    near = garbled.alike(Surrogate(TABLE, LINEAR).u_VH)
    chunks = lessons.Chunks(inverter, near, str(tmp_path / "shards"), "train", seed=0)
    for number in (1, 0):
        ids, lengths = chunks[number]
        with np.load(tmp_path / "work" / f"train_0_{number}.npz") as file:
            np.testing.assert_array_equal(ids, file["tokens"])
            np.testing.assert_array_equal(lengths, file["lengths"])
    shutil.copytree(folder, tmp_path / "other")
    streamed = [*command, "--stream"]
    streamed[streamed.index("--model") + 1] = str(tmp_path / "other")
    streamed[streamed.index("--work") + 1] = str(tmp_path / "stream")
    other = CliRunner().invoke(script.main, streamed, catch_exceptions=False)
    assert other.exit_code == 0, other.output
    assert sorted(path.name for path in (tmp_path / "stream").iterdir()) == ["training.pt", "validation_0_0.npz"]
    assert figures(other.stdout)[0] == figures(first.stdout)[0]  # the bag's
    assert encoder.calls > calls + 200
    # With what is there, into a new run: as good before any training, another one after some.
    command[command.index("--work") + 1] = str(tmp_path / "more")
    command[command.index("--width") + 1] = "64"  # which the student that is there decides
    command[command.index("--minutes") + 1] = "0"
    gone_on = CliRunner().invoke(script.main, [*command, "--go-on"], catch_exceptions=False)
    # It was stored in half precision, which a last digit may tell.
    assert figures(gone_on.stdout) == pytest.approx(figures(first.stdout), abs=0.003)
    command[command.index("--minutes") + 1] = "0.005"
    before = (folder / FILE).read_bytes()
    more = CliRunner().invoke(script.main, [*command, "--go-on", "--rate", "0.001"], catch_exceptions=False)
    assert more.exit_code == 0, more.output
    assert (folder / FILE).read_bytes() != before
    tiny_surrogate().save(folder / FILE)
    refused = CliRunner().invoke(script.main, [*command, "--go-on"])
    assert refused.exit_code == 2
    assert "has no student to go on with" in refused.output
