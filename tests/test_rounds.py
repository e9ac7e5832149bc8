"""Rounds on disk: a search stopped anywhere goes on as if it never had been, and asks again for one round at most."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import FakeEncoder, fake_encoder, taught, tiny_parts, tiny_surrogate, tiny_texts
from test_guidance import OpenEncoder
from unembed.bulk import invert_file
from unembed.errors import InputError
from unembed.inverter import Inverter
from unembed.search import BLACK_BOX, WHITE_BOX
from unembed.vectors import open_vectors, scan

ROWS, BATCH, STARTS, ROUNDS = 5, 12, 4, 5  # three rows are searched together
OPTIONS = {"candidates": STARTS, "rounds": ROUNDS, "steps": 4, "seed": 3}


class Stopping(OpenEncoder):
    """Does not survive being asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.times -= 1
        if self.times < 0:
            raise KeyboardInterrupt
        return super().encode(texts, batch_size)


def invert(encoder: FakeEncoder, folder: Path, attacker: str, surrogate: bool) -> bytes:
    vectors = open_vectors(str(folder / "in.npy"))
    parts = tiny_parts()
    inverter = Inverter(parts._replace(surrogate=taught(tiny_surrogate())) if surrogate else parts, encoder)
    options = OPTIONS | {"attacker": attacker}
    invert_file(inverter, vectors, scan(vectors, inverter.recipe), folder / "out.jsonl", options, batch_size=BATCH)
    return (folder / "out.jsonl").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "in.npy", fake_encoder().encode(tiny_texts(ROWS)))
    return tmp_path


@pytest.mark.parametrize(("attacker", "surrogate"), [(BLACK_BOX, False), (BLACK_BOX, True), (WHITE_BOX, True)])
def test_stopped_in_any_round_and_continued_equals_never_stopped(folder: Path, attacker: str, surrogate: bool) -> None:
    whole = OpenEncoder()
    expected = invert(whole, folder, attacker, surrogate)
    assert not (folder / "out.jsonl.rounds").exists()
    chunks, most = 2, 3 * 16 + STARTS  # searches; texts that a round embeds
    for times in range(1, chunks * (1 + ROUNDS), 3 if surrogate else 1):  # with one a search takes four times as long
        for path in folder.glob("out*"):
            path.unlink()
        stopping, again = Stopping(times), OpenEncoder()
        with pytest.raises(KeyboardInterrupt):
            invert(stopping, folder, attacker, surrogate)
        assert invert(again, folder, attacker, surrogate) == expected
        repeated = len(stopping.asked) + len(again.asked) - len(whole.asked)
        assert 0 <= repeated <= most
        assert stopping.gradients + again.gradients - whole.gradients <= 3 * 4
        assert not (folder / "out.jsonl.rounds").exists()


def kept(folder: Path, **options: Any) -> list[str]:
    embeddings = fake_encoder().encode(tiny_texts(2))
    inverter = Inverter(tiny_parts(), OpenEncoder())
    return [one.text for one in inverter.invert(embeddings, **(OPTIONS | options), rounds_folder=folder)]


def test_the_rounds_of_another_search_are_not_used(tmp_path: Path) -> None:
    kept(tmp_path / "one", seed=1)
    assert kept(tmp_path / "one", seed=2) == kept(tmp_path / "other", seed=2)


def test_the_rounds_of_an_earlier_version_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = kept(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr("unembed.rounds.FORMAT", 1)
        kept(tmp_path / "one", rounds=2)
    (path,) = (tmp_path / "one").iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    tree = json.loads(arrays.pop("tree").tobytes())
    for row in tree["rows"]:
        del row["answers"]  # of which that version knew nothing
    np.savez(path, tree=np.frombuffer(json.dumps(tree).encode(), np.uint8), **arrays)
    assert kept(tmp_path / "one") == expected


def test_a_longer_search_does_not_go_on_from_a_shorter_one(tmp_path: Path) -> None:
    kept(tmp_path / "one", rounds=2)
    assert kept(tmp_path / "one", rounds=6) == kept(tmp_path / "other", rounds=6)


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"PK" + data[5:]])
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any) -> None:
    kept(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"0\.npz: cannot be read as the rounds of a search; delete it"):
        kept(tmp_path)
