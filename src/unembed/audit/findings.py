"""What an audit says: how much of each text came back, and findings with a severity, evidence and what they rest on."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# How much of a text came back, worst first.
# proved: equal to the text in the store, or to a hash that the store keeps of it.
# exact: the encoder gives the recovered text the stored vector (cosine above 1 - 1e-6).
# near: most words are right. topic: what it is about is right. nothing: no more than of a random vector.
STATUSES = ("proved", "exact", "near", "topic", "nothing")
# security-severity is GitHub's number for SARIF (0.1 to 10).
SEVERITIES = {"critical": 9.5, "high": 8.0, "medium": 5.5, "low": 3.0, "note": 0.0}
Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Rate:
    """A share of rows, or a mean of scores, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def share(count: int, n: int) -> Rate:
    """`count` of `n` rows, with Wilson's score interval: none of no rows says nothing, so it is 0, from 0 to 1."""
    if n <= 0:
        return Rate(0.0, 0.0, 1.0, 0)
    value, square = count / n, Z95 * Z95
    middle = (value + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(value * (1 - value) / n + square / (4 * n * n))
    low = 0.0 if count == 0 else max(0.0, middle - half)
    return Rate(value, low, 1.0 if count == n else min(1.0, middle + half), n)


@dataclass(frozen=True)
class Finding:
    """One statement of an audit.

    Attributes:
        rule: which kind of finding, such as `text-in-clear`; see `rules.RULES`.
        store, collection: where; the store's location without passwords.
        severity: of `SEVERITIES`.
        message: one sentence with its figures.
        evidence: JSON-ready, without recovered text.
    """

    rule: str
    store: str
    collection: str
    severity: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The same for the same finding of a later run, whatever its figures; 32 hex digits."""
        named = "\0".join((self.rule, self.store, self.collection))
        return hashlib.sha256(named.encode(errors="replace")).hexdigest()[:32]


@dataclass(frozen=True)
class Recovered:
    """One sampled row and what came back of it.

    cosine: of the recovered text's embedding to the vector, None where no encoder could tell. score: token F1 with the
    text in the store, None where it has none. entities: kinds of personal data of the truth that are in the recovered
    text too, by kind.
    """

    id: str
    status: str
    text: str
    truth: str | None = None
    cosine: float | None = None
    score: float | None = None
    entities: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Audited:
    """One collection, audited.

    Attributes:
        rows, dimension, number, encoder: of the collection; `encoder` with how it is known in `encoder_by`: `declared`,
            `named` by the store, `identified` from the vectors, or `unknown`.
        sampled: rows looked at. attack: `blind`, `guided`, `aligned`, or "" where none could be tried.
        status_counts: of the sample, by status. `chance_counts` of the same texts against another row's text, and
            `random_counts` of texts recovered from random vectors: empty where they were not measured.
        token_f1: of recovered texts with the store's own, where it has them; `chance_f1` of the same against another
            row's text, `random_f1` of texts recovered from random vectors.
        vectors: dimension, norms, duplicates, constant direction, quantisation; JSON-ready.
        personal: by kind of personal data: in how many sampled texts (`truth`), in how many recovered with it
            (`recovered`), and in how many if texts are paired with another row's (`chance`). Of `personal.tally`.
        tried, not_tried: sentences.
        seconds: that it took. encoder_calls: in all.
    """

    store: str
    kind: str
    collection: str
    rows: int | None
    dimension: int | None
    number: str
    encoder: str
    encoder_by: str
    sampled: int
    attack: str
    status_counts: Mapping[str, int]
    token_f1: Rate | None
    chance_f1: Rate | None
    random_f1: Rate | None
    vectors: Mapping[str, Any]
    personal: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    recovered: tuple[Recovered, ...]
    tried: tuple[str, ...] = ()
    not_tried: tuple[str, ...] = ()
    seconds: float = 0.0
    encoder_calls: int = 0
    chance_counts: Mapping[str, int] = field(default_factory=dict)
    random_counts: Mapping[str, int] = field(default_factory=dict)

    def rate(self, status: str) -> Rate:
        """Share of the sample that has the status."""
        return share(self.status_counts.get(status, 0), sum(self.status_counts.values()))

    def baselines(self, status: str) -> dict[str, float]:
        """The same share of `random` vectors and of texts `shuffled` against each other, where it was measured."""
        measured = {"random": self.random_counts, "shuffled": self.chance_counts}
        return {name: share(n.get(status, 0), sum(n.values())).value for name, n in measured.items() if n}

    def above_chance(self, status: str) -> bool:
        """Whether a row has the status, and the interval of `rate` lies above all baselines."""
        rate = self.rate(status)
        return rate.value > 0 and all(rate.low > one for one in self.baselines(status).values())

    @property
    def level(self) -> str:
        """The worst status that is above chance; `nothing` where none is."""
        return next((one for one in STATUSES[:-1] if self.above_chance(one)), "nothing")


@dataclass(frozen=True)
class Report:
    """A whole audit.

    level: of the worst collection, which decides. about: version, date, options, seed, machine; JSON-ready.
    defences: rows of `audit.defences`, where they were priced; JSON-ready.
    """

    collections: tuple[Audited, ...]
    about: Mapping[str, Any]
    unread: tuple[str, ...] = ()
    defences: tuple[Mapping[str, Any], ...] = ()

    @property
    def findings(self) -> list[Finding]:
        """All, worst first."""
        found = [one for collection in self.collections for one in collection.findings]
        return sorted(found, key=lambda one: -SEVERITIES[one.severity])

    @property
    def level(self) -> str:
        """The worst of all collections' levels; `nothing` where there is none."""
        return min((one.level for one in self.collections), key=STATUSES.index, default="nothing")
