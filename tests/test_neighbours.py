"""All texts one step away from a hypothesis, against a search through everything on a tiny vocabulary."""

from itertools import pairwise, permutations, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from unembed.neighbours import neighbours

VOCABULARY = 4
STARTS = np.ones(VOCABULARY + 40, dtype=bool)


def everything(count: int) -> np.ndarray:
    return np.tile(np.arange(VOCABULARY), (count, 1))


@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4))
def test_every_text_one_edit_away_and_none_twice(ids: list[int]) -> None:
    found = neighbours(ids, everything(2 * len(ids) + 1), STARTS, np.random.default_rng(0))
    assert len(found) == len(set(found))
    assert not {tuple(ids), ()} & set(found)
    near = {
        text
        for count in range(max(1, len(ids) - 1), len(ids) + 2)
        for text in product(range(VOCABULARY), repeat=count)
        if Levenshtein.distance(ids, text) == 1
    }
    assert near <= set(found)
    # The others are two tokens shorter, or orders of the same words.
    assert all(len(text) == len(ids) - 2 or sorted(text) == sorted(ids) for text in set(found) - near)


def test_any_two_neighbouring_parts_are_exchanged_and_any_two_words() -> None:
    """All that can be had by three cuts, and by an exchange."""
    ids = (10, 11, 12, 13, 14)
    themselves = np.array(ids)[:, None]  # exchanged for what stands there already
    found = set(neighbours(ids, themselves, STARTS, np.random.default_rng(0)))

    def breaks(text: tuple[int, ...]) -> int:
        framed = (9, *text, 15)
        return sum(later != earlier + 1 for earlier, later in pairwise(framed))

    def changed(text: tuple[int, ...]) -> int:
        return sum(new != old for new, old in zip(text, ids, strict=True))

    # Exchanging two neighbouring parts is all that breaks an order in three places.
    expected = {text for text in permutations(ids) if breaks(text) == 3 or changed(text) == 2}
    assert {text for text in found if len(text) == len(ids)} == expected
