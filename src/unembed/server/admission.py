"""Who is let in: how long work takes, and how the queue's places are shared.

Requests take turns in the thread (`batching`). So of each one that is there before it as much counts as it would take
itself: a large one is no reason to refuse a small one.

A client may hold as many waiting places as are left free (dynamic threshold: Choudhury and Hahne 1998, IEEE/ACM
Transactions on Networking 6, 2). One alone gets half of them, and who comes later still finds one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unembed.server.http_errors import Fault
from unembed.server.pace import Pace
from unembed.server.tickets import Ticket


@dataclass(frozen=True)
class Admission:
    """The bounds.

    Attributes:
        max_waiting: requests that may wait.
        time_limit: seconds from submission in which a request must be done.
    """

    max_waiting: int
    time_limit: float

    def check(self, ticket: Ticket, running: Sequence[Ticket], waiting: Sequence[Ticket], pace: Pace) -> None:
        """Raise Fault where a ticket cannot be let in: 422 if it never could be, 503 if it can be later.

        An idle thread takes a request at once, so even a queue of no length serves one.
        """
        self._refuse_if_hopeless(ticket, pace)
        running = [one for one in running if not (one.gone or one.finished)]
        waiting = [one for one in waiting if not one.gone]
        if not running and not waiting:
            return
        seconds = seconds_until(ticket, [*running, *waiting], pace)
        again = max(1, round(min(seconds, self.time_limit) / 2))
        own = sum(one.client == ticket.client for one in waiting)
        if len(waiting) >= self.max_waiting:
            raise Fault(503, "overloaded", f"{len(waiting)} requests are waiting already, try again", again)
        if own > self.max_waiting - len(waiting):
            raise Fault(503, "overloaded", f"{own} of your requests are waiting already, try again", again)
        if seconds > self.time_limit:
            text = f"requests that wait already take longer than the limit of {self.time_limit:g} s, try again"
            raise Fault(503, "overloaded", text, again)

    def _refuse_if_hopeless(self, ticket: Ticket, pace: Pace) -> None:
        seconds = pace.seconds(ticket.served.id, ticket.left, best=True)
        if seconds > self.time_limit:
            text = (
                f"the request would take about {seconds:.0f} s, a request's limit is {self.time_limit:g} s: "
                "ask for fewer embeddings, texts, candidates or steps at a time"
            )
            raise Fault(422, "too_much", text)


def seconds_until(ticket: Ticket, ahead: Iterable[Ticket], pace: Pace) -> float:
    """When a ticket's work may be done, from now, with that of others taking turns with it.

    Searches take half of the thread at most, whatever their number.
    """
    own = pace.seconds(ticket.served.id, ticket.left)
    others = [(one, min(own, pace.seconds(one.served.id, one.left))) for one in ahead]
    alike = own + sum(seconds for one, seconds in others if one.guided == ticket.guided)
    unlike = sum(seconds for one, seconds in others if one.guided != ticket.guided)
    return alike + min(alike, unlike)


def next_in_turn(waiting: Iterable[Ticket], running: Iterable[Ticket]) -> Ticket | None:
    """The waiting ticket that goes first: of the client with the fewest canvases at work, the one that came first."""
    at_work: dict[str, int] = {}
    for ticket in running:
        at_work[ticket.client] = at_work.get(ticket.client, 0) + ticket.rows
    return min(waiting, key=lambda ticket: at_work.get(ticket.client, 0), default=None)
