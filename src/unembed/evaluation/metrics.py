"""How much of a text came back: one function per metric of docs and reports, each defined here only.

What is unusual: a metric does not return a number but `Scores`, what each text adds to the corpus figure (hits and
positions, n-gram counts, ...) and how sums of that become the figure. The figure and its bootstrap interval then come
from the same rows, so that the interval of BLEU is one of corpus BLEU and not of a mean over sentences, and token
accuracy stays a share of positions where texts differ in length.

Recovered sequences are content tokens or texts that the inverter decided the length of; truths are never empty.
Every rate lies in 0..1 except BLEU, which keeps sacrebleu's 0..100.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.decoding.agreement import bag_f1
from unembed.errors import InputError, extra

with extra("evaluate", "measuring"):
    from rapidfuzz.distance import LCSseq

RESAMPLES = 2000
BINS = 15  # of confidences
LENGTHS = (4, 8, 16, 24, 32, 48, 64, 128, 256, 512)  # longest truth of each bucket of `by_length`

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """What each of n texts adds to a corpus figure.

    Attributes:
        rows: (n, k) float64, the sufficient statistics of each text.
        figure: sums of rows, shape (m, k), to m figures.
    """

    rows: Floats
    figure: Callable[[Floats], Floats]

    @property
    def value(self) -> float:
        """The corpus figure."""
        return float(self.figure(self.rows.sum(axis=0, keepdims=True))[0])

    def interval(self, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
        """The 95 % percentile bootstrap interval of `value`, resampling texts."""
        return bootstrap(self, resamples, seed)


def token_accuracy(recovered: Sequence[Sequence[int]], truths: Sequence[Sequence[int]]) -> Scores:
    """Share of the truths' positions at which the recovered sequence has the same token id.

    Positions are pooled over the texts. A recovered sequence that is too short misses the rest; tokens beyond the
    truth's end add no positions.

    Raises:
        InputError: no texts, unequal numbers of them, or a truth without tokens.
    """
    _check(recovered, truths)
    return Scores(
        np.array([(sum(map(operator.eq, r, t)), len(t)) for r, t in zip(recovered, truths, strict=True)], np.float64),
        _ratio,
    )


def exact_match(recovered: Sequence[str], truths: Sequence[str]) -> Scores:
    """Share of texts recovered to the last character.

    Raises:
        InputError: no texts, unequal numbers of them, or an empty truth.
    """
    _check(recovered, truths)
    return mean([float(r == t) for r, t in zip(recovered, truths, strict=True)])


def token_f1(recovered: Sequence[Sequence[int]], truths: Sequence[Sequence[int]]) -> Scores:
    """Mean over texts of the F1 of the two bags (multisets) of token ids, places ignored.

    Raises:
        InputError: no texts, unequal numbers of them, or a truth without tokens.
    """
    _check(recovered, truths)
    return mean([bag_f1(r, t) for r, t in zip(recovered, truths, strict=True)])


def bleu(recovered: Sequence[str], truths: Sequence[str]) -> Scores:
    """Corpus BLEU, 0..100, as sacrebleu computes it with its default settings (Post 2018, arXiv 1804.08771).

    Raises:
        InputError: no texts, unequal numbers of them, or an empty truth.
    """
    _check(recovered, truths)
    sacrebleu = _bleu()(effective_order=True)  # which has no influence on the n-gram counts of one text
    rows = []
    for r, t in zip(recovered, truths, strict=True):
        counts = sacrebleu.sentence_score(r, [t])
        rows.append([counts.sys_len, counts.ref_len, *counts.counts, *counts.totals])
    return Scores(np.array(rows, np.float64), _corpus_bleu)


def rouge_l(recovered: Sequence[str], truths: Sequence[str]) -> Scores:
    """Mean over texts of ROUGE-L's F-measure (Lin 2004), with the words that rouge-score sees.

    Words are lower-cased runs of a-z and 0-9: a text in another script has none and scores 0.

    Raises:
        InputError: no texts, unequal numbers of them, or an empty truth.
    """
    _check(recovered, truths)
    values = []
    for r, t in zip(map(_words, recovered), map(_words, truths), strict=True):
        values.append(2 * LCSseq.similarity(r, t) / (len(r) + len(t)) if r and t else 0.0)
    return mean(values)


def cosine(recovered: NDArray[Any], truths: NDArray[Any]) -> Scores:
    """Mean over texts of the cosine between two embeddings, both (n, d). A row of zeros has cosine 0 with anything.

    Raises:
        InputError: no embeddings, or unequal shapes.
    """
    if recovered.shape != truths.shape or recovered.ndim != 2 or len(truths) == 0:
        raise InputError(f"cosine of shapes {recovered.shape} and {truths.shape}, expected twice the same (n, d)")
    a, b = recovered.astype(np.float64), truths.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    return mean(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0))


def restored(predicted: Sequence[Sequence[int]], truths: Sequence[Sequence[int]]) -> Scores:
    """Share of masked positions restored, pooled over the texts; each item holds one text's masked positions only.

    `evaluate` masks 10 % of the positions with it, which is `cloze_accuracy_10`.

    Raises:
        InputError: no texts, unequal numbers of them, or a text without masked positions.
    """
    return token_accuracy(predicted, truths)


def expected_calibration_error(
    confidence: Sequence[Sequence[float]], right: Sequence[Sequence[bool]], bins: int = BINS
) -> Scores:
    """How far confidences in 0..1 are from the shares of right tokens (Naeini 2015; Guo 2017, arXiv 1706.04599).

    Tokens are pooled over the texts and put into bins by confidence; the figure is the mean over tokens of the distance
    between their bin's mean confidence and its share of right ones. Bins are of equal mass (arXiv 1508.05154), not of
    equal width: confidences of recovered tokens crowd near 0, where one wide bin would hide what is wrong with them.

    Args:
        confidence: for each text its tokens' confidences.
        right: whether each of these tokens is right.

    Raises:
        InputError: no tokens, or unequal numbers of them.
    """
    lengths = [len(one) for one in confidence]
    if lengths != [len(one) for one in right]:
        raise InputError("confidences and outcomes differ in number, expected one outcome for each confidence")
    if not any(lengths):
        raise InputError("no tokens to compare, expected at least 1")
    of_token, outcome = (np.concatenate([np.asarray(one, np.float64) for one in rows]) for rows in (confidence, right))
    # As equally full as equal values, which stay together, allow.
    bin_of_token = np.searchsorted(np.quantile(of_token, np.arange(1, bins) / bins), of_token, side="left")
    rows = np.zeros((len(confidence), bins + 1))
    np.add.at(rows, (np.repeat(np.arange(len(confidence)), lengths), bin_of_token), of_token - outcome)
    rows[:, bins] = lengths
    return Scores(rows, _calibration_error)


def by_length(scores: Scores, lengths: Sequence[int]) -> dict[str, Scores]:
    """Split scores by the truths' lengths in tokens: {"1-4": ..., "5-8": ..., "9-16": ...}, empty buckets left out."""
    buckets = np.searchsorted(LENGTHS, lengths)
    parts = {}
    for bucket in np.unique(buckets):
        first = LENGTHS[bucket - 1] + 1 if bucket > 0 else 1
        label = f"{first}-{LENGTHS[bucket]}" if bucket < len(LENGTHS) else f"{first}-"
        parts[label] = Scores(scores.rows[buckets == bucket], scores.figure)
    return parts


def difference(scores: Scores, other: Scores) -> Scores:
    """How much higher the figure of `scores` is than that of `other`, which measured the same texts.

    Its interval resamples texts, both measurements of one together, and so leaves out how the texts differ.

    Raises:
        InputError: unequal numbers of texts.
    """
    if len(scores.rows) != len(other.rows):
        raise InputError(f"scores of {len(scores.rows)} and of {len(other.rows)} texts, expected of the same texts")
    split = scores.rows.shape[1]
    return Scores(
        np.concatenate([scores.rows, other.rows], axis=1),
        lambda sums: scores.figure(sums[:, :split]) - other.figure(sums[:, split:]),
    )


def bootstrap(scores: Scores, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a corpus figure over texts drawn with replacement.

    Scores with the same n and seed see the same draws. Where every text scored alike the interval has no width: 0 of
    n exact matches says no more than "rare".

    Returns:
        The 2.5 % and the 97.5 % quantile of the figure over the resamples.
    """
    n, k = scores.rows.shape
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, k))
    block = max(1, 2**22 // n)  # bounds memory: how often each text is drawn in each of these resamples
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.multinomial(n, np.full(n, 1 / n), size=size)  # (size, n)
        sums[start : start + size] = drawn.astype(np.float64) @ scores.rows
    low, high = np.quantile(scores.figure(sums), (0.025, 0.975))
    return float(low), float(high)


def _check(recovered: Sequence[Any], truths: Sequence[Any]) -> None:
    if len(truths) == 0:
        raise InputError("no texts to compare, expected at least 1")
    if len(recovered) != len(truths):
        raise InputError(f"{len(recovered)} recovered texts for {len(truths)} truths, expected as many")
    for row, truth in enumerate(truths):
        if len(truth) == 0:
            raise InputError(f"text {row}: the truth is empty, expected at least 1 token")


def _calibration_error(sums: Floats) -> Floats:
    return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1], np.float64)


def _words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def mean(values: Sequence[float] | Floats) -> Scores:
    """A figure that is the mean of one value a text."""
    return Scores(np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1), _ratio)


def _ratio(sums: Floats) -> Floats:
    return np.asarray(sums[:, 0] / sums[:, 1], np.float64)


def _bleu() -> Any:
    """sacrebleu's class, imported when it is used: an audit needs all else here, and it takes half a second."""
    with extra("evaluate", "measuring"):
        from sacrebleu.metrics.bleu import BLEU
    return BLEU


def _corpus_bleu(sums: Floats) -> Floats:
    # nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp in sacrebleu's notation.
    figures, compute = [], _bleu().compute_bleu
    for sys_len, ref_len, *counts in sums.round().astype(int).tolist():
        figures.append(compute(counts[:4], counts[4:], sys_len, ref_len, smooth_method="exp").score)
    return np.array(figures, np.float64)
