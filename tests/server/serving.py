"""A tiny inverter with random weights, a real server around it, and a batcher without one."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import httpx2
import numpy as np
import torch

from fakes import FakeEncoder, fake_encoder, perturbed, tiny_config
from unembed.inverter import Inverter
from unembed.server.app import create_app
from unembed.server.batching import Batcher
from unembed.server.models import Models
from unembed.server.run import Server, configure, listen
from unembed.server.settings import Settings
from unembed.storage.checkpoint import Parts, build_denoiser
from unembed.surrogate.bag import Fitted


class Start(Protocol):
    """Starts a server with settings; gives a client."""

    def __call__(self, which: Models | None = None, **settings: Any) -> httpx2.Client:
        """Ends with the test."""
        ...


def tiny_inverter(seed: int = 0, surrogate: Fitted | None = None, **results: Any) -> Inverter:
    """Random weights, AdaLN's included, so that the embedding matters; as good as useless, and quick."""
    torch.manual_seed(seed)
    encoder = fake_encoder()
    denoiser = perturbed(build_denoiser(tiny_config(), encoder.tokenizer), 0.2).eval().requires_grad_(False)
    return Inverter(Parts(denoiser, encoder.tokenizer, tiny_config(), results, surrogate=surrogate), encoder)


class SlowEncoder(FakeEncoder):
    """Takes its time for each batch, so that a round is long."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        time.sleep(self.seconds)
        return super().encode(texts, batch_size)


class TestServer(Server):
    """A server that tells where it is and which batcher it has."""

    __test__ = False
    address: str

    @property
    def batcher(self) -> Any:
        """The batcher."""
        return self.config.app.state.batcher  # type: ignore[union-attr]


@contextmanager
def running(models: Models, **settings: Any) -> Iterator[TestServer]:
    """A server on a free port, in a thread of its own; stopped as a signal would stop it."""
    chosen = Settings(**{"port": 0, "rate_limit": 0, "drain_seconds": 5.0, "threads": 1} | settings)
    sockets = listen(chosen)
    server = TestServer(configure(create_app(models, chosen), chosen))
    up = threading.Event()

    def ready(address: str) -> None:
        server.address = address
        up.set()

    server.ready = ready
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield server
    finally:
        server.handle_exit(15, None)
        thread.join(20)
        for one in sockets:
            one.close()
        assert not thread.is_alive()


def events(text: str) -> list[dict[str, Any]]:
    """The data of server-sent events."""
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether the condition held before the time was up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def connect(client: httpx2.Client, data: bytes) -> socket.socket:
    """A connection on which `data` was sent."""
    found = socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)
    found.sendall(data)
    return found


def post(path: str, body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    """A POST request as bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body


class Seen:
    """Keeps what a batcher tells."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, int, int]] = []
        self.embedded: list[int] = []
        self.rounds: list[tuple[int, int]] = []

    def merged_pass(self, model: str, requests: int, rows: int, seconds: float) -> None:
        """Note it."""
        self.passes.append((model, requests, rows))

    def texts(self, model: str, texts: int, seconds: float) -> None:
        """Note it."""
        self.embedded.append(texts)

    def round(self, model: str, passes: int, calls: int, seconds: float) -> None:
        """Note it."""
        self.rounds.append((passes, calls))


@asynccontextmanager
async def working(seen: Seen | None = None, **options: Any) -> AsyncIterator[Batcher]:
    """A batcher at work, closed at the end."""
    settings = {"max_batch": 32, "max_waiting": 64, "time_limit": 30.0, "threads": 1} | options
    batcher = Batcher(seen or Seen(), **settings)
    batcher.start()
    try:
        yield batcher
    finally:
        await asyncio.to_thread(batcher.close, 5.0)
