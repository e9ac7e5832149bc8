"""The words that an embedding tells: heads and judges of `runs/words.py` on made-up texts, and the script itself."""

import dataclasses
import inspect
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from fakes import fake_encoder, save_tiny_inverter, tiny_config, tiny_texts
from unembed.corpus.prepare import prepare

RUNS = Path(__file__).parents[1] / "runs"


@pytest.fixture(scope="module")
def words() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RUNS / "words.py")))


def test_a_bag_counts_the_words_that_are_told_apart(words: SimpleNamespace) -> None:
    texts = words.Sample(torch.zeros(2, 4), torch.tensor([[0, 2, 2, -1], [-1, -1, -1, 1]]))
    assert texts.bags(slice(None), 3).tolist() == [[1, 0, 2], [0, 1, 0]]
    assert texts.bags(torch.tensor([1]), 3).tolist() == [[0, 1, 0]]


def test_the_judge_agrees_with_a_count_by_hand(words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = words.Sample(torch.zeros(2, 4), torch.tensor([[0, 2, 2, -1], [-1, -1, -1, 1]]))
    chances = torch.tensor([0.5, 0.2, 0.3])
    monkeypatch.setitem(inspect.unwrap(words.judge).__globals__, "GUESSES", 2)
    entropy, recall = words.judge(lambda e: chances.log().expand(len(e), -1), texts, 3)
    assert entropy == pytest.approx(-(math.log(0.5) + 2 * math.log(0.3) + math.log(0.2)) / 4)
    assert recall == pytest.approx(2 / 3)  # of three different words the likeliest two hold those of the first text


def test_a_low_rank_cannot_tell_what_a_full_one_can(words: SimpleNamespace) -> None:
    """As many words as directions: each text is one word, its embedding that word's direction."""
    size = 64
    eye = torch.eye(size)
    train = words.Sample(eye * size**0.5, torch.arange(size)[:, None])
    entropies = {}
    for name, rank in (("low", 2), ("full", 0)):
        torch.manual_seed(0)
        head = words.Head(
            words.Shape(0, True, rank), torch.randn(size, size) / size**0.5, torch.full((size,), 1 / size), size
        )
        words.fit(head, train, passes=100, seed=0)
        entropies[name], _ = words.judge(torch.nn.Sequential(head, torch.nn.LogSoftmax(-1)), train, size)
    assert entropies["full"] < 0.5 * entropies["low"] < 0.5 * math.log(size)


def test_the_script_prints_every_head_and_the_inverter(
    words: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.txt").write_text("\n".join(tiny_texts(300)), encoding="utf-8")
    config = tiny_config()
    prepare(
        dataclasses.replace(config, data=dataclasses.replace(config.data, held_out=0.2)),
        [str(tmp_path / "tiny.txt")], tmp_path / "shards", fake_encoder(),
    )  # fmt: skip
    callback = words.main.callback
    assert callback is not None
    monkeypatch.setitem(callback.__globals__, "load_encoder", lambda recipe: fake_encoder())
    monkeypatch.setitem(callback.__globals__, "slowdown", lambda: 6.4)  # bfloat16, where emulated, takes minutes
    model = save_tiny_inverter(tmp_path / "inverter")
    arguments = ["--data", str(tmp_path / "shards"), "--model", str(model), "--texts", "2000", "--held-out", "50"]
    arguments += ["--passes", "10"]
    found = CliRunner().invoke(words.main, arguments)
    assert found.exit_code == 0, found.output
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in found.stdout.splitlines() if line.startswith("|")
    }
    assert set(rows) >= {"frequencies alone", *words.HEADS, "this inverter, from all masks"}
    entropy = {name: float(cells[1]) for name, cells in list(rows.items())[2:]}
    assert entropy["network of width 768 and linear"] < entropy["frequencies alone"] - 0.3
    assert entropy["this inverter, from all masks"] > entropy["frequencies alone"] - 0.3  # nothing was trained
