"""The fast lane of the real encoder answers as the encoder does, for rows of any length, in their order."""

from typing import Any

import numpy as np
import pytest
import torch

from fakes import tiny_texts
from unembed.encoders.encoder import TransformerEncoder
from unembed.encoders.fast_batches import ROWS, FastEncoder
from unembed.search.encoder_calls import fast_lane

TEXTS = [*tiny_texts(12), "cat", "a much longer text about rivers, kings and ships that goes on and on " * 2, "no."]


@pytest.fixture
def texts_and_rows(minilm: TransformerEncoder) -> tuple[list[str], list[list[int]]]:
    return TEXTS, minilm.tokenizer.encode_batch(TEXTS)


def test_in_float32_it_is_exact(
    minilm: TransformerEncoder, monkeypatch: pytest.MonkeyPatch, texts_and_rows: tuple[list[str], list[list[int]]]
) -> None:
    monkeypatch.setattr("unembed.encoders.fast_batches.slowdown", lambda: 2.0)
    texts, rows = texts_and_rows
    lane = FastEncoder(minilm)
    assert lane.error == 0
    calls = minilm.calls
    found = lane.embed(rows)
    assert minilm.calls == calls + len(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, minilm.encode(texts), atol=1e-5)
    assert len({len(row) for row in rows}) > 3
    backwards = lane.embed(rows[::-1])
    np.testing.assert_allclose(backwards[::-1], found, atol=1e-5)
    assert lane.embed([]).shape == (0, minilm.recipe.dimension)


def test_in_bfloat16_it_errs_by_no_more_than_it_says(
    minilm: TransformerEncoder, monkeypatch: pytest.MonkeyPatch, texts_and_rows: tuple[list[str], list[list[int]]]
) -> None:
    monkeypatch.setattr("unembed.encoders.fast_batches.slowdown", lambda: 0.5)
    texts, rows = texts_and_rows
    lane, exact = FastEncoder(minilm), minilm.encode(texts)
    found = lane.embed(rows)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert 0 < np.abs((found @ exact.T) - (exact @ exact.T)).max() < 5 * lane.error
    assert (1 - (found * exact).sum(1)).max() < lane.error
    assert {parameter.dtype for parameter in minilm.network.parameters()} == {torch.float32}  # the encoder's own stays


def test_many_rows_are_embedded_batch_by_batch(minilm: TransformerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.encoders.fast_batches.slowdown", lambda: 2.0)
    lane, sizes = FastEncoder(minilm), []

    def seen(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
        sizes.append((tuple(input_ids.shape), attention_mask is None))
        return minilm.network(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(lane, "_network", seen)
    (cat,), (two,) = (minilm.tokenizer.encode_batch([text]) for text in ("cat", "a cat"))
    found = lane.embed([*[cat] * (ROWS + 3), two])
    # The shortest rows need no mask, and only what is left is padded.
    assert sizes == [((ROWS, len(cat) + 2), True), ((4, len(two) + 2), False)]
    np.testing.assert_allclose(found[: ROWS + 3], np.repeat(found[:1], ROWS + 3, 0), atol=1e-6)
    np.testing.assert_allclose(found[-1], minilm.encode(["a cat"])[0], atol=1e-5)


def test_only_local_transformers_have_one(minilm: TransformerEncoder, fake: object) -> None:
    assert isinstance(fast_lane(minilm), FastEncoder)
    assert fast_lane(fake) is None  # type: ignore[arg-type]
