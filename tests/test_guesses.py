"""Guesses: the strategy `confidence` for whole batches, by the same logits, and what is drawn at a temperature."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fakes import tiny_parts, tiny_tokenizer
from unembed.decoding.guesses import Guesser, choose, ended, laid_out
from unembed.decoding.options import Decoding, DecodingTuning
from unembed.decoding.predictor import decode

TOKENIZER = tiny_tokenizer()
MASK, ENDS = TOKENIZER.mask_id, (TOKENIZER.eos_id, TOKENIZER.pad_id)
LENGTH = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeddings(rows: int) -> Tensor:
    return F.normalize(torch.randn(rows, 16, generator=seeded(2)), dim=-1)


def test_texts_are_cut_at_their_first_end() -> None:
    eos, pad = ENDS
    ids = torch.tensor([[7, 8, eos, 9], [7, pad, 8, eos], [7, 8, 9, 10], [eos, 7, 7, 7]])
    found, lengths = ended(ids, ENDS)
    assert found.tolist() == [[7, 8, eos, pad], [7, eos, pad, pad], [7, 8, 9, 10], [eos, pad, pad, pad]]
    assert lengths.tolist() == [2, 1, 4, 0]
    assert torch.equal(laid_out(ids, lengths, ENDS), found)


# --- what is drawn


def choice(temperature: float, barred: int, rows: int = 20_000) -> tuple[Tensor, Tensor]:
    """Draws for the same logits over 6 tokens, of which 4 and 5 are ends, and their probabilities."""
    hidden, table, bias = torch.ones(rows, 1), torch.tensor([[1.0], [0.3], [-0.2], [0.0], [0.9], [0.4]]), torch.zeros(6)
    race = torch.empty(rows, 6).exponential_(generator=seeded())
    several = (torch.full((rows,), value) for value in (2, barred))
    found = choose(hidden, table, bias, (4, 5), *several, torch.full((rows,), temperature), race)
    chances = table.squeeze(1).softmax(0)
    torch.testing.assert_close(found.chances, chances[found.tokens])
    torch.testing.assert_close(found.standing, chances[2].expand(rows))
    torch.testing.assert_close(found.ending, chances[4:].sum().expand(rows))
    return found.tokens, table.squeeze(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_tokens_are_drawn_at_the_temperature_but_ends_and_what_is_barred(temperature: float) -> None:
    tokens, logits = choice(temperature, barred=1)
    logits[[1, 4, 5]] = -torch.inf
    shares = torch.bincount(tokens, minlength=6) / len(tokens)
    torch.testing.assert_close(shares, (logits / temperature).softmax(0), atol=0.01, rtol=0)


def test_at_temperature_nothing_it_is_the_likeliest() -> None:
    assert set(choice(0.0, barred=1)[0].tolist()) == {0}
    assert set(choice(0.0, barred=0)[0].tolist()) == {1}


# --- passes


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_passes_decode_as_the_strategy_does(steps: int) -> None:
    parts = tiny_parts()
    e, options = embeddings(30), Decoding(steps=steps, balance=0, steering=0, tuning=DecodingTuning(ending=0.5))
    expected = decode(parts.denoiser, e, options).ids
    ids, modulation = torch.full((30, LENGTH), MASK), parts.denoiser.condition(e)
    guesser = Guesser(parts.denoiser, seeded(), rows_at_once=7)
    for left in range(steps, 0, -1):
        ids = guesser.filled(ids, modulation, torch.zeros(30, 1), torch.full((30,), left), torch.full_like(ids, MASK))
    found, lengths = ended(ids, ENDS)
    assert lengths.min() > 0
    some = ~torch.isin(expected[:, 0], torch.tensor(ENDS))  # the strategy may find no text at all
    assert some.sum() > 20
    assert torch.equal(found[some], ended(expected[some], ENDS)[0])


def test_rows_may_have_passes_of_their_own() -> None:
    parts = tiny_parts()
    guesser, e = Guesser(parts.denoiser, seeded()), embeddings(4)
    ids, zeros = torch.full((4, LENGTH), MASK), torch.zeros(4, 1)
    modulation = parts.denoiser.condition(e)
    left = torch.tensor([1, 4, 2, 1])
    found = guesser.filled(ids, modulation, zeros, left, ids)
    for row in range(4):
        alone = guesser.filled(ids[:1], modulation.rows([row]), zeros[:1], left[row : row + 1], ids[:1])
        assert torch.equal(found[row], alone[0])
    assert (found == MASK).any(1).tolist() == [False, True, True, False]


def test_what_is_barred_is_put_nowhere() -> None:
    parts = tiny_parts()
    guesser, modulation = Guesser(parts.denoiser, seeded()), parts.denoiser.condition(embeddings(8))
    ids, zeros, left = torch.full((8, LENGTH), MASK), torch.zeros(8, 1), torch.ones(8, dtype=torch.int64)
    free = guesser.filled(ids, modulation, zeros, left, ids)
    other = guesser.filled(ids, modulation, zeros, left, free)
    text = ~torch.isin(free, torch.tensor(ENDS))
    assert (free != other)[text].all()


def test_a_revision_draws_anew_what_it_doubts() -> None:
    parts = tiny_parts()
    guesser, e = Guesser(parts.denoiser, seeded()), embeddings(6)
    ids = torch.tensor([TOKENIZER.canvas(TOKENIZER.encode("the old cat watched the river"), LENGTH)] * 6)
    modulation = parts.denoiser.condition(e)
    logits = parts.denoiser.logits(parts.denoiser.hidden(ids, modulation))
    chances = logits.softmax(-1)
    standing = chances.gather(2, ids[..., None]).squeeze(2)
    ending = chances[..., list(ENDS)].sum(-1)
    ending[:, 0] = 0
    best = torch.where(ending > 0.5, ENDS[0], logits.index_fill(2, torch.tensor(ENDS), -torch.inf).argmax(-1))
    for doubt in (0.0, 0.02, 0.3, 1.1):
        found = guesser.revised(ids, modulation, torch.zeros(6, 1), torch.full((6, 1), doubt))
        assert torch.equal(found, torch.where(standing < doubt, best, ids))


def test_random_numbers_come_from_the_generator_alone() -> None:
    parts = tiny_parts()
    modulation, ids = parts.denoiser.condition(embeddings(5)), torch.full((5, LENGTH), MASK)

    def found(seed: int) -> Tensor:
        guesser = Guesser(parts.denoiser, seeded(seed), rows_at_once=2)
        return guesser.filled(ids, modulation, torch.ones(5, 1), torch.ones(5).long(), ids)

    assert torch.equal(found(0), found(0))
    assert not torch.equal(found(0), found(1))
