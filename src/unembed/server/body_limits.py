"""How a request comes in and how long it may take: its body's size and time, its time limit, its client's leaving.

Unusual here: the whole body of a POST is read before the application sees the request, so that a slow client costs no
place in the queue. Its values are counted before it is parsed, since millions of small ones take seconds and gigabytes
to validate. And the application's task is cancelled when the client goes away, whether its answer is a stream or not:
cancelling leaves the batcher's ticket, which frees its place at the next pass.
"""

import asyncio
import contextlib

import numpy as np
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unembed.server.batching import time_limit_fault
from unembed.server.http_errors import Fault, response
from unembed.server.settings import Settings

BEGINS = np.isin(np.arange(256), [ord(c) for c in ",[{"])  # bytes that stand before a value
OTHER_VALUES = 1000  # of a body, beside its embeddings' numbers
GRACE_SECONDS = 10.0  # beyond the time limit, for the batcher to end it: a round that is under way is finished first


class Intake:
    """ASGI middleware around the application's POST requests."""

    def __init__(self, app: ASGIApp, settings: Settings, dimension: int) -> None:
        self.app = app
        self._most = settings.max_body
        self._most_values = settings.max_embeddings * (dimension + 1) + settings.max_texts + OTHER_VALUES
        self._body_seconds = settings.body_seconds
        self._time_limit = settings.time_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._body(Headers(scope=scope), receive)
        except Fault as fault:
            answer = response(scope["path"], fault)
            answer.headers["Connection"] = "close"  # the rest of the body is not read
            await answer(scope, receive, send)
            return
        if body is not None:
            await self._serve(body, scope, receive, send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The body; None where the client left. Raises Fault."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        too_large = Fault(413, "too_large", f"the body has more than {self._most} bytes")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._most:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            text = f"the body did not arrive within {self._body_seconds:g} s"
            raise Fault(408, "request_timeout", text) from None
        if (
            kind != "application/json"
        ):  # said last: closed with a part of the body unread, a connection may lose the answer
            raise Fault(415, "unsupported_media_type", "the body's Content-Type must be application/json")
        most = self._most_values
        if len(body) > most and await asyncio.to_thread(values_in, bytes(body)) > most:
            raise Fault(413, "too_large", f"the body holds more than {most} values")
        return bytes(body)

    async def _serve(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.create_task(_until_gone(receive))

        async def replay() -> Message:
            if parts:
                return parts.pop()
            await asyncio.wait([gone])
            return {"type": "http.disconnect"}

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        work = asyncio.ensure_future(self.app(scope, replay, watched))
        try:
            done, _ = await asyncio.wait(
                [work, gone], timeout=self._time_limit + GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                work.result()
            elif gone not in done and not started:
                await _cancel(work)
                await response(scope["path"], time_limit_fault(self._time_limit))(scope, receive, send)
        finally:
            await _cancel(work)
            await _cancel(gone)


def values_in(body: bytes) -> int:
    """How many values JSON text holds at most: the commas and brackets outside its strings."""
    plain = np.frombuffer(body.replace(rb"\\", b"__").replace(rb"\"", b"__"), np.uint8)
    outside = np.bitwise_xor.accumulate((plain == ord('"')).view(np.uint8)) == 0
    return int(np.count_nonzero(BEGINS[plain] & outside))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[None]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
