"""Which encoder made these vectors?"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from unembed.alignment.identify import TABLE, Guess, coordinate_scales, identify
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.encoders.recipes import MINILM
from unembed.errors import DataError, EmbeddingError

NAME = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [
    "The ferry leaves the northern harbour at half past six.",
    "Her grandmother kept bees behind the orchard.",
    "A court in Lyon has overturned the ruling of last year.",
    "Restart the router before you call the support line.",
    "The patient was given two units of blood after surgery.",
    "Rents in the old town have doubled within ten years.",
    "He sold the violin to pay for his passage.",
    "The function returns an empty list if nothing matches.",
    "Snow closed the pass from November to the end of April.",
    "Our invoice of March has not been paid yet.",
    "The choir rehearses on Thursdays in the parish hall.",
    "Copper prices fell after the strike had ended.",
]


@pytest.fixture(scope="module")
def real(minilm: Encoder) -> np.ndarray:
    return minilm.encode(TEXTS)


def unit(n: int, dimension: int) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((n, dimension)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotated(x: np.ndarray) -> np.ndarray:
    return x @ np.linalg.qr(np.random.default_rng(1).standard_normal((x.shape[1], x.shape[1])))[0]


def of(name: str, guesses: list[Guess]) -> Guess:
    return next(guess for guess in guesses if guess.name == name)


def test_minilm_is_told_by_its_vectors_alone(real):
    first, *others = identify(real)
    assert (first.name, first.likelihood) == (NAME, "very likely")
    assert any("coordinates" in reason for reason in first.reasons)
    assert {guess.likelihood for guess in others} == {"unlikely"}
    assert any(guess.name == "BAAI/bge-small-en-v1.5" for guess in others)


def test_five_vectors_suffice_and_the_scale_does_not_matter(real):
    assert identify(real[:5])[0].likelihood == "very likely"
    assert identify(7 * real)[0].name == NAME
    assert identify(np.round(127 * real).astype(np.int8))[0].likelihood == "very likely"


def test_one_vector_tells_too_little(real):
    found = of(NAME, identify(real[:1]))
    assert found.likelihood == "possible"
    assert any("too few" in reason for reason in found.reasons)


def test_rotated_vectors_are_not_minilms(real):
    guesses = identify(rotated(real))
    assert of(NAME, guesses).likelihood == "unlikely"
    assert guesses[0].likelihood == "possible"
    # The store's word does not hide it.
    named = of(NAME, identify(rotated(real), said="all-MiniLM-L6-v2"))
    assert named.likelihood == "possible"
    assert any("correlate" in reason for reason in named.reasons)


def test_other_pooling_is_not_minilm(minilm):
    encoder = load_encoder(MINILM)
    encoder.recipe = dataclasses.replace(MINILM, pooling="cls")  # the files say mean, so that no recipe may
    assert of(NAME, identify(encoder.encode(TEXTS))).likelihood == "unlikely"


def test_with_the_dimension_alone_all_that_fit_are_listed():
    guesses = identify(unit(20, 1536))
    best = {guess.name for guess in guesses if guess.score == guesses[0].score}
    assert best >= {"openai/text-embedding-3-small", "openai/text-embedding-ada-002"}
    assert {guess.likelihood for guess in guesses} == {"possible"}
    large = of("openai/text-embedding-3-large", guesses)  # shortened
    assert large.score < guesses[0].score
    assert identify(unit(20, 1537)) == []


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("text-embedding-3-small", "openai/text-embedding-3-small"),
        ("openai:text_embedding_3_small", "openai/text-embedding-3-small"),
        ('{"model": "Text-Embedding-3-Small"}', "openai/text-embedding-3-small"),
        ("azure/text-embedding-ada-002", "openai/text-embedding-ada-002"),
        ("ADA-002:latest", "openai/text-embedding-ada-002"),
    ],
)
def test_the_stores_word_counts_in_any_spelling(said, name):
    first, second, *_ = identify(unit(20, 1536), said=said)
    assert (first.name, first.likelihood) == (name, "very likely")
    assert second.likelihood == "possible"


@pytest.mark.parametrize("said", ["", "my-own-encoder", "text-embedding-3-small-tuned", "voyage", "\x1b[31m" * 10_000])
def test_a_name_that_is_not_known_changes_nothing(said):
    assert identify(unit(20, 1536), said=said) == identify(unit(20, 1536))


def test_a_named_encoder_of_another_dimension_is_unlikely():
    guesses = identify(unit(20, 100), said="all-MiniLM-L6-v2")
    assert [guess.likelihood for guess in guesses] == ["unlikely"]
    assert "it has 384 dimensions, these vectors 100" in guesses[0].reasons


def test_lengths_speak_against_encoders_that_normalise():
    guesses = identify(3 * unit(20, 768))
    assert of("BAAI/bge-base-en-v1.5", guesses).likelihood == "unlikely"
    assert of("sentence-transformers/multi-qa-mpnet-base-dot-v1", guesses).likelihood == "possible"


def test_a_large_constant_direction_speaks_for_e5():
    constant = np.sqrt(0.8) * np.eye(1, 1024) + np.sqrt(0.2) * unit(50, 1024)
    constant /= np.linalg.norm(constant, axis=1, keepdims=True)
    assert identify(constant)[0].name.startswith("intfloat/")
    assert of("intfloat/e5-large-v2", identify(unit(50, 1024))).likelihood == "unlikely"


def test_a_table_of_ones_own_adds_encoders(tmp_path: Path):
    own = unit(500, 100) * np.exp(np.random.default_rng(2).normal(size=100))
    row = {"name": "ours", "dimension": 100, "coordinates": coordinate_scales(own[:250]).tolist()}
    (tmp_path / "own.json").write_text(json.dumps([row, {"name": "theirs", "dimension": 100}]))
    guesses = identify(own[250:], table=tmp_path / "own.json")
    assert [(guess.name, guess.likelihood) for guess in guesses] == [("ours", "very likely"), ("theirs", "unlikely")]
    assert identify(own[250:]) == []


@pytest.mark.parametrize(
    "text",
    ["", "{}", '[{"name": "x"}]', '[{"name": "x", "dimension": 0}]', '[{"name": 1, "dimension": 2}]', "[" * 9999],
)
def test_a_table_that_is_none_is_refused_in_a_line(tmp_path, text):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(DataError, match="own.json") as caught:
        identify(unit(5, 8), table=tmp_path / "own.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        identify(unit(5, 8), table=tmp_path / "none.json")


def test_rows_that_are_no_vectors_are_left_out(real):
    bad = np.concatenate([real, np.full((3, 384), np.nan, np.float32), np.zeros((3, 384), np.float32)])
    assert identify(bad)[0] == identify(real)[0]
    assert identify(np.concatenate([real, np.full((1, 384), 1e38)]))[0].name == NAME
    for nothing in (bad[-6:], np.zeros((0, 3)), np.zeros(3), np.array([["a"]])):
        with pytest.raises(EmbeddingError):
            identify(nothing)


def test_the_table_states_where_each_fact_is_from():
    table = json.loads(TABLE.read_text())
    assert all(row["source"].startswith("https://") for row in table)
    assert len({row["name"] for row in table}) == len(table) >= 40
    for row in table:
        assert len(row.get("coordinates", range(row["dimension"]))) == row["dimension"]
