"""Edits by index operations: what they give against the same edits of lists."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from unembed.objective import edits
from unembed.objective.edits import DELETION, EXCHANGE, INSERTION, MOVE, NOTHING, SWAP, edited, sources

MASK, EOS, PAD = 99, 1, 0
ENDS = EOS, PAD
LENGTH = 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def canvases(counts: list[int]) -> Tensor:
    """Texts of so many tokens, all different."""
    rows = [(list(range(10, 10 + count)) + [EOS] + [PAD] * LENGTH)[:LENGTH] for count in counts]
    return torch.tensor(rows)


def content(row: list[int]) -> list[int]:
    stop = next((place for place, token in enumerate(row) if token in ENDS), len(row))
    assert row[stop:] == ([EOS] + [PAD] * LENGTH)[: LENGTH - stop]
    return row[:stop]


def by_hand(text: list[int], kind: int, first: int, second: int, turn: int) -> list[int]:
    low, high = sorted((first, second))
    if kind == SWAP:
        text = [*text]
        text[first], text[second] = text[second], text[first]
    elif kind == MOVE:
        block, turn = text[low : high + 1], turn % (high + 1 - low)
        text = text[:low] + block[turn:] + block[:turn] + text[high + 1 :]
    elif kind == INSERTION:
        text = [*text[:first], MASK, *text[first:]]
    elif kind == DELETION:
        text = text[:first] + text[first + 1 :]
    return text


@pytest.mark.parametrize("kind", [NOTHING, SWAP, MOVE, INSERTION, DELETION, EXCHANGE])
def test_an_edit_does_what_it_does_to_a_list(kind: int) -> None:
    text = list(range(10, 10 + LENGTH))
    places = torch.cartesian_prod(*[torch.arange(LENGTH)] * 3).split(1, dim=1)
    found = torch.tensor(text)[sources(torch.full_like(places[0], kind), *places, LENGTH)]
    for row, *several in zip(found.tolist(), *(place.flatten().tolist() for place in places), strict=True):
        expected = by_hand(text, kind, *several)
        rest = len(row) if kind != INSERTION else several[0]
        assert row[:rest] == (expected + text[-1:])[:LENGTH][:rest]
        assert row[rest + 1 :] == expected[rest + 1 : LENGTH]  # what stands where a mask shall is not told


def test_texts_stay_texts() -> None:
    canvas = canvases([1, 2, 5, LENGTH] * 500)
    seen, barred = edited(canvas, MASK, ENDS, seeded())
    lengths = Counter()
    for row, true in zip(seen.tolist(), canvas.tolist(), strict=True):
        text, before = content(row), content(true)
        assert text
        assert not Counter(token for token in text if token != MASK) - Counter(before)
        lengths[len(before), len(text)] += 1
    assert {long for short, long in lengths if short == 5} >= {2, 3, 4, 6, 7}  # 5 of several kinds
    masked = seen == MASK
    assert (barred[masked] != MASK).all()
    assert torch.isin(barred[masked], torch.cat([canvas.unique()])).all()
    changed = (seen != canvas).any(1).float().mean()
    assert changed > 0.9


def test_where_a_token_was_exchanged_it_is_barred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "EXCHANGES", 10_000)  # nothing else
    canvas = canvases([LENGTH] * 400)
    seen, barred = edited(canvas, MASK, ENDS, seeded())
    assert torch.equal(barred, canvas)
    assert torch.equal(seen, torch.where(seen == MASK, MASK, canvas))
    exchanged = (seen == MASK).sum(1)
    assert (exchanged.min(), exchanged.max()) == (1, 4)


def test_every_kind_is_drawn_and_the_number_of_edits_varies() -> None:
    """With one edit of a row: how often each kind changes it as only that kind does."""
    seen, _ = edited(canvases([LENGTH - 1] * 4000), MASK, ENDS, seeded())
    shares = Counter()
    for row in seen.tolist():
        text = content(row)
        whole = sorted(text) == list(range(10, 10 + LENGTH - 1))
        masks = text.count(MASK)
        shares["order"] += whole and text != sorted(text)
        shares["deletion"] += not masks and len(text) == LENGTH - 2
        shares["insertion"] += masks == 1 and len(text) == LENGTH
        shares["exchange"] += masks == 1 and len(text) == LENGTH - 1
    assert min(shares.values()) > 100
    assert shares["exchange"] > shares["insertion"] > 0


def test_a_text_is_edited_alike_whatever_stands_beside_it() -> None:
    one, other = canvases([5, 6, 7, 8]), canvases([5, 2, 3, 8])
    for before, after in zip(edited(one, MASK, ENDS, seeded()), edited(other, MASK, ENDS, seeded()), strict=True):
        assert torch.equal(before[[0, 3]], after[[0, 3]])
    again, _ = edited(one, MASK, ENDS, seeded(1))
    assert not torch.equal(again, edited(one, MASK, ENDS, seeded())[0])
