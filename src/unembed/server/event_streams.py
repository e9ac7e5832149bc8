"""Server-sent events out of a ticket.

FastAPI writes the events. Its `EventSourceResponse` is not used: an address that streams on request only, and whose
faults before the first event have a status, has no place in it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from unembed.server.http_errors import Fault
from unembed.server.tickets import Done, Failed, Ticket

PING_SECONDS = 10.0  # a comment now and then, so that a proxy does not take a waiting stream for dead
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Event = tuple[dict[str, Any], int | None]  # data and id


class EventStream(StreamingResponse):
    """The events of a ticket. The ticket is left when the answer ends, however it ends.

    Args:
        frame: writes what the work emits; None sends nothing.
        end: writes what the work returned.
        failure: writes a fault.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        ticket: Ticket,
        frame: Callable[[Any], Event | None],
        end: Callable[[Any], Event],
        failure: Callable[[Fault], dict[str, Any]],
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(self._events(), headers=HEADERS | (headers or {}))
        self._ticket = ticket
        self._frame, self._end, self._failure = frame, end, failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ticket:
            await super().__call__(scope, receive, send)

    async def _events(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    event = await self._ticket.event()
            except TimeoutError:
                yield format_sse_event(comment="waiting")
                continue
            match event:
                case Failed(fault):
                    yield _written(self._failure(fault))
                    return
                case Done(value):
                    yield _written(*self._end(value))
                    return
                case emitted:
                    if (written := self._frame(emitted)) is not None:
                        yield _written(*written)


def _written(data: dict[str, Any], number: int | None = None) -> bytes:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return format_sse_event(data_str=text, id=None if number is None else str(number))
