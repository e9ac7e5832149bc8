"""What the denoiser makes of drafts: masks filled, and words put down again that were taken up."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fakes import fake_encoder, tiny_parts, tiny_texts
from unembed.moves import MASK, Draft
from unembed.refill import ARRANGING, REFILLS, Blank, Refiller, _stands
from unembed.surrogate import Fitted, Own, Surrogate

PARTS = tiny_parts()
E = fake_encoder().encode(tiny_texts(3))
REFILLER = Refiller(PARTS.denoiser, PARTS.tokenizer, torch.from_numpy(E), 1.0, None)
LENGTH = PARTS.denoiser.config.max_tokens


def blank(ids: list[int], taken: tuple[int, ...] = (), seed: int = 0, row: int = 0) -> Blank:
    uniform = np.random.default_rng(seed).random(LENGTH)
    return Blank(row, Draft(ids, list(range(len(ids)))), tuple(ids), E[row], None, uniform, taken)


def words(count: int) -> list[int]:
    """Ids of some words of one token."""
    return [ids[0] for ids in PARTS.tokenizer.encode_batch(["cat", "dog", "bird", "river", "old", "the"])][:count]


def test_taken_words_are_put_down_again_each_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.refill.KEPT", 50.0)  # whatever the denoiser would rather see
    taken = (*words(4), words(1)[0])
    drafts = [blank([words(6)[5], *[MASK] * 5], taken, seed) for seed in range(20)]
    orders = set()
    for found in REFILLER.fill(drafts):
        (ids,) = PARTS.tokenizer.encode_batch([found.text])
        assert ids[0] == words(6)[5]
        assert Counter(ids[1:]) == Counter(taken)
        assert 1 < found.passes <= ARRANGING
        orders.add(tuple(ids))
    assert len(orders) > 2


def test_other_masks_are_filled_in_a_few_passes_and_the_rest_stays() -> None:
    ids = [words(1)[0], MASK, MASK, words(2)[1], MASK, MASK, MASK]
    for found in REFILLER.fill([blank(ids, seed=seed) for seed in range(5)]):
        assert found.passes == REFILLS
        assert found.text.startswith(PARTS.tokenizer.decode(words(1)))


def test_neighbours_change_nothing() -> None:
    drafts = [blank([MASK] * 6, tuple(words(6)), seed, seed % 3) for seed in range(6)]
    together = REFILLER.fill([*drafts, blank([MASK, *words(3)])])
    assert [REFILLER.fill([draft])[0] for draft in drafts] == together[:-1]


# Every token has a contribution of its own, but what all texts have in common is not what the surrogate takes it for.
D = E.shape[1]
GENERATOR = torch.Generator().manual_seed(2)
CODE = F.normalize(torch.randn(len(PARTS.denoiser.table.weight), D, generator=GENERATOR), dim=-1)
BIAS, STRANGE = F.normalize(torch.randn(2, D, generator=GENERATOR), dim=-1)
CONTRIBUTING = Fitted(
    torch.zeros(PARTS.denoiser.table.weight.shape[1], D), BIAS, Own(torch.ones(len(CODE)), CODE, torch.eye(D))
)


def embedded(ids: list[int]) -> np.ndarray:
    found: np.ndarray = F.normalize(CODE[ids].mean(0) + STRANGE, dim=0).numpy()
    return found


def test_steered_masks_get_what_the_hypothesis_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest words by far, since it is known what its bag lacks; only where the bag is good, and if asked to."""
    truths = [words(6)[:place] + words(6)[place + 1 :] for place in range(6)]
    e_BD = torch.from_numpy(np.stack([embedded(truth) for truth in truths]))

    def refiller(fitted: Fitted | None) -> Refiller:
        surrogate = Surrogate(PARTS.denoiser.table.weight, fitted) if fitted is not None else None
        return Refiller(PARTS.denoiser, PARTS.tokenizer, e_BD, 1.0, None, surrogate)

    def nearness(refiller: Refiller, steering: float) -> float:
        """Mean cosine of drafts, two of whose words are masked that the hypothesis has wrong."""
        drafts = []
        for row, truth in enumerate(truths):
            for seed in range(6):
                before = (*truth[:3], *words(1), *words(1))
                made = blank([*truth[:3], MASK, MASK], seed=seed)
                e_hat = embedded(list(before))
                drafts.append(made._replace(row=row, before=before, e_hat=e_hat, steering=steering))
        several = [PARTS.tokenizer.encode(found.text) for found in refiller.fill(drafts)]
        cosines = [embedded(ids) @ e_BD[draft.row].numpy() for ids, draft in zip(several, drafts, strict=True)]
        return float(np.mean(cosines))

    steered, plain = nearness(refiller(CONTRIBUTING), 100.0), nearness(refiller(None), 100.0)
    assert steered > 0.95 > plain + 0.04
    assert nearness(refiller(CONTRIBUTING), 0.0) == plain
    assert nearness(refiller(CONTRIBUTING._replace(own=None)), 100.0) == plain
    monkeypatch.setattr(Surrogate, "lacking", lambda surrogate, ids, e_hat: np.zeros(D, np.float32))
    assert steered > nearness(refiller(CONTRIBUTING), 100.0) + 0.04


def test_the_surest_stand_and_no_word_too_often() -> None:
    bag = Counter({7: 1, 8: 1})
    assert _stands([7, 7, 8, 9], [1, 0, 3, 2], bag, (7, 8), left=2) == [1, 3]
    assert bag == Counter({8: 1})
    assert _stands([7, 8], [0, 1], bag, (7, 8), left=2) == [1]
    assert not bag
    assert _stands([7, 7], [1, 0], bag, (7, 8), left=1) == [1, 0]
    assert _stands([1, 2, 3], [2, 1, 0], Counter(), (), left=2) == [2, 1]
