"""Strategies against naive loops, against the distributions of their papers, and for every number of steps."""

import math
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fakes import small_denoiser
from unembed.decoding.options import Decoding, DecodingTuning
from unembed.decoding.predictor import Predictor, compute, decode, sample, stream, text_or_end
from unembed.decoding.strategies import (
    STRATEGIES,
    Canvas,
    Frame,
    Prediction,
    quotas,
)
from unembed.denoiser.model import Denoiser
from unembed.errors import InputError

V, L, D, MASK = 12, 7, 5, 11
NAMES = list(STRATEGIES)
REVISING = ("remask", "two-stage")


def make_denoiser(sharpness: float = 1.0) -> Denoiser:
    """Weights of order one: what it predicts depends on the embedding, the place and the context."""
    denoiser = small_denoiser(V, D, L, noise=0.2, width=16, blocks=2).requires_grad_(False)
    denoiser.table.weight.mul_(sharpness)
    return denoiser


DENOISER = make_denoiser()
E = torch.randn(6, D, generator=torch.Generator().manual_seed(1))


def frames(options: Decoding, rows: list[int] | None = None, start: Tensor | None = None) -> list[Frame]:
    """All frames for the embeddings of `rows`."""
    rows = list(range(len(E))) if rows is None else rows
    return list(stream(DENOISER, DENOISER.condition(E[rows]), options, rows, start))


def partly_filled() -> Tensor:
    """Canvases from empty to full, a different one for each embedding."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(V - 1, (len(E), L), generator=generator)
    keep = torch.rand(len(E), L, generator=generator) < torch.linspace(0, 1.01, len(E))[:, None]
    return torch.where(keep, ids, MASK)


# --- for every number of steps


@settings(max_examples=150, deadline=None)
@given(
    strategy=st.sampled_from(NAMES),
    steps=st.integers(1, L),
    temperature=st.sampled_from([0.0, 0.7, 3.0]),
    guidance=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 10**15),
    start=st.lists(st.lists(st.integers(0, V - 1), min_size=L, max_size=L), min_size=1, max_size=4),
)
def test_no_mask_is_left_and_frames_say_what_happened(
    strategy: str, steps: int, temperature: float, guidance: float, seed: int, start: list[list[int]]
) -> None:
    canvas = torch.tensor(start)
    options = Decoding(steps, strategy, temperature=temperature, guidance=guidance, seed=seed)
    seen = frames(options, list(range(len(canvas))), canvas)
    last = seen[-1]
    assert [frame.done for frame in seen] == [False] * (len(seen) - 1) + [True]
    assert not (last.ids == MASK).any()
    assert [frame.step for frame in seen] == list(range(len(seen)))
    assert len(seen) <= steps + 1
    assert (last.passes <= steps * (2 if guidance else 1)).all()
    given_ones = canvas != MASK
    for before, after in zip([None, *seen], seen, strict=False):
        old = canvas if before is None else before.ids
        assert torch.equal(after.changed, after.ids != old)
        assert torch.equal(after.ids[given_ones], canvas[given_ones])
        assert after.total == steps
        assert ((after.confidence >= 0) & (after.confidence <= 1)).all()
        assert (after.confidence[after.ids == MASK] == 0).all()
        if strategy not in REVISING:
            assert not (after.changed & (old != MASK)).any()


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("steps", range(1, L + 1))
def test_all_masks_are_filled(strategy: str, steps: int) -> None:
    seen = frames(Decoding(steps, strategy))
    assert (seen[0].ids == MASK).all()
    assert not seen[0].changed.any()
    assert not (seen[-1].ids == MASK).any()
    assert (seen[-1].confidence > 0).all()
    assert (seen[-1].passes <= steps).all()
    if strategy in ("confidence", "sequential", "two-stage"):  # here no token is an end
        assert (seen[-1].passes == steps).all()


def test_quotas_are_as_equal_as_can_be() -> None:
    for count in range(9):
        for steps in range(1, 9):
            shares = [int(q) for q in quotas(torch.tensor([count]), steps)]
            assert len(shares) == steps
            assert sum(shares) == count
            assert max(shares) - min(shares) <= 1


# --- naive loops


def naive(e: Tensor, one_at_a_time: Any) -> Tensor:
    """One row, one position a pass, with whole passes of the denoiser."""
    ids = torch.full((1, L), MASK)
    for _ in range(L):
        probabilities = DENOISER(ids, e[None]).softmax(-1)[0]
        best, token = probabilities.max(-1)
        masked = [i for i in range(L) if ids[0, i] == MASK]
        place = one_at_a_time(masked, best)
        ids[0, place] = token[place]
    return ids[0]


@pytest.mark.parametrize(
    ("strategy", "choice"),
    [
        ("confidence", lambda masked, best: max(masked, key=lambda i: best[i])),  # the surest of all waits for none
        ("sequential", lambda masked, best: masked[0]),
    ],
)
def test_one_position_per_pass_equals_a_naive_loop(strategy: str, choice: Any) -> None:
    expected = torch.stack([naive(e, choice) for e in E])
    assert torch.equal(decode(DENOISER, E, Decoding(L, strategy, balance=0.0)).ids, expected)
    assert len(expected.unique(dim=0)) > 3  # rows do differ, so the comparison says something


@pytest.mark.parametrize("strategy", NAMES)
def test_one_pass_takes_every_best_token(strategy: str) -> None:
    logits = DENOISER(torch.full((len(E), L), MASK), E)
    last = decode(DENOISER, E, Decoding(1, strategy))
    assert torch.equal(last.ids, logits.argmax(-1))
    torch.testing.assert_close(last.confidence, logits.softmax(-1).amax(-1))


# --- batches


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("steps", [3, L])
def test_a_row_is_decoded_the_same_in_any_company(strategy: str, filled: bool, steps: int) -> None:
    options = Decoding(steps, strategy, temperature=0.9, guidance=0.5, seed=3)
    start = partly_filled() if filled else torch.full((len(E), L), MASK)
    together = frames(options, start=start)[-1]
    shuffled = [4, 0, 5, 2, 1, 3]
    other = frames(options, shuffled, start[shuffled])[-1]
    assert torch.equal(other.ids, together.ids[shuffled])
    assert torch.equal(other.passes, together.passes[shuffled])
    for row in range(len(E)):
        alone = frames(options, [row], start[row : row + 1])[-1]
        assert torch.equal(alone.ids[0], together.ids[row])
        assert alone.passes[0] == together.passes[row]
        torch.testing.assert_close(alone.confidence[0], together.confidence[row])


def test_seeds_and_rows_decide_what_is_random() -> None:
    def drawn(seed: int, rows: list[int]) -> Tensor:
        same = DENOISER.condition(E[:1].expand(len(rows), -1))
        *_, last = stream(DENOISER, same, Decoding(4, "euler", temperature=1.5, seed=seed), rows)
        return last.ids

    assert torch.equal(drawn(0, [0, 1, 2]), drawn(0, [0, 1, 2]))
    assert len(drawn(0, [0, 1, 2]).unique(dim=0)) == 3
    assert not torch.equal(drawn(0, [0, 1, 2]), drawn(1, [0, 1, 2]))
    assert drawn(10**18, [2**40]).shape == (1, L)  # any integer will do


# --- distributions


def sure(ids: Tensor) -> Prediction:
    """A prediction that costs no pass: the schedule is what is tested."""
    return Prediction(torch.zeros_like(ids), torch.full(ids.shape, 0.5), torch.zeros(ids.shape))


def schedule(strategy: str, rows: int, length: int, steps: int) -> Iterator[Frame]:
    """The frames of a strategy on empty canvases, whatever would be predicted."""
    canvas = Canvas(torch.full((rows, length), 1), 1, (), Decoding(steps, strategy, seed=5), range(rows))
    decoding = STRATEGIES[strategy](canvas)
    frame = next(decoding)
    yield frame
    while not frame.done:
        frame = decoding.send(sure(frame.ids))
        yield frame


@pytest.mark.parametrize("strategy", ["euler", "remask"])
def test_the_share_visible_follows_the_schedule(strategy: str) -> None:
    rows, length, steps = 3000, 8, 6
    error = 4.5 * math.sqrt(0.25 / (rows * length))
    for step, frame in enumerate(schedule(strategy, rows, length, steps)):
        visible = (frame.ids == 0).float()
        assert visible.mean().item() == pytest.approx(step / steps, abs=error)
        # positions are independent of each other, so their number in a row is binomial
        p = step / steps
        assert visible.sum(1).var().item() == pytest.approx(length * p * (1 - p), rel=0.12, abs=1e-9)


def test_remask_masks_as_often_as_it_says() -> None:
    rows, length, steps = 3000, 16, 8
    seen = list(schedule("remask", rows, length, steps))
    again = [((after.ids == 1) & (before.ids == 0)).sum().item() / rows for before, after in pairwise(seen)]
    for step, found in enumerate(again):
        t, s = step / steps, (step + 1) / steps
        # sigma is at most (1 - alpha_s) / alpha_t, and alpha_t of the positions can be masked again
        expected = min(DecodingTuning().remasked, (1 - s) * length, t * length)
        assert found == pytest.approx(expected, abs=4 * math.sqrt(1.0 / rows))
    assert not (seen[-1].ids == 1).any()


class Fixed:
    """A denoiser of one position with the same logits for every row."""

    def __init__(self, logits: Tensor) -> None:
        self.config = SimpleNamespace(max_tokens=1)
        self.precision = torch.float32
        self.mask_id = len(logits) - 1
        self.end_ids = ()
        self.output_bias = self.fixed = logits

    def hidden(self, ids: Tensor, modulation: Any) -> Tensor:
        return torch.zeros(*ids.shape, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.fixed.expand(*hidden.shape[:-1], -1)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_softmax(temperature: float) -> None:
    n = 20_000
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, -torch.inf, -1.0, 0.0, -torch.inf])
    modulation = DENOISER.condition(torch.ones(1, D)).repeat(n)
    options = Decoding(1, "confidence", temperature=temperature, seed=1)
    *_, last = stream(Fixed(logits), modulation, options)  # type: ignore[arg-type]
    possible = logits.isfinite()
    counts = last.ids.flatten().bincount(minlength=8)
    assert not counts[~possible].any()
    expected = n * (logits[possible].double() / temperature).softmax(-1)
    # chi-square, 5 degrees of freedom, 0.1 %
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 20.5
    torch.testing.assert_close(last.confidence.flatten(), logits.softmax(-1)[last.ids.flatten()])


def test_logits_looked_at_in_chunks_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Decoding(4, "two-stage", temperature=0.8, guidance=1.0, seed=6)
    whole = frames(options, start=partly_filled())[-1]
    for rows in (1, 3):
        monkeypatch.setattr("unembed.decoding.predictor.CHUNK", {"cpu": rows * V})
        last = frames(options, start=partly_filled())[-1]
        assert torch.equal(last.ids, whole.ids)
        assert torch.equal(last.confidence, whole.confidence)


def test_samples_are_where_the_distribution_function_passes_the_uniform_number() -> None:
    """Every cell of a fine grid of [0, 1) gets the token whose share of the unit interval it lies in."""
    logits = torch.tensor([-torch.inf, 0.5, -2.0, 3.0, -20.0, -torch.inf])
    uniform = torch.arange(100_000, dtype=torch.float64) / 100_000
    found = sample(logits.expand(len(uniform), -1), 0.7, uniform)
    bounds = (logits.double() / 0.7).softmax(-1).cumsum(-1)
    assert torch.equal(found, (uniform[:, None] >= bounds).sum(-1))
    assert sample(logits[None], 0.7, torch.tensor([1 - 2.0**-53], dtype=torch.float64)) == 4  # the rarest, never beyond


def test_a_temperature_near_zero_takes_the_best_token() -> None:
    best = decode(DENOISER, E, Decoding(L, "confidence")).ids
    for temperature in (1e-4, 1e-300):
        assert torch.equal(decode(DENOISER, E, Decoding(L, "confidence", temperature=temperature)).ids, best)


# --- passes


class Counter:
    """Counts the rows that the denoiser really computes."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.rows.append(len(arguments[0]))


@pytest.fixture
def counter() -> Iterator[Counter]:
    found = Counter()
    handle = DENOISER.blocks[0].register_forward_pre_hook(found)
    yield found
    handle.remove()


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_passes_are_the_rows_that_were_computed(strategy: str, guidance: float, counter: Counter) -> None:
    last = frames(Decoding(5, strategy, guidance=guidance), start=partly_filled())[-1]
    assert sum(counter.rows) == last.passes.sum()


def test_threshold_stops_where_it_is_sure(counter: Counter) -> None:
    for sharpness in (1.0, 3.0, 30.0):
        denoiser = make_denoiser(sharpness)
        denoiser.blocks[0].register_forward_pre_hook(counter)
        counter.rows.clear()
        seen = list(stream(denoiser, denoiser.condition(E), Decoding(L, "threshold")))
        passes = seen[-1].passes
        assert (passes <= L).all()
        assert sum(counter.rows) == passes.sum()
        if sharpness == 1.0:
            unsure = passes.sum()
        if sharpness == 3.0:
            assert len(passes.unique()) > 1  # rows leave the batch one after another
            assert sorted(counter.rows, reverse=True) == counter.rows
        if sharpness == 30.0:
            assert passes.sum() < unsure
    for before, after in pairwise(seen):  # what is committed is sure, or the quota demands it
        new = (before.ids == MASK) & (after.ids != MASK)
        waiting = (after.ids == MASK) & ~(before.ids != MASK)
        assert (after.confidence[new] >= 0).all()
        assert (new.sum(1) >= 1)[(before.ids == MASK).any(1)].all()
        assert not waiting[(after.confidence >= DecodingTuning().threshold) & (before.ids == MASK)].any()


# --- guidance


def asking(ids: Tensor, wanted: Tensor) -> Frame:
    """A frame that wants a pass over the positions `wanted`."""
    zero = torch.zeros(len(ids), dtype=torch.int64)
    return Frame(0, 1, ids, wanted, torch.zeros(ids.shape), wanted, zero, False)


def prediction(options: Decoding, ids: Tensor, alternatives: int = 0) -> Prediction:
    """One pass over the masks of `ids`."""
    predictor = Predictor(DENOISER, DENOISER.condition(E), options, range(len(E)), alternatives)
    return predictor(asking(ids, ids == MASK))


def test_guidance_is_its_formula() -> None:
    ids = partly_filled()
    masked = ids == MASK
    conditional = DENOISER(ids, E)[..., : V - 1]
    without = DENOISER.logits(DENOISER.hidden(ids, DENOISER.unconditional(len(E))))[..., : V - 1]
    for w in (-1.0, -0.5, 0.7, 3.0):
        expected = (without + (w + 1) * (conditional - without)).softmax(-1)
        found = prediction(Decoding(guidance=w), ids)
        torch.testing.assert_close(found.confidence[masked], expected.amax(-1)[masked])
        assert torch.equal(found.tokens[masked], expected.argmax(-1)[masked])
    plain = prediction(Decoding(guidance=0.0), ids)
    torch.testing.assert_close(plain.confidence[masked], conditional.softmax(-1).amax(-1)[masked])


def test_visible_tokens_are_scored_by_the_probability_of_what_stands_there() -> None:
    ids = partly_filled()
    frame = asking(ids, torch.ones_like(ids, dtype=torch.bool))
    found = Predictor(DENOISER, DENOISER.condition(E), Decoding(), range(len(E)))(frame)
    probabilities = DENOISER(ids, E).softmax(-1)
    expected = torch.where(
        ids == MASK,
        probabilities.amax(-1),
        probabilities.gather(2, ids.clamp(max=V - 1)[..., None]).squeeze(2),
    )
    torch.testing.assert_close(found.confidence, expected)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_alternatives_are_the_likeliest_tokens(guidance: float) -> None:
    ids = partly_filled()
    found = prediction(Decoding(guidance=guidance), ids, alternatives=3)
    every = prediction(Decoding(guidance=guidance), ids, alternatives=V)
    assert found.alternatives is not None
    assert every.alternatives is not None
    masked = ids == MASK
    assert torch.equal(found.alternatives.ids[masked][:, 0], found.tokens[masked])
    torch.testing.assert_close(found.alternatives.chances[masked][:, 0], found.confidence[masked])
    assert torch.equal(found.alternatives.ids, every.alternatives.ids[..., :3])
    torch.testing.assert_close(every.alternatives.chances[masked].sum(-1), torch.ones(int(masked.sum())))
    assert (found.alternatives.ids[~masked] == -1).all()
    assert not found.alternatives.chances[~masked].any()


def test_passes_of_several_predictors_can_be_computed_as_one() -> None:
    ids = partly_filled()
    frame = asking(ids, ids == MASK)
    cases = [Decoding(), Decoding(guidance=1.0), Decoding(temperature=1.0, seed=4)]

    def predictors() -> list[Predictor]:
        return [Predictor(DENOISER, DENOISER.condition(E), options, range(len(E))) for options in cases]

    asked = [predictor.questions(frame) for predictor in predictors()]
    assert [len(questions) for questions in asked] == [1, 2, 1]
    logits = iter(compute(DENOISER, [question for questions in asked for question in questions]))
    for one, other, questions in zip(predictors(), predictors(), asked, strict=True):
        together = one.answer(frame, [next(logits) for _ in questions])
        alone = other(frame)
        assert torch.equal(together.tokens, alone.tokens)
        torch.testing.assert_close(together.confidence, alone.confidence)


def test_two_stage_revises_what_it_doubts() -> None:
    seen = frames(Decoding(6, "two-stage"))
    revised = sum(((a.ids != b.ids) & (a.ids != MASK)).sum().item() for a, b in pairwise(seen))
    assert revised > 0
    final = seen[-1]
    # the confidences of the last frame are those of the last pass: of tokens in the context they were judged in
    assert not torch.equal(final.confidence, seen[-2].confidence)


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"steps": -1}, "steps is -1, expected at least 1"),
        ({"steps": L + 1}, f"steps is {L + 1}, expected 1 to {L}"),
        ({"steps": 10_000}, f"steps is 10000, expected 1 to {L}"),
        ({"strategy": "greedy"}, "strategy is 'greedy', expected one of confidence, sequential"),
        ({"temperature": -0.1}, "temperature is -0.1, expected 0 or more"),
        ({"temperature": math.nan}, "temperature is nan, expected 0 or more"),
        ({"temperature": math.inf}, "temperature is inf, expected 0 or more"),
        ({"guidance": -1.5}, "guidance is -1.5, expected -1 or more"),
        ({"guidance": math.inf}, "guidance is inf, expected -1 or more"),
        ({"balance": -0.1}, "balance is -0.1, expected 0 or more"),
        ({"balance": math.nan}, "balance is nan, expected 0 or more"),
        ({"steering": -1.0}, "steering is -1.0, expected 0 or more"),
        ({"steering": math.nan}, "steering is nan, expected 0 or more"),
        ({"steering": math.inf}, "steering is inf, expected 0 or more"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        next(stream(DENOISER, DENOISER.condition(E), Decoding(**options)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_normalised_direction_is_all_that_counts() -> None:
    options = Decoding(3, "confidence")
    assert torch.equal(decode(DENOISER, E, options).ids, decode(DENOISER, F.normalize(E, dim=-1), options).ids)


# --- tokens that end a text


END = 9  # "PAD"


def decoding(name: str, steps: int, tokens: list[int], sure: list[float], ending: list[float]) -> list[Frame]:
    """The frames of a strategy for a denoiser that always predicts the same of a row."""
    length = len(tokens)
    options = Decoding(steps=steps, strategy=name)
    strategy = STRATEGIES[name](Canvas(torch.full((1, length), MASK), MASK, (END,), options, [0]))
    prediction = Prediction(torch.tensor([tokens]), torch.tensor([sure]), torch.tensor([ending]))
    seen = [next(strategy)]
    while not seen[-1].done:
        seen.append(strategy.send(prediction))
    return seen


def committed(seen: list[Frame]) -> list[set[int]]:
    """The positions that each pass has filled."""
    shown = [set((frame.ids[0] != MASK).nonzero().flatten().tolist()) for frame in seen]
    return [new - old for old, new in pairwise(shown)]


@pytest.mark.parametrize("name", ["confidence", "threshold"])
def test_tokens_that_end_a_text_are_committed_after_all_others(name: str) -> None:
    """Odd positions predict the end, much more confidently than the even ones their token."""
    odd = [place % 2 == 1 for place in range(8)]
    seen = decoding(name, 4, [END if end else 1 for end in odd], [0.8 if end else 0.1 for end in odd], [0.1] * 8)
    for frame in seen:
        visible = frame.ids[0] != MASK
        assert visible[::2].all() or not visible[1::2].any()
    assert frame.ids[0].tolist() == [1, END] * 4


@pytest.mark.parametrize("name", ["confidence", "two-stage", "threshold"])
def test_one_word_at_several_places_is_committed_where_it_is_surest(name: str) -> None:
    """Four positions, no two of them neighbours, predict token 1: of equals the leftmost, the others wait a pass."""
    tokens = [1, END, 1, END, 2, END, 1, END, 1]
    sure = [0.5, 0.8, 0.7, 0.8, 0.2, 0.8, 0.7, 0.8, 0.6]
    ending = [float(token == END) for token in tokens]
    seen = decoding(name, 6 if name == "two-stage" else 3, tokens, sure, ending)
    assert committed(seen)[:2] == [{2, 4}, {6, 8}]  # two-stage doubts what it commits next


@pytest.mark.parametrize("name", ["confidence", "two-stage", "threshold"])
def test_of_neighbours_the_surest_is_committed_first(name: str) -> None:
    """The second surest token is beside the surest one and waits, the end's neighbour need not."""
    tokens, sure, ending = [1, 2, 3, 4, 5, END], [0.5, 0.9, 0.8, 0.6, 0.7, 0.9], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    if name == "threshold":
        sure[1] = 0.89  # below which it commits whatever it is sure of
    seen = decoding(name, 6 if name == "two-stage" else 3, tokens, sure, ending)
    assert committed(seen)[:2] == [{1, 4}, {0, 2}]


@pytest.mark.parametrize("name", ["confidence", "threshold"])
@pytest.mark.parametrize("steps", [4, 8])
def test_the_passes_are_shared_by_the_text_and_not_by_what_fills_its_canvas(name: str, steps: int) -> None:
    tokens, ending = [1, 2, 3, *[END] * 5], [0.0] * 3 + [1.0] * 5
    seen = decoding(name, steps, tokens, [0.3, 0.2, 0.1, *[0.8] * 5], ending)
    assert committed(seen) == [{0}, {1}, {2}, {3, 4, 5, 6, 7}]
    assert seen[-1].passes.tolist() == [4]


def test_a_length_that_is_open_counts_by_what_is_expected_of_it() -> None:
    """Eight positions, of which each ends the text with probability .5: four tokens are expected, one for each pass."""
    seen = decoding("confidence", 4, list(range(1, 9)), [0.4] * 8, [0.5] * 8)
    assert [len(new) for new in committed(seen)] == [1, 1, 2, 4]


# --- text or its end


def test_without_temperature_the_likelier_kind_decides_and_then_its_likeliest_token() -> None:
    likelihood_RV = torch.randn(400, 9, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
    ending_R = likelihood_RV[:, [2, 7]].exp().sum(-1)
    chosen_R = text_or_end(likelihood_RV, ending_R, [2, 7], 0.0, 0.4).argmax(-1)
    others = 0
    for likelihood_V, ending, chosen in zip(likelihood_RV, ending_R.tolist(), chosen_R.tolist(), strict=True):
        kind = [2, 7] if ending > 0.4 else [0, 1, 3, 4, 5, 6, 8]
        assert chosen == max(kind, key=lambda token: float(likelihood_V[token]))
        others += chosen != int(likelihood_V.argmax())
    assert others > 10  # where the single likeliest token is of the other kind


@pytest.mark.parametrize("temperature", [0.3, 0.5, 0.9])
def test_a_temperature_sharpens_each_choice_alone(temperature: float) -> None:
    p_RV = torch.randn(50, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    ends, power = [2, 7], 1 / temperature
    ending_R = p_RV[:, ends].sum(-1)
    found_RV = (text_or_end(p_RV.log(), ending_R, ends, temperature, 0.5) / temperature).softmax(-1)
    sharp_R = ending_R**power / (ending_R**power + (1 - ending_R) ** power)
    for kind, share_R in ((ends, sharp_R), ([0, 1, 3, 4, 5, 6, 8], 1 - sharp_R)):
        within_RK = p_RV[:, kind] ** power
        expected_RK = share_R[:, None] * within_RK / within_RK.sum(-1, keepdim=True)
        torch.testing.assert_close(found_RV[:, kind], expected_RK)


def test_at_temperature_one_the_model_is_sampled_as_it_is() -> None:
    likelihood_RV = torch.randn(5, 9).log_softmax(-1)
    assert text_or_end(likelihood_RV, likelihood_RV[:, [2, 7]].exp().sum(-1), [2, 7], 1.0, 0.4) is likelihood_RV
    assert text_or_end(likelihood_RV, torch.zeros(5), [], 0.0, 0.4) is likelihood_RV
