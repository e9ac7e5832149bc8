"""Continuous batching: one thread owns torch and turns what all requests need into merged passes.

A turn goes: take in requests as long as canvases are free; collect what each running request needs next; work of one
kind: a pass for each inverter that is asked for one, a batch of texts for each encoder, or a round of a guided
inversion; hand out the answers. So requests join and leave between passes, and one whose client has gone is dropped
before the next.

A turn is for the kind that has had the least time of those that are needed. A round takes as long as many passes, and
long texts do, but however many there are, the other kinds have an equal share of the thread.

A merged pass that fails is run again for each of its requests alone, and so are texts, so that only those fail that
cannot be served.

The event loop talks to the thread through `submit` only, and hears from it through its `Ticket`.
"""

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from unembed.decoding.inversion import Inversion
from unembed.server.admission import Admission, next_in_turn
from unembed.server.http_errors import Fault, fault_of
from unembed.server.models import Served
from unembed.server.pace import Cost, Pace, Rate
from unembed.server.tickets import Done, Failed, Ticket
from unembed.server.work import ENDED, Pass, Pause, Round, Texts, Work, predict

log = logging.getLogger("unembed.server")

KINDS = (Pass, Texts, Round)
TOKENS_ALONE, TOKENS_BESIDE = 1024, 256  # to embed in a turn, without and with other kinds of work that wait
IDLE_SECONDS = 1.0  # between two looks at deadlines while nothing runs
ONE_PASS = Cost(passes=1)


class Observer(Protocol):
    """Told of the thread's work, for the metrics."""

    def merged_pass(self, model: str, requests: int, rows: int, seconds: float) -> None:
        """One pass was run for `rows` canvases of `requests` requests."""

    def texts(self, model: str, texts: int, seconds: float) -> None:
        """Texts were embedded."""

    def round(self, model: str, passes: int, calls: int, seconds: float) -> None:
        """A round of a guided inversion was run, with so many passes and encoder calls."""


class Batcher:
    """The thread and its queue.

    Args:
        max_batch: canvases in one merged pass.
        max_waiting: requests that may wait.
        time_limit: seconds from submission in which a request must be done.
        threads: CPU threads of torch; 0 leaves them.
        pace: what passes and texts take, as far as it is known.
    """

    def __init__(
        self, observer: Observer, max_batch: int, max_waiting: int, time_limit: float, threads: int = 0,
        pace: Pace | None = None,
    ) -> None:  # fmt: skip
        self.max_batch = max_batch
        self.pace = pace or Pace()
        self._observer = observer
        self._admission = Admission(max_waiting, time_limit)
        self._time_limit = time_limit
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._text_turns = itertools.count(1)
        self._spent: dict[type, float] = dict.fromkeys(KINDS, 0.0)  # seconds of each kind of work
        self._end = math.inf  # when what runs must be finished, once it is known
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="unembed-torch", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def active(self) -> int:
        """Requests being worked on."""
        return sum(not ticket.finished for ticket in self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(not ticket.gone for ticket in self._waiting)

    @property
    def status(self) -> str:
        """ "ok", or why no request can be served."""
        if self._end < math.inf:
            return "shutting down"
        return "ok" if self._thread.is_alive() else "failed"

    @property
    def at_once(self) -> int:
        """Canvases that one request may have in a pass, so that it never fills one alone."""
        return max(1, self.max_batch // 2)

    def submit(
        self, served: Served, rows: int, make: Callable[[Ticket], Work], cost: Cost = ONE_PASS, client: str = ""
    ) -> Ticket:
        """Queue work that takes `rows` canvases at a time.

        Args:
            cost: what it takes. Work with `seconds` needs rounds, and no passes or texts.
            client: who asks, for a fair share of the queue.

        Raises:
            Fault: 422, it would take longer than the time limit even alone. 503, the queue is full, or so much is to be
                done before that the time limit would be over.
        """
        ticket = Ticket(served, min(rows, self.max_batch), cost, client, time.monotonic() + self._time_limit, self.wake)
        ticket.work = make(ticket)
        with self._changed:
            if self.status != "ok":
                raise shutting_down_fault()
            self._admission.check(ticket, self._running, self._waiting, self.pace)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def wake(self) -> None:
        """Something changed that the thread should look at."""
        with self._changed:
            self._changed.notify()

    def drain(self, seconds: float) -> None:
        """Refuse what has not begun and what comes from now on; what runs has so long to finish, then it fails.

        Called again it can only shorten that.
        """
        with self._changed:
            self._end = min(self._end, time.monotonic() + seconds)
            refused = [ticket for ticket in self._waiting if not ticket.started]
            self._waiting = deque(ticket for ticket in self._waiting if ticket.started)
            self._changed.notify()
        for ticket in refused:
            ticket.emit(Failed(shutting_down_fault()))

    def close(self, seconds: float) -> None:
        """`drain`, wait for what runs, and end the thread."""
        self.drain(seconds)
        with self._changed:
            while (self._running or self._waiting) and time.monotonic() < self._end and self._thread.is_alive():
                self._changed.wait(0.05)
            self._stopped = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while self._next_turn():
                self._turn()
        for ticket in [*self._running, *self._waiting]:
            ticket.emit(Failed(shutting_down_fault()))
            ticket.work.close()

    def _next_turn(self) -> bool:
        """Wait for work and take in what fits; False when the thread must end."""
        with self._changed:
            while True:
                if self._stopped:
                    return False
                dropped = self._drop()
                used = sum(ticket.rows for ticket in self._running)
                while (ticket := next_in_turn(self._waiting, self._running)) is not None:
                    if self._running and used + ticket.rows > self.max_batch:
                        break
                    self._waiting.remove(ticket)
                    used += ticket.rows
                    self._running.append(ticket)
                if self._running or dropped:
                    break
                self._changed.wait(IDLE_SECONDS)
        for ticket, fault in dropped:
            ticket.work.close()
            if fault is not None:
                ticket.emit(Failed(fault))
        return True

    def _drop(self) -> list[tuple[Ticket, Fault | None]]:
        """Take out whose client has gone or whose time is up."""
        now = time.monotonic()
        dropped: list[tuple[Ticket, Fault | None]] = []
        for ticket in [*self._running, *self._waiting]:
            if ticket.gone:
                dropped.append((ticket, None))
            elif now > self._end:
                dropped.append((ticket, shutting_down_fault()))
            elif now > ticket.deadline:
                dropped.append((ticket, time_limit_fault(self._time_limit)))
        if dropped:
            out = {id(ticket) for ticket, _ in dropped}
            self._running = [ticket for ticket in self._running if id(ticket) not in out]
            self._waiting = deque(ticket for ticket in self._waiting if id(ticket) not in out)
        return dropped

    def _turn(self) -> None:
        for ticket in self._running:
            if not ticket.started or isinstance(ticket.need, Pause):
                ticket.started = True
                self._advance(ticket, None)
        if wanted := [kind for kind in KINDS if any(isinstance(ticket.need, kind) for ticket in self._running)]:
            self._work(wanted)
        with self._changed:
            paused = [ticket for ticket in self._running if isinstance(ticket.need, Pause)]
            self._running = [
                ticket for ticket in self._running if ticket.need is not None and not isinstance(ticket.need, Pause)
            ]
            # They were let in before: they wait their turn, but the queue's bound is not for them.
            self._waiting.extend(paused)
            if not self._running:
                self._changed.notify_all()

    def _work(self, wanted: Sequence[type]) -> None:
        """A turn of the kind of work that has had the least time."""
        kind = min(wanted, key=self._spent.__getitem__)
        started = time.perf_counter()
        if kind is Round:
            self._round(next(ticket for ticket in self._running if isinstance(ticket.need, Round)))
        else:
            for served, tickets in _by_model(self._running, kind):
                if kind is Pass:
                    self._passes(served, tickets)
                else:
                    self._texts(served, tickets, TOKENS_ALONE if len(wanted) == 1 else TOKENS_BESIDE)
        self._spent[kind] += time.perf_counter() - started
        least = min(self._spent[one] for one in wanted)
        for one in set(KINDS) - set(wanted):  # nobody saves time up while there is nothing to do
            self._spent[one] = max(self._spent[one], least)

    def _passes(self, served: Served, tickets: list[Ticket]) -> None:
        passes = [ticket.need for ticket in tickets if isinstance(ticket.need, Pass)]
        started = time.perf_counter()
        try:
            predictions = predict(passes)
        except Exception as error:
            self._alone(tickets, error, lambda one: self._passes(served, [one]))
            return
        seconds, rows = time.perf_counter() - started, [int(one.frame.wanted.any(1).sum()) for one in passes]
        self.pace.passes.setdefault(served.id, Rate()).add(seconds, sum(rows))
        self._observer.merged_pass(served.id, len(passes), sum(rows), seconds)
        for ticket, count, prediction in zip(tickets, rows, predictions, strict=True):
            ticket.left = ticket.left._replace(passes=max(0, ticket.left.passes - count))
            self._advance(ticket, prediction)

    def _texts(self, served: Served, tickets: list[Ticket], most: int) -> None:
        """Embed texts of about `most` tokens, one of each request in turn; what is left goes on in the next."""
        left = deque(sorted(tickets, key=lambda ticket: ticket.text_turn))
        chosen: list[tuple[Ticket, str]] = []
        taken: dict[int, int] = {}  # a ticket -> texts of its need that are embedded, or chosen to be
        tokens = 0
        while left and tokens < most:
            ticket = left.popleft()
            need, number = ticket.need, taken.setdefault(id(ticket), len(ticket.vectors))
            assert isinstance(need, Texts)
            chosen.append((ticket, need.texts[number]))
            tokens += need.tokens[number]
            ticket.left = ticket.left._replace(tokens=max(0, ticket.left.tokens - need.tokens[number]))
            ticket.text_turn = next(self._text_turns)
            taken[id(ticket)] += 1
            if taken[id(ticket)] < len(need.texts):
                left.append(ticket)
        started = time.perf_counter()
        try:
            vectors = served.inverter.encode([text for _, text in chosen])
        except Exception as error:
            failed = [ticket for ticket in tickets if id(ticket) in taken]
            self._alone(failed, error, lambda one: self._texts(served, [one], most))
            return
        seconds = time.perf_counter() - started
        self.pace.tokens.setdefault(served.id, Rate()).add(seconds, tokens)
        self._observer.texts(served.id, len(chosen), seconds)
        for (ticket, _), vector in zip(chosen, vectors, strict=True):
            ticket.vectors.append(vector)
        for ticket in tickets:
            assert isinstance(ticket.need, Texts)
            if len(ticket.vectors) == len(ticket.need.texts):
                found, ticket.vectors = np.stack(ticket.vectors), []
                self._advance(ticket, found)

    def _round(self, searching: Ticket) -> None:
        """The next round of a search: of that which has waited longest."""
        assert isinstance(searching.need, Round)
        before, started = searching.need.before, time.perf_counter()
        searching.left = Cost(seconds=searching.need.left)
        try:
            found = next(searching.need.search, ENDED)
        except Exception as error:
            self._fail(searching, error)
            return
        if isinstance(found, Inversion):
            passes = found.passes - (before.passes if before else 0)
            calls = found.encoder_calls - (before.encoder_calls if before else 0)
            self._observer.round(searching.served.id, passes, calls, time.perf_counter() - started)
        self._advance(searching, found)

    def _advance(self, ticket: Ticket, answer: Any) -> None:
        """Answer a request's need, and note the next."""
        ticket.need = None
        try:
            ticket.need = ticket.work.send(answer)
        except StopIteration as end:
            self._finish(ticket, Done(end.value))
        except Exception as error:
            self._finish(ticket, Failed(fault_of(error)))

    def _alone(self, tickets: Sequence[Ticket], error: Exception, again: Callable[[Ticket], None]) -> None:
        """What to do where something failed for several at once: `again` for each, so that only the culprit fails."""
        if len(tickets) == 1:
            self._fail(tickets[0], error)
            return
        for ticket in tickets:
            again(ticket)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        ticket.need = None
        ticket.work.close()
        self._finish(ticket, Failed(fault_of(error)))

    def _finish(self, ticket: Ticket, event: Done | Failed) -> None:
        ticket.finished = True
        ticket.emit(event)


def time_limit_fault(seconds: float) -> Fault:
    """The fault of a request that took too long."""
    return Fault(504, "time_limit", f"the request took longer than {seconds:g} s")


def shutting_down_fault() -> Fault:
    """The fault of a request that comes too late, or is not finished, when the server ends."""
    return Fault(503, "shutting_down", "the server is shutting down", 5)


def _by_model(tickets: Sequence[Ticket], kind: type) -> list[tuple[Served, list[Ticket]]]:
    """Tickets whose need is of a kind, grouped by model, oldest first."""
    groups: dict[str, list[Ticket]] = {}
    for ticket in tickets:
        if isinstance(ticket.need, kind):
            groups.setdefault(ticket.served.id, []).append(ticket)
    return [(group[0].served, group) for group in groups.values()]
