"""The student: what it starts as, what it can tell that a bag cannot, its file, and how it learns."""

import dataclasses
import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fakes import fake_encoder, taught, tiny_config, tiny_parts, tiny_surrogate, tiny_texts
from unembed.corpus.prepare import prepare
from unembed.corpus.windows import Shards, Windows
from unembed.errors import CheckpointError
from unembed.surrogate import distillation, edits
from unembed.surrogate.bag import FILE, Fitted, Surrogate
from unembed.surrogate.distillation import distil, judge
from unembed.surrogate.edits import GROUP, Editor
from unembed.surrogate.pairs import Chunks
from unembed.surrogate.student import Student

PARTS = tiny_parts()
TABLE = PARTS.denoiser.table.weight
LINEAR = tiny_surrogate()
FEATURES, DIMENSION = LINEAR.weight.shape
TEXTS = [*tiny_texts(12), "cat"]
IDS = PARTS.tokenizer.encode_batch(TEXTS)


TAUGHT = Surrogate(TABLE, taught(LINEAR))


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


@pytest.mark.parametrize("at_once", [False, True])
def test_tokens_are_near_whose_directions_are(monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    monkeypatch.setattr(edits, "ROWS", 7)
    angles = torch.arange(20) * 0.1  # neighbours on a circle are neighbours in number
    editor = Editor(torch.stack([angles.cos(), angles.sin()], dim=1), 10)
    if at_once:
        editor.find_all()
    assert len(editor.near(0)) == 19
    assert editor.near(0)[:4].tolist() == [1, 2, 3, 4]
    assert set(editor.near(10)[:4].tolist()) == {8, 9, 11, 12}


def test_edits_are_texts_that_fit() -> None:
    noise = np.random.default_rng(0)
    editor = Editor(F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), dim=-1), 10)
    pool = np.arange(12, 60)
    same = 0
    for _ in range(500):
        ids = noise.integers(12, 60, size=noise.integers(2, 11)).tolist()
        edited = editor.edit(ids, pool, noise)
        assert 2 <= len(edited) <= 10
        assert all(isinstance(token, int) and 0 <= token < 60 for token in edited)
        same += sorted(edited) == sorted(ids)
    assert 50 < same < 250  # some are changes of order alone


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> list[Chunks]:
    """Chunks of 100 windows with edits, of what is trained on and of what is held out."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "texts.txt").write_text("\n".join(tiny_texts(800, seed=4)), encoding="utf-8")
    config, encoder = tiny_config(), fake_encoder()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, held_out=0.3))
    prepare(config, [str(folder / "texts.txt")], folder / "data", encoder)
    editor = Editor(Surrogate(TABLE, LINEAR).u_VH, 16)
    shards = Shards.open(folder / "data")
    return [
        Chunks(Windows(shards, config.data, encoder.tokenizer, 16, 100, 0, split), encoder.tokenizer, editor)
        for split in ("train", "validation")
    ]


def test_it_learns_what_a_bag_cannot_know(
    splits: list[Chunks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake encoder weighs tokens by their places, so that order is half of what there is to learn."""
    train, others = splits
    paths = [train.keep(fake_encoder(), number, tmp_path / f"{number}.safetensors") for number in range(5)]
    held_out = others.load([others.keep(fake_encoder(), 0, tmp_path / "held-out.safetensors")])
    torch.manual_seed(0)
    surrogate = Surrogate(TABLE, LINEAR)
    student = Student(FEATURES, DIMENSION, positions=16, width=32, blocks=1)
    ticks = itertools.count(step=0.02)  # a step looks once, and takes as long on every machine
    monkeypatch.setattr(distillation, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    batches = partial(train.batches, partial(train.kept, paths, 0), 50, 0)
    distil(student, surrogate, batches, 0.05, 5e-3, tmp_path / "state.pt")
    bag = judge(surrogate, held_out)
    found = judge(Surrogate(TABLE, LINEAR._replace(student=student.requires_grad_(False))), held_out)
    assert found["n"] == bag["n"] == 400
    assert found["cosine"] > bag["cosine"] + 0.05
    assert found["correlation"] > bag["correlation"]


@pytest.mark.parametrize("way", ["kept", "streamed"])
def test_a_later_step_begins_where_an_uninterrupted_run_is(splits: list[Chunks], tmp_path: Path, way: str) -> None:
    train, encoder = splits[0], fake_encoder()
    if way == "kept":
        paths = [train.keep(encoder, number, tmp_path / f"{number}.safetensors") for number in range(2)]
        chunks = partial(train.kept, paths, 0)
    else:
        chunks = partial(train.streamed, encoder, torch.device("cpu"))
    batches = partial(train.batches, chunks, 40, 0)
    whole = list(itertools.islice(batches(0), 8))
    for step in (2, 5):
        for one, other in zip(itertools.islice(batches(step), 3), whole[step:], strict=False):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    windows = whole[0].rows()[::GROUP]  # the first of each group
    e = fake_encoder().encode([PARTS.tokenizer.decode(ids) for ids in windows])
    np.testing.assert_allclose(whole[0].e[::GROUP], e, atol=2e-3)
