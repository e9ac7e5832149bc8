"""A request in the batcher, as the event loop and the thread both see it."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from unembed.server.http_errors import Fault
from unembed.server.models import Served
from unembed.server.pace import Cost
from unembed.server.work import Need, Work


class Done(NamedTuple):
    """The last event of a ticket: what the work returned."""

    value: Any


class Failed(NamedTuple):
    """The last event of a ticket whose work failed."""

    fault: Fault


class Ticket:
    """One request in the batcher, seen from the event loop: events as they come, then `Done` or `Failed`.

    Leaving the `with` block gives the place up.
    """

    def __init__(
        self, served: Served, rows: int, cost: Cost, client: str, deadline: float, wake: Callable[[], None]
    ) -> None:
        self.served = served
        self.rows = rows
        self.left = cost  # what is left to do
        self.guided = cost.seconds > 0
        self.client = client
        self.deadline = deadline
        self.gone = False  # written by the event loop, read by the thread
        self.started = False
        self.finished = False
        self.need: Need | None = None
        self.vectors: list[Any] = []  # of a `Texts` need, as far as answered
        self.text_turn = 0  # when the last of its texts was embedded
        self.work: Work
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    def emit(self, event: Any) -> None:
        """Hand an event to the event loop; called by the thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def event(self) -> Any:
        """The next event."""
        return await self._events.get()

    async def result(self) -> Any:
        """What the work returned, frames passed over. Raises Fault."""
        while True:
            event = await self.event()
            if isinstance(event, Failed):
                raise event.fault
            if isinstance(event, Done):
                return event.value

    def leave(self) -> None:
        """The client has gone, or has all it wanted."""
        self.gone = True
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
