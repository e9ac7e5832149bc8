"""A system Chromium, the page in it, and the servers behind the page."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_server import FakeServer, Mood
from playwright.sync_api import Browser, expect, sync_playwright
from visiting import FLAGS, PATIENCE, Open, chromium

TESTS = Path(__file__).parents[1]


# Of the package, not the session: while playwright's synchronous interface is open, asyncio.run fails in this thread.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Headless, one for all tests here."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: install one (Debian: apt-get install chromium) or name it in $CHROMIUM")
    with sync_playwright() as running:
        found = running.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@dataclass
class RealServer:
    """The server's process and where it answers."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture(scope="package")
def real_process() -> Iterator[RealServer]:
    """unembed's own server with tiny inverters, on a free port."""
    path = os.pathsep.join(str(folder) for folder in (TESTS, TESTS / "server", TESTS.parent / "src"))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("real_server.py"))],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdout is not None
    with process, process.stdout:
        url = process.stdout.readline().strip()
        assert url, f"the server ended with exit code {process.wait()}"
        yield RealServer(process, f"{url}/")
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture
def real(real_process: RealServer) -> Iterator[str]:
    """The real server's address; the test fails if the server dies during it."""
    yield real_process.url
    assert real_process.process.poll() is None, "the server died"


@pytest.fixture(scope="package")
def fake_process() -> Iterator[FakeServer]:
    """One server of canned answers."""
    with FakeServer() as server:
        server.start()
        yield server
        server.shutdown()


@pytest.fixture
def canned(fake_process: FakeServer) -> Iterator[FakeServer]:
    """The server of canned answers, in its usual mood."""
    fake_process.mood = Mood()
    yield fake_process
    fake_process.mood = Mood()  # nothing is held back any more


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens pages."""
    expect.set_options(timeout=PATIENCE)
    opener = Open(browser)
    yield opener
    opener.close()
