"""Attackers: what each asks, what its search begins with, and what is told of what came back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fakes import FakeEncoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.attack import BLINDLY
from unembed.inverter import Inverter
from unembed.search import BLACK_BOX, BLIND

TEXTS = tiny_texts(8, seed=3)
PARTS = tiny_parts()._replace(surrogate=tiny_surrogate())


class Witness(FakeEncoder):
    """The fake encoder with a list of all that it was asked to embed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.asked += texts
        return super().encode(texts, batch_size)


def embeddings() -> np.ndarray:
    return FakeEncoder().encode(TEXTS)


def test_a_blind_search_asks_the_encoder_nothing() -> None:
    encoder = Witness()
    found = Inverter(PARTS, encoder).invert(embeddings(), rounds=4, attacker=BLIND, measure_cosine=False)
    assert not encoder.asked
    assert {one.encoder_calls for one in found} == {0}
    assert {one.cosine for one in found} == {None}


def test_a_blind_search_comes_nearer_than_blind_candidates_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLINDLY, "prior", 0.0)  # this denoiser's is worth nothing
    inverter = Inverter(PARTS, FakeEncoder())
    means = []
    for rounds in (0, 8):
        options: dict[str, Any] = {"candidates": 8, "attacker": BLIND, "rounds": rounds}
        found = [one for seed in range(2) for one in inverter.invert(embeddings(), **options, seed=seed)]
        means.append(np.mean([one.cosine for one in found]))
    assert means[1] > means[0] + 0.02


def test_the_cosines_told_of_a_blind_search_are_the_encoders() -> None:
    """Measured afterwards, and no encoder calls of the inversion."""
    encoder = Witness()
    inverter = Inverter(PARTS, encoder)
    (found,) = inverter.invert(embeddings()[0], rounds=2, attacker=BLIND, candidates=3)
    assert len(found.candidates) == 3
    assert found.candidates[0].text == found.text
    for one in found.candidates:
        (vector,) = FakeEncoder().encode([one.text])
        assert one.cosine == pytest.approx(float(vector @ embeddings()[0] / np.linalg.norm(vector)), abs=1e-5)
        assert one.encoder_calls == 0
    assert set(encoder.asked) == {one.text for one in found.candidates}
    *_, last = inverter.search(embeddings()[0], rounds=2, attacker=BLIND, candidates=3)
    assert last == found


def test_a_row_of_a_blind_search_depends_on_its_number_and_the_seed_alone() -> None:
    inverter = Inverter(PARTS, FakeEncoder())
    together = inverter.invert(embeddings(), rounds=2, attacker=BLIND)
    (alone,) = inverter.invert(embeddings()[5:6], rounds=2, attacker=BLIND, first_row=5)
    assert alone == together[5]


def test_a_search_asks_no_more_than_the_calls_that_it_counts() -> None:
    encoder = Witness()
    found = Inverter(PARTS, encoder).invert(embeddings()[:2], rounds=1, attacker=BLACK_BOX, max_calls=4)
    assert sum(one.encoder_calls for one in found) == len(encoder.asked) <= 8
