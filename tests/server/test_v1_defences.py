"""`/v1/defences`: embeddings as a store keeps them, by the forms that an audit prices."""

from typing import Any

import numpy as np
import pytest
from httpx2 import Client

from fakes import tiny_texts
from unembed.audit.stored_forms import FORMS, rounding
from unembed.server.models import Served

D = 16


def kept(client: Client, embeddings: Any, kind: str, amount: float | None = None, **more: Any) -> dict[str, Any]:
    body = {"embeddings": np.asarray(embeddings).tolist(), "kind": kind, "amount": amount} | more
    answer = client.post("/v1/defences", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def e(served: Served) -> np.ndarray:
    return served.inverter.encode(tiny_texts(3, 0))


@pytest.mark.parametrize(("kind", "amount"), [("noise", 0.1), ("rounding", 4), ("dropping", 0.5), ("rotation", None)])
def test_vectors_come_back_ready_to_be_inverted_and_the_same_each_time(
    client: Client, e: np.ndarray, kind: str, amount: float | None
) -> None:
    answer = kept(client, e, kind, amount)
    assert answer["object"] == "list"
    assert (answer["model"], answer["kind"], answer["amount"]) == ("tiny", kind, amount)
    found = np.array([one["embedding"] for one in answer["data"]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose([one["cosine"] for one in answer["data"]], (found * e).sum(1), atol=1e-4)
    assert kept(client, e, kind, amount) == answer
    alone = kept(client, e[0], kind, amount)["data"]
    np.testing.assert_allclose(alone[0]["embedding"], found[0], atol=1e-6)
    inverted = client.post("/v1/invert", json={"embeddings": found.tolist(), "steps": 1})
    assert inverted.status_code == 200, inverted.text


def test_they_are_the_forms_of_an_audit(client: Client, e: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    for name, kind, amount in (
        ("int8", "rounding", 8), ("binary", "rounding", 1), ("half of the dimensions", "dropping", 0.5),
        ("rotation", "rotation", None), ("noise 1", "noise", 0.25),
    ):  # fmt: skip
        form = FORMS[name](e, np.random.default_rng(0) if kind != "noise" else generator)
        answer = kept(client, e, kind, amount)
        assert answer["bytes"] == form.bytes
        stored = form.store(e)
        assert answer["numbers"] == stored.shape[1]
        expected = stored / np.linalg.norm(stored, axis=1, keepdims=True)
        found = np.array([one["embedding"] for one in answer["data"]])
        np.testing.assert_allclose(found[:, : stored.shape[1]], expected, atol=1e-6, err_msg=name)
        assert not found[:, stored.shape[1] :].any()


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_number_of_bits_is_what_it_says(client: Client, e: np.ndarray, bits: int) -> None:
    answer = kept(client, e, "rounding", bits)
    assert answer["bytes"] == (2 if bits == 1 else 2 * bits + 4)  # sixteen numbers, and a scale
    rounded = rounding(bits)(e)
    expected = (rounded * e).sum(1) / np.linalg.norm(rounded, axis=1)
    np.testing.assert_allclose([one["cosine"] for one in answer["data"]], expected, atol=1e-3)


def test_noise_has_its_deviation(client: Client) -> None:
    e = np.random.default_rng(1).standard_normal((64, D))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    cosines = [one["cosine"] for one in kept(client, e, "noise", 0.1)["data"]]
    assert np.mean(cosines) == pytest.approx((1 + D * 0.1**2) ** -0.5, abs=0.02)


def test_lengths_and_bad_rows_are_as_at_the_other_doors(client: Client, e: np.ndarray) -> None:
    long = kept(client, 3 * e, "rounding", 4, normalize=True)
    both = (long, kept(client, e, "rounding", 4))
    found, expected = ([one["embedding"] for one in answer["data"]] for answer in both)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    refused = client.post("/v1/defences", json={"embeddings": (3 * e).tolist(), "kind": "rotation"})
    assert refused.status_code == 422
    several = [e[0].tolist(), None, e[2].tolist()]
    body = {"embeddings": several, "kind": "dropping", "amount": 0.25, "skip_bad": True}
    answer = client.post("/v1/defences", json=body).json()
    assert answer["skipped"] == 1
    assert answer["data"][1]["embedding"] is None
    assert "null" in answer["data"][1]["skipped"]
    assert answer["data"][2]["embedding"] == kept(client, e, "dropping", 0.25)["data"][2]["embedding"]
    body = {"embeddings": several[0], "kind": "rotation", "encoder": "all-mpnet-base-v2"}
    assert client.post("/v1/defences", json=body).status_code == 422


def test_a_refusal_says_what_is_expected(client: Client, e: np.ndarray) -> None:
    body = {"embeddings": e[0].tolist(), "kind": "rounding", "amount": 9}
    message = client.post("/v1/defences", json=body).json()["error"]["message"]
    assert message == "amount is 9, expected whole bits from 1 to 8"
    body = {"embeddings": e[0].tolist(), "kind": "noise"}
    message = client.post("/v1/defences", json=body).json()["error"]["message"]
    assert message == "amount is missing, expected a standard deviation above 0, at most 1"
