"""Every metric against an independent implementation, by hand, and at its edges."""

import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from fakes import tiny_texts
from unembed.errors import InputError
from unembed.evaluation import metrics
from unembed.evaluation.metrics import Scores

SENTENCES = st.lists(st.integers(1, 6), max_size=12)
TRUTHS = st.lists(st.integers(1, 6), min_size=1, max_size=12)


def pairs(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Truths, and the same with words swapped, dropped, doubled and replaced."""
    rng = random.Random(seed)
    truths = tiny_texts(n, seed)
    recovered = []
    for text in truths:
        words = text.split()
        for _ in range(rng.randrange(4)):
            i, j = rng.randrange(len(words)), rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
            if rng.random() < 0.5:
                words[i : i + 1] = rng.choice([["the"], [], ["a", "Cat"]])
                words = words or ["it"]
        recovered.append(" ".join(words))
    return recovered, truths


def bleu_by_hand(recovered: list[str], truths: list[str]) -> float:
    """Papineni et al. 2002 with NIST smoothing, on texts whose words are separated by spaces already."""
    matched, total = [0] * 4, [0] * 4
    for r, t in zip(recovered, truths, strict=True):
        for n in range(4):
            grams = [Counter(tuple(w[i : i + n + 1]) for i in range(len(w) - n)) for w in (r.split(), t.split())]
            matched[n] += sum(min(count, grams[1][gram]) for gram, count in grams[0].items())
            total[n] += sum(grams[0].values())
    logs, halvings = 0.0, 0
    for n in range(4):
        if matched[n] == 0:
            halvings += 1
        logs += math.log((matched[n] or 0.5**halvings) / total[n]) / 4
    words, wanted = (sum(len(text.split()) for text in texts) for texts in (recovered, truths))
    return 100 * math.exp(logs) * min(1.0, math.exp(1 - wanted / words))


@given(SENTENCES, TRUTHS)
def test_token_accuracy_counts_the_truths_positions(recovered, truth):
    hits = sum(i < len(recovered) and recovered[i] == truth[i] for i in range(len(truth)))
    assert metrics.token_accuracy([recovered], [truth]).value == hits / len(truth)


def test_token_accuracy_by_hand():
    truth = [5, 6, 7, 8]
    assert metrics.token_accuracy([[5, 6, 7, 8, 9, 9]], [truth]).value == 1.0  # extra tokens add no positions
    assert metrics.token_accuracy([[5, 6]], [truth]).value == 0.5  # missing tokens are missed
    assert metrics.token_accuracy([[9, 5, 6, 7]], [truth]).value == 0.0  # a shift is wrong everywhere
    assert metrics.token_accuracy([[]], [truth]).value == 0.0
    # Positions are pooled: 4 of 4 and 0 of 1 are 4 of 5, not one half.
    assert metrics.token_accuracy([[5, 6, 7, 8], [1]], [truth, [2]]).value == 0.8


@given(SENTENCES, TRUTHS)
def test_token_f1_equals_matching_tokens_one_by_one(recovered, truth):
    left = list(truth)
    for token in recovered:
        if token in left:
            left.remove(token)
    shared = len(truth) - len(left)
    precision, recall = (shared / len(recovered) if recovered else 0.0), shared / len(truth)
    expected = 2 * precision * recall / (precision + recall) if shared else 0.0
    assert metrics.token_f1([recovered], [truth]).value == pytest.approx(expected)


def test_exact_match_is_to_the_last_character():
    assert metrics.exact_match(["a cat.", "a cat", "A cat.", ""], ["a cat."] * 4).value == 0.25


@pytest.mark.parametrize("seed", range(5))
def test_bleu_equals_sacrebleu(seed):
    recovered, truths = pairs(40, seed)
    expected = sacrebleu.corpus_bleu(recovered, [truths]).score
    assert 0 < expected < 100
    assert metrics.bleu(recovered, truths).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_equals_bleu_by_hand(seed):
    recovered, truths = ([re.sub("[.?]", "", text) for text in texts] for texts in pairs(6, seed))
    assert metrics.bleu(recovered, truths).value == pytest.approx(bleu_by_hand(recovered, truths))


def test_bleu_where_longer_n_grams_are_never_matched():
    recovered, truths = ["the cat saw it then", "no"], ["a cat saw the bird at night", "no"]
    by_sacrebleu = sacrebleu.corpus_bleu(recovered, [truths]).score
    assert by_sacrebleu > 0
    assert metrics.bleu(recovered, truths).value == pytest.approx(by_sacrebleu)
    assert metrics.bleu(recovered, truths).value == pytest.approx(bleu_by_hand(recovered, truths))


def test_bleu_of_nothing_is_zero():
    assert metrics.bleu([""], ["the cat"]).value == 0.0
    assert metrics.bleu(["the cat", ""], ["a dog", "a dog"]).value == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_rouge_l_equals_rouge_score(seed):
    recovered, truths = pairs(30, seed)
    recovered += ["", "Don't STOP, 42!", "...", "naïve café", "b a b a"]
    truths += ["the cat", "don't stop 42", "the cat.", "naive cafe", "a b a b b"]
    scorer = RougeScorer(["rougeL"])
    expected = [scorer.score(t, r)["rougeL"].fmeasure for r, t in zip(recovered, truths, strict=True)]
    assert metrics.rouge_l(recovered, truths).value == pytest.approx(np.mean(expected))


def test_cosine():
    a = np.array([[1, 0], [3, 4], [0, 0], [-2, 0]], np.float32)
    b = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    assert metrics.cosine(a, b).value == pytest.approx((1 + 0.8 + 0 - 1) / 4)


def test_cosine_of_unequal_shapes_is_refused():
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 4\)"):
        metrics.cosine(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="expected twice the same"):
        metrics.cosine(np.ones((0, 3)), np.ones((0, 3)))


@pytest.mark.parametrize("metric", [metrics.token_accuracy, metrics.token_f1, metrics.restored])
def test_token_metrics_refuse_what_has_no_answer(metric):
    with pytest.raises(InputError, match="no texts"):
        metric([], [])
    with pytest.raises(InputError, match="1 recovered texts for 2 truths"):
        metric([[1]], [[1], [2]])
    with pytest.raises(InputError, match="text 1: the truth is empty"):
        metric([[1], [1]], [[1], []])


@pytest.mark.parametrize("metric", [metrics.exact_match, metrics.bleu, metrics.rouge_l])
def test_text_metrics_refuse_what_has_no_answer(metric):
    with pytest.raises(InputError, match="no texts"):
        metric([], [])
    with pytest.raises(InputError, match="2 recovered texts for 1 truths"):
        metric(["a", "b"], ["a"])
    with pytest.raises(InputError, match="text 0: the truth is empty"):
        metric(["a"], [""])


def test_interval_holds_the_value_and_depends_on_the_seed_alone():
    recovered, truths = pairs(60, 0)
    for scores in (metrics.bleu(recovered, truths), metrics.rouge_l(recovered, truths)):
        low, high = scores.interval(seed=3)
        assert low < scores.value < high
        assert (low, high) == scores.interval(seed=3)
        assert (low, high) != scores.interval(seed=4)


def test_interval_of_a_mean_equals_the_normal_one():
    values = np.random.default_rng(0).random(2000)
    scores = Scores(np.stack([values, np.ones(2000)], axis=1), lambda sums: sums[:, 0] / sums[:, 1])
    half = 1.96 * values.std() / math.sqrt(2000)
    low, high = scores.interval(resamples=4000)
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)


def test_interval_of_bleu_is_one_of_corpus_bleu():
    """The same as resampling the texts themselves and asking sacrebleu each time."""
    recovered, truths = pairs(25, 1)
    generator = np.random.default_rng(5)
    figures = []
    for _ in range(400):
        chosen = generator.integers(0, 25, 25)
        figures.append(sacrebleu.corpus_bleu([recovered[i] for i in chosen], [[truths[i] for i in chosen]]).score)
    low, high = metrics.bleu(recovered, truths).interval()
    spread = high - low
    assert np.quantile(figures, (0.025, 0.975)) == pytest.approx((low, high), abs=0.15 * spread)


def test_difference_of_two_measurements_is_paired():
    """Texts that differ widely, of which each gains about the same: the interval is that of the gains."""
    noise = np.random.default_rng(0)
    level, gain = noise.normal(0, 1, 400), noise.normal(0.05, 0.1, 400)

    def embed(cosines):
        return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)

    before = np.tanh(level) * 0.5
    after = before + gain
    truth = np.tile([1.0, 0.0], (400, 1))
    found = metrics.difference(metrics.cosine(embed(after), truth), metrics.cosine(embed(before), truth))
    assert found.value == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / 20
    assert found.interval() == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.003)
    same = metrics.cosine(embed(before), truth)
    assert metrics.difference(same, same).interval() == (0.0, 0.0)


def test_difference_of_corpus_bleus():
    truth, first, second = ["a b c d e", "f g h i j k"], ["a b c d e", "f g h i"], ["a b d c e", "f g h i j k"]
    of = [metrics.bleu(texts, truth) for texts in (first, second)]
    assert metrics.difference(of[1], of[0]).value == pytest.approx(of[1].value - of[0].value)
    with pytest.raises(InputError, match="texts"):
        metrics.difference(of[0], metrics.bleu(first[:1], truth[:1]))


def test_interval_has_no_width_where_all_texts_score_alike():
    assert metrics.exact_match(["a"], ["b"]).interval() == (0.0, 0.0)
    assert metrics.token_accuracy([[1, 2]] * 9, [[1, 3]] * 9).interval() == (0.5, 0.5)


def test_by_length_splits_and_keeps_every_text():
    lengths = [1, 4, 5, 8, 9, 32, 33, 700]
    truths = [list(range(1, n + 1)) for n in lengths]
    recovered = [truth[: len(truth) // 2] for truth in truths]
    parts = metrics.by_length(metrics.token_accuracy(recovered, truths), lengths)
    assert list(parts) == ["1-4", "5-8", "9-16", "25-32", "33-48", "513-"]
    assert [len(part.rows) for part in parts.values()] == [2, 2, 1, 1, 1, 1]
    assert parts["1-4"].value == 2 / 5
    assert parts["5-8"].value == 6 / 13


def confidences(n: int, seed: int = 0) -> tuple[list[list[float]], list[list[bool]]]:
    """Of `n` texts of 0 to 20 tokens; right more rarely than they say; some confidences equal."""
    rng = np.random.default_rng(seed)
    confidence = [np.round(rng.random(rng.integers(0, 21)) ** 2, 2).tolist() for _ in range(n)]
    return confidence, [[bool(rng.random() < 0.7 * p) for p in one] for one in confidence]


def test_calibration_error_by_a_loop_over_sorted_tokens():
    """Bins cut by hand: the k-th bin holds what lies above the (k - 1)/bins quantile and not above the k/bins one."""
    confidence, right = confidences(80)
    tokens = sorted(
        (p, hit) for ps, hits in zip(confidence, right, strict=True) for p, hit in zip(ps, hits, strict=True)
    )
    n = len(tokens)
    for bins in (1, 4, 15):
        cuts = [np.percentile([p for p, _ in tokens], 100 * k / bins) for k in range(1, bins)]
        parts = [[] for _ in range(bins)]
        for p, hit in tokens:
            parts[sum(p > cut for cut in cuts)].append((p, hit))
        expected = sum(abs(sum(p for p, _ in part) - sum(hit for _, hit in part)) for part in parts) / n
        assert metrics.expected_calibration_error(confidence, right, bins).value == pytest.approx(expected)
    low, high = metrics.expected_calibration_error(confidence, right).interval()
    assert 0 < low < high < 1


def test_calibration_error_by_hand():
    assert metrics.expected_calibration_error([[0.0, 1.0], []], [[False, True], []]).value == 0
    assert metrics.expected_calibration_error([[0.25, 0.25], [0.25, 0.25]], [[True, False], [False] * 2]).value == 0
    assert metrics.expected_calibration_error([[0.9] * 4], [[True, False, False, False]]).value == pytest.approx(0.65)


def test_confidences_without_an_answer_are_refused():
    with pytest.raises(InputError, match="no tokens to compare"):
        metrics.expected_calibration_error([[]], [[]])
    with pytest.raises(InputError, match="differ in number"):
        metrics.expected_calibration_error([[0.5], [0.5]], [[True, True]])
