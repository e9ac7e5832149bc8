"""Which encoder made a collection's vectors."""

from dataclasses import replace

import numpy as np
import pytest

from fakes import fake_encoder, tiny_parts
from memory_store import texts
from unembed.audit.which_encoder import which_encoder
from unembed.encoders.encoder import Encoder
from unembed.encoders.recipes import MINILM
from unembed.errors import EncoderError, InputError
from unembed.inverter import Inverter

TEXTS = texts(30)


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter(tiny_parts(), fake_encoder())


@pytest.fixture(scope="module")
def packaged() -> Inverter:
    """One for all-MiniLM-L6-v2, which is never loaded here."""
    parts = tiny_parts()
    return Inverter(parts._replace(config=replace(parts.config, encoder=MINILM)))


def vectors(n: int = 30, d: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


def test_what_the_user_says_counts(inverter: Inverter) -> None:
    own = which_encoder(vectors(), TEXTS, "openai/text-embedding-3-small", "fake", inverter)
    assert (own.name, own.by, own.own) == ("fake", "declared", True)
    other = which_encoder(vectors(), TEXTS, "fake", "somebody/other", inverter)
    assert (other.name, other.by, other.own) == ("somebody/other", "declared", False)
    assert which_encoder(vectors(d=24), [], "", "fake", inverter).own is False  # which has 16 dimensions


def test_a_word_of_the_user_that_texts_contradict_is_refused(inverter: Inverter) -> None:
    with pytest.raises(InputError, match="--encoder is bogus, but fake gives the texts beside the vectors the same"):
        which_encoder(inverter.encode(TEXTS), TEXTS, "", "bogus", inverter)


def test_texts_beside_the_vectors_tell_the_inverters_own_encoder(inverter: Inverter) -> None:
    made = inverter.encode(TEXTS)
    found = which_encoder(3 * made, TEXTS, "", None, inverter)  # lengths do not matter
    assert (found.name, found.by, found.own) == ("fake", "identified", True)
    assert which_encoder(made, TEXTS, "fake", None, inverter).by == "named"
    assert which_encoder(made, TEXTS, "wrong/name", None, inverter).name == "fake"


def test_texts_beside_the_vectors_speak_against_a_name(inverter: Inverter) -> None:
    found = which_encoder(vectors(), TEXTS, "fake", None, inverter)
    assert (found.name, found.by, found.own) == ("fake", "named", False)
    assert "gives the texts beside them others" in found.why


def test_a_name_is_taken_from_the_store_where_nothing_speaks_against_it(inverter: Inverter) -> None:
    assert which_encoder(vectors(), [None] * 30, "fake", None, inverter).own is True
    other = which_encoder(vectors(), [], "evil\x1b[2Jname", None, inverter)
    assert (other.name, other.by, other.own) == ("evil\ufffd[2Jname", "named", False)


def test_nothing_is_known_where_nothing_tells(inverter: Inverter) -> None:
    found = which_encoder(vectors(), [], "", None, inverter)
    assert (found.name, found.by, found.own) == ("unknown", "unknown", None)
    assert which_encoder(vectors(d=24), [], "", None, inverter).own is False


def test_known_encoders_are_found_under_the_names_of_stores(packaged: Inverter) -> None:
    named = which_encoder(vectors(3, 1536), [], '{"model": "text_embedding_3_small"}', None, packaged)
    assert (named.name, named.by, named.own) == ("openai/text-embedding-3-small", "named", False)


def test_a_name_that_only_a_store_says_is_not_loaded(packaged: Inverter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Encoder:
        raise AssertionError("an encoder was loaded")

    for module in ("encoders.encoder", "inverter.inverter", "audit.attack"):
        monkeypatch.setattr(f"unembed.{module}.load_encoder", refuse)
    assert which_encoder(vectors(), [], "someone/trojan", None, packaged).own is False
    assert which_encoder(vectors(), TEXTS, "Qwen/Qwen3-Embedding-0.6B", None, packaged).own is False


def test_an_encoder_that_cannot_be_loaded_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Encoder:
        raise EncoderError("no network")

    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", fail)
    found = which_encoder(vectors(), TEXTS, "fake", None, Inverter(tiny_parts()))
    assert (found.name, found.own) == ("fake", True)


def test_vectors_that_are_not_as_a_named_encoder_makes_them_are_not_its(packaged: Inverter) -> None:
    found = which_encoder(vectors(100, 384), [], "all-MiniLM-L6-v2", None, packaged)
    assert found.own is False
    assert "not as it makes them" in found.why
