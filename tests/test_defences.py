"""What a store may do to an embedding, and what `runs/defences.py` says that it costs."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fakes import fake_encoder, tiny_config, tiny_texts

RUNS = Path(__file__).parents[1] / "runs"
TEXTS = tiny_texts(60, seed=1)


@pytest.fixture(scope="module")
def defences() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RUNS / "defences.py")))


def vectors(n: int = 200, dimension: int = 384) -> np.ndarray:
    e = np.random.default_rng(0).standard_normal((n, dimension)).astype(np.float32)
    return e / np.linalg.norm(e, axis=1, keepdims=True)


def test_noise_has_its_deviation_on_each_number(defences: SimpleNamespace) -> None:
    e = vectors()
    changed = defences.DEFENCES["noise of .05"](e, np.random.default_rng(1)) - e
    assert changed.std() == pytest.approx(0.05, rel=0.02)
    # After rescaling, the cosine is 1 / sqrt(1 + d sigma^2) in the mean.
    kept = (defences.protect(e, "noise of .05", 1) * e).sum(1).mean()
    assert kept == pytest.approx((1 + 384 * 0.05**2) ** -0.5, abs=0.01)


def test_one_bit_keeps_signs_and_dropping_the_first_numbers(defences: SimpleNamespace) -> None:
    e = vectors()
    assert np.array_equal(np.sign(e), defences.DEFENCES["1 bit"](e, np.random.default_rng(1)))
    assert np.array_equal(defences.dropping(0.75)(e, np.random.default_rng(1)), np.pad(e[:, :96], ((0, 0), (0, 288))))


def test_every_defence_gives_unit_vectors_and_the_same_ones_again(defences: SimpleNamespace) -> None:
    e = vectors(20)
    for name in defences.DEFENCES:
        kept = defences.protect(e, name, 3)
        assert kept.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(kept, axis=1), 1, rtol=1e-5)
        assert np.array_equal(kept, defences.protect(e, name, 3))
    assert np.allclose(defences.protect(e, "none", 3), e, atol=1e-7)


def test_neighbours_agree_with_a_search_by_hand(defences: SimpleNamespace) -> None:
    e = vectors(40, 8)
    kept = defences.protect(e, "noise of .1", 0)

    def kept_share(texts: np.ndarray, store: np.ndarray) -> float:
        return float(defences.overlap(defences.neighbours(texts, texts), defences.neighbours(texts, store)))

    shares = []
    for i in range(len(e)):
        others = [j for j in range(len(e)) if j != i]
        clean = sorted(others, key=lambda j: -float(e[i] @ e[j]))[:10]
        found = sorted(others, key=lambda j: -float(e[i] @ kept[j]))[:10]
        shares.append(len(set(clean) & set(found)) / 10)
    assert kept_share(e, kept) == pytest.approx(np.mean(shares))
    assert 0 < np.mean(shares) < 1
    assert kept_share(e, e) == 1


class Lookup:
    """Inverts by looking up the nearest of the known texts."""

    def __init__(self) -> None:
        self.encoder = fake_encoder()
        self.tokenizer, self.encode = self.encoder.tokenizer, self.encoder.encode
        self.length = tiny_config().model.max_tokens
        self.known = self.encode(TEXTS)
        self.asked: list[dict[str, Any]] = []

    def invert(self, e: np.ndarray, **options: Any) -> list[SimpleNamespace]:
        self.asked.append(options)
        found = [TEXTS[row] for row in (e @ self.known.T).argmax(1)]
        return [
            SimpleNamespace(text=text, ids=self.tokenizer.canvas(self.tokenizer.encode(text), self.length))
            for text in found
        ]


def test_the_script_compares_with_the_embeddings_as_they_were(
    defences: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverter = Lookup()
    given = SimpleNamespace(from_pretrained=lambda *_, **__: inverter)
    monkeypatch.setitem(defences.main.callback.__globals__, "Inverter", given)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    options = [
        "--texts",
        str(tmp_path / "texts.txt"),
        "--tokens",
        "natural",
        "--limit",
        "20",
        "--defence",
        "none",
        "--defence",
        "noise of .1",
    ]
    result = CliRunner().invoke(defences.main, options)
    assert result.exit_code == 0, result.output
    none, noisy = ([cell.strip() for cell in line.split("|")[2:-1]] for line in result.stdout.splitlines()[-2:])
    assert none[:2] == ["1.000", "1.00"]
    assert none[2:] == ["1.000 [1.000, 1.000]", "1.000 [1.000, 1.000]", "100.0 [100.0, 100.0]", "1.000 [1.000, 1.000]"]
    assert 0.8 < float(noisy[0]) < 0.99
    assert float(noisy[1]) < 1
    assert inverter.asked == [{"seconds": None, "max_calls": None, "seed": 0}] * 2
    CliRunner().invoke(defences.main, [*options, "--max-calls", "30", "--seconds", "2"], catch_exceptions=False)
    assert inverter.asked[2:] == [{"seconds": 2.0, "max_calls": 30, "seed": 0}] * 2
