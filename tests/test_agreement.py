"""Consensus: what texts have in common, against the metric of the reports."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.decoding.agreement import agreement
from unembed.evaluation.metrics import token_f1

TEXTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=2, max_size=6)


@given(texts=TEXTS)
@settings(deadline=None, max_examples=100)
def test_agreement_is_the_mean_token_f1_with_the_others(texts: list[list[int]]) -> None:
    for number, one in enumerate(texts):
        others = texts[:number] + texts[number + 1 :]
        expected = token_f1([one] * len(others), others).value
        assert agreement(texts)[number] == pytest.approx(expected)


def test_the_text_whose_words_most_others_have_agrees_most() -> None:
    assert agreement([[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 7, 8], [9, 9, 9, 9]]).argmax() == 0
    # A token counts as often as it is there.
    assert agreement([[5, 5, 5], [5, 6, 7]]).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_there_is_nothing_to_agree_with() -> None:
    assert agreement([[1, 2]]).tolist() == [0.0]
    assert agreement([]).tolist() == []
    assert agreement([[], [], [1]]).tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(agreement([[], []])).all()
