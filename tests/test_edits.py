"""Edits: what they change, what they are worth, and that the better are made more often."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_forecast import BASE, SURROGATE, E, around
from test_surrogate import V, linear, unit
from unembed.edits import FIRST, LATER, RARE, Choices, Editor, another_order
from unembed.forecast import CLOSE, FAR, Answers, Forecast, nearness

STARTS = np.array([token % 10 != 8 for token in range(V)])  # tokens 8, 18, ... go on with a word
DOUBTS = np.array([0.1, 0.9, 0.2, 0.5, 0.999999999, 0.0])
BARRED = [5, 6]


def choices() -> Choices:
    """All tokens at every position, each as likely as chance will have it."""
    gains = np.random.default_rng(0).uniform(-5, 0, (len(BASE), V)).astype(np.float32)
    gains[:, BARRED] = -np.inf
    return Choices(np.tile(np.arange(V), (len(BASE), 1)), gains)


def editor(
    cosine: float = 0.9, prior: float = 0.001, length: int = 12, seed: int = 0, found: Choices | None = None
) -> Editor:
    answers = Answers()
    answered = [BASE, *around(3, 30)]
    answers.take(answered, np.stack([unit(linear(list(ids))) for ids in answered]))
    forecast = Forecast(SURROGATE, answers, E, [(BASE, unit(linear(list(BASE))))])
    noise = np.random.default_rng(seed)
    return Editor(forecast, BASE, cosine, DOUBTS, found or choices(), STARTS, length, prior, noise)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), later=st.booleans())
def test_what_each_kind_changes(seed: int, later: bool) -> None:
    edit = editor(seed=seed)
    text = edit.draw() if later else edit.unchanged
    for kind, (found, scores) in edit.pool(text, LATER if later else FIRST).items():
        assert len(found) == len(scores) > 0
        for edited in found:
            before, after = Counter(text.ids), Counter(edited.ids)
            assert len(edited.ids) == len(edited.origin)
            assert edited.ids not in (BASE, text.ids)
            if kind == "exchange":
                assert sum(one != other for one, other in zip(text.ids, edited.ids, strict=True)) == 1
                assert not (after - before).keys() & set(BARRED)
            elif kind == "insert":
                (new,) = (after - before).elements()
                assert not before - after
                assert new not in BARRED
            elif kind == "delete":
                assert not after - before
                assert 0 < len(edited.ids) < len(text.ids)
            else:
                assert after == before
                if text is edit.unchanged:
                    assert sorted(edited.origin) == list(range(len(BASE)))
                for place in range(1, len(edited.ids)):  # words stay whole
                    if not STARTS[edited.ids[place]] and text is edit.unchanged:
                        assert edited.origin[place] == edited.origin[place - 1] + 1


def test_what_likelihood_gains() -> None:
    edit, gains = editor(), choices().gains
    pool = edit.pool(edit.unchanged, FIRST)
    for edited in pool["exchange"][0]:
        (place,) = (n for n, (one, other) in enumerate(zip(BASE, edited.ids, strict=True)) if one != other)
        assert edited.nats == pytest.approx(gains[place, edited.ids[place]])
    for edited in pool["delete"][0]:
        gone = set(range(len(BASE))) - set(edited.origin)
        assert edited.nats == pytest.approx(-sum(np.log(max(1 - DOUBTS[place], 1e-6)) for place in gone))
    for edited in pool["insert"][0]:
        place = edited.origin.index(-1)
        near = [gains[n, edited.ids[place]] + np.log(max(1 - DOUBTS[n], 1e-6)) for n in (place - 1, place) if 0 <= n < 6
                and edited.ids[place] != BASE[n]]  # fmt: skip
        assert edited.nats == pytest.approx(max([*near, RARE]), abs=1e-5)
    assert all(edited.nats == 0 for edited in pool["order"][0])


def test_what_an_edit_promises() -> None:
    edit = editor(prior=0.02)
    for found, scores in edit.pool(edit.unchanged, FIRST).values():
        expected = edit.forecast.cosines([edited.ids for edited in found], BASE)
        np.testing.assert_allclose(scores, expected + [0.02 * edited.nats for edited in found], rtol=1e-6)


def test_drafts_are_mostly_of_the_best_and_differ() -> None:
    edit = editor()
    best = {kind: found[int(np.argmax(scores))].ids for kind, (found, scores) in edit.first.items()}
    drawn = [edit.draw() for _ in range(300)]
    assert len({edited.ids for edited in drawn}) > 20
    assert BASE not in {edited.ids for edited in drawn}
    assert sum(edited.ids in best.values() for edited in drawn) > 15
    promised = edit.forecast.cosines([edited.ids for edited in drawn], BASE)
    whole = np.concatenate([scores for _, scores in edit.first.values()])
    assert np.median(promised) > np.quantile(whole, 0.9)
    again = editor()
    assert [edited.ids for edited in drawn[:9]] == [again.draw().ids for _ in range(9)]


def test_the_best_of_each_kind_that_are_not_known() -> None:
    edit = editor(cosine=0.99)
    best = edit.best(40, lambda ids: False)
    assert len({edited.ids for edited in best}) == len(best) == 40
    for kind, (found, scores) in edit.first.items():
        chosen = [edited for edited in best if edited.kind == kind]
        share = round(40 * edit.shares[kind])
        assert len(chosen) >= min(share, len(found))
        top = {found[n].ids for n in np.argsort(-scores, kind="stable")[: len(chosen)]}
        assert {edited.ids for edited in chosen} == top
    known = {edited.ids for edited in best[::2]}
    others = edit.best(40, known.__contains__)
    assert not known & {edited.ids for edited in others}
    every = edit.best(10**6, lambda ids: False)  # no more than there are
    assert len(every) == sum(len(found) for found, _ in edit.first.values())
    assert edit.best(40, lambda ids: True) == []


def test_words_before_places() -> None:
    assert [nearness(cosine) for cosine in (-1.0, FAR, (FAR + CLOSE) / 2, CLOSE, 1.0)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    far, near = editor(cosine=0.5).shares, editor(cosine=0.99).shares
    assert sum(far.values()) == pytest.approx(1)
    assert sum(near.values()) == pytest.approx(1)
    assert far["exchange"] > near["exchange"]
    assert far["order"] < near["order"]


def test_a_full_canvas_and_a_single_token() -> None:
    assert "insert" not in editor(length=len(BASE)).first
    answers = Answers()
    answers.take([(3,)], unit(linear([3]))[None])
    forecast = Forecast(SURROGATE, answers, E, [((3,), unit(linear([3])))])
    one = Choices(np.arange(V)[None], np.zeros((1, V), np.float32))
    edit = Editor(forecast, (3,), 0.5, DOUBTS[:1], one, STARTS, 4, 0.001, np.random.default_rng(0))
    assert set(edit.first) == {"exchange", "insert"}
    nothing = Choices(np.array([[3]]), np.zeros((1, 1), np.float32))
    edit = Editor(forecast, (3,), 0.5, DOUBTS[:1], nothing, STARTS, 4, 0.001, np.random.default_rng(0))
    assert edit.draw() == edit.unchanged


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 9))
def test_another_order_is_one_of_the_same_words(seed: int, count: int) -> None:
    several = [[place] for place in range(count)]
    found = another_order(several, np.random.default_rng(seed))
    assert sorted(found) == several
