"""Audits with the packaged inverter and its encoder: real sentences come back, and what is no vector of it does not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memory_store import MemoryStore, opening, rows
from unembed.audit import attack, one_collection
from unembed.audit.audit import audit
from unembed.audit.findings import Audited
from unembed.audit.options import AuditOptions
from unembed.encoders.encoder import Encoder, TransformerEncoder
from unembed.inverter import Inverter
from unembed.search.options import Search
from unembed.stores.store import Rows

pytestmark = pytest.mark.slow

SENTENCES = [
    "The ferry to the island leaves at noon.", "Her landlord raised the rent twice last year.",
    "Please bring your own cup to the meeting.", "The nurse changed the bandage every morning.",
    "Our supplier has not paid the invoice yet.", "He forgot his keys at the swimming pool.",
    "The bakery on the corner sells rye bread.", "She was diagnosed with asthma as a child.",
    "We will close the branch office in Lyon.", "The orchard was full of ripe plums.",
    "My brother teaches physics in Nairobi.", "The committee rejected the second proposal.",
    "Snow blocked the mountain road for days.", "I would like to cancel my subscription.",
    "The museum is free on the first Sunday.", "Their goalkeeper saved three penalties.",
    "The contract ends on the last day of May.", "A fox crossed the garden before sunrise.",
    "Can you send me the password again?", "The violin needs new strings.",
    "The patient is allergic to penicillin.", "Tickets for the concert sold out quickly.",
    "She votes for the green party.", "The engine makes a strange noise.",
    "Our dog is afraid of thunderstorms.", "The witness changed her statement.",
    "They planted tomatoes behind the shed.", "His flight to Madrid was delayed.",
    "The salary will be paid on Friday.", "We moved the servers to another building.",
    "The river flooded the lower town.", "Grandmother hid letters under the floor.",
    "The merger must stay secret until June.", "A bus stopped in front of the school.",
    "He borrowed money from his neighbour.", "The choir rehearses every Tuesday.",
    "Our new colleague starts next week.", "The bridge is closed for repairs.",
    "She found an old map in the attic.", "The soup tastes better with garlic.",
]  # fmt: skip


@pytest.fixture(scope="module")
def inverter(minilm: Encoder) -> Inverter:
    return Inverter.from_pretrained(encoder=minilm)


@pytest.fixture(scope="module")
def vectors(minilm: Encoder) -> np.ndarray:
    return minilm.encode(SENTENCES)


def audited(
    inverter: Inverter, found: Rows, monkeypatch: pytest.MonkeyPatch, drawn: int = 10, **options: Any
) -> Audited:
    monkeypatch.setattr(one_collection, "RANDOM", 6)
    monkeypatch.setattr(one_collection, "RANDOM_GUIDED", 1)
    store = MemoryStore(docs=found).describe("docs", rows=drawn)  # so that no more are drawn of those that are read
    (one,) = audit(["here"], AuditOptions(**options), inverter=inverter, opener=opening(store)).collections
    return one


def test_sentences_come_back_blindly(inverter: Inverter, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audited(inverter, rows(vectors, SENTENCES), monkeypatch)
    assert (found.attack, found.encoder_by) == ("blind", "identified")
    assert found.encoder == "sentence-transformers/all-MiniLM-L6-v2"
    assert found.status_counts["nothing"] <= 2
    assert found.status_counts["near"] + found.status_counts["proved"] >= 4
    assert found.level in ("near", "proved")
    assert found.token_f1 is not None
    assert found.random_f1 is not None
    assert found.token_f1.low > 0.5 > 0.25 > found.random_f1.high


def test_the_encoder_tells_the_very_sentences(
    inverter: Inverter, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By calls, not by the clock, so that a busy machine finds the same.
    monkeypatch.setattr(attack, "Search", lambda seconds: Search(max_calls=120))
    chosen = [12, 21, 22, 27, 38]
    found = audited(inverter, rows(vectors[chosen]), monkeypatch, drawn=2, seconds=5.0)
    assert (found.attack, found.encoder_by) == ("guided", "identified")
    assert found.status_counts["exact"] >= 1
    assert {row.text for row in found.recovered if row.status == "exact"} <= {SENTENCES[row].lower() for row in chosen}


def first_tokens(minilm: Encoder) -> np.ndarray:
    """Of the same network, with other pooling."""
    recipe = replace(minilm.recipe, pooling="cls", sha256={})
    return TransformerEncoder(recipe, minilm.network, minilm.tokenizer).encode(SENTENCES)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", ["random", "rotated", "other pooling"])
def test_what_is_not_its_encoders_gives_nothing(
    kind: str, told: bool, inverter: Inverter, minilm: Encoder, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(1)
    if kind == "random":
        others = generator.standard_normal(vectors.shape)
    elif kind == "rotated":
        others = vectors @ np.linalg.qr(generator.standard_normal((384, 384)))[0]
    else:
        others = first_tokens(minilm)
    found = audited(inverter, rows(others, SENTENCES if told else None), monkeypatch)
    assert found.level == "nothing"
    assert found.attack == ""  # the vectors, or the texts beside them, tell that they are none of the inverter's


def test_random_vectors_give_nothing_to_an_attack(
    inverter: Inverter, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(2).standard_normal(vectors.shape)
    half = [text if row % 2 else None for row, text in enumerate(SENTENCES)]  # by words, and by cosines
    found = audited(inverter, rows(noise, half), monkeypatch, encoder="all-MiniLM-L6-v2")
    assert found.attack == "blind"
    assert found.status_counts == {"proved": 0, "exact": 0, "near": 0, "topic": 0, "nothing": 10}
