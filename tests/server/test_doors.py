"""The same call gives the same text through every door: Python, a terminal, a pipe, files, an evaluation, HTTP."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner

from fakes import tiny_texts
from unembed.cli.main import main
from unembed.evaluation import evaluate
from unembed.inverter import Inverter
from unembed.server.models import Served

TEXTS = tiny_texts(5, seed=8)
PLANS: list[dict[str, Any]] = [
    {},
    {"steps": 3, "strategy": "two-stage"},
    {"steps": 5, "temperature": 0.9, "seed": 4, "guidance": 0.5},
    {"steps": 4, "strategy": "remask", "temperature": 1.2, "seed": 1, "balance": 0.0, "steering": 20.0},
    {"candidates": 3, "steps": 4, "seed": 2},
    {"max_calls": 25, "steps": 6, "seed": 3},
    {"max_calls": 30, "candidates": 2, "temperature": 0.8, "steering": 0.0},
]
Run = Callable[..., str]


@pytest.fixture
def run(other: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command line, whose every inverter is the served one; the embeddings lie in a file."""
    monkeypatch.setattr(Inverter, "from_pretrained", lambda *_, **__: other.inverter)
    monkeypatch.setattr("unembed.cli.terminal.FRAME_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    np.save("e.npy", other.inverter.encode(TEXTS))

    def call(*arguments: str, terminal: bool = False, **options: Any) -> str:
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        shown = {"FORCE_COLOR": "1", "COLUMNS": "300", "TERM": "xterm-256color"} if terminal else {"FORCE_COLOR": None}
        result = CliRunner().invoke(main, [*arguments, *words], env=shown | {"NO_COLOR": None})
        assert result.exit_code == 0, result.output
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stdout)

    return call


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: " ".join(f"{key}={value}" for key, value in plan.items()))
def test_every_door_gives_the_same_texts(
    other: Served, client: httpx2.Client, run: Run, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any]
) -> None:
    inverter = other.inverter
    embeddings = inverter.encode(TEXTS)
    inversions = inverter.invert(embeddings, **plan)
    expected = [one.text for one in inversions]
    assert len(set(expected)) > 1

    # Python, row by row.
    guided, alone = "max_calls" in plan, plan.get("candidates", 1) == 1
    for row, e_D in enumerate(embeddings):
        if guided:
            *_, last = inverter.search(e_D, **plan, first_row=row)
            assert last.text == expected[row]
        elif alone:
            *_, frame = inverter.stream(e_D, **plan, first_row=row)
            assert inverter.inversion(frame).text == expected[row]

    # The command line: to a pipe, as JSON, to a terminal; from texts and from a file.
    results = json.loads(run("invert", *TEXTS, "--json", **plan))["results"]
    assert [one["text"] for one in results] == expected
    for shown in (run("invert", *TEXTS, **plan), run("invert", *TEXTS, terminal=True, **plan)):
        assert [found.strip() for found in re.findall(r"^recovered:? +(.*)$", shown, re.MULTILINE)] == expected
    assert run("invert", "--embeddings", "e.npy", **plan).splitlines() == expected
    results = json.loads(run("invert", "--embeddings", "e.npy", "--json", **plan))["results"]
    assert [one["text"] for one in results] == expected
    shown = run("invert", "--embeddings", "e.npy", terminal=True, **plan)
    assert re.findall(r"^ +\d  +-?\d\.\d{3}  (.*?) *$", shown, re.MULTILINE) == expected
    run("invert", "--embeddings", "e.npy", "-o", "out.jsonl", **plan)
    assert [json.loads(line)["text"] for line in Path("out.jsonl").read_text().splitlines()] == expected

    # An evaluation of the same texts.
    seen: list[str] = []
    monkeypatch.setattr(
        evaluate, "read_back", lambda one, found: seen.extend(i.text for i in found) or read_back(one, found)
    )
    Path("texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    run("evaluate", "--texts", "texts.txt", "--tokens", "natural", "--json", **plan)
    assert seen[: len(TEXTS)] == expected

    # The server, for all at once, and for the first as a stream.
    body: dict[str, Any] = {"model": "other"} | plan
    answer = client.post("/v1/invert", json=body | {"embeddings": embeddings.tolist()}).json()
    assert [one["text"] for one in answer["data"]] == expected
    first = {"embeddings": embeddings[0].tolist(), "stream": True}
    assert events(client, "/v1/invert", body | first)[-1]["result"]["text"] == expected[0]
    if not guided and alone:
        assert events(client, "/decode", body | {"embedding": embeddings[0].tolist()})[-1]["text"] == expected[0]


read_back = evaluate.read_back


def events(client: httpx2.Client, address: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a stream of events holds. The published endpoint's own default of 32 steps is not asked for."""
    with client.stream("POST", address, json={"steps": 8} | body) as response:
        assert response.status_code == 200, response.read()
        return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: ")]
