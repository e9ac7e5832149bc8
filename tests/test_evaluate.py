"""What is measured, with inverters that recover exactly what the test says."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
import sacrebleu
import torch
from torch import nn

from fakes import fake_encoder, tiny_config, tiny_parts, tiny_surrogate, tiny_texts, tiny_tokenizer
from unembed.corpus.held_out import truths
from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding, DecodingTuning
from unembed.decoding.steering import Steering
from unembed.decoding.token_counts import Balance
from unembed.denoiser.model import Modulation
from unembed.errors import InputError
from unembed.evaluation.evaluate import GUIDED_RANDOM_VECTORS, Report, cloze_accuracy, evaluate
from unembed.evaluation.tables import baseline_rows, length_rows, rows
from unembed.inverter import Inverter
from unembed.search.options import Search, options_of
from unembed.storage.fingerprint import fingerprint
from unembed.surrogate.bag import Fitted, Surrogate

L = 16
METRICS = ("token_accuracy", "exact_match", "token_f1", "bleu", "rouge_l", "cosine", "cloze_accuracy_10")
TEXTS = tiny_texts(40, seed=1)
NOTHING = tiny_tokenizer().encode(
    "you we it"
)  # what is said of a vector that no text has; none of TEXTS has these words


class FakeDenoiser(nn.Module):
    """Fills every position as `answer` says for the embedding's text; keeps the canvases of its passes."""

    def __init__(self, inverter: "FakeInverter") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.inverter = [inverter]
        self.seen: list[torch.Tensor] = []
        self.config, self.precision, self.output_bias = inverter.config.model, torch.float32, self.weight
        self.mask_id, self.end_ids = inverter.tokenizer.mask_id, (inverter.tokenizer.eos_id, inverter.tokenizer.pad_id)

    def condition(self, e: torch.Tensor) -> Modulation:
        return Modulation(e[:, None], e)  # what it does to the network is the embedding itself

    def hidden(self, ids: torch.Tensor, modulation: Modulation) -> torch.Tensor:
        self.seen.append(ids)
        answers = [
            self.inverter[0].tokenizer.canvas(self.inverter[0].answer(row), L) for row in modulation.final.numpy()
        ]
        return torch.tensor(answers)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(hidden, self.inverter[0].tokenizer.vocab_size).float()


class FakeInverter:
    """Knows the embeddings of `texts`, and gives back what `change` makes of their tokens."""

    def __init__(self, texts: list[str], change: Callable[[list[int]], list[int]] = lambda ids: ids) -> None:
        self.encoder = fake_encoder()
        self.tokenizer, self.recipe, self.config = self.encoder.tokenizer, self.encoder.recipe, tiny_config()
        self.surrogate = None
        self.change = change
        self.known = self.encoder.encode(texts)
        self.ids = self.tokenizer.encode_batch(texts)
        self.denoiser = FakeDenoiser(self)
        self.condition = self.denoiser.condition
        self.asked: list[dict] = []

    def answer(self, embedding: np.ndarray) -> list[int]:
        cosines = self.known @ embedding
        return self.change(self.ids[cosines.argmax()]) if max(cosines, default=0) > 0.99999 else NOTHING

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.encoder.encode(texts)

    def steering(self, e: torch.Tensor) -> None:
        return None

    def invert(self, embeddings: np.ndarray, decoding: Decoding, search: Search | None, **options) -> list[Inversion]:
        self.asked.append({"n": len(embeddings), **options_of(decoding, search), **options})
        found = []
        for embedding in embeddings:
            ids = self.tokenizer.canvas(self.answer(embedding), L)
            cosine = float(self.encode([self.tokenizer.decode(ids)])[0] @ embedding)
            found.append(
                Inversion(
                    text=self.tokenizer.decode(ids), tokens=[], confidence=[], ids=ids, score=cosine, passes=8,
                    encoder_calls=3, cosine=cosine,
                    seconds=None if search is None else 0.5 + len(found),
                )
            )  # fmt: skip
        return found


def measured(change: Callable[[list[int]], list[int]] = lambda ids: ids, **options) -> Report:
    return evaluate(FakeInverter(TEXTS, change), TEXTS, **{"tokens": "natural", **options})


def test_no_texts_are_refused():
    with pytest.raises(InputError, match="no text with at least 1 content tokens among 0"):
        evaluate(FakeInverter([]), [], tokens="natural")
    with pytest.raises(InputError, match="seed is -1"):
        measured(seed=-1)


def test_perfect_recovery_is_one_everywhere():
    report = measured()
    for name in METRICS:
        best = 100.0 if name == "bleu" else 1.0
        assert getattr(report, name) == pytest.approx(best), name
        assert report.intervals[name] == pytest.approx([best, best]), name
    assert report.n == len(TEXTS)
    assert report.skipped == 0
    assert all(part["token_accuracy"] == 1.0 for part in report.token_accuracy_by_length.values())
    assert sum(part["n"] for part in report.token_accuracy_by_length.values()) == report.n


def test_constant_nonsense_is_zero():
    report = measured(lambda ids: NOTHING)
    for name in ("token_accuracy", "exact_match", "token_f1", "bleu", "rouge_l"):
        assert getattr(report, name) == 0.0, name
        assert report.intervals[name] == [0.0, 0.0], name
    assert report.cosine < 0.6


def test_one_token_off():
    def change(ids):
        return [NOTHING[0], *ids[1:]]

    report = measured(change)
    lengths = [len(tiny_tokenizer().encode(text)) for text in TEXTS]
    assert report.token_accuracy == pytest.approx(1 - len(TEXTS) / sum(lengths))
    assert report.token_f1 == pytest.approx(np.mean([1 - 1 / n for n in lengths]))
    assert report.exact_match == 0.0
    low, high = report.intervals["token_accuracy"]
    assert low < report.token_accuracy < high
    tokenizer = tiny_tokenizer()
    recovered = [tokenizer.decode(change(tokenizer.encode(text))) for text in TEXTS]
    assert report.bleu == pytest.approx(sacrebleu.corpus_bleu(recovered, [TEXTS]).score)
    encoder = fake_encoder()
    assert report.cosine == pytest.approx((encoder.encode(recovered) * encoder.encode(TEXTS)).sum(1).mean(), abs=1e-6)


def test_recovered_text_that_is_longer_or_shorter():
    longer = measured(lambda ids: [*ids, NOTHING[0]])
    assert longer.token_accuracy == 1.0
    assert longer.exact_match == 0.0
    assert longer.token_f1 < 1.0
    shorter = measured(lambda ids: ids[:-1])
    assert shorter.token_accuracy < 1.0
    assert shorter.exact_match == 0.0


def test_nothing_recovered():
    report = measured(lambda ids: [])
    assert report.token_accuracy == report.bleu == report.token_f1 == report.rouge_l == 0.0
    assert -1.0 <= report.cosine <= 1.0


def test_the_inverter_gets_the_embeddings_and_the_options_and_nothing_else():
    inverter = FakeInverter(TEXTS)
    options = {
        "steps": 4,
        "strategy": "euler",
        "candidates": 2,
        "seed": 3,
        "guidance": 0.5,
        "balance": 0.6,
        "steering": 50.0,
    }
    options |= {"seconds": 9.5, "max_calls": 40, "temperature": 0.7, "batch_size": 8, "show_progress_bar": False}
    report = evaluate(inverter, TEXTS, tokens="natural", limit=9, **options)
    # The texts, and random vectors: few, since no search for them ends before its budget.
    assert inverter.asked == [{"n": n, **options} for n in (9, GUIDED_RANDOM_VECTORS)]
    assert (report.strategy, report.steps, report.seed, report.n) == ("euler", 4, 3, 9)
    assert report.options == {
        name: value for name, value in options.items() if name not in ("steps", "strategy", "seed", "show_progress_bar")
    }
    assert (report.passes, report.encoder_calls) == (8.0, 3.0)
    assert report.seconds_per_text == report.seconds / 9
    assert report.calls_per_second == pytest.approx(27 / report.seconds)
    assert report.seconds_to_exact == 4.5  # the median of .5 to 8.5
    wrong = evaluate(FakeInverter(TEXTS, lambda ids: ids[:-1]), TEXTS, tokens="natural", limit=9, seconds=2.0)
    assert wrong.seconds_to_exact is None
    assert wrong.baselines["random_vector"]["n"] == GUIDED_RANDOM_VECTORS
    blind = evaluate(inverter, TEXTS, tokens="natural", limit=9)
    assert (blind.calls_per_second, blind.seconds_to_exact) == (None, None)


def test_baselines_show_what_chance_gives():
    report = measured()
    random, shuffled = report.baselines["random_vector"], report.baselines["shuffled_pairs"]
    assert random["token_accuracy"] == random["token_f1"] == random["bleu"] == 0.0
    assert 0.0 < shuffled["token_accuracy"] < 0.5  # the tiny grammar repeats itself
    assert shuffled["token_f1"] < 0.7
    assert max(random["cosine"], shuffled["cosine"]) < 0.8
    for baseline in (random, shuffled):
        assert baseline["n"] == len(TEXTS)
        assert set(baseline["intervals"]) == {"token_accuracy", "token_f1", "bleu", "cosine"}


def test_shuffled_pairs_compare_no_text_with_itself():
    texts = ["the cat watched a dog", "you repair it", "one old king", "bright ships never learn ."]  # no token twice
    for n in (2, 3, 4):
        shuffled = evaluate(FakeInverter(texts), texts[:n], tokens="natural").baselines["shuffled_pairs"]
        assert shuffled["token_f1"] == shuffled["token_accuracy"] == 0.0
        assert shuffled["cosine"] < 0.99
    assert evaluate(FakeInverter(texts), texts[:1], tokens="natural").baselines["shuffled_pairs"] is None


def test_random_vectors_are_as_long_as_embeddings_and_bounded_in_number():
    inverter = FakeInverter(TEXTS)
    vectors = []
    invert = inverter.invert
    inverter.invert = lambda embeddings, *how, **more: vectors.append(embeddings) or invert(embeddings, *how, **more)
    report = evaluate(inverter, TEXTS, tokens="natural", seed=2, random_vectors=7)
    assert report.baselines["random_vector"]["n"] == 7
    assert [len(batch) for batch in vectors] == [len(TEXTS), 7]
    assert vectors[1].dtype == np.float32
    assert np.linalg.norm(vectors[1], axis=1) == pytest.approx(np.ones(7), abs=1e-5)


def test_cloze_masks_a_tenth_of_the_content_and_nothing_else():
    inverter = FakeInverter(TEXTS)
    truth = truths(TEXTS, inverter.tokenizer, "natural", L)
    scores = cloze_accuracy(inverter, truth, inverter.encode(truth.texts), Decoding(), batch_size=16)
    seen = torch.cat(inverter.denoiser.seen)
    assert len(inverter.denoiser.seen) == 3  # one pass for each batch of at most 16
    for row, ids in zip(seen.tolist(), truth.ids, strict=True):
        masked = [i for i, token in enumerate(row) if token == inverter.tokenizer.mask_id]
        assert len(masked) == max(1, round(0.1 * len(ids)))
        assert max(masked) < len(ids)
        restored = [ids[i] if i in masked else token for i, token in enumerate(row)]
        assert restored == inverter.tokenizer.canvas(ids, L)
    assert scores.value == 1.0
    assert scores.rows.sum(0).tolist() == [40.0, 40.0]
    again = FakeInverter(TEXTS)
    cloze_accuracy(again, truth, inverter.encode(truth.texts), Decoding(), batch_size=40)
    assert torch.equal(torch.cat(again.denoiser.seen), seen)
    cloze_accuracy(again, truth, inverter.encode(truth.texts), Decoding(seed=1), batch_size=40)
    assert not torch.equal(again.denoiser.seen[-1], seen)


def test_cloze_is_steered_by_each_texts_own_embedding(monkeypatch):
    inverter = Inverter(tiny_parts()._replace(surrogate=tiny_surrogate()), fake_encoder())
    denoiser, hidden, seen = inverter.denoiser, inverter.denoiser.hidden, []
    monkeypatch.setattr(denoiser, "hidden", lambda ids, modulation: seen.extend(ids) or hidden(ids, modulation))
    truth = truths(TEXTS, inverter.tokenizer, "natural", L)
    embeddings = inverter.encode(truth.texts)
    found = {
        steering: cloze_accuracy(inverter, truth, embeddings, Decoding(steering=steering), share=0.5, batch_size=16)
        for steering in (0.0, 20.0)
    }
    canvases, again = seen[: len(TEXTS)], seen[len(TEXTS) :]
    assert torch.equal(torch.stack(canvases), torch.stack(again))  # the same positions are masked
    tuning = DecodingTuning()
    balance = Balance(0.0, denoiser.mask_id, denoiser.end_ids, tuning)
    for steering, scores in found.items():
        restored = []
        for canvas, e, ids in zip(canvases, torch.tensor(embeddings), truth.ids, strict=True):
            holes = canvas == denoiser.mask_id
            logits = denoiser(canvas[None], e[None])[0, holes]
            if steering:
                masses, visible = balance.masses(logits), balance.visible(canvas, logits.shape[1])
                alone = Steering(*inverter.surrogate.bag(torch.device("cpu")), e[None])
                gains = alone.gains(0, masses, visible, torch.zeros_like(visible), tuning.early * steering)
                logits = balance.multiplied(logits, masses, gains)
            hits = logits.argmax(-1) == torch.tensor(inverter.tokenizer.canvas(ids, L))[holes]
            restored.append([hits.sum().item(), len(hits)])
        assert scores.rows.tolist() == restored
    assert found[0.0].rows.tolist() != found[20.0].rows.tolist()
    for steering in (0.0, 20.0):
        report = evaluate(inverter, TEXTS, tokens="natural", steering=steering, random_vectors=0)
        expected = cloze_accuracy(inverter, truth, embeddings, Decoding(steering=steering))
        assert report.cloze_accuracy_10 == expected.value
        assert report.options["steering"] == steering


def test_cloze_share_and_misses():
    inverter = FakeInverter(TEXTS, lambda ids: [NOTHING[0]] * len(ids))
    truth = truths(TEXTS, inverter.tokenizer, "natural", L)
    scores = cloze_accuracy(inverter, truth, inverter.encode(truth.texts), Decoding(), share=0.5)
    assert scores.value == 0.0
    assert scores.rows[:, 1].tolist() == [round(len(ids) / 2) for ids in truth.ids]


def test_cloze_of_a_truth_longer_than_the_canvas():
    inverter = FakeInverter([])
    truth = truths(["the cat " * 20], inverter.tokenizer, 32, 32)
    scores = cloze_accuracy(inverter, truth, inverter.encode(truth.texts), Decoding(), share=1.0)
    assert scores.rows[0, 1] == L


def test_report_survives_json_and_says_where_it_was_measured():
    report = measured(limit=5)
    tree = json.loads(json.dumps(report.to_dict()))
    assert Report.from_dict(tree).to_dict() == tree
    guided = json.loads(json.dumps(measured(limit=5, seconds=1.0).to_dict()))
    assert guided["calls_per_second"] > 0
    assert Report.from_dict(guided).to_dict() == guided
    del tree["calls_per_second"], tree["seconds_to_exact"]  # as earlier versions wrote it
    assert Report.from_dict(tree).n == 5
    tree = measured(limit=5).to_dict()
    assert set(METRICS) <= set(tree)
    assert set(tree["intervals"]) == set(METRICS)
    assert tree["model"]["encoder"] == "fake"
    assert tree["model"]["max_tokens"] == L
    assert tree["machine"]["device"] == "cpu"
    assert tree["machine"]["torch"] == torch.__version__
    assert tree["machine"]["cpu"]
    assert re.fullmatch("[0-9a-f]{16}", tree["machine"]["code"])
    assert tree["truths_sha256"] == measured(limit=5).truths_sha256 != measured(limit=6).truths_sha256


def test_two_measurements_agree():
    first, second = (measured(lambda ids: ids[::-1]).to_dict() for _ in range(2))
    for tree in (first, second):
        del tree["seconds"], tree["seconds_per_text"]
    assert first == second


def test_fingerprint_tells_weights_apart():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))  # with a tensor of no dimensions
    before = fingerprint(network)
    assert before == fingerprint(network)
    assert before != fingerprint(network.to(torch.bfloat16))
    with torch.no_grad():
        network[0].bias[0] += 1
    assert before != fingerprint(network)


def test_fingerprint_tells_surrogates_apart():
    table, fitted = torch.randn(5, 3), Fitted(torch.ones(3, 4), torch.ones(4))
    before = fingerprint(Surrogate(table, fitted))
    assert before == fingerprint(Surrogate(table, Fitted(torch.ones(3, 4), torch.ones(4))))
    assert before != fingerprint(Surrogate(table, fitted._replace(bias=torch.zeros(4))))


def test_tables_are_aligned_markdown():
    reports = [measured(limit=12), measured(lambda ids: ids[:-1], steps=32, strategy="two-stage", candidates=4)]
    table = rows(reports)
    lines = table.splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert len({line.count("|") for line in lines}) == 1
    assert "1.000 [1.000, 1.000]" in lines[2]
    assert "100.0 [100.0, 100.0]" in lines[2]
    assert lines[3].startswith("| two-stage, candidates 4, temperature 0.5 |    32 |  40 | 0.")
    chosen = measured(limit=2, balance=0.5, steering=0.0)
    guided = measured(limit=2, seconds=60.0, max_calls=500)
    named = [line.split("|")[1].strip() for line in rows([chosen, guided]).splitlines()[2:]]
    assert named == [
        "confidence, balance 0.5, steering 0",
        "confidence, seconds 60, max calls 500",
    ]
    chance = baseline_rows(reports).splitlines()
    assert len(chance) == 2 + 4
    assert "random vector" in chance[2]
    assert "shuffled pairs" in chance[3]
    assert len({len(line) for line in chance}) == 1
    lengths = length_rows(reports[:1]).splitlines()
    assert len(lengths) == 2 + len(reports[0].token_accuracy_by_length)
    assert sum(int(line.split("|")[4]) for line in lengths[2:]) == reports[0].n
    assert all("1.000 [1.000, 1.000]" in line for line in lengths[2:])
