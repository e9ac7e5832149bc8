"""Continuous batching: one thread owns torch and turns what all requests need into merged passes.

A turn goes: take in requests as long as canvases are free; collect what each running request needs next; one pass
for each inverter that is asked for one, one batch of texts for each encoder, at most one round of a guided inversion;
hand out the answers. So requests join and leave between passes, and one whose client has gone is dropped before the
next.

A round takes as long as many passes. After one, those who need passes or texts get as much time as it took before there
is another, so that searches, however many and long, take half of the thread at most.

The event loop talks to the thread through `submit` only, and hears from it through its `Ticket`.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from unembed.decoding.inversion import Inversion
from unembed.server.http_errors import Fault, fault_of
from unembed.server.models import Served
from unembed.server.tickets import Done, Failed, Ticket
from unembed.server.work import ENDED, Pass, Pause, Round, Texts, Work, predict

log = logging.getLogger("unembed.server")

TEXTS_PER_TURN = 32  # embedding them takes about as long as a merged pass
IDLE_SECONDS = 1.0  # between two looks at deadlines while nothing runs
MEMORY = 0.9  # of the pace, from turn to turn


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
    """

    def __init__(
        self, observer: Observer, max_batch: int, max_waiting: int, time_limit: float, threads: int = 0
    ) -> None:
        self.max_batch = max_batch
        self._observer = observer
        self._max_waiting = max_waiting
        self._time_limit = time_limit
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._pace = (0.0, 0.0)  # seconds and passes of a turn, averages that forget
        self._owed = 0.0  # seconds of passes and texts before the next round, where there are any
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
        self, served: Served, rows: int, make: Callable[[Ticket], Work], cost: float = 1, guided: bool = False
    ) -> Ticket:
        """Queue work that takes `rows` canvases at a time.

        Args:
            cost: passes that it takes, each canvas counted; of a guided inversion the seconds that it may take.
            guided: whether it needs rounds, and no passes or texts.

        Raises:
            Fault: 503, the queue is full, or so much is to be done before that the time limit would be over.
        """
        ticket = Ticket(served, min(rows, self.max_batch), cost, guided, time.monotonic() + self._time_limit, self.wake)
        ticket.work = make(ticket)
        with self._changed:
            if self.status != "ok":
                raise shutting_down_fault()
            # An idle thread takes the request at once, whatever its cost, so even a queue of no length serves one.
            if self.waiting or self.active:
                self._refuse_if_full(cost, guided)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def _refuse_if_full(self, cost: float, guided: bool) -> None:
        seconds, half = self.seconds_for(cost, guided), self._time_limit / 2
        if self.waiting >= self._max_waiting:
            text = f"{self.waiting} requests are waiting already, try again"
            raise Fault(503, "overloaded", text, max(1, round(min(seconds / 2, half))))
        if seconds > self._time_limit:
            text = f"requests that wait already take longer than the limit of {self._time_limit:g} s, try again"
            raise Fault(503, "overloaded", text, max(1, round(min(seconds - self._time_limit, half))))

    def seconds_for(self, cost: float, guided: bool = False) -> float:
        """How long work that is submitted now may take, what is before it included.

        Passes by the pace of late. Searches by their own limits; of each one before it as much counts as they would
        take turns, so that a long one is no reason to refuse a short one.
        """
        ahead = [ticket for ticket in [*self._running, *self._waiting] if not (ticket.gone or ticket.finished)]
        searches = [ticket.cost for ticket in ahead if ticket.guided]
        if guided:
            return cost + sum(min(cost, left) for left in searches)
        seconds, passes = self._pace
        blind = (cost + sum(ticket.cost for ticket in ahead if not ticket.guided)) * seconds / passes if passes else 0.0
        return blind + min(blind, sum(searches))  # searches take half of the thread

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
                while self._waiting and (not self._running or used + self._waiting[0].rows <= self.max_batch):
                    ticket = self._waiting.popleft()
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
        started, before = time.perf_counter(), self._passes_left()
        for ticket in self._running:
            if not ticket.started or isinstance(ticket.need, Pause):
                ticket.started = True
                self._advance(ticket, None)
        for served, tickets in _by_model(self._running, Pass):
            self._passes(served, tickets)
        for served, tickets in _by_model(self._running, Texts):
            self._texts(served, tickets)
        spent = time.perf_counter() - started
        self._owed -= spent
        if done := before - self._passes_left():
            seconds, passes = self._pace
            self._pace = (MEMORY * seconds + (1 - MEMORY) * spent, MEMORY * passes + (1 - MEMORY) * done)
        self._round()
        with self._changed:
            paused = [ticket for ticket in self._running if isinstance(ticket.need, Pause)]
            self._running = [
                ticket for ticket in self._running if ticket.need is not None and not isinstance(ticket.need, Pause)
            ]
            # They were let in before: they wait their turn, but the queue's bound is not for them.
            self._waiting.extend(paused)
            if not self._running:
                self._changed.notify_all()

    def _passes_left(self) -> float:
        return sum(ticket.cost for ticket in self._running if not ticket.guided)

    def _passes(self, served: Served, tickets: list[Ticket]) -> None:
        passes = [ticket.need for ticket in tickets if isinstance(ticket.need, Pass)]
        started = time.perf_counter()
        try:
            predictions = predict(passes)
        except Exception as error:
            self._fail(tickets, error)
            return
        rows = sum(int(one.frame.wanted.any(1).sum()) for one in passes)
        self._observer.merged_pass(served.id, len(passes), rows, time.perf_counter() - started)
        for ticket, one, prediction in zip(tickets, passes, predictions, strict=True):
            ticket.cost = max(0, ticket.cost - int(one.frame.wanted.any(1).sum()))
            self._advance(ticket, prediction)

    def _texts(self, served: Served, tickets: list[Ticket]) -> None:
        """Embed the oldest requests' texts, so many as fit a turn; a long request goes on in the next."""
        chosen: list[tuple[Ticket, list[str]]] = []
        room = TEXTS_PER_TURN
        for ticket in tickets:
            assert isinstance(ticket.need, Texts)
            part = ticket.need.texts[len(ticket.vectors) : len(ticket.vectors) + room]
            room -= len(part)
            chosen.append((ticket, part))
        started = time.perf_counter()
        texts = [text for _, part in chosen for text in part]
        try:
            vectors = iter(served.inverter.encode(texts))
        except Exception as error:
            self._fail(tickets, error)
            return
        self._observer.texts(served.id, len(texts), time.perf_counter() - started)
        for ticket, part in chosen:
            assert isinstance(ticket.need, Texts)
            ticket.vectors += [next(vectors) for _ in part]
            if len(ticket.vectors) == len(ticket.need.texts):
                found, ticket.vectors = np.stack(ticket.vectors), []
                self._advance(ticket, found)

    def _round(self) -> None:
        """The next round of the search that has waited longest, unless others come first."""
        searching = next((ticket for ticket in self._running if isinstance(ticket.need, Round)), None)
        others = any(isinstance(ticket.need, Pass | Texts) for ticket in self._running)
        if searching is None or (others and self._owed > 0):
            return
        assert isinstance(searching.need, Round)
        before, started = searching.need.before, time.perf_counter()
        searching.cost = searching.need.left
        try:
            found = next(searching.need.search, ENDED)
        except Exception as error:
            self._fail([searching], error)
            return
        self._owed = time.perf_counter() - started
        if isinstance(found, Inversion):
            passes = found.passes - (before.passes if before else 0)
            calls = found.encoder_calls - (before.encoder_calls if before else 0)
            self._observer.round(searching.served.id, passes, calls, self._owed)
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

    def _fail(self, tickets: Iterable[Ticket], error: Exception) -> None:
        fault = fault_of(error)
        for ticket in tickets:
            ticket.need = None
            ticket.work.close()
            self._finish(ticket, Failed(fault))

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
