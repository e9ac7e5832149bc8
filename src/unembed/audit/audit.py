"""An audit of stores: every collection is sampled and attacked, and what came back is reported.

    report = audit(["chroma:./db", "vectors.npy"])

The report says what could not be read or attacked. Ctrl-C and a deadline end the work, not the report.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unembed import __version__
from unembed.audit import journal
from unembed.audit.collections import collections
from unembed.audit.defences import FORMS, price
from unembed.audit.findings import Audited, Report
from unembed.audit.journal import Journal
from unembed.audit.one_collection import Attacked, Clock, CollectionAudit
from unembed.audit.options import AuditOptions
from unembed.audit.sample import allocate
from unembed.encoders.remote import RemoteEncoder
from unembed.errors import DataError, InputError, UnembedError, printable
from unembed.evaluation.evaluate import describe_machine, describe_model
from unembed.inverter import Inverter
from unembed.stores.store import Collection, Store, open_store, parse

Progress = Callable[[str, str, int, int | None], None]


@dataclass(frozen=True)
class Place:
    """One collection of one store."""

    store: Store
    collection: Collection


def audit(
    uris: Sequence[str],
    options: AuditOptions | None = None,
    *,
    inverter: Inverter | None = None,
    output: Path | None = None,
    progress: Progress = lambda *_: None,
    opener: Callable[[str], tuple[Store, str]] | None = None,
) -> Report:
    """Audit stores.

    Args:
        uris: of stores or of their collections (`stores.store`).
        inverter: instead of loading `options.model`.
        output: folder in which an audit that is interrupted keeps how far it came. The same call goes on from there.
        progress: is told the collection, what is done with it (`read`, `random`, `rows`, `defences`), how
            many are done, and of how many, where that is known.
        opener: instead of `open_store`, for tests.

    Returns:
        The report. Its `about` says whether it was `interrupted`, whether the `deadline` came first, how many
        collections could not be audited (`failed`; `unread` says why), and what an address was asked for (`asked`).

    Raises:
        InputError: a URI, a collection or an option is wrong.
        UnembedError: no collection could be audited.
    """
    options = options or AuditOptions()
    started = time.monotonic()
    _apart(uris, output)
    unread: list[str] = []
    with _stores(uris, opener or open_store, unread) as places:
        if inverter is None:
            inverter = Inverter.from_pretrained(options.model, options.device)
        if options.encoder == inverter.recipe.encoder:
            inverter.encoder_named = True
        run = _Run(inverter, options, output, progress, started)
        run.unread, run.failed = unread, len(unread)
        try:
            run.audit(places)
            report = run.report(places)
        finally:
            for remote in run.remotes:
                remote.close()
    if run.complete and output is not None:
        journal.remove(output)
    return report


class _Run:
    """An audit on its way."""

    def __init__(
        self, inverter: Inverter, options: AuditOptions, output: Path | None, progress: Progress, started: float
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


def _apart(uris: Sequence[str], output: Path | None) -> None:
    """Raises InputError: the output would lie in a store, which is never written to."""
    for uri in uris if output is not None else ():
        location = Path(parse(uri).location)
        if location.is_dir() and (output := Path(str(output))).resolve().is_relative_to(location.resolve()):
            raise InputError(
                f"{printable(str(output))}: lies in {printable(str(location))}, expected a folder elsewhere"
            )


@contextmanager
def _stores(
    uris: Sequence[str], opener: Callable[[str], tuple[Store, str]], unread: list[str]
) -> Iterator[list[Place]]:
    """All collections that the URIs choose, each once; their stores are closed afterwards.

    Of several stores one that cannot be read is added to `unread`. Raises DataError, InputError, UnembedError.
    """
    if not uris:
        raise InputError("no store to audit, expected at least 1")
    opened: list[Store] = []
    try:
        places: dict[tuple[str, str, str], Place] = {}
        for number, uri in enumerate(uris):
            try:
                store, chosen = opener(uri)
                opened.append(store)
                for one in collections(store, chosen):
                    places.setdefault((store.kind, store.location, one.name), Place(store, one))
            except DataError as error:  # not of a path that there is not: the call was wrong
                if number == len(uris) - 1 and not places:
                    raise
                unread.append(str(error))
        yield list(places.values())
    finally:
        for store in opened:
            with suppress(UnembedError, OSError):
                store.close()


def _name(place: Place) -> str:
    return f"{place.store.location}#{place.collection.name}"
