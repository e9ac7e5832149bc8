"""Starting from another encoder's inverter: at first it computes what the aligned inverter does, then it trains."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from fakes import FakeEncoder, fake_encoder, save_tiny_inverter, tiny_config, tiny_parts, tiny_texts, tiny_tokenizer
from unembed.alignment.aligner import Aligner
from unembed.alignment.linear import Linear, ridge
from unembed.corpus.prepare import prepare
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import CheckpointError, ConfigError
from unembed.inverter import Inverter
from unembed.storage.checkpoint import build_denoiser
from unembed.training.from_aligner import shared_ids, start_from_aligner
from unembed.training.train import train

S = 24


def reordered_tokenizer(dropped: int = 0) -> Tokenizer:
    """The tiny vocabulary with other ids, and other spellings of the last `dropped` of its tokens."""
    tree = json.loads(tiny_tokenizer().backend_json())
    vocabulary = tree["model"]["vocab"]
    names = sorted(vocabulary, key=lambda token: (token.startswith("["), token[::-1]))
    ids = {token: number for number, token in enumerate(names)}
    for token in list(ids)[:dropped]:
        ids[f"{token}new"] = ids.pop(token)
    tree["model"]["vocab"] = ids
    for one in tree["added_tokens"]:
        one["id"] = ids[one["content"]]
    for token, special in tree["post_processor"]["special_tokens"].items():
        special["ids"] = [ids[token]]
    backend = Backend.from_str(json.dumps(tree))
    return Tokenizer(backend, mask_id=ids["[MASK]"], eos_id=ids["[SEP]"], pad_id=ids["[PAD]"])


class Wider(FakeEncoder):
    """An encoder of 24 dimensions with a tokenizer of its own."""

    def __init__(self) -> None:
        super().__init__(S)
        self.tokenizer = reordered_tokenizer()
        self.recipe = replace(self.recipe, encoder="wider")


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    texts = tiny_texts(300, 4)
    x, y = Wider().encode(texts), fake_encoder().encode(texts)
    return Aligner(Wider().recipe, fake_encoder().recipe, ridge(x, y).linear, ridge(y, x).linear)


def started(aligner: Aligner, tokenizer: Tokenizer, vectors: Tensor) -> Inverter:
    config = replace(tiny_config(), encoder=Wider().recipe)
    denoiser = build_denoiser(config, tokenizer)
    parts = tiny_parts()
    weights = start_from_aligner(
        denoiser, parts.denoiser.state_dict(), parts.tokenizer, tokenizer, aligner, vectors
    )  # fmt: skip
    denoiser.load_state_dict(weights)
    return Inverter(parts._replace(denoiser=denoiser.eval().requires_grad_(False), tokenizer=tokenizer, config=config))


def test_it_begins_as_the_aligned_inverter(aligner: Aligner) -> None:
    """Where mapped vectors have one length, exactly: a rotation has no others."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((S, 16)))
    turned = Linear.of(np.zeros(S), np.zeros(16), basis)
    rotation = replace(aligner, forth=turned)
    x = fake_encoder().encode(tiny_texts(20, 6)) @ basis.T.astype(np.float32)
    one = Inverter(tiny_parts()).aligned(rotation).invert(x, steps=16, measure_cosine=False)
    two = started(rotation, reordered_tokenizer(), torch.from_numpy(x)).invert(x, steps=16, measure_cosine=False)
    assert [inversion.text for inversion in two] == [inversion.text for inversion in one]
    assert len({inversion.text for inversion in one}) > 10


def test_a_map_with_means_is_taken_over_but_for_lengths(aligner: Aligner) -> None:
    x = torch.from_numpy(Wider().encode(tiny_texts(50, 6)))
    found, parts = started(aligner, reordered_tokenizer(), x), tiny_parts()
    ids = shared_ids(parts.tokenizer, found.tokenizer)
    masks = torch.full((50, 16), found.tokenizer.mask_id)
    known = ids >= 0
    ours = found.denoiser(masks, x)[..., known].log_softmax(-1)
    mapped = torch.from_numpy(aligner(x.numpy()))
    theirs = parts.denoiser(ids[masks], mapped)[..., ids[known]].log_softmax(-1)
    finite = torch.isfinite(theirs)
    others = (theirs - theirs.roll(1, 0))[finite]  # what another vector would change
    assert float((ours - theirs)[finite].abs().mean()) < 0.3 * float(others.abs().mean())


def test_tokens_are_matched_by_their_spelling() -> None:
    own, other = tiny_tokenizer(), reordered_tokenizer(dropped=3)
    ids = shared_ids(own, other)
    assert int((ids < 0).sum()) == 3
    for number, mine in enumerate(ids.tolist()):
        assert mine < 0 or own.token(mine) == other.token(number)
    assert ids[other.mask_id] == own.mask_id


def test_tokenizers_that_have_little_in_common_are_refused(aligner: Aligner) -> None:
    with pytest.raises(ConfigError, match=r"shares 4\d% of its tokens"):
        started(aligner, reordered_tokenizer(dropped=40), torch.ones(1, S))


def test_a_run_starts_from_it(aligner: Aligner, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(tiny_texts(200, 1)))
    config = replace(tiny_config(), encoder=Wider().recipe)
    prepare(config, [str(tmp_path / "texts.txt")], tmp_path / "shards", Wider())
    aligner.save(tmp_path / "aligner")
    before = str(save_tiny_inverter(tmp_path / "before"))
    call = {"encoder": Wider(), "start_from": before, "aligner": tmp_path / "aligner", "show_progress_bar": False}
    run = Inverter.from_pretrained(train(config, tmp_path / "shards", tmp_path / "run", **call))
    assert (run.recipe.encoder, run.recipe.dimension) == ("wider", S)
    assert run.results["steps"] == config.training.steps + 1  # those of the weights before count
    foreign = replace(aligner, target=replace(aligner.target, encoder="another"))
    foreign.save(tmp_path / "foreign")
    with pytest.raises(ValueError, match="another"):
        train(config, tmp_path / "shards", tmp_path / "run2", **(call | {"aligner": tmp_path / "foreign"}))
    with pytest.raises(CheckpointError, match="is no aligner"):
        train(config, tmp_path / "shards", tmp_path / "run3", **(call | {"aligner": tmp_path}))
