"""What `runs/evaluate_table.py` prints, and which rows of an earlier run it takes for its own."""

import json
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from click.testing import CliRunner, Result

from fakes import fake_encoder, save_tiny_inverter, tiny_texts
from unembed.errors import DataError
from unembed.inverter import Inverter

SCRIPT = Path(__file__).parents[1] / "runs" / "evaluate_table.py"


def invoked(tmp_path: Path, *options: str) -> Result:
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    texts = tmp_path / "texts.txt"
    if not texts.exists():
        texts.write_text("\n".join(tiny_texts(12, seed=4)), encoding="utf-8")
        save_tiny_inverter(tmp_path / "inverter")
    given = ["--model", str(tmp_path / "inverter"), "--texts", str(texts), "--tokens", "natural", "--limit", "8"]
    given += ["--strategy", "confidence", "--steps", "2", "-o", str(tmp_path / "table.jsonl"), *options]
    opened = partial(Inverter.from_pretrained, encoder=fake_encoder())
    script.main.callback.__globals__["Inverter"] = SimpleNamespace(from_pretrained=opened)
    return CliRunner().invoke(script.main, given)


def table(tmp_path: Path, *options: str) -> Result:
    result = invoked(tmp_path, *options)
    assert result.exit_code == 0, result.output
    return result


def test_a_finished_row_is_not_measured_again_unless_something_changed(tmp_path: Path) -> None:
    first = table(tmp_path)
    assert "confidence, 2 steps" in first.stderr  # said when measured
    again = table(tmp_path)
    assert again.stderr == ""
    assert again.stdout == first.stdout
    assert "confidence, 2 steps" in table(tmp_path, "--seed", "1").stderr
    assert "confidence, 2 steps" in table(tmp_path, "--steering", "3").stderr
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["seed"], row["options"]["steering"]) for row in rows] == [(0, 75.0), (1, 75.0), (0, 3.0)]
    for row in rows:
        row["machine"]["code"] = "0" * 16  # as another version of the package would have left it
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "confidence, 2 steps" in table(tmp_path).stderr


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text("{}\n", encoding="utf-8")
    error = invoked(tmp_path).exception
    assert isinstance(error, DataError)
    assert "table.jsonl, line 1: not a row of this script" in str(error)
