"""The work of an audit: one collection after the other, then the defences of the largest, then the report."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed import __version__
from unembed.audit.collections import Place
from unembed.audit.defences import FORMS, price
from unembed.audit.findings import Audited, Report
from unembed.audit.journal import Journal
from unembed.audit.one_collection import Attacked, Clock, CollectionAudit
from unembed.audit.options import AuditOptions
from unembed.audit.sample import allocate
from unembed.encoders.remote import RemoteEncoder
from unembed.errors import InputError, UnembedError
from unembed.evaluation.evaluate import describe_machine, describe_model
from unembed.inverter import Inverter

if TYPE_CHECKING:
    from unembed.audit.audit import Progress


class Run:
    """An audit on its way."""

    def __init__(
        self, inverter: Inverter, options: AuditOptions, output: Path | None, progress: "Progress", started: float
    ) -> None:
        self.inverter, self.options, self.output, self.progress = inverter, options, output, progress
        self.until = None if options.deadline is None else started + options.deadline
        self.model = describe_model(inverter)
        self.done: list[Audited] = []
        self.unread: list[str] = []
        self.failed = 0
        self.largest: tuple[int, str, Attacked] | None = None
        self.defences: list[dict[str, Any]] = []
        self.remotes: list[RemoteEncoder] = []
        self.interrupted = self.over = False

    @property
    def complete(self) -> bool:
        """Whether all was done that could be."""
        return not (self.interrupted or self.over)

    def audit(self, places: Sequence[Place]) -> None:
        """Every collection, then the defences of the largest. Raises UnembedError: none could be audited."""
        sizes = allocate([place.collection.rows for place in places], self.options.sample)
        last: UnembedError | None = None
        try:
            for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
                if self.interrupted:
                    self._leave_out(place, "the audit was interrupted first")
                    continue
                if number and self.until is not None and time.monotonic() >= self.until:
                    self.over = True
                    self._leave_out(place, "the time was over first")
                    continue
                try:
                    self._audit(place, size, len(places) - number)
                except UnembedError as error:
                    self._leave_out(place, str(error))
                    last = error
            if self.options.defences and not self.interrupted:
                self._price()
        except KeyboardInterrupt:
            self.interrupted = True
            for place in places[len(self.done) + self.failed :]:
                self._leave_out(place, "the audit was interrupted first")
        if not self.done and last is not None:
            raise last

    def _audit(self, place: Place, size: int, left: int) -> None:
        now = time.monotonic()
        clock = Clock(None if self.until is None else now + max(0.0, self.until - now) / left)
        name = _name(place)
        key = [
            place.store.kind, place.store.location, place.collection.name, place.collection.rows, size,
            self.options.deciding, self.model,
        ]  # fmt: skip
        kept = Journal(self.output, key)
        work = CollectionAudit(
            place.store, place.collection, self.inverter, self.options, size, kept, clock,
            lambda what, done, of: self.progress(name, what, done, of),
        )  # fmt: skip
        # What is priced needs the rows and the attack, which a finished collection's journal has no more.
        audited = None if self.options.defences else kept.finished()
        if audited is None:
            try:
                audited = work.run()
            finally:
                self.interrupted = self.interrupted or clock.interrupted
                self.over = self.over or clock.over
            if not clock.check() and not self.options.defences:
                kept.finish(audited)
        self.done.append(audited)
        rows = audited.rows or 0
        if work.attacked is not None and isinstance(work.attacked.attack.encoder, RemoteEncoder):
            self.remotes.append(work.attacked.attack.encoder)
        if work.attacked is not None and (self.largest is None or rows > self.largest[0]):
            self.largest = rows, name, work.attacked

    def _price(self) -> None:
        """What defences of the largest collection cost, and what they take from the attack."""
        if self.largest is None:
            self.unread.append("defences: no collection was attacked, so that there is nothing to price")
            return
        _, name, attacked = self.largest
        try:
            for number, row in enumerate(price(attacked.sample, attacked.which.own, self.inverter, self.options.seed)):
                self.defences.append({"collection": name, **row})
                self.progress(name, "defences", number + 1, len(FORMS))
                if self.until is not None and time.monotonic() >= self.until:
                    self.over = True
                    self.unread.append(f"defences of {name}: the time was over after {number + 1} of {len(FORMS)}")
                    break
        except InputError as error:
            self.unread.append(f"defences of {name}: {error}")
        self.defences.sort(key=lambda row: -row["leak"]["value"])

    def _leave_out(self, place: Place, why: str) -> None:
        self.failed += 1
        self.unread.append(f"{_name(place)}: {why}")

    def report(self, places: Sequence[Place]) -> Report:
        """What is known."""
        from unembed.audit import personal

        notes = dict.fromkeys(f"{place.store.location}: {note}" for place in places for note in place.store.notes)
        about = {
            "unembed": __version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": {name: value for name, value in asdict(self.options).items() if name != "encoder_url"},
            "inverter": self.model,
            "machine": describe_machine(self.inverter),
            "interrupted": self.interrupted,
            "deadline": self.over,
            "failed": self.failed,
            "asked": {name: sum(getattr(one, name) for one in self.remotes) for name in ("calls", "tokens")},
            "not_looked_for": list(personal.not_looked_for()),
        }
        return Report(tuple(self.done), about, (*self.unread, *notes), tuple(self.defences))


def _name(place: Place) -> str:
    return f"{place.store.location}#{place.collection.name}"
