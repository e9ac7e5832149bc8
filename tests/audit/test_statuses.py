"""How much of each text came back, and that chance is not taken for a leak."""

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from fakes import tiny_texts, tiny_tokenizer
from memory_store import texts
from unembed.audit.statuses import Judged, Texts, judge

TOKENIZER = tiny_tokenizer()
N = 60
TRUTHS = texts(N)
OTHERS = texts(100, seed=7)[50:90]  # recovered from random vectors


def unit(n: int, d: int = 64, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def given(several: Sequence[str], embedded: np.ndarray | None = None) -> Texts:
    return Texts(several, TOKENIZER.encode_batch(several), embedded)


def judged(found: Sequence[str], truths: Sequence[str | None] = TRUTHS, **options) -> Judged:
    """By words alone."""
    hashes = options.get("hashes")
    return judge(given(found), unit(len(found)), given(OTHERS), unit(len(OTHERS)), truths, hashes, TOKENIZER)


def measured(cosines: np.ndarray, noise: np.ndarray, tokens: int = 8) -> Judged:
    """By cosines alone, of recovered texts to their vectors and of random vectors' texts to theirs."""
    x, r = unit(len(cosines)), unit(len(noise), seed=1)
    found, other = (
        Texts(["the old cat"] * len(c), [list(range(5, 5 + tokens))] * len(c), at(v, c))
        for v, c in ((x, cosines), (r, noise))
    )
    return judge(found, x, other, r, [None] * len(cosines), None, TOKENIZER)


def at(x: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Vectors with these cosines to the given ones."""
    other = unit(len(x), seed=5)
    other -= (other * x).sum(1, keepdims=True) * x
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (cosines[:, None] * x + np.sqrt(1 - cosines[:, None] ** 2) * other).astype(np.float32)


def broken(text: str, keep: float, rng: random.Random) -> str:
    """With a share of its words, the others drawn from another text."""
    return " ".join(word if rng.random() < keep else rng.choice(["xyz", "y", "z", "i", "you"]) for word in text.split())


def test_texts_that_come_back_as_the_tokenizer_sees_them_are_proved() -> None:
    found = judged(TRUTHS, [text.upper() for text in TRUTHS])
    assert found.counts == {"proved": N, "exact": 0, "near": 0, "topic": 0, "nothing": 0}
    assert found.token_f1 is not None
    assert (found.token_f1.value, found.token_f1.n) == (1, N)


def test_words_decide_where_the_store_has_them() -> None:
    rng = random.Random(1)
    wrong = [text.replace("the", "a").replace(" a ", " the ") for text in TRUTHS[:20]]
    half = [broken(text, 0.6, rng) for text in TRUTHS[20:40]]
    found = judged([*wrong, *half, *texts(40, seed=3)[:20]])
    assert found.counts["near"] + found.counts["proved"] >= 17
    assert {found.statuses[i] for i in range(20)} <= {"near", "proved", "topic"}
    assert all(status == "near" for status, score in zip(found.statuses, found.scores, strict=True) if 0.7 < score < 1)
    assert found.chance_f1 is not None
    assert found.token_f1 is not None
    assert found.token_f1.low > found.chance_f1.high
    # What chance gives is counted with the same rules.
    assert sum(found.chance_counts.values()) > N
    assert found.chance_counts["topic"] + found.chance_counts["near"] <= 0.02 * sum(found.chance_counts.values())


@pytest.mark.parametrize("seed", range(8))
def test_texts_of_other_rows_are_nothing(seed: int) -> None:
    found = judged(texts(200, seed=seed + 50)[100 : 100 + N])
    # One in fifty where the means happen to differ, and then the rows that pass are as many as chance has.
    assert found.counts["near"] + found.counts["topic"] + found.counts["nothing"] == N
    assert found.counts["topic"] + found.counts["near"] <= 3


def test_an_attack_that_says_the_same_of_every_vector_finds_nothing() -> None:
    same = judge(
        given([TRUTHS[0]] * N), unit(N), given([TRUTHS[0]] * 40), unit(40), [*TRUTHS[1:], OTHERS[0]], None, TOKENIZER
    )
    assert same.counts["nothing"] == N


def test_texts_that_are_alike_in_all_rows_are_no_leak() -> None:
    """Such as a form letter, of which every recovered text has most words."""
    form = "the old king watched every quiet river at night and then the slow ship"
    truths = [f"{form} {word}" for word in ("cat", "dog", "tree", "child", "bird") for _ in range(8)]
    found = judge(given([form] * 40), unit(40), given([form] * 20), unit(20), truths, None, TOKENIZER)
    assert found.counts["nothing"] == 40


def test_a_hash_proves_a_text_that_the_store_no_longer_has() -> None:
    original = TRUTHS[3].capitalize()
    hashes = [f"md5:{hashlib.md5(text.encode()).hexdigest()}" for text in (original, "something else")]
    found = judged([TRUTHS[3], TRUTHS[4]], [None, None], hashes=hashes)
    assert found.statuses == ["proved", "nothing"]
    assert found.texts[0] == original


def test_the_very_vector_is_exact() -> None:
    cosines = np.array([1.0, 1 - 1e-8, 0.9999, 0.95, 0.1])
    found = measured(cosines, np.full(40, 0.3))
    assert found.statuses == ["exact", "exact", "near", "near", "nothing"]


def test_by_cosines_near_needs_more_of_longer_texts() -> None:
    cosines = np.array([0.99, 0.95, 0.9, 0.7, 0.4])
    assert measured(cosines, np.full(40, 0.3)).statuses == ["near", "near", "topic", "topic", "nothing"]
    assert measured(cosines, np.full(40, 0.3), 30).statuses == ["near", "topic", "topic", "topic", "nothing"]


def test_by_cosines_random_vectors_set_what_a_topic_needs() -> None:
    noise = np.linspace(0.5, 0.8, 40)
    found = measured(np.array([0.8, 0.88, 0.9, 0.95]), noise)
    assert found.statuses == ["nothing", "topic", "topic", "near"]
    assert 0.8 < found.thresholds["cosine"] < 0.88  # above all of them, since there are only forty
    few = measured(np.array([0.8, 0.88, 0.9, 0.95]), np.array([0.55, 0.57, 0.56]))
    assert 0.62 < few.thresholds["cosine"] < 0.7
    assert measured(np.array([0.8, 0.88, 0.9, 0.95]), np.array([0.5])).counts["nothing"] == 4
    rng = np.random.default_rng(0)
    for low, high in ((0.0, 0.5), (0.3, 0.55), (0.6, 0.9)):
        for _ in range(8):
            assert measured(rng.uniform(low, high, 100), rng.uniform(low, high, 40)).counts["nothing"] == 100


def test_without_texts_and_encoder_nothing_is_said() -> None:
    found = judge(given(TRUTHS), unit(N), given(OTHERS), unit(40), [None] * N, None, TOKENIZER)
    assert found.counts["nothing"] == N
    assert found.cosines == [None] * N
    assert (found.chance_counts, found.token_f1) == ({}, None)


def test_rows_with_and_without_texts_are_judged_each_in_its_way() -> None:
    truths: list[str | None] = [*TRUTHS[:30], *[None] * 30]
    x, r = unit(N), unit(40, seed=1)
    found = Texts(TRUTHS, TOKENIZER.encode_batch(TRUTHS), at(x, np.full(N, 0.95)))
    other = Texts(OTHERS, TOKENIZER.encode_batch(OTHERS), at(r, np.full(40, 0.2)))
    result = judge(found, x, other, r, truths, None, TOKENIZER)
    assert result.statuses == ["proved"] * 30 + ["near"] * 30
    assert [score is None for score in result.scores] == [False] * 30 + [True] * 30


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows_are_no_error(n: int) -> None:
    found = judged(tiny_texts(n, seed=8), TRUTHS[:n])
    assert len(found.statuses) == n
    assert sum(found.counts.values()) == n
