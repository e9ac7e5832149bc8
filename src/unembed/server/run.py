"""Running the application: its socket, its models, uvicorn, and the way it stops."""

import asyncio
import gc
import logging
import math
import socket
from collections.abc import Callable
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI

from unembed.errors import InputError, OutputError
from unembed.server.app import create_app
from unembed.server.models import Models, load_models
from unembed.server.settings import Settings

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 30  # longer than most clients keep an idle connection, so that theirs is the end
LONGEST_HEAD = 16 * 1024  # bytes of a request's line and headers
LAST_SECONDS = 2  # after the draining, for answers to reach their clients


class Server(uvicorn.Server):
    """uvicorn, telling the batcher at once that the end has come, and ending with exit code 0."""

    ready: Callable[[str], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say where."""
        await super().startup(sockets)
        if self.started and sockets:
            self.ready(_address(sockets[0]))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what runs; at a second signal, drop it."""
        state = self.config.app.state  # type: ignore[union-attr]
        self.force_exit = self.should_exit
        self.should_exit = True
        state.batcher.drain(0.0 if self.force_exit else state.settings.drain_seconds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, wait for what runs, and end the batcher's thread, which uvicorn leaves out if forced."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()


def listen(settings: Settings) -> list[socket.socket]:
    """The socket to serve on, taken before the models are loaded. Raises OutputError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio sets no TCP_NODELAY
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"cannot listen on {settings.host} port {settings.port} ({reason}); --port takes another"
        ) from error
    return [found]


def load(settings: Settings) -> Models:
    """The models of the settings, warm. Raises CheckpointError, EncoderError, InputError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return load_models(
        settings.model, _device(settings.device), precision=settings.precision, encoders=settings.encoder
    )


def run(
    models: Models, settings: Settings, sockets: list[socket.socket], ready: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until a signal comes; `ready` is told the address. Raises ConfigError."""
    server = Server(configure(create_app(models, settings), settings))
    server.ready = ready
    gc.freeze()  # what was imported and loaded stays: collections and the process's end need not look at it
    try:
        asyncio.run(server.serve(sockets))
    except KeyboardInterrupt:
        return
    finally:
        for one in sockets:
            one.close()


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    if settings.access_log:
        log = logging.getLogger("uvicorn.access")
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
    return uvicorn.Config(
        app,
        backlog=BACKLOG,
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        http="h11",
        h11_max_incomplete_event_size=LONGEST_HEAD,
        proxy_headers=bool(settings.trusted_proxy),
        forwarded_allow_ips=list(settings.trusted_proxy),
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + LAST_SECONDS,
    )


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """A log filter: a request that was cut off at the end is no error with a traceback."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _address(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _device(name: str) -> str:
    """A device that torch has. Raises InputError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device is {name!r}, which torch does not have here") from error
    return name
