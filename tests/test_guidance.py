"""Guided inversion: it climbs, counts what it asks, stops when it may ask no more, and finds the very text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import FakeEncoder, small_denoiser, taught, tiny_denoiser, tiny_parts, tiny_surrogate, tiny_texts
from unembed.encoder import load_encoder
from unembed.errors import EncoderError, InputError
from unembed.forecast import FAR
from unembed.guidance import Guide
from unembed.inverter import Inverter
from unembed.search import BLACK_BOX, EXACT, WHITE_BOX, Differentiable, Row, Search
from unembed.surrogate import Surrogate

TEXTS = tiny_texts(6)
PARTS = tiny_parts()
SURROGATE = Surrogate(PARTS.denoiser.table.weight, tiny_surrogate())
TAUGHT = Surrogate(PARTS.denoiser.table.weight, taught(tiny_surrogate()))


class OpenEncoder(FakeEncoder):
    """The fake encoder with its gradient, and a list of all that it was asked to embed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.gradients = 0

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.asked += texts
        return super().encode(texts, batch_size)

    @property
    def token_table(self) -> Tensor:
        return self.network.table.weight

    def cosine_gradient(self, ids: Tensor, lengths: Tensor, e: Tensor) -> Tensor:
        """By hand: tanh of a sum of token vectors scaled by place, then the cosine."""
        self.gradients += len(ids)
        framed = torch.cat([torch.full((len(ids), 1), self.tokenizer.prefix_ids[0]), ids], dim=1)
        known = torch.arange(framed.shape[1]) <= lengths[:, None]
        vectors = self.network.table(framed).detach().requires_grad_()
        total = (vectors * (1.0 + self._places[: framed.shape[1]]) * known.unsqueeze(-1)).sum(1)
        cosine = torch.nn.functional.cosine_similarity(torch.tanh(total / 3.0), e, dim=-1)
        (gradient,) = torch.autograd.grad(cosine.sum(), vectors)
        return gradient[:, 1:]


def guide(
    encoder: Any,
    texts: Sequence[str] = TEXTS,
    first_row: int = 0,
    surrogate: Surrogate | None = None,
    **options: Any,
) -> Guide:
    """A search for texts, from starts that have nothing to do with them."""
    e_BD = FakeEncoder().encode(texts)
    starts = [["the cat", "a dog watches every river", "x y z"]] * len(texts)
    search = Search(**{"attacker": BLACK_BOX, "rounds": 5, "pull": 20.0, **options})
    return Guide(PARTS.denoiser, PARTS.tokenizer, encoder, e_BD, starts, search, first_row, surrogate)


def finished(encoder: Any, texts: Sequence[str] = TEXTS, **options: Any) -> list[Row]:
    *_, rows = guide(encoder, texts, **options).run()
    return rows


def best_texts(rows: Sequence[Row]) -> list[str]:
    return [row.beam[0].text for row in rows]


@pytest.mark.parametrize("surrogate", [None, SURROGATE, TAUGHT], ids=["alone", "surrogate", "student"])
@pytest.mark.parametrize("attacker", [BLACK_BOX, WHITE_BOX])
def test_the_best_gets_better_and_every_call_is_counted(attacker: str, surrogate: Surrogate | None) -> None:
    encoder = OpenEncoder()
    best, calls = [], []
    for rows in guide(encoder, rounds=8, attacker=attacker, surrogate=surrogate).run():
        best.append([row.beam[0].score for row in rows])
        calls.append(sum(row.calls for row in rows))
        assert calls[-1] == len(encoder.asked) + encoder.gradients
    assert len(best) == 9
    assert (np.diff(best, axis=0) >= 0).all()
    assert np.mean(best[-1]) > np.mean(best[0]) + 0.15
    assert calls[0] == 3 * len(TEXTS)  # the starts
    assert (encoder.gradients > 0) == (attacker == WHITE_BOX)
    for row in rows:
        assert [h.score for h in row.beam] == sorted((h.score for h in row.beam), reverse=True)
        for found in row.beam:
            (vector,) = FakeEncoder().encode([found.text])
            assert found.cosine == pytest.approx(float(vector @ row.e), abs=1e-5)
            assert list(found.ids) == PARTS.tokenizer.encode(found.text)
            assert len(found.doubts) == len(found.ids)


def test_no_text_is_embedded_twice_for_an_embedding() -> None:
    encoder = OpenEncoder()
    finished(encoder, TEXTS[:1], rounds=10)
    assert len(encoder.asked) == len(set(encoder.asked))


def test_the_very_text_is_found_and_ends_the_search() -> None:
    texts = ["the old cat", "a bird"]
    encoder = OpenEncoder()
    indifferent = tiny_denoiser(0.0)  # finds every token about as likely, so that the encoder alone decides
    search = Search(rounds=200, attacker=WHITE_BOX, prior=0.0, pull=20.0)
    *_, rows = Guide(indifferent, PARTS.tokenizer, encoder, encoder.encode(texts), [["the cat"]] * 2, search).run()
    assert best_texts(rows) == texts
    assert all(row.exact and row.beam[0].cosine >= EXACT for row in rows)
    assert all(row.rounds < 200 for row in rows)


def test_the_gradient_helps() -> None:
    """At the same number of calls, over many texts."""
    texts = tiny_texts(16, seed=5)
    means = [
        np.mean([row.beam[0].cosine for row in finished(OpenEncoder(), texts, max_calls=50, rounds=99, **options)])
        for options in ({"attacker": BLACK_BOX}, {"attacker": WHITE_BOX})
    ]
    assert means[1] > means[0]


def test_the_surrogate_helps_and_learns() -> None:
    """At the same number of calls, over many texts."""
    texts = tiny_texts(16, seed=5)
    options = {"max_calls": 40, "rounds": 99}
    without = finished(OpenEncoder(), texts, **options)
    rows = finished(OpenEncoder(), texts, surrogate=SURROGATE, **options)
    assert np.mean([row.beam[0].cosine for row in rows]) > np.mean([row.beam[0].cosine for row in without])
    for row in rows:
        assert len(row.answers.texts) == row.calls
        assert row.beam[0].cosine == pytest.approx((row.answers.e_ND @ row.e).max(), abs=0.02)
        assert set(row.answers.texts) >= {h.ids for h in row.beam}
    assert not any(row.answers.texts for row in without)


def test_proposals_beyond_the_drafts_are_edits_that_cost_no_pass() -> None:
    """Where so many differ at all: of a text of few words in the small vocabulary there are not always enough."""
    texts, options = tiny_texts(6, seed=5), {"rounds": 3, "surrogate": SURROGATE}
    few, many = (finished(OpenEncoder(), texts, proposals=proposals, **options) for proposals in (16, 100))
    assert max(row.calls for row in few) <= 3 + 3 * 16
    assert min(row.calls for row in many) > 3 * 28
    assert max(row.calls for row in many) <= 3 + 3 * 100
    per_call = [sum(row.passes for row in rows) / sum(row.calls for row in rows) for rows in (few, many)]
    assert per_call[1] < 0.5 * per_call[0]
    assert np.mean([row.beam[0].cosine for row in many]) > np.mean([row.beam[0].cosine for row in few])


def test_the_student_chooses_of_more_edits_than_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost neither passes nor calls; far from the embedding there are none of them."""
    counts: list[tuple[int, float]] = []  # of each proposal, and the cosine then
    plain = Guide._spare

    def spare(guide: Guide, number: int, *known: Any) -> list[Any]:
        found = plain(guide, number, *known)
        counts.append((len(found), guide.rows[number].beam[0].cosine))
        return found

    monkeypatch.setattr(Guide, "_spare", spare)
    options: dict[str, Any] = {"rounds": 14, "max_calls": 210}
    rows = finished(OpenEncoder(), surrogate=TAUGHT, **options)
    assert max(row.calls for row in rows) <= 210
    assert all(row.answers.told_ND is not None and len(row.answers.told_ND) == row.calls for row in rows)
    assert max(count for count, _ in counts) > 10
    assert {count for count, cosine in counts if cosine < FAR} == {0}
    counts.clear()
    finished(OpenEncoder(), surrogate=TAUGHT, spare=0, **options)
    rows = finished(OpenEncoder(), surrogate=SURROGATE, **options)
    assert {count for count, _ in counts} == {0}
    assert not any(row.answers.told_ND is not None for row in rows)


@pytest.mark.parametrize("attacker", [BLACK_BOX, WHITE_BOX])
@pytest.mark.parametrize("most", [1, 3, 4, 20, 21])
def test_no_more_calls_than_allowed(attacker: str, most: int) -> None:
    encoder = OpenEncoder()
    rows = finished(encoder, rounds=50, attacker=attacker, max_calls=most)
    assert max(row.calls for row in rows) <= most
    assert sum(row.calls for row in rows) == len(encoder.asked) + encoder.gradients
    assert min(row.calls for row in rows) >= most - 1


@pytest.mark.parametrize("surrogate", [None, SURROGATE, TAUGHT], ids=["alone", "surrogate", "student"])
def test_a_rows_result_depends_on_its_number_and_the_seed_alone(surrogate: Surrogate | None) -> None:
    together = finished(OpenEncoder(), surrogate=surrogate)
    alone = finished(OpenEncoder(), TEXTS[2:3], first_row=2, surrogate=surrogate)
    assert [h.text for h in alone[0].beam] == [h.text for h in together[2].beam]
    assert alone[0].calls == together[2].calls
    again, other = (finished(OpenEncoder(), surrogate=surrogate, seed=seed) for seed in (0, 1))
    assert best_texts(again) == best_texts(together)
    assert best_texts(other) != best_texts(together)


def test_a_vector_that_no_text_has_ends_at_its_budget() -> None:
    e_BD = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    e_BD /= np.linalg.norm(e_BD, axis=1, keepdims=True)
    search = Search(rounds=6, attacker=BLACK_BOX)
    *_, rows = Guide(PARTS.denoiser, PARTS.tokenizer, OpenEncoder(), e_BD, [["the cat"]] * 2, search).run()
    assert all(row.rounds == 6 and row.beam[0].cosine < 0.99 for row in rows)


def test_a_search_that_finds_nothing_new_ends() -> None:
    """Every text of one token is soon known, where moves make no longer ones."""
    narrow = small_denoiser(PARTS.tokenizer.vocab_size, 16, length=1, noise=0.0)
    narrow.mask_id, narrow.end_ids = PARTS.tokenizer.mask_id, PARTS.denoiser.end_ids
    e_BD = FakeEncoder().encode(TEXTS[:1])
    search = Search(rounds=10_000, attacker=BLACK_BOX, temperature=5.0)
    *_, (row,) = Guide(narrow, PARTS.tokenizer, OpenEncoder(), e_BD, [["cat"]], search).run()
    assert row.rounds < 500
    assert 20 < row.calls <= PARTS.tokenizer.vocab_size


class Wrong(FakeEncoder):
    """Answers with something that is no embedding of the texts."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        spoiled: np.ndarray = self.spoil(super().encode(texts))
        return spoiled


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:, :8], r"shape \(18, 8\), expected \(18, 16\)"),
        (lambda rows: rows[:-1], r"shape \(17, 16\), expected \(18, 16\)"),
        (lambda rows: rows * np.nan, "zero or not finite"),
        (lambda rows: rows * 0, "zero or not finite"),
    ],
)
def test_an_encoder_that_answers_nonsense(spoil: Any, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        finished(Wrong(spoil))


def test_a_white_box_needs_gradients() -> None:
    with pytest.raises(InputError, match="this encoder gives no gradient: expected black-box"):
        guide(FakeEncoder(), attacker=WHITE_BOX)


# --- through the inverter


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter(PARTS, OpenEncoder())


def test_inversions_say_what_they_cost(inverter: Inverter) -> None:
    e_BD = inverter.encode(TEXTS)
    blind = inverter.invert(e_BD, candidates=8)
    guided = inverter.invert(e_BD, rounds=5)
    for one, other, e_D in zip(guided, blind, e_BD, strict=True):
        assert one.cosine is not None
        assert one.encoder_calls > 8
        assert one.passes > other.passes > other.encoder_calls == 0
        (vector,) = FakeEncoder().encode([one.text])
        assert one.cosine == pytest.approx(float(vector @ e_D), abs=1e-5)
        assert inverter.tokenizer.content(one.ids) == inverter.tokenizer.encode(one.text)
        assert len(one.tokens) == len(one.confidence)
        assert one.candidates == []
    assert np.mean([one.cosine or 0 for one in guided]) > np.mean([one.cosine or 0 for one in blind])


def test_best_of_several_is_the_best_by_cosine(inverter: Inverter) -> None:
    (embedding,) = inverter.encode(TEXTS[:1])
    (blind,) = inverter.invert(embedding, candidates=6)
    (chosen,) = inverter.invert(embedding, candidates=6, attacker=BLACK_BOX)
    assert chosen.encoder_calls == len({one.text for one in blind.candidates})
    cosines = [one.cosine for one in chosen.candidates]
    assert chosen.text == chosen.candidates[0].text
    assert max(one.cosine or -1 for one in blind.candidates) == pytest.approx(max(c or -1 for c in cosines), abs=1e-5)


def test_searching_shows_each_round(inverter: Inverter) -> None:
    (embedding,) = inverter.encode(TEXTS[:1])
    seen = list(inverter.search(embedding, rounds=4))
    (last,) = inverter.invert(embedding, rounds=4)
    assert len(seen) == 5
    assert (seen[-1].text, seen[-1].encoder_calls) == (last.text, last.encoder_calls)
    assert [one.encoder_calls for one in seen] == sorted(one.encoder_calls for one in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "rounds is -1, expected 0 or more"),
        ({"attacker": "red", "rounds": 1}, "attacker is 'red', expected one of blind, black-box, white-box"),
        (
            {"attacker": "blind", "rounds": 1},
            "rounds is 1, but this inverter has no surrogate to judge a blind search: expected 0",
        ),
        ({"max_calls": 0, "rounds": 1}, "max_calls is 0, expected at least 1"),
        ({"max_calls": 5}, "max_calls is 5, but a blind inversion makes no encoder calls"),
    ],
)
def test_impossible_searches_are_refused(inverter: Inverter, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        inverter.invert(np.zeros((0, 16), np.float32), **options)
    assert str(caught.value) == message


def test_a_fake_without_gradients_is_a_black_box() -> None:
    encoder = FakeEncoder()
    assert not isinstance(encoder, Differentiable)
    (found,) = Inverter(PARTS, encoder).invert(encoder.encode(TEXTS[:1]), rounds=1)
    assert found.encoder_calls > 0


# --- the real encoder


def test_the_gradient_is_that_of_the_cosine() -> None:
    """Against differences of the cosine along random directions of the input vectors."""
    encoder = load_encoder("all-MiniLM-L6-v2")
    texts = ["a cat sat there", "the river is cold in winter, they say"]
    rows = encoder.tokenizer.encode_batch(texts)
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    e = torch.from_numpy(encoder.encode(["a dog lay here", "summer"]))
    gradient = encoder.cosine_gradient(ids, lengths, e)
    assert gradient.shape == (*ids.shape, 384)
    assert not gradient[0, lengths[0] :].any()
    table = encoder.token_table
    generator = torch.Generator().manual_seed(0)
    for row, place in ((0, 1), (1, 0), (1, 7)):
        direction = torch.randn(384, generator=generator) * 0.002
        cosines = []
        for sign in (1, -1):
            token = int(ids[row, place])
            assert (ids[row] == token).sum() == 1  # so that moving its vector moves one place
            kept = table[token].clone()
            table[token] += sign * direction
            found = encoder.encode_tokens(ids[row : row + 1], lengths[row : row + 1])
            table[token] = kept
            cosines.append(torch.nn.functional.cosine_similarity(found, e[row : row + 1]).item())
        assert (cosines[0] - cosines[1]) / 2 == pytest.approx(
            float(gradient[row, place] @ direction), rel=0.05, abs=1e-5
        )
