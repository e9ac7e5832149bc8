"""What `runs/paired.py` says of two inverters on the same texts."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from fakes import fake_encoder, tiny_config, tiny_texts

TEXTS = tiny_texts(40, seed=2)


class Forgetful:
    """Finds the text of an embedding among those it knows; forgets the last word of every other one."""

    def __init__(self, forgets: bool) -> None:
        self.encoder, self.forgets = fake_encoder(), forgets
        self.tokenizer, self.encode = self.encoder.tokenizer, self.encoder.encode
        self.length = tiny_config().model.max_tokens
        self.known = self.encode(TEXTS)

    def invert(self, e: np.ndarray, steps: int, **_: object) -> list[SimpleNamespace]:
        found = []
        for row in (e @ self.known.T).argmax(1):
            kept = self.tokenizer.encode(TEXTS[row])[: -1 if self.forgets and row % 2 else None]
            found.append(
                SimpleNamespace(
                    text=self.tokenizer.decode(kept), ids=self.tokenizer.canvas(kept, self.length), steps=steps
                )
            )
        return found


def test_the_script_says_by_how_much_the_second_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "runs" / "paired.py")))
    given = SimpleNamespace(from_pretrained=lambda name, **_: Forgetful(name == "old"))
    monkeypatch.setitem(script.main.callback.__globals__, "Inverter", given)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    options = ["old", "new", "--texts", str(tmp_path / "texts.txt"), "--tokens", "natural", "--limit", "40"]
    result = CliRunner().invoke(script.main, options)
    assert result.exit_code == 0, result.output
    rows = {
        cells[1].strip(): [float(cell.split("[")[0]) for cell in cells[2:5]]
        for cells in (line.split("|") for line in result.stdout.splitlines()[4:])
    }
    assert rows["exact match"] == [0.5, 1.0, 0.5]
    lengths = [len(fake_encoder().tokenizer.encode(text)) for text in TEXTS]
    missing = len(TEXTS) / 2 / sum(lengths)
    assert rows["token accuracy"] == pytest.approx([1 - missing, 1.0, missing], abs=1e-3)
    assert rows["cosine"][2] == pytest.approx(rows["cosine"][1] - rows["cosine"][0], abs=2e-3)
