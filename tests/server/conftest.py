"""Fixtures of the server's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from serving import SlowEncoder, Start, running, tiny_inverter

from fakes import tiny_parts, tiny_surrogate
from unembed.inverter import Inverter
from unembed.server.models import Models, Served


@pytest.fixture(scope="session")
def models() -> Models:
    """Two inverters, "tiny" by default; "other" has a surrogate."""
    tiny = tiny_inverter(0, test={"token_accuracy": 0.0})
    return Models([Served("tiny", tiny, 1), Served("other", tiny_inverter(1, tiny_surrogate()), 2)])


@pytest.fixture(scope="session")
def served(models: Models) -> Served:
    """The default one."""
    return models.default


@pytest.fixture
def start(models: Models) -> Iterator[Start]:
    """Starts servers with settings of their own; the client's `server` is the server."""
    with ExitStack() as stack:

        def begin(which: Models | None = None, **settings: Any) -> httpx2.Client:
            server = stack.enter_context(running(which or models, **settings))
            client = stack.enter_context(httpx2.Client(base_url=server.address, timeout=20))
            client.server = server  # type: ignore[attr-defined]
            return client

        yield begin


@pytest.fixture(scope="session")
def client(models: Models) -> Iterator[httpx2.Client]:
    """A client of a server with default settings and no rate limit, for tests that change nothing of it."""
    with running(models) as server, httpx2.Client(base_url=server.address, timeout=20) as found:
        found.server = server  # type: ignore[attr-defined]
        yield found


@pytest.fixture(scope="session")
def slow() -> Callable[[float], Models]:
    """A model whose rounds take at least so long."""
    parts = tiny_parts()._replace(surrogate=tiny_surrogate())
    return lambda seconds: Models([Served("slow", Inverter(parts, SlowEncoder(seconds)), 1)])


@pytest.fixture
def other(models: Models) -> Served:
    """The model with a surrogate."""
    return models.find("other")
