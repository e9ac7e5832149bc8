"""The screen: which changed and joined texts are worth an encoder call."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fakes import LocalEncoder, local_parts
from unembed.search.composition import Change
from unembed.search.gaussian_process import Answers, Forecast
from unembed.search.likelihoods import Conditioned
from unembed.search.options import Search
from unembed.search.screening import Screen
from unembed.search.state import Hypothesis, Ids, State
from unembed.surrogate.bag import Surrogate

PARTS, ENCODER = local_parts(), LocalEncoder()
LONGEST = PARTS.denoiser.config.max_tokens
WORDS = ("wild", "horse", "and", "dog", "the", "old", "cat", "bird")
BASE: Ids = tuple(i for word in WORDS for i in ENCODER.tokenizer.encode(word))
E = ENCODER.encode(["the old horse and the wild bird"])[0]


def embedded(ids: Ids) -> np.ndarray:
    found: np.ndarray = ENCODER.encode([ENCODER.tokenizer.decode(ids)])[0]
    return found


def parent(ids: Ids) -> Hypothesis:
    e_hat = embedded(ids)
    return Hypothesis(ids, e_hat, float(e_hat @ E))


def screen(known: Hypothesis, search: Search) -> Screen:
    """Of a search that has asked about one text."""
    state = State(Answers(search.tuning.kernel))
    state.answers.take([known.ids], known.e_hat[None])
    state.seen.add(hash(known.ids))
    surrogate = Surrogate(PARTS.denoiser.table.weight, PARTS.surrogate)
    return Screen(Conditioned(PARTS.denoiser, PARTS.tokenizer, E), surrogate, E, search, state)


def insertions(ids: Ids) -> dict[Ids, Change]:
    several = [Change({place: (token, ids[place])}) for place in range(len(ids)) for token in sorted(set(BASE))]
    return {change.of(ids): change for change in several}


SEARCHES = [Search(max_calls=100), Search(seconds=10.0)]


@pytest.mark.parametrize("search", SEARCHES)
def test_no_text_is_longer_than_a_canvas_or_was_asked_about(search: Search) -> None:
    known = parent((BASE * LONGEST)[: LONGEST - 1])
    found = screen(known, search)
    proposals = {"insertions": insertions(known.ids)}
    asked = found.changes(known, proposals, 20)
    assert {len(ids) for ids in asked} == {LONGEST}
    found.state.answers.take(asked, np.stack([embedded(ids) for ids in asked]))
    found.state.seen.update(map(hash, asked))
    assert not set(found.changes(known, proposals, 20)) & set(asked)
    assert all(len(ids) <= LONGEST for ids in found.combinations(known, proposals, 20))


@pytest.mark.parametrize("search", SEARCHES)
def test_kinds_have_shares_and_lists_are_taken_by_turns_with_the_forecast(search: Search) -> None:
    known = parent(BASE)
    listed = dict(itertools.islice(insertions(BASE).items(), 40))
    proposals = {"insertions": listed, "deletions": {BASE[1:]: Change({0: ()}), BASE[:-1]: Change({7: ()})}}
    found = screen(known, search)
    asked = found.changes(known, proposals, 40)
    chosen = [ids for ids in asked if ids in listed]
    assert len(chosen) == round(40 * search.tuning.insertions)
    assert set(list(listed)[:3]) <= set(chosen)  # whatever the forecast says
    assert set(asked) - set(chosen) == set(proposals["deletions"])
    assert set(chosen) - set(list(listed)[: len(chosen)])  # and others, whatever the list says


def test_the_nearer_a_hypothesis_is_the_less_language_counts() -> None:
    several = insertions(BASE)
    e_hat = embedded(BASE)
    far, near = Hypothesis(BASE, e_hat, 0.5), Hypothesis(BASE, e_hat, 1 - 1e-6)
    found = screen(far, SEARCHES[1])
    expected = Forecast(found.surrogate, found.state.answers, BASE, e_hat).embeddings(list(several)) @ E
    ranked = [list(several)[number] for number in np.argsort(expected)]
    proposals = {"insertions": {ids: replace(several[ids], nats=-float(rank)) for rank, ids in enumerate(ranked)}}
    assert found.changes(far, proposals, 5) == [ranked[0]]  # the likeliest, of which the forecast expects least
    (best,) = found.changes(near, proposals, 5)
    assert expected[list(several).index(best)] == pytest.approx(expected.max(), abs=1e-4)  # several have the same words
    assert expected.max() > expected.min() + 0.01


def test_what_is_joined_was_never_asked_about_alone() -> None:
    """Those of which the forecast expects most: a search that has measured nothing has combinations all the same."""
    known = parent(BASE)
    proposals = {"insertions": insertions(BASE)}
    found = screen(known, SEARCHES[0]).combinations(known, proposals, 4)
    assert len(found) == 4
    assert all(len(ids) > len(BASE) + 1 for ids in found)


def test_where_calls_are_counted_the_denoiser_decides_between_orders() -> None:
    known = parent(BASE)
    orders = [tuple(order) for order in itertools.islice(itertools.permutations(range(len(BASE))), 1, 60)]
    proposals = {"orders": {change.of(BASE): change for change in (Change({}, order) for order in orders)}}
    alone, reviewed = (screen(known, search) for search in (SEARCHES[1], SEARCHES[0]))
    most = 3 * round(12 * SEARCHES[0].tuning.orders)
    best = alone.changes(known, proposals, round(most / SEARCHES[0].tuning.orders))[:most]
    asked = reviewed.changes(known, proposals, 12)
    assert set(asked) < set(best)
    expected = Forecast(reviewed.surrogate, reviewed.state.answers, BASE, known.e_hat).embeddings(best)
    judged = reviewed.denoiser.likelihoods(best, list(expected / np.linalg.norm(expected, axis=1, keepdims=True)))
    score = {
        ids: float(e_D @ E) + SEARCHES[0].tuning.frugal_nat * float(nats.sum())
        for ids, e_D, (_, nats) in zip(best, expected, judged, strict=True)
    }
    assert asked == sorted(best, key=lambda ids: -score[ids])[: len(asked)]
