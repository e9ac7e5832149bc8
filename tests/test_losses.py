"""What `runs/losses.py` says of inverters whose losses are known, or known to differ."""

import dataclasses
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from fakes import fake_encoder, tiny_config, tiny_parts, tiny_texts
from unembed.corpus.prepare import prepare
from unembed.storage.checkpoint import save_inverter
from unembed.training.train import train


def test_the_loss_of_guessing_and_what_was_learned_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.txt").write_text("\n".join(tiny_texts(60)), encoding="utf-8")
    config = tiny_config()
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, held_out=0.3),
        training=dataclasses.replace(config.training, steps=250, batch_size=64, validate_every=250),
    )
    prepare(config, [str(tmp_path / "tiny.txt")], tmp_path / "shards", fake_encoder())
    parts = tiny_parts()
    nothing = {name: torch.zeros_like(tensor) for name, tensor in parts.denoiser.state_dict().items()}
    save_inverter(tmp_path / "guessing", nothing, parts.tokenizer, parts.config, {})
    learned = train(config, tmp_path / "shards", tmp_path / "run", encoder=fake_encoder(), show_progress_bar=False)

    script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "runs" / "losses.py")))
    monkeypatch.setitem(script.main.callback.__globals__, "load_encoder", lambda recipe: fake_encoder())
    arguments = [str(tmp_path / "guessing"), str(learned), "--data", str(tmp_path / "shards")]
    found = CliRunner().invoke(script.main, [*arguments, "--windows", "500", "--batch-size", "100"])
    assert found.exit_code == 0, found.output
    rows = {
        Path(cells[1].strip()).name: [float(cell.split("[")[0]) for cell in cells[2:4]]
        for cells in (line.split("|") for line in found.stdout.splitlines()[4:])
    }
    alike = math.log(parts.tokenizer.vocab_size - 1)  # every token but the mask
    assert rows["guessing"] == pytest.approx([alike, alike], abs=0.001)
    on_train, held_out = rows["inverter"]
    assert on_train < held_out - 0.05
    assert held_out < alike - 1
