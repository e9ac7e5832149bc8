"""Guided inversion as a user sees it: it finds the very text, spends no more than it may, and goes on after a kill."""

import collections
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch.nn.utils.rnn import pad_sequence

from fakes import LocalEncoder, local_parts, tiny_parts, tiny_texts
from unembed.decoding.inversion import EXACT, Inversion
from unembed.decoding.options import Decoding
from unembed.errors import EncoderError, InputError
from unembed.inverter import Inverter
from unembed.search.beginnings import Beginnings
from unembed.search.gaussian_process import Forecast
from unembed.search.likelihoods import Conditioned
from unembed.search.options import Search, SearchTuning
from unembed.surrogate.bag import Surrogate

PARTS = local_parts()
TEXTS = ["wild horse and dog", "the old cat", *tiny_texts(4, seed=2)[2:]]
E = LocalEncoder().encode(TEXTS)
EASY, HARD = (0, 1), 3  # rows whose text is found with a few hundred calls, and one that takes more
ROUND = SearchTuning().frugal_asked + SearchTuning().frugal_composed  # texts at most, where calls are counted


class Asked(LocalEncoder):
    """Keeps a list of all that it was asked to embed, a list for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[list[str]] = []

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.requests.append(list(texts))
        return super().encode(texts)

    @property
    def texts(self) -> list[str]:
        return list(itertools.chain(*self.requests))


def inverter(encoder: LocalEncoder | None = None) -> Inverter:
    return Inverter(PARTS, encoder or LocalEncoder())


def told(found: Sequence[Inversion]) -> list[tuple]:
    """What two searches that do the same agree in: all but the time, and passes that are made again after a kill."""
    return [
        (one.text, one.ids, one.encoder_calls, pytest.approx(one.cosine, abs=1e-6), told(one.candidates))
        for one in found
    ]


def own_cosine(text: str, e_D: np.ndarray) -> float:
    return float(LocalEncoder().encode([text])[0] @ e_D)


# --- what is found


@pytest.mark.parametrize("row", EASY)
@pytest.mark.parametrize("budget", [{"max_calls": 3000}, {"seconds": 60.0}])
def test_the_very_text_is_found_and_ends_the_search(row: int, budget: dict[str, Any]) -> None:
    encoder = Asked()
    (found,) = inverter(encoder).invert(E[row], first_row=row, **budget)
    assert found.text == TEXTS[row]
    assert found.cosine is not None
    assert found.seconds is not None
    assert found.cosine >= EXACT
    assert 0 < found.encoder_calls == len(encoder.texts) < budget.get("max_calls", math.inf)
    assert 0 < found.seconds < 60
    assert encoder.tokenizer.content(found.ids) == encoder.tokenizer.encode(TEXTS[row])
    assert len(found.tokens) == len(found.confidence)
    assert found.candidates == []


def test_the_best_so_far_gets_better_and_all_that_it_costs_is_counted() -> None:
    encoder = Asked()
    seen, asked = [], []
    for one in inverter(encoder).search(E[HARD], seconds=None, max_calls=200, first_row=HARD):
        seen.append(one)
        asked.append(len(encoder.texts))
    assert len(seen) > 5
    assert [one.encoder_calls for one in seen] == asked
    assert 1 <= asked[0] <= SearchTuning().starts  # the blind candidates
    for column in ("cosine", "encoder_calls", "seconds", "passes"):
        values = [getattr(one, column) for one in seen]
        assert values == sorted(values), column
    assert seen[-1].cosine > seen[0].cosine + 0.03
    assert told(seen[-1:]) == told(inverter().invert(E[HARD], max_calls=200, first_row=HARD))
    (blind,) = inverter().invert(E[3], first_row=HARD)
    assert (blind.encoder_calls, blind.seconds) == (0, None)


def test_no_text_is_asked_about_twice() -> None:
    for seconds, max_calls in ((None, 200), (120.0, None)):
        encoder = Asked()
        for _ in inverter(encoder).search(E[HARD], seconds=seconds, max_calls=max_calls):
            if len(encoder.texts) > 150:  # whatever the machine's speed
                break
        assert len(encoder.texts) == len(set(encoder.texts)) > 150
        rows = list(map(tuple, encoder.tokenizer.encode_batch(encoder.texts)))
        assert len(rows) == len(set(rows))
        assert all(0 < len(row) <= PARTS.config.model.max_tokens for row in rows)


def test_several_candidates_are_the_nearest_best_first() -> None:
    encoder = Asked()
    (found,) = inverter(encoder).invert(E[HARD], max_calls=120, candidates=6)
    assert found.text == found.candidates[0].text
    assert len({one.text for one in found.candidates}) == 6
    every = sorted((own_cosine(text, E[3]) for text in encoder.texts), reverse=True)
    assert [one.cosine for one in found.candidates] == pytest.approx(every[:6], abs=1e-6)


def test_an_encoder_may_answer_with_any_length() -> None:
    class Long(LocalEncoder):
        def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
            return 7 * super().encode(texts)

    assert told(inverter(Long()).invert(E[HARD], max_calls=60)) == told(inverter().invert(E[HARD], max_calls=60))


@pytest.mark.parametrize("texts", [[], [()], [tuple(range(5, 69))]], ids=["none", "empty", "too long"])
def test_without_a_blind_candidate_it_begins_with_single_words(texts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Beginnings, "blind", lambda *_: texts)
    first, *_ = inverter().search(E[HARD], seconds=None, max_calls=60)
    assert len(first.text.split()) == 1
    assert first.cosine == pytest.approx(own_cosine(first.text, E[HARD]), abs=1e-6)


def test_the_shortest_time_gives_the_best_blind_candidate() -> None:
    (found,) = inverter().invert(E[HARD], seconds=1e-6)
    assert found.text
    assert found.encoder_calls > 0
    assert found.cosine == pytest.approx(own_cosine(found.text, E[HARD]), abs=1e-6)


def test_a_search_that_finds_nothing_new_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.search.loop.Searcher._propose", lambda self, parent: {})
    monkeypatch.setattr(Beginnings, "blind", lambda *_: [(20,), (21,)])
    monkeypatch.setattr(Beginnings, "again", lambda *_: [(20,), (21,)])
    (found,) = inverter().invert(E[HARD], max_calls=1000)
    assert found.encoder_calls == 2


def test_a_vector_that_no_text_has_ends_at_its_budget() -> None:
    e_D = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    (found,) = inverter().invert(e_D / np.linalg.norm(e_D), max_calls=100)
    assert found.encoder_calls == 100
    assert found.cosine is not None
    assert found.cosine < 0.9


def test_a_search_that_is_stuck_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """From texts that are made of the words of its nearest hypotheses; what was found before is kept."""
    begun: list[int] = []
    hypotheses: list[list[str]] = []
    plain = Beginnings.again

    def counted(self: Beginnings, times: int, count: int, near: Any, over: Any) -> Any:
        begun.append(times)
        hypotheses.append([self.denoiser.tokenizer.decode(ids) for ids, _ in near])
        return plain(self, times, count, near, over)

    monkeypatch.setattr(Beginnings, "again", counted)
    encoder = Asked()
    *_, found = inverter(encoder).search(E[HARD], search=Search(max_calls=400, tuning=SearchTuning(patience=1)))
    assert begun == list(range(1, len(begun) + 1))
    assert len(begun) > 1
    assert {text for texts in hypotheses for text in texts} <= set(encoder.texts)
    nearest = [max(own_cosine(text, E[HARD]) for text in texts) for texts in hypotheses]
    assert nearest == sorted(nearest)  # what was near once is told again
    assert found.cosine == pytest.approx(max(own_cosine(text, E[HARD]) for text in encoder.texts), abs=1e-6)


def test_a_stuck_search_asks_about_many_changes_of_its_nearest_hypothesis() -> None:
    """Where seconds are what is scarce: a round of many texts, all near the best one."""
    tuning = SearchTuning(patience=1, asked=4, composed=2, explorations=1, widened_asked=60)
    encoder = Asked()
    rounds = inverter(encoder).search(E[HARD], search=Search(seconds=60.0, tuning=tuning))
    sizes, before = [], 0
    for _ in rounds:
        sizes.append(len(encoder.texts) - before)
        before = len(encoder.texts)
        if sizes[-1] > 40:
            break
    assert max(sizes[:-1]) <= 16
    assert 40 < sizes[-1] <= 62 + SearchTuning().admitted


def test_a_word_that_the_forecast_is_wrong_about_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the forecast alone no text with it ever would be."""
    encoder = Asked()
    assert "learned" in TEXTS[HARD]
    (token, *_), foreseen = encoder.tokenizer.encode("learned"), Forecast.embeddings

    def wrong(self: Forecast, texts: Sequence[Sequence[int]]) -> np.ndarray:
        signs = [-1 if token in ids else 1 for ids in texts]
        return np.array(signs, np.float32)[:, None] * foreseen(self, texts)

    monkeypatch.setattr(Forecast, "embeddings", wrong)
    search = inverter(encoder).search(E[HARD], seconds=None, max_calls=150, first_row=HARD)
    next(search)
    assert not any("learned" in text.split() for text in encoder.texts)
    collections.deque(search, 0)
    assert any("learned" in text.split() for text in encoder.texts)


def test_it_begins_again_from_the_words_that_it_is_told_and_not_when_time_is_over() -> None:
    """The words of the hypotheses come back more often than others, the length is about theirs."""
    denoiser = Conditioned(PARTS.denoiser, PARTS.tokenizer, E[HARD])
    surrogate = Surrogate(PARTS.denoiser.table.weight, PARTS.surrogate)
    beginnings = Beginnings(denoiser, surrogate, Decoding(steering=0.0), SearchTuning(), row=0)
    for row in EASY:
        ids = tuple(PARTS.tokenizer.encode(TEXTS[row]))
        near = [(ids, E[row]), (ids[::-1], E[row])]
        found = beginnings.again(1, 16, near, over=lambda: False)
        assert all(0 < len(one) <= len(ids) + 4 for one in found)
        commonest = collections.Counter(i for one in found for i in one).most_common(len(set(ids)) - 1)
        assert {i for i, _ in commonest} < set(ids)
        assert found == beginnings.again(1, 16, near, over=lambda: False)
        assert found != beginnings.again(2, 16, near, over=lambda: False)
        assert beginnings.again(1, 16, near, over=lambda: True) == []


# --- what it costs


@pytest.mark.parametrize("most", [1, 3, 8, 9, 61])
def test_no_more_calls_than_allowed(most: int) -> None:
    encoder = Asked()
    (found,) = inverter(encoder).invert(E[HARD], max_calls=most)
    assert found.encoder_calls == len(encoder.texts) == most


def test_a_rows_result_depends_on_its_number_and_the_seed_alone() -> None:
    together = inverter().invert(E[1:4], max_calls=50)
    assert told(inverter().invert(E[1:4], max_calls=50, batch_size=1)) == told(together)
    assert told(inverter().invert(E[HARD], max_calls=50, first_row=2)) == told(together[2:])
    assert told(inverter().invert(E[HARD], max_calls=50, first_row=1)) != told(together[2:])
    assert told(inverter().invert(E[HARD], max_calls=50, first_row=2, seed=1)) != told(together[2:])


def test_numpy_has_one_thread_while_a_search_works_and_as_many_as_before_between_rounds() -> None:
    """Its threads would wait in a busy loop on the cores that torch needs."""

    def threads() -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    class Looks(LocalEncoder):
        def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
            seen.append(threads())
            return super().encode(texts)

    seen: list[set[int]] = []
    with threadpool_limits(2, user_api="blas"):
        search = inverter(Looks()).search(E[HARD], max_calls=40)
        for _ in search:
            assert threads() == {2}
    assert len(seen) > 1
    assert set.union(*seen) == {1}


def test_it_ends_in_time() -> None:
    class Slow(LocalEncoder):
        def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
            time.sleep(0.004 * len(texts))
            return super().encode(texts)

    started = time.perf_counter()
    (found,) = inverter(Slow()).invert(E[HARD], seconds=0.7)
    took = time.perf_counter() - started
    assert found.seconds is not None
    assert 0.7 <= found.seconds <= took < 0.7 + 64 * 0.004 + 1.5  # the answer to a request is waited for
    assert found.encoder_calls < 0.7 / 0.004 + 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds is 0, expected more than 0"),
        ({"seconds": -1.0}, "seconds is -1.0, expected more than 0"),
        ({"seconds": math.nan}, "seconds is nan, expected more than 0"),
        ({"seconds": math.inf}, "seconds is inf, expected more than 0"),
        ({"max_calls": 0}, "max_calls is 0, expected at least 1"),
        ({"max_calls": -3, "seconds": 1.0}, "max_calls is -3, expected at least 1"),
    ],
)
def test_impossible_searches_are_refused(options: dict[str, Any], message: str) -> None:
    for call in (
        lambda: inverter().invert(np.zeros((0, 64), np.float32), **options),
        lambda: inverter().search(E[0], **options),
        lambda: Search(**options),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


def test_what_a_search_needs() -> None:
    assert inverter().invert(np.zeros((0, 64), np.float32), seconds=1.0) == []
    bare = Inverter(tiny_parts(), None)
    for call in (bare.invert, bare.search):
        with pytest.raises(InputError, match="this inverter has no surrogate, which a guided inversion needs"):
            call(np.ones(16, np.float32) / 4, seconds=1.0)
    with pytest.raises(InputError, match="seconds and max_calls are both None"):
        Search()


# --- encoders that fail


class Wrong(LocalEncoder):
    """Answers the first requests as it should, and later ones with something that is no embedding of the texts."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil, self.honest = spoil, 2

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.honest -= 1
        answer = super().encode(texts)
        return answer if self.honest >= 0 else self.spoil(answer)


def gone(_: np.ndarray) -> np.ndarray:
    raise EncoderError("the encoder is gone")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:, :8], r"answered with embeddings of shape \(\d+, 8\), expected \(\d+, 64\)"),
        (lambda rows: rows[:-1], r"answered with embeddings of shape \(\d+, 64\), expected"),
        (lambda rows: rows * np.nan, "zero or not finite"),
        (lambda rows: rows * np.float32(np.inf), "zero or not finite"),
        (lambda rows: rows * 0, "zero or not finite"),
        (gone, "the encoder is gone"),
    ],
)
def test_an_encoder_that_fails_on_the_way(spoil: Any, message: str) -> None:
    for budget in ({"max_calls": 100}, {"seconds": 20.0}):
        with pytest.raises(EncoderError, match=message) as caught, np.errstate(invalid="ignore"):
            inverter(Wrong(spoil)).invert(E[HARD], **budget)
        assert "\n" not in str(caught.value)


# --- a fast lane that errs


class Noisy:
    """Answers for token ids with embeddings that are a little wrong, always in the same way."""

    error = 1e-2

    def __init__(self, encoder: LocalEncoder) -> None:
        self.encoder, self.asked = encoder, 0

    def embed(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        self.asked += len(rows)
        lengths = torch.tensor([len(ids) for ids in rows])
        ids = pad_sequence([torch.tensor(ids) for ids in rows], batch_first=True)
        e = self.encoder.encode_tokens(ids, lengths).numpy()
        wrong = np.stack([np.random.default_rng(hash(tuple(ids)) % 2**32).standard_normal(64) for ids in rows])
        e += 0.01 * wrong.astype(np.float32)
        return e / np.linalg.norm(e, axis=1, keepdims=True)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Noisy]]:
    made: list[Noisy] = []

    def lane(encoder: Any, tokenizer: Any) -> Noisy:
        made.append(Noisy(encoder))
        return made[-1]

    monkeypatch.setattr("unembed.inverter.inverter.fast_lane", lane)
    return made


def test_the_cosine_is_the_encoders_own(lanes: list[Noisy]) -> None:
    encoder = Asked()
    seen = list(inverter(encoder).search(E[0], seconds=60.0, candidates=3))
    for one in seen:
        for each in (one, *one.candidates):
            assert each.cosine == pytest.approx(own_cosine(each.text, E[0]), abs=1e-6)
    cosines = [one.cosine for one in seen]
    assert cosines == sorted(cosines)
    assert seen[-1].text == TEXTS[0]
    assert seen[-1].cosine >= EXACT
    (lane,) = lanes
    assert 0 < len(encoder.texts) < lane.asked
    assert seen[-1].encoder_calls == lane.asked + len(encoder.texts)


def test_where_calls_are_counted_the_encoder_itself_is_asked(lanes: list[Noisy]) -> None:
    encoder = Asked()
    (found,) = inverter(encoder).invert(E[HARD], max_calls=40, seconds=60.0)
    assert not lanes
    assert found.encoder_calls == len(encoder.texts) == 40


# --- stopped and continued


class Stopping(Asked):
    """Does not survive more than so many requests."""

    def __init__(self, requests: int) -> None:
        super().__init__()
        self.left = requests

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode(texts)


OPTIONS: dict[str, Any] = {"max_calls": 80, "candidates": 2, "seed": 3}


@pytest.fixture(scope="module")
def whole() -> tuple[list[tuple], Asked]:
    encoder = Asked()
    return told(inverter(encoder).invert(E[2:4], **OPTIONS)), encoder


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_stopped_in_any_round_and_continued_equals_never_stopped(
    tmp_path: Path, share: float, whole: tuple[list[tuple], Asked]
) -> None:
    expected, never = whole
    stopping, again = Stopping(int(share * len(never.requests))), Asked()
    with pytest.raises(KeyboardInterrupt):
        inverter(stopping).invert(E[2:4], **OPTIONS, search=Search(max_calls=80, journal_folder=tmp_path))
    assert (
        told(inverter(again).invert(E[2:4], **OPTIONS, search=Search(max_calls=80, journal_folder=tmp_path)))
        == expected
    )
    repeated = len(stopping.texts) + len(again.texts) - len(never.texts)
    assert 0 <= repeated <= ROUND
    # Once more: all is known.
    third = Asked()
    assert (
        told(inverter(third).invert(E[2:4], **OPTIONS, search=Search(max_calls=80, journal_folder=tmp_path)))
        == expected
    )
    assert third.texts == []


def test_time_that_was_spent_is_not_given_back(tmp_path: Path) -> None:
    (found,) = inverter().invert(E[HARD], search=Search(0.5, journal_folder=tmp_path))
    again = Asked()
    (same,) = inverter(again).invert(E[HARD], search=Search(0.5, journal_folder=tmp_path))
    assert (same.text, same.encoder_calls, again.texts) == (found.text, found.encoder_calls, [])
    assert same.seconds is not None
    assert same.seconds >= 0.5


@pytest.mark.parametrize(
    "changed", [{"seed": 4}, {"max_calls": 70}, {"candidates": 1}, {"seconds": 90.0}, {"steering": 0.0}]
)
def test_another_search_does_not_go_on_from_it(tmp_path: Path, changed: dict[str, Any]) -> None:
    inverter().invert(E[HARD], **OPTIONS, search=Search(max_calls=80, journal_folder=tmp_path))
    found = inverter().invert(E[HARD], **(OPTIONS | changed), search=Search(max_calls=80, journal_folder=tmp_path))
    assert told(found) == told(inverter().invert(E[HARD], **(OPTIONS | changed)))


def test_another_version_does_not_go_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("unembed.search.journal.FORMAT", 1)
        inverter().invert(E[HARD], search=Search(max_calls=40, journal_folder=tmp_path))
    encoder = Asked()
    inverter(encoder).invert(E[HARD], search=Search(max_calls=40, journal_folder=tmp_path))
    assert len(encoder.texts) == 40


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"PK" + data[5:]])
def test_a_damaged_journal_is_named_in_one_line(tmp_path: Path, damage: Any) -> None:
    inverter().invert(E[HARD], search=Search(max_calls=40, journal_folder=tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"0\.npz: cannot be read as a search; delete it to search anew") as caught:
        inverter().invert(E[HARD], search=Search(max_calls=40, journal_folder=tmp_path))
    assert "\n" not in str(caught.value)
