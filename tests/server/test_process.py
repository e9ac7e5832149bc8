"""`unembed serve` as a process of its own: starts, tells where, answers, and ends as it should."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner
from serving import tiny_inverter

from unembed.inverter import Inverter
from unembed.server.command import serve
from unembed.server.models import Models, Served, load_models
from unembed.server.run import listen
from unembed.server.settings import Settings

PROGRAM = """
import sys
import torch
from serving import tiny_inverter
from unembed.inverter import Inverter
torch.set_num_threads(1)
inverter = tiny_inverter()
Inverter.from_pretrained = classmethod(lambda cls, name, device, encoder=None: inverter)
from unembed.server.command import main
main()
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """The server with a tiny inverter, port by environment."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    found = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            PROGRAM,
            "--model",
            "tiny=x",
            "--rate-limit",
            "0",
            "--drain-seconds",
            "5",
        ],
        env=os.environ | {"PYTHONPATH": path, "UNEMBED_PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with found:
        yield found
        found.kill()


def test_a_process_serves_and_stops(process: subprocess.Popen[str]) -> None:
    """One process for all of it, since starting one takes seconds."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("Serving tiny on cpu: http://127.0.0.1:"), process.stderr.read()
    address = line.split()[4]
    with httpx2.Client(base_url=address, timeout=60) as client:
        assert client.get("/health").json()["status"] == "ok"
        embedding = client.post("/encode", json={"text": "the red ship."}).json()["embedding"]
        with client.stream("POST", "/decode", json={"embedding": embedding, "steps": 16}) as stream:
            lines = stream.iter_lines()
            assert json.loads(next(lines)[6:])["step"] == 0
            process.send_signal(signal.SIGTERM)
            assert json.loads([line for line in lines if line][-1][6:])["done"] is True  # what runs is finished
    assert process.wait(30) == 0
    assert process.stderr.read() == ""


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
    monkeypatch.setattr(Inverter, "from_pretrained", classmethod(lambda cls, name, device, encoder=None: inverter))
    models = load_models([str(folder), "named=x", "all-MiniLM-L6-v2"], "cpu", warm=False)
    assert models.ids == ["mine", "named", "all-MiniLM-L6-v2"]
    assert load_models([], "cpu").ids == ["all-MiniLM-L6-v2"]
    with pytest.raises(InputError, match="two models are called 'a'"):
        load_models(["a=x", "A=y"], "cpu", warm=False)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="there is no such inverter"):
        load_models([str(tmp_path / "nowhere.pt")], "cpu")


def test_a_model_is_found_by_its_name_or_its_encoders(models: Models) -> None:
    assert models.find("OTHER").id == "other"
    assert models.find("fake").id == "tiny"
    assert models.find(None).id == "tiny"
    assert Models([Served("x", models.default.inverter, 0)]).default.id == "x"
