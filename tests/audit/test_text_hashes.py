"""Texts that a store's hashes prove."""

import hashlib
import itertools
import time

import pytest

from unembed.audit.text_hashes import MOST, proven, spellings, tight


def digest(text: str, kind: str = "md5") -> str:
    return f"{kind}:{hashlib.new(kind, text.encode()).hexdigest()}"


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_the_recovered_text_itself_is_proved(kind: str) -> None:
    assert proven("the old cat.", digest("the old cat.", kind)) == "the old cat."
    assert proven("the old cat.", digest("the old dog.", kind)) is None


@pytest.mark.parametrize(
    "text",
    [
        "The library opens at nine.",
        "The library opens at nine",
        "The Library opens at Nine.",
        "THE LIBRARY OPENS AT NINE.",
        "the library opens at nine!",
        "The library opens at nine.\n",
        "She said: I can't go to Paris (France), can I?",
        "Anna Lindqvist lives in Oslo.",
        "A well-known e-mail/phone list. It is old.",
    ],
)
def test_other_capitals_and_marks_are_tried(text: str) -> None:
    """What comes back is lower case, with spaces about marks."""
    recovered = text.strip("\n").lower()
    for mark in "'-/(),":
        recovered = recovered.replace(mark, f" {mark} ")
    assert proven(" ".join(recovered.split()), digest(text)) == text


@pytest.mark.parametrize("wrong", ["", "md5", "md5:", "md5:zz", "crc:1234", "sha256:" + "0" * 32, "md5:" + "0" * 33])
def test_what_is_no_hash_proves_nothing(wrong: str) -> None:
    assert proven("a text", wrong) is None


def test_the_work_is_bounded_for_hostile_texts() -> None:
    started = time.process_time()
    for text in ("a " * 500, "." * 2000, "I. " * 700, "((((" * 500):
        assert proven(text, "md5:" + "0" * 32) is None
    assert time.process_time() - started < 5
    assert len(list(itertools.islice(spellings("one two three four five six"), MOST))) > 100


def test_spaces_that_a_tokenizer_adds_are_taken_out() -> None:
    assert tight("it ' s a well - known ( old ) e - mail , isn ' t it ?") == "it's a well-known (old) e-mail, isn't it?"
