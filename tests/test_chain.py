"""The proof that the whole chain can learn: 64 sentences come back, token for token, from their embeddings alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import fake_encoder, tiny_config, tiny_texts
from unembed.config import Config, DataConfig, DiffusionConfig, ModelConfig, TrainingConfig
from unembed.corpus.passages import passage_hash, split_of
from unembed.corpus.prepare import prepare
from unembed.decoding.strategies import STRATEGIES
from unembed.evaluation.evaluate import evaluate
from unembed.inverter import Inverter
from unembed.training.train import train

SENTENCES = 64
HELD_OUT = 0.1

CONFIG: Config = replace(
    tiny_config(),
    model=ModelConfig(max_tokens=16, width=64, blocks=2, heads=4, feed_forward=128, adaln_rank=0),
    diffusion=DiffusionConfig(time_skew=3.0, condition_dropout=0.05),
    data=DataConfig(held_out=HELD_OUT, full_windows=1.0, any_word_start=0.0),
    training=TrainingConfig(
        steps=300,
        batch_size=64,
        optimizer="adamw",
        learning_rate=5e-3,
        warmup_steps=20,
        decay_share=0.5,
        ema=0.98,
        precision="float32",
        start_from_encoder="none",
        log_every=100,
        validate_every=10_000,
        validation_texts=4,
    ),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sentences() -> tuple[list[str], list[str]]:
    """Those that the split by hash puts into training, and a few that it holds out."""
    texts = list(dict.fromkeys(tiny_texts(150, seed=11)))
    sides = split_of(np.array([passage_hash(text) for text in texts], dtype=np.uint64), HELD_OUT)
    seen = [text for text, side in zip(texts, sides, strict=True) if side == 0][:SENTENCES]
    return seen, [text for text, side in zip(texts, sides, strict=True) if side != 0]


@pytest.fixture(scope="module")
def inverter(sentences: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Inverter:
    folder: Path = tmp_path_factory.mktemp("chain")
    seen, held_out = sentences
    (folder / "sentences.txt").write_text("".join(text + "\n" for text in seen + held_out))
    manifest = prepare(CONFIG, [str(folder / "sentences.txt")], folder / "shards", fake_encoder())
    assert manifest.parts[0].passages["train"] == SENTENCES
    out = train(CONFIG, folder / "shards", folder / "run", encoder=fake_encoder(), show_progress_bar=False)
    return Inverter.from_pretrained(out, encoder=fake_encoder())


@pytest.mark.parametrize("steps", [1, 8])
def test_every_sentence_comes_back(inverter: Inverter, sentences: tuple[list[str], list[str]], steps: int) -> None:
    seen, _ = sentences
    report = evaluate(inverter, seen, tokens="natural", steps=steps)
    assert (report.n, report.encoder_calls) == (SENTENCES, 0)
    assert report.token_accuracy == 1.0
    assert report.exact_match == 1.0
    assert report.bleu == pytest.approx(100)
    assert report.cosine == pytest.approx(1.0, abs=1e-5)
    # and by no other way than through the embedding
    for baseline in report.baselines.values():
        assert baseline is not None
        assert baseline["token_accuracy"] < 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_by_every_strategy(inverter: Inverter, sentences: tuple[list[str], list[str]], strategy: str) -> None:
    seen, _ = sentences
    found = inverter.invert(inverter.encode(seen), steps=5, strategy=strategy)
    assert [inversion.text for inversion in found] == seen
