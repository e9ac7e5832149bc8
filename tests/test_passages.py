"""Passages: nothing lost in cutting, sameness by letters and digits, splits by hash alone, duplicates found exactly."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.corpus import passages
from unembed.corpus.passages import LONGEST_PASSAGE, Seen, cut_passages, passage_hash, split_of


@given(st.text(st.sampled_from("ab .!?\n\"'中"), max_size=300), st.integers(1, 40))
def test_cutting_loses_nothing_but_white_space(text: str, repeat: int) -> None:
    text = text * repeat
    found = list(cut_passages(text))
    assert all(0 < len(passage) <= LONGEST_PASSAGE and passage == passage.strip() for passage in found)
    assert "".join("".join(found).split()) == "".join(text.split())
    if len(text.strip()) <= LONGEST_PASSAGE:
        assert found == ([text.strip()] if text.strip() else [])


def test_documents_are_cut_between_sentences_and_words() -> None:
    sentences = [f"This is sentence number {i}, and it says so." for i in range(500)]
    found = list(cut_passages(" ".join(sentences)))
    assert all(passage.endswith("says so.") for passage in found)
    assert min(len(passage) for passage in found[:-1]) > LONGEST_PASSAGE - 50
    words = list(cut_passages("word " * 1000))
    assert {word for passage in words for word in passage.split()} == {"word"}
    assert [len(passage) for passage in cut_passages("x" * 4500)] == [2000, 2000, 500]


def test_a_huge_document_is_cut_in_linear_time() -> None:
    assert sum(map(len, cut_passages("x" * 20_000_000))) == 20_000_000


def test_sameness_is_letters_and_digits_in_lower_case() -> None:
    assert passage_hash("Don't  stop, 3 times!") == passage_hash("dont\nSTOP _ 3 (times)")
    assert passage_hash("Don't stop 3 times") != passage_hash("Don't stop 4 times")
    assert passage_hash("?!") != passage_hash("...")
    assert passage_hash("a lone \ud800 surrogate") == passage_hash("A lone ? surrogate")
    # printf thecat | b2sum -l 64
    assert passage_hash("The Cat.") == 0x7A96DCC8858316CE, "splits must stay what they were in earlier releases"


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.floats(1e-6, 0.4), st.floats(1.0, 1.2))
def test_a_larger_held_out_share_keeps_what_was_held_out(hashes: list[int], share: float, more: float) -> None:
    array = np.array(hashes, dtype=np.uint64)
    smaller, larger = split_of(array, share), split_of(array, share * more)
    assert np.all(larger[smaller > 0] > 0)


def test_splits_have_their_shares() -> None:
    hashes = np.array([passage_hash(f"text {i}") for i in range(20_000)], dtype=np.uint64)
    counts = np.bincount(split_of(hashes, 0.1), minlength=3) / 20_000
    np.testing.assert_allclose(counts, [0.9, 0.05, 0.05], atol=0.006)


@settings(deadline=None, max_examples=50)
@given(blocks=st.lists(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=20), max_size=30))
def test_duplicates_are_found_as_a_set_finds_them(
    blocks: list[list[tuple[int, bool]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("seen")
    known: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "RECENT", 4)
        patch.setattr(passages, "LARGEST_IN_MEMORY", 16)
        seen = Seen(folder)
        for block in blocks:
            expected = []
            for value, asked in block:
                expected.append(asked and value not in known)
                known |= {value} if asked else set()
            hashes = np.array([value for value, _ in block], dtype=np.uint64) * np.uint64(2**58)
            where = np.array([asked for _, asked in block], dtype=bool)
            assert seen.add(hashes, where).tolist() == expected
        seen.close()
    assert list(folder.iterdir()) == []


def test_look_ups_stay_few_and_memory_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "RECENT", 100)
    monkeypatch.setattr(passages, "LARGEST_IN_MEMORY", 5000)
    seen = Seen(tmp_path)
    hashes = np.random.default_rng(0).integers(2**64, size=60_000, dtype=np.uint64)
    for block in np.array_split(hashes, 600):
        assert seen.add(block).all()
    assert not seen.add(hashes).any()
    assert len(seen.runs) < 20
    assert len(list(tmp_path.iterdir())) > 0
    seen.close()
    assert list(tmp_path.iterdir()) == []
