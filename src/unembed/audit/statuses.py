"""How much of each text came back: a status a row, and what chance gives.

Where the store has the text, its words decide; else the recovered text's cosine to the vector, where the encoder can be
asked. What a status needs:

| status | by words | by cosine |
| --- | --- | --- |
| proved | the same tokens as the text in the store, or the hash that the store keeps of it | |
| exact | | above 1 - 1e-6 |
| near | token F1 of at least 0.7, and what `topic` needs | at least 0.93, of more than 20 tokens 0.98; and `topic` |
| topic | token F1 above the 99th percentile of both baselines | above 0.6 and the same of both |

Two baselines are measured in the same run: texts recovered from random vectors, and each recovered text against other
rows' texts or vectors. `near` and `topic` are given only if the rows' mean is above both, by the 95 % interval of the
paired difference, and if surely more than one row in a hundred passes; else they are `nothing`. `proved` and `exact`
are beyond chance and need no such test.

The cosines were chosen on held-out texts of the packaged inverter, once and by hand. Of 80 texts of 5 to 20 tokens,
recovered blindly, 47 had a cosine of 0.93, and 36 of these a token F1 of 0.7. Of 11 longer ones with 0.95, 3 had that,
among them both with 0.98. Random vectors reached 0.51 blindly and 0.58 guided; of vectors of the same network with
other pooling, one in ten reached 0.56.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from unembed.alignment.linear import normalised
from unembed.audit.findings import STATUSES, Rate, share
from unembed.audit.text_hashes import proven
from unembed.decoding.agreement import bag_f1
from unembed.decoding.inversion import EXACT
from unembed.encoders.tokenizer import Tokenizer
from unembed.evaluation import metrics

NEAR_F1 = 0.7
SHORT = 20  # tokens of a recovered text that says most of what it was made from where its cosine is high
NEAR_COSINE, NEAR_COSINE_LONG = 0.93, 0.98
TOPIC_COSINE = 0.6
CHANCE = 0.99  # share of what chance gives that a topic must pass
OTHERS = 50  # rows with which each is compared to see what chance gives

Floats = NDArray[np.float32]
Ids = Sequence[int]


@dataclass(frozen=True)
class Texts:
    """Recovered texts. embedded: by the encoder, (n, d); None where it cannot be asked."""

    texts: Sequence[str]
    ids: Sequence[Ids]
    embedded: Floats | None = None


@dataclass(frozen=True)
class Judged:
    """Rows and their statuses.

    Attributes:
        statuses, texts: of each row; a text that a hash proves is in the spelling that has it.
        cosines, scores: of each row, None where there is no encoder or no text.
        counts: rows by status. chance_counts: the same of recovered texts against other rows, and random_counts of
            texts recovered from random vectors, over all pairs that were compared.
        token_f1, chance_f1, random_f1: means as in `findings.Audited`.
        thresholds: what `topic` needed, of `token_f1` and of `cosine`.
    """

    statuses: list[str]
    texts: list[str]
    cosines: list[float | None]
    scores: list[float | None]
    chance_counts: Mapping[str, int]
    random_counts: Mapping[str, int]
    token_f1: Rate | None = None
    chance_f1: Rate | None = None
    random_f1: Rate | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, worst first."""
        return counted(self.statuses)


def judge(
    found: Texts,
    vectors: Floats,
    random: Texts,
    random_vectors: Floats,
    truths: Sequence[str | None],
    hashes: Sequence[str | None] | None,
    tokenizer: Tokenizer,
    seed: int = 0,
) -> Judged:
    """Give each row its status.

    Args:
        found: recovered from `vectors` (n, d).
        random: recovered from `random_vectors` (m, d) by the same attack.
        truths: the store's texts; None or blank where it has none.
        hashes: of the texts, where the store keeps them.
        tokenizer: the inverter's, which says when two texts are the same.
    """
    n = len(found.texts)
    true_ids = tokenizer.encode_batch([text or "" for text in truths])
    told, silent = ([row for row in range(n) if bool(true_ids[row]) == has] for has in (True, False))
    statuses, texts = ["nothing"] * n, list(found.texts)
    scores: list[float | None] = [None] * n
    cosines: list[float | None] = [None] * n
    if found.embedded is not None:
        cosines = [float(one) for one in (normalised(vectors) * normalised(found.embedded)).sum(1)]
    by: dict[str, _Scored] = {}
    if told:
        words = by["token_f1"] = _by_words(
            [found.ids[row] for row in told], [true_ids[row] for row in told], random.ids
        )
        for row, score, status in zip(told, words.own.tolist(), words.statuses(seed), strict=True):
            scores[row], statuses[row] = score, status
    if silent and found.embedded is not None and random.embedded is not None:
        measured = by["cosine"] = _by_cosines(found, vectors, random.embedded, random_vectors, silent)
        for row, status in zip(silent, measured.statuses(seed), strict=True):
            statuses[row] = status
    for row in range(n):
        if (cosines[row] or 0.0) >= EXACT:
            statuses[row] = "exact"
        digest = hashes[row] if hashes is not None else None
        spelling = proven(texts[row], digest) if digest else None
        if spelling is not None or (true_ids[row] and list(found.ids[row]) == true_ids[row]):
            statuses[row], texts[row] = "proved", texts[row] if spelling is None else spelling
    return Judged(
        statuses, texts, cosines, scores,
        counted(sum((one.counts(one.others) for one in by.values()), Counter())),
        counted(sum((one.counts(one.random) for one in by.values()), Counter())),
        *(words.rates(seed) if told else (None, None, None)),
        {name: one.threshold for name, one in by.items()},
    )  # fmt: skip


class _Scored:
    """Scores of n rows, and what chance gives each: scores with other rows, and of what random vectors gave.

    near: from which a row is near. floor: which a topic must pass, whatever chance gives.
    """

    def __init__(
        self,
        own: NDArray[np.floating[Any]],
        others: Sequence[Sequence[float]],
        random: Sequence[Sequence[float]],
        near: Sequence[float],
        floor: float = 0.0,
    ) -> None:
        self.own, self.others, self.random, self.near = own, others, random, near
        limits = [
            float(np.quantile(np.concatenate(part), CHANCE, method="higher"))
            for part in (others, random)
            if any(map(len, part))
        ]
        self.threshold = max([floor, *limits])

    def above_chance(self, seed: int) -> bool:
        """Whether the mean is above both baselines, by the intervals of the paired differences."""
        for part in (self.others, self.random):
            rows = [row for row, values in enumerate(part) if len(values)]
            means = np.array([np.mean(part[row]) for row in rows])
            # Rows without others to compare with, such as a single one, say nothing of chance.
            if not rows or metrics.mean(self.own[rows] - means).interval(seed=seed)[0] <= 0:
                return False
        return True

    def statuses(self, seed: int) -> list[str]:
        """Of each row: `near`, `topic` or `nothing`."""
        found = [self._level(value, near) for value, near in zip(self.own.tolist(), self.near, strict=True)]
        passed = len(found) - found.count("nothing")
        if share(passed, len(found)).low <= 1 - CHANCE or not self.above_chance(seed):
            return ["nothing"] * len(found)
        return found

    def counts(self, part: Sequence[Sequence[float]]) -> Counter[str]:
        """The same of what chance gave."""
        return Counter(
            self._level(value, near) for values, near in zip(part, self.near, strict=True) for value in values
        )

    def rates(self, seed: int) -> tuple[Rate | None, Rate | None, Rate | None]:
        """The mean score, and what chance gives."""
        own, others, random = (rate(part, seed) for part in (self.own[:, None].tolist(), self.others, self.random))
        return own, others, random

    def _level(self, value: float, near: float) -> str:
        if value <= self.threshold:
            return "nothing"
        return "near" if value >= near else "topic"


def _by_words(found: Sequence[Ids], truths: Sequence[Ids], random: Sequence[Ids]) -> _Scored:
    """Token F1 of rows with their own texts, with those of other rows that are not the same, and of random vectors'."""
    n = len(truths)
    own = np.array([bag_f1(one, truth) for one, truth in zip(found, truths, strict=True)])
    others = [
        [bag_f1(found[(row + step) % n], truth) for step in _steps(n) if list(truths[(row + step) % n]) != list(truth)]
        for row, truth in enumerate(truths)
    ]
    by_random = [[bag_f1(one, truth) for one in random] for truth in truths]
    return _Scored(own, others, by_random, [NEAR_F1] * n)


def _by_cosines(found: Texts, vectors: Floats, random: Floats, random_vectors: Floats, rows: Sequence[int]) -> _Scored:
    """Cosines of some rows' texts to their vectors, of other rows' texts to these, and of random vectors to theirs."""
    assert found.embedded is not None
    x_ND, e_ND, n = normalised(vectors), normalised(found.embedded), len(vectors)
    by_random = (normalised(random_vectors) * normalised(random)).sum(1).tolist()
    others = [[float(x_ND[row] @ e_ND[(row + step) % n]) for step in _steps(n)] for row in rows]
    near = [NEAR_COSINE if len(found.ids[row]) <= SHORT else NEAR_COSINE_LONG for row in rows]
    floor = max(TOPIC_COSINE, _bound(by_random))
    return _Scored((x_ND[rows] * e_ND[rows]).sum(1), others, [by_random] * len(rows), near, floor)


def _bound(values: Sequence[float]) -> float:
    """Below which one more value lies with a probability of 0.99, if they are normal: a few tell little."""
    n = len(values)
    if n < 2:
        return 1.0
    return float(np.mean(values) + stdtrit(n - 1, CHANCE) * np.std(values, ddof=1) * (1 + 1 / n) ** 0.5)


def _steps(n: int) -> list[int]:
    """How far away the other rows are with which one is compared, spread over all of n."""
    return sorted({int(step) for step in np.linspace(1, n - 1, min(OTHERS, n - 1)).round()}) if n > 1 else []


def counted(statuses: Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """How many of each status, worst first; empty of none."""
    found = Counter(statuses)
    return {status: found[status] for status in STATUSES} if found else {}


def rate(values: Sequence[Sequence[float]], seed: int) -> Rate | None:
    """The mean of the means of rows that have values, with its interval; None where none has."""
    means = [float(np.mean(one)) for one in values if len(one)]
    if not means:
        return None
    scores = metrics.mean(means)
    return Rate(scores.value, *scores.interval(seed=seed), len(means))
