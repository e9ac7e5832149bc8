"""The audit of one collection: draw rows, tell the encoder, attack, judge, say what was found.

Whatever ends the work early, a deadline or Ctrl-C, what came back until then is judged and reported: rows are in random
order, so that the first few are a uniform sample too. Random vectors come first, since nothing is judged without them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.linear import normalised
from unembed.audit.attack import FEWEST_PAIRS, RANDOM, RANDOM_GUIDED, Attack, choose, random_vectors
from unembed.audit.findings import Audited, Finding, Recovered
from unembed.audit.journal import Journal, Record
from unembed.audit.options import AuditOptions
from unembed.audit.sample import Sample, draw
from unembed.audit.statuses import Judged, Texts, judge
from unembed.audit.vectors import Statistics
from unembed.audit.which_encoder import Which, which_encoder
from unembed.inverter import Inverter
from unembed.stores.store import Collection, Store

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int | None], None]  # what is done, how many rows of how many


@dataclass
class Clock:
    """When the work on a collection ends, in `time.monotonic`; whether it was ended before its end, and by whom."""

    until: float | None = None
    over: bool = False
    interrupted: bool = False

    def check(self) -> bool:
        """Whether the time is over."""
        self.over = self.over or (self.until is not None and time.monotonic() >= self.until)
        return self.over or self.interrupted


@dataclass(frozen=True)
class Attacked:
    """A collection that was attacked, as `defences` go on with it."""

    sample: Sample
    which: Which
    attack: Attack


@dataclass
class CollectionAudit:
    """The audit of a collection.

    Args:
        size: rows to draw.
        progress: is told what is done.

    Attributes:
        attacked: what was attacked, once it was.
    """

    store: Store
    collection: Collection
    inverter: Inverter
    options: AuditOptions
    size: int
    journal: Journal
    clock: Clock
    progress: Progress
    attacked: Attacked | None = field(default=None, init=False)

    def run(self) -> Audited:
        """Do it, from where the journal says.

        Raises:
            DataError, UnembedError: the store cannot be read.
            EncoderError: an encoder that is asked fails.
        """
        started = time.monotonic()
        sample, about = self._sample()
        sample, which, attack = self._attack(sample)
        tried, not_tried = [*self._read(sample, about), f"encoder {which.name}, {which.by}: {which.why}"], list[str]()
        judged, calls = None, 0
        if isinstance(attack, Attack):
            self.attacked = Attacked(sample, which, attack)
            tried += attack.tried
            not_tried += attack.not_tried
            judged, calls = self._judged(sample, attack)
            if len(judged.statuses) < len(sample.rows):
                why = "it was interrupted" if self.clock.interrupted else "the time was over"
                not_tried.append(f"{len(sample.rows) - len(judged.statuses):,} of the rows drawn: {why}")
            not_tried += self._long(sample, attack)
        else:
            not_tried.append(attack)
        if self.options.without_texts:
            not_tried.append("the store's texts and hashes: --without-texts leaves them out")
        audited = self._audited(sample, which, attack, judged, about)
        audited = replace(
            audited, tried=tuple(tried), not_tried=tuple(not_tried), encoder_calls=calls,
            seconds=round(time.monotonic() - started, 3),
        )  # fmt: skip
        return replace(audited, findings=self._findings(audited))

    def _sample(self) -> tuple[Sample, dict[str, Any]]:
        """The rows that are drawn, and what all that were read say of themselves."""
        if (kept := self.journal.sample()) is not None:
            return kept
        statistics, now = Statistics(), time.monotonic()

        def look(rows: Any) -> None:
            statistics.add(rows)
            self.progress("read", statistics.rows, self.collection.rows)

        until = None if self.clock.until is None else now + (self.clock.until - now) / 2
        name = self.collection.name
        batches = self.store.rows(name)
        if self.options.without_texts:
            batches = (replace(rows, texts=[None] * len(rows), hashes=None) for rows in batches)
        sample = draw(batches, self.size, seed=self.options.seed, name=name, until=until, look=look)
        about = dict(statistics.report())
        self.journal.keep_sample(sample, about)
        return sample, about

    def _attack(self, sample: Sample) -> tuple[Sample, Which, Attack | str]:
        """The encoder and the attack, and the sample, of which rows may have become pairs."""
        declared = self.options.encoder
        if not len(sample.rows):
            said = self.collection.encoder
            which = Which(
                declared or said or "unknown", "declared" if declared else "named" if said else "unknown", False, ""
            )
            return sample, which, "no row of it holds a vector that can be inverted"
        which = which_encoder(sample.vectors, sample.rows.texts, self.collection.encoder, declared, self.inverter)
        if which.own is False and self.options.aligner is None:
            sample = sample.with_pairs(FEWEST_PAIRS)
        return sample, which, choose(sample, which, self.inverter, self.options)

    def _judged(self, sample: Sample, attack: Attack) -> tuple[Judged, int]:
        """Statuses of the rows that were attacked, and how often the encoder was asked."""
        count = RANDOM if attack.search is None else RANDOM_GUIDED
        noise = random_vectors(sample.vectors, count, self.options.seed)
        by_noise = self._recover("random", attack, noise)
        records = self._recover("rows", attack, normalised(sample.rows.vectors))
        n = len(records)
        random, found = (_texts(some, attack) for some in (by_noise, records))
        hashes = sample.rows.hashes
        judged = judge(
            found, sample.rows.vectors[:n], random, noise[: len(by_noise)], sample.rows.texts[:n],
            hashes and hashes[:n], attack.inverter.tokenizer, self.options.seed,
        )  # fmt: skip
        asked = len(by_noise) + n if attack.encoder is not None else 0
        return judged, sum(one.calls for one in [*by_noise, *records]) + asked

    def _recover(self, part: str, attack: Attack, vectors: Floats) -> list[Record]:
        """What comes back from the vectors until the time is over, and what the journal has of them already."""
        records = self.journal.recovered(part)[: len(vectors)]
        if self.clock.interrupted:
            return records
        tokenizer = attack.inverter.tokenizer
        with _noting(self.clock):
            for found in attack.inversions(vectors[len(records) :], len(records), self.journal.search):
                several = [Record(one.text, tokenizer.content(one.ids), one.encoder_calls) for one in found]
                self.journal.keep_recovered(part, several)
                records += several
                self.progress(part, len(records), len(vectors))
                if self.clock.check():
                    break
        return records

    def _read(self, sample: Sample, about: dict[str, Any]) -> Iterator[str]:
        rows = self.collection.rows
        if sample.complete:
            yield f"a uniform sample of {len(sample.rows):,} of all {sample.read:,} rows"
        else:
            yield (
                f"a uniform sample of {len(sample.rows):,} of the first {sample.read:,} rows"
                f"{'' if rows is None else f' of {rows:,}'}: the time for reading was over, and later rows may differ"
            )
        bad = about.get("unreadable", 0) + about.get("zero", 0)
        if bad:
            why = "NaN, infinite, all zeros, or missing in the store's files"
            yield f"{bad:,} rows that hold no vector are left out ({why})"

    def _long(self, sample: Sample, attack: Attack) -> list[str]:
        """What is said of texts that cannot come back whole."""
        length = attack.inverter.length
        ids = attack.inverter.tokenizer.encode_batch([text for text in sample.rows.texts if text])
        count = sum(len(one) > length for one in ids)
        if not count:
            return []
        return [
            f"whole texts of {count:,} of the rows drawn: they have more than the {length} tokens that can come back"
        ]

    def _audited(
        self, sample: Sample, which: Which, attack: Attack | str, judged: Judged | None, about: dict[str, Any]
    ) -> Audited:
        from unembed.audit import personal

        rows, n = sample.rows, len(sample.rows) if judged is None else len(judged.statuses)
        texts = [""] * n if judged is None else judged.texts
        audited = Audited(
            store=self.store.location, kind=self.store.kind, collection=self.collection.name,
            rows=sample.read if sample.complete else self.collection.rows,
            dimension=about.get("dimension", self.collection.dimension), number=self.collection.number,
            encoder=which.name, encoder_by=which.by, sampled=n,
            attack=attack.kind if isinstance(attack, Attack) else "",
            status_counts={}, token_f1=None, chance_f1=None, random_f1=None, vectors=about,
            personal=personal.tally(rows.texts[:n], texts, self.options.seed), findings=(), recovered=(),
        )  # fmt: skip
        if judged is None:
            return audited
        recovered = [
            Recovered(
                rows.ids[row], judged.statuses[row], texts[row], rows.texts[row], judged.cosines[row],
                judged.scores[row], personal.count(rows.texts[row] or "", texts[row]),
            )
            for row in range(n)
        ]  # fmt: skip
        return replace(
            audited, status_counts=judged.counts, chance_counts=judged.chance_counts,
            random_counts=judged.random_counts, token_f1=judged.token_f1, chance_f1=judged.chance_f1,
            random_f1=judged.random_f1, recovered=tuple(recovered),
            vectors={**about, "thresholds": dict(judged.thresholds)},
        )  # fmt: skip

    def _findings(self, audited: Audited) -> tuple[Finding, ...]:
        from unembed.audit import rules

        return (
            *rules.from_traces(self.store.location, self.collection, self.collection.traces),
            *rules.from_statuses(audited),
        )


def _texts(records: Sequence[Record], attack: Attack) -> Texts:
    """Recovered texts with their embeddings, where the encoder can be asked."""
    texts = [one.text for one in records]
    embedded = attack.encoder.encode(texts) if attack.encoder is not None and texts else None
    return Texts(texts, [one.ids for one in records], embedded)


@contextmanager
def _noting(clock: Clock) -> Iterator[None]:
    """Ctrl-C ends the block, and is noted."""
    try:
        yield
    except KeyboardInterrupt:
        clock.interrupted = True
