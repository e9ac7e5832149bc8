"""`unembed serve` as a process of its own: starts, tells where, answers, and ends as it should."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from serving import tiny_inverter

from fakes import save_tiny_inverter
from unembed.cli.serve import serve
from unembed.encoders.recipes import RECIPES
from unembed.inverter import Inverter
from unembed.server.models import Models, Served, load_models
from unembed.server.run import listen
from unembed.server.settings import Settings

PROGRAM = """
import os
import time
import torch
from serving import tiny_inverter
import unembed.server.batching as batching
from unembed.encoders.recipes import RECIPES
from unembed.inverter import Inverter
torch.set_num_threads(1)
inverter = tiny_inverter()
Inverter.from_pretrained = classmethod(lambda cls, name, device, **_: inverter)
predict = batching.predict
batching.predict = lambda passes: time.sleep(float(os.environ["PASS_SECONDS"])) or predict(passes)
from unembed.cli.serve import main
main()
"""
Launch = Callable[..., tuple[subprocess.Popen[str], httpx2.Client]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts the server with a tiny inverter, port by environment; gives its process and a client."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    options = ["--model", "tiny=x", "--rate-limit", "0"]
    with ExitStack() as stack:

        def begin(*more: str, pass_seconds: float = 0.0) -> tuple[subprocess.Popen[str], httpx2.Client]:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", PROGRAM, *options, *more],
                env=os.environ | {"PYTHONPATH": path, "UNEMBED_PORT": "0", "PASS_SECONDS": str(pass_seconds)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line.startswith("Serving tiny on cpu: http://127.0.0.1:"), process.stderr.read()
            return process, stack.enter_context(httpx2.Client(base_url=line.split()[4], timeout=60))

        yield begin


def decode(client: httpx2.Client, begun: Callable[[], object]) -> dict[str, Any]:
    """The last event of a stream of 16 passes; calls `begun` at the first."""
    embedding = client.post("/encode", json={"text": "the red ship."}).json()["embedding"]
    with client.stream("POST", "/decode", json={"embedding": embedding, "steps": 16}) as stream:
        lines = (line for line in stream.iter_lines() if line)
        assert json.loads(next(lines)[6:])["step"] == 0
        begun()
        return dict(json.loads(list(lines)[-1][6:]))


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether the process ends as it should, without a word."""
    assert process.stderr is not None
    return process.wait(60) == 0 and process.stderr.read() == ""


def test_a_process_serves_and_stops(launch: Launch) -> None:
    process, client = launch("--drain-seconds", "20")
    assert client.get("/health").json()["status"] == "ok"
    last = decode(client, lambda: process.send_signal(signal.SIGTERM))
    assert last["done"] is True  # what runs is finished
    assert ended(process)


def test_the_end_waits_no_longer_than_it_may(launch: Launch) -> None:
    """Streams that would take 16 s more are told that it is over."""
    process, client = launch("--drain-seconds", "1", "--time-limit", "900", pass_seconds=1.0)
    last: list[dict[str, Any]] = []
    begun = threading.Semaphore(0)
    streams = [threading.Thread(target=lambda: last.append(decode(client, begun.release))) for _ in range(8)]
    for stream in streams:
        stream.start()
    for _ in streams:
        assert begun.acquire(timeout=30)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for stream in streams:
        stream.join(30)
    assert time.monotonic() - started < 8
    assert last == [{"error": "the server is shutting down"}] * 8
    assert ended(process)


def test_a_second_signal_drops_what_runs(launch: Launch) -> None:
    process, client = launch("--drain-seconds", "60", pass_seconds=1.0)

    def twice() -> None:
        process.send_signal(signal.SIGINT)
        while client.get("/health").status_code == 200:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)

    with suppress(httpx2.TransportError):  # the stream is told, or cut off
        assert decode(client, twice) == {"error": "the server is shutting down"}
    assert ended(process)


def test_help_tells_every_setting_and_its_variable() -> None:
    result = CliRunner().invoke(serve, ["--help"])
    assert result.exit_code == 0
    for name in Settings.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in result.output
        assert f"UNEMBED_{name.upper()}" in result.output


def test_settings_come_from_flags_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import unembed.server.run as run

    found: list[Settings] = []
    monkeypatch.setattr(run, "listen", lambda settings: found.append(settings) or [])
    monkeypatch.setattr(run, "load", lambda settings: (_ for _ in ()).throw(KeyboardInterrupt))
    environment = {"UNEMBED_MODEL": "a b=c", "UNEMBED_MAX_BATCH": "7", "UNEMBED_ACCESS_LOG": "1"}
    CliRunner().invoke(serve, ["--max-batch", "9", "--allow-origin", "http://x"], env=environment)
    assert found == [Settings(model=("a", "b=c"), max_batch=9, allow_origin=("http://x",), access_log=True)]


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--port", "-1"], ["--max-batch", "0"], ["--time-limit", "0"]])
def test_impossible_settings_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(serve, arguments).exit_code == 2


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    from unembed.errors import OutputError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1 port {port}"):
            listen(Settings(port=port))
    with pytest.raises(OutputError, match="port 70000"):
        listen(Settings(port=70_000))


def test_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unembed.errors import CheckpointError, InputError

    folder = tmp_path / "mine"
    folder.mkdir()
    inverter = tiny_inverter()
    with monkeypatch.context() as patch:
        patch.setattr(Inverter, "from_pretrained", classmethod(lambda cls, name, device, **_: inverter))
        models = load_models([str(folder), "named=x", "all-MiniLM-L6-v2"], "cpu", warm=False)
        assert models.ids == ["mine", "named", "all-MiniLM-L6-v2"]
        assert load_models([], "cpu").ids == ["all-MiniLM-L6-v2"]
        with pytest.raises(InputError, match="two models are called 'a'"):
            load_models(["a=x", "A=y"], "cpu", warm=False)
    with pytest.raises(CheckpointError, match="there is no such inverter"):
        load_models([str(tmp_path / "nowhere.pt")], "cpu")
    with pytest.raises(InputError, match="precision is 'int4', expected float32 or bfloat16"):
        load_models([str(folder)], "cpu", warm=False, precision="int4")
    (served,) = load_models([str(save_tiny_inverter(folder))], "cpu", warm=False, precision="bfloat16").all
    assert str(served.inverter.denoiser.precision) == "torch.bfloat16"


def test_a_model_is_found_by_its_name_or_its_encoders(models: Models) -> None:
    assert models.find("OTHER").id == "other"
    assert models.find("fake").id == "tiny"
    assert models.find(None).id == "tiny"
    assert Models([Served("x", models.default.inverter, 0)]).default.id == "x"
    minilm = Served("mine", SimpleNamespace(recipe=RECIPES["all-MiniLM-L6-v2"]), 0)  # type: ignore[arg-type]
    assert Models([minilm]).find("sentence-transformers/all-MiniLM-L6-v2").id == "mine"
