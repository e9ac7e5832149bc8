"""Which texts are measured."""

import pytest

from fakes import tiny_texts, tiny_tokenizer
from unembed.corpus.held_out import parse_tokens, truths
from unembed.errors import InputError

L = 16
TEXTS = tiny_texts(40, seed=1)


def test_truths_of_a_number_of_tokens_are_cut_and_shorter_passages_skipped():
    tokenizer = tiny_tokenizer()
    passages = ["the cat watched a dog today", "the cat", "", "\x00 \n", "one old king."]
    truth = truths(passages, tokenizer, tokens=4, length=L)
    assert truth.texts == ["the cat watched", "one old king."]
    assert truth.ids == tokenizer.encode_batch(truth.texts)
    assert [len(ids) for ids in truth.ids] == [4, 4]
    assert truth.skipped == 3


def test_natural_truths_are_whole_up_to_the_models_length():
    tokenizer = tiny_tokenizer()
    long = "the old cat " * 3000
    truth = truths(["A  Cat .", long, ""], tokenizer, tokens="natural", length=L)
    assert truth.texts[0] == "a cat."  # as the tokenizer writes it: no inverter could know case or spaces
    assert len(truth.ids[1]) == L
    assert long.startswith(truth.texts[1])
    assert truth.skipped == 1


def test_truths_never_hold_special_tokens():
    tokenizer = tiny_tokenizer()
    truth = truths(
        ["[MASK] the cat [SEP] 猫 \U0001f600 a dog [PAD]", "猫 猫 猫"], tokenizer, tokens="natural", length=L
    )
    assert truth.skipped == 1  # nothing that the vocabulary knows
    assert {tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id}.isdisjoint(truth.ids[0])
    assert truth.ids[0] == tokenizer.encode(truth.texts[0])


def test_truths_are_read_no_further_than_needed():
    read = []

    def passages():
        for text in tiny_texts(2000):
            read.append(text)
            yield text

    truth = truths(passages(), tiny_tokenizer(), "natural", L, limit=10)
    assert len(truth.texts) == len(truth.ids) == 10
    assert truth.texts == read[:10]
    assert len(read) < 1000


def test_truths_of_a_range_are_whole_passages_of_these_lengths():
    tokenizer = tiny_tokenizer()
    passages = tiny_texts(60, seed=4)
    lengths = [len(ids) for ids in tokenizer.encode_batch(passages)]
    among = {length for length in lengths if 8 <= length <= 10}
    assert among == {8, 9, 10} < set(lengths)
    truth = truths(passages, tokenizer, "8-10", L)
    wanted = [text for text, length in zip(passages, lengths, strict=True) if length in among]
    assert truth.texts == [tokenizer.decode(tokenizer.encode(text)) for text in wanted]
    assert truth.skipped == len(passages) - len(wanted)
    assert (
        truths(passages, tokenizer, "9-9", L, limit=1).texts
        == [text for text in truth.texts if len(tokenizer.encode(text)) == 9][:1]
    )


@pytest.mark.parametrize("tokens", [0, -1, L + 1, "32", "whole", "0-4", "7-6", f"4-{L + 1}", "4-", "-4", "4-6-8", ""])
def test_impossible_tokens_are_refused(tokens):
    says = f"tokens is {tokens!r}, expected 'natural', or a number from 1 to 16 or a range of them"
    with pytest.raises(InputError, match=says):
        truths(TEXTS, tiny_tokenizer(), tokens, L)


def test_tokens_are_read_from_a_word():
    assert [parse_tokens(word) for word in ("12", "natural", "6-16")] == [12, "natural", "6-16"]
    for word in ("whole", "-3", "6-", "", "6.5", "2 - 3"):
        with pytest.raises(InputError, match="expected a number, a range of them such as 6-16, or 'natural'"):
            parse_tokens(word)


def test_no_truths_are_refused():
    with pytest.raises(InputError, match="no text with at least 16 content tokens among 2"):
        truths(["the cat", "a dog"], tiny_tokenizer(), L, L)
    with pytest.raises(InputError, match="no text with 4-9 content tokens among 2"):
        truths(["the cat", "a dog"], tiny_tokenizer(), "4-9", L)
    with pytest.raises(InputError, match="limit is 0"):
        truths(TEXTS, tiny_tokenizer(), "natural", L, limit=0)
