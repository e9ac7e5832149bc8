"""`/v1/`: inversion, embeddings and models, as docs/server.md writes them."""

import base64
from typing import Any

import numpy as np
import pytest
import torch
from httpx2 import Client
from serving import Start, events, tiny_inverter

from fakes import tiny_texts
from unembed.decoding.options import STRATEGIES, Decoding
from unembed.server.models import Models, Served


def stream(client: Client, headers: dict[str, str] | None = None, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/invert", json=body | {"stream": True}, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response.read().decode())


def test_guidance_that_was_never_trained_is_refused_before_a_stream_begins(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    untaught = tiny_inverter(3)
    monkeypatch.setattr(untaught.denoiser.null_embedding, "data", torch.zeros(untaught.recipe.dimension))
    client = start(Models([Served("untaught", untaught, 1)]))
    (e_D,) = untaught.encode(tiny_texts(1, 0)).tolist()
    asked: dict[str, Any]
    for path, asked in (("/v1/invert", {"embeddings": e_D, "stream": True}), ("/decode", {"embedding": e_D})):
        assert client.post(path, json=asked).status_code == 200
        answer = client.post(path, json=asked | {"guidance": 0.5})
        assert answer.status_code in (400, 422)
        assert "without condition dropout" in answer.text


@pytest.mark.parametrize("options", [{}, {"candidates": 3, "seed": 5}, {"strategy": "remask", "temperature": 0.7}])
def test_invert_gives_what_the_library_gives(client: Client, served: Served, options: dict[str, Any]) -> None:
    e_BD = served.inverter.encode(tiny_texts(20, 0))
    answer = client.post("/v1/invert", json={"embeddings": e_BD.tolist(), "steps": 5, **options})
    assert answer.status_code == 200, answer.text
    tree = answer.json()
    expected = served.inverter.invert(e_BD, steps=5, **options)
    assert (tree["object"], tree["model"], len(tree["data"])) == ("list", "tiny", 20)
    assert tree["usage"]["passes"] == sum(inversion.passes for inversion in expected)
    for index, (found, inversion) in enumerate(zip(tree["data"], expected, strict=True)):
        assert found["index"] == index
        assert (found["text"], found["tokens"]) == (inversion.text, inversion.tokens)
        assert found["ids"] == inversion.ids[: len(inversion.tokens)]
        assert found["confidence"] == pytest.approx(inversion.confidence, abs=1e-3)
        assert found["cosine"] == pytest.approx(inversion.cosine, abs=1e-3)
        assert found["passes"] == inversion.passes
        assert found["encoder_calls"] == 0
        assert "alternatives" not in found
        assert [one["text"] for one in found["candidates"]] == [one.text for one in inversion.candidates]


def test_embeddings_come_as_numbers_or_base64(client: Client, served: Served) -> None:
    e_BD = served.inverter.encode(tiny_texts(3, 1))
    forms = [
        e_BD.tolist(),
        [base64.b64encode(row.tobytes()).decode() for row in e_BD],
    ]
    answers = [client.post("/v1/invert", json={"embeddings": form}).json()["data"] for form in forms]
    assert answers[0] == answers[1]
    for one in (e_BD[0].tolist(), base64.b64encode(e_BD[0].tobytes()).decode()):
        assert client.post("/v1/invert", json={"embeddings": one}).json()["data"] == answers[0][:1]
    for wrong, said in (
        (e_BD[0].astype("<f8"), "look like float64"),
        (e_BD[:2], "look like float64"),
        (e_BD[0, :-1], "bytes, expected"),
    ):
        answer = client.post("/v1/invert", json={"embeddings": base64.b64encode(wrong.tobytes()).decode()})
        assert answer.status_code == 422
        assert said in answer.json()["error"]["message"]


def test_passes_are_steered_as_the_library_steers_them(client: Client, models: Models) -> None:
    inverter = models.find("other").inverter
    e_BD = inverter.encode(tiny_texts(3, 1))
    said = {}
    for strength in (0.0, Decoding.steering, 2000.0):
        body = {"embeddings": e_BD.tolist(), "model": "other", "steering": strength, "candidates": 2, "seed": 3}
        found = client.post("/v1/invert", json=body).json()["data"]
        expected = inverter.invert(e_BD, candidates=2, steering=strength, seed=3)
        said[strength] = [one["text"] for one in found]
        assert said[strength] == [one.text for one in expected]
    assert len({tuple(texts) for texts in said.values()}) == 3
    body = {"embeddings": e_BD.tolist(), "model": "other", "candidates": 2, "seed": 3}
    assert [one["text"] for one in client.post("/v1/invert", json=body).json()["data"]] == said[Decoding.steering]
    refused = client.post("/v1/invert", json={"embeddings": e_BD.tolist(), "steering": -1})
    assert refused.status_code == 422
    assert "steering" in refused.json()["error"]["message"]


def test_another_length_is_refused_or_scaled(client: Client, served: Served) -> None:
    e_D = served.inverter.encode(["a green bird."])[0]
    refused = client.post("/v1/invert", json={"embeddings": (e_D * 0.5).tolist()})
    assert refused.status_code == 422
    assert "length 0.5, expected 1" in refused.json()["error"]["message"]
    scaled = client.post("/v1/invert", json={"embeddings": (e_D * 0.5).tolist(), "normalize": True})
    plain = client.post("/v1/invert", json={"embeddings": e_D.tolist()})
    assert scaled.json()["data"][0]["text"] == plain.json()["data"][0]["text"]


def test_a_stream_shows_every_pass_and_ends_with_the_answer(client: Client, served: Served) -> None:
    e_D = served.inverter.encode(["this letter is never cold."])[0]
    body = {"embeddings": e_D.tolist(), "steps": 4, "candidates": 2, "alternatives": 3}
    *frames, last = stream(client, **body)
    assert [frame["step"] for frame in frames] == [0, 1, 2, 3, 4]
    for frame in frames:
        assert set(frame) == {"type", "step", "total", "progress", "done", "candidates"}
        assert (frame["type"], frame["done"], frame["total"]) == ("frame", False, 4)
        assert frame["progress"] == frame["step"] / 4
        assert len(frame["candidates"]) == 2
        for candidate in frame["candidates"]:
            assert set(candidate) == {"text", "passes", "tokens"}
            assert candidate["passes"] == frame["step"]
            assert len(candidate["tokens"]) == 16
            for token in candidate["tokens"]:
                assert {"t", "s", "id", "p"} <= set(token) <= {"t", "s", "id", "p", "alternatives", "end"}
                assert (token["s"] == "m") == (token["p"] == 0) == (token["t"] == "[MASK]")
                assert ("alternatives" in token) == (frame["step"] > 0)
                for best in [token.get("alternatives", [])]:
                    chances = [one["p"] for one in best]
                    assert chances == sorted(chances, reverse=True)
                    assert sum(chances) <= 1.001
    plain = client.post("/v1/invert", json=body).json()["data"][0]
    assert set(last) == {"type", "step", "total", "progress", "done", "model", "result"}
    assert (last["type"], last["done"], last["result"]) == ("result", True, plain)
    assert [len(one) for one in plain["alternatives"]] == [3] * len(plain["tokens"])
    assert {candidate["text"] for candidate in frames[-1]["candidates"]} == {c["text"] for c in plain["candidates"]}


def test_the_likeliest_alternative_is_the_token_when_nothing_is_random(client: Client, served: Served) -> None:
    e_D = served.inverter.encode(["one town."])[0]
    for guidance in (0.0, 1.5):
        body = {"embeddings": e_D.tolist(), "steps": 16, "alternatives": 1, "guidance": guidance}
        frame = stream(client, **body)[-2]
        for token in frame["candidates"][0]["tokens"]:
            assert token["alternatives"] == [{"t": token["t"], "id": token["id"], "p": token["p"]}]


def test_a_broken_stream_goes_on_where_it_was(client: Client, served: Served) -> None:
    body = {"embeddings": served.inverter.encode(["we learn at night."])[0].tolist(), "steps": 6}
    whole = stream(client, **body)
    rest = stream(client, headers={"Last-Event-ID": "3"}, **body)
    assert rest == whole[4:]
    assert stream(client, headers={"Last-Event-ID": "nonsense"}, **body) == whole


def test_embeddings_have_openais_shape(client: Client, served: Served) -> None:
    texts = ["the cat and the dog.", "it is cold?"]
    tree = client.post("/v1/embeddings", json={"input": texts, "model": "fake", "user": "me"}).json()
    expected = served.inverter.encode(texts)
    assert set(tree) == {"object", "data", "model", "usage"}
    assert (tree["object"], tree["model"]) == ("list", "tiny")  # found by its encoder's name
    assert [set(entry) for entry in tree["data"]] == [{"object", "index", "embedding"}] * 2
    np.testing.assert_allclose([entry["embedding"] for entry in tree["data"]], expected, atol=1e-6)
    read = sum(len(ids) for ids in served.inverter.tokenizer.encode_batch(texts))
    assert tree["usage"] == {"prompt_tokens": read, "total_tokens": read}
    packed = client.post("/v1/embeddings", json={"input": texts[0], "encoding_format": "base64"}).json()["data"]
    found = np.frombuffer(base64.b64decode(packed[0]["embedding"]), "<f4")
    np.testing.assert_allclose(found, expected[0], atol=1e-6)


def test_tokens_of_a_text_can_be_had_to_compare(client: Client) -> None:
    body = {"input": "The cats, opened!", "include_tokens": True}
    entry = client.post("/v1/embeddings", json=body).json()["data"][0]
    assert entry["tokens"] == ["the", "cat", "##s", ",", "open", "##ed", "[UNK]"]
    assert len(entry["ids"]) == 7


def test_more_texts_than_a_turn_takes(client: Client, served: Served) -> None:
    texts = tiny_texts(50, 2)
    data = client.post("/v1/embeddings", json={"input": texts}).json()["data"]
    np.testing.assert_allclose([entry["embedding"] for entry in data], served.inverter.encode(texts), atol=1e-6)


def test_models_tell_what_the_page_needs(client: Client) -> None:
    tree = client.get("/v1/models").json()
    assert [entry["id"] for entry in tree["data"]] == ["tiny", "other"]
    first = tree["data"][0]
    assert first["strategies"] == list(STRATEGIES)
    assert (first["dimension"], first["length"], first["normalize"], first["default"]) == (16, 16, True, True)
    assert first["encoder"] == "fake"
    assert first["limits"] == {
        "steps": 16, "candidates": 8, "embeddings": 64, "alternatives": 10, "seconds": 60.0,
        "text_characters": 10_000,
    }  # fmt: skip
    assert first["results"] == {"test": {"token_accuracy": 0.0}}
    assert tree["data"][1]["default"] is False


def test_bad_embeddings_are_refused_or_left_out(client: Client, served: Served) -> None:
    e_BD = served.inverter.encode(tiny_texts(4, 1))
    rows: list[Any] = e_BD.tolist()
    plain = client.post("/v1/invert", json={"embeddings": rows, "candidates": 2}).json()["data"]
    rows[1], rows[2] = None, rows[2][:-1]
    rows += [[0.0] * 16, "%%%", {"a": 1}, [[0.1] * 16]]
    body = {"embeddings": rows, "candidates": 2}
    refused = client.post("/v1/invert", json=body)
    assert refused.status_code == 422
    assert "6 of 8 rows are no embeddings: row 1 is null" in refused.json()["error"]["message"]
    assert '"skip_bad": true leaves them out' in refused.json()["error"]["message"]
    found = client.post("/v1/invert", json=body | {"skip_bad": True}).json()
    assert found["skipped"] == 6
    assert [one["index"] for one in found["data"]] == list(range(8))
    assert [one["text"] for one in found["data"]] == [plain[0]["text"], None, None, plain[3]["text"], *[None] * 4]
    assert [one.get("skipped", "") for one in found["data"]][1:] == [
        "is null, expected an embedding", "has 15 numbers, expected 16", "", "is all zeros, expected an embedding",
        "is not base64", "is no list of numbers or base64", "holds something else than numbers",
    ]  # fmt: skip
    none = client.post("/v1/invert", json={"embeddings": [None, None], "skip_bad": True}).json()
    assert (none["skipped"], none["usage"]["passes"]) == (2, 0)


def test_a_search_leaves_bad_embeddings_out(client: Client, models: Models) -> None:
    e_D = models.find("other").inverter.encode(["a young king."])[0].tolist()
    body = {"model": "other", "embeddings": [None, e_D], "skip_bad": True, "max_calls": 30}
    first, second = client.post("/v1/invert", json=body).json()["data"]
    assert first == {"index": 0, "text": None, "skipped": "is null, expected an embedding"}
    assert second["encoder_calls"] > 0


def test_bad_texts_are_refused_or_left_out(client: Client, served: Served) -> None:
    texts = ["a young king.", "", None, "\u200b", "a child.", 5, "a" * 10_001]
    refused = client.post("/v1/embeddings", json={"input": texts})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "text 1 is empty, expected words (and 4 more)"
    found = client.post("/v1/embeddings", json={"input": texts, "skip_bad": True}).json()
    assert found["skipped"] == 5
    assert [one["index"] for one in found["data"]] == list(range(7))
    vectors = [one["embedding"] for one in found["data"] if one["embedding"] is not None]
    np.testing.assert_allclose(vectors, served.inverter.encode(["a young king.", "a child."]), atol=1e-6)
    assert client.post("/v1/embeddings", json={"input": [""], "skip_bad": True}).json()["data"][0]["embedding"] is None


def test_what_cannot_be_meant_is_said(client: Client) -> None:
    for body, said in (
        ({"input": "a", "dimensions": 8}, "dimensions is 8, expected 16"),
        ({"input": [7, 8]}, "found token ids, expected text"),
        ({"input": [[7, 8], [9]]}, "found token ids, expected text"),
    ):
        refused = client.post("/v1/embeddings", json=body)
        assert refused.status_code == 422
        assert said in refused.json()["error"]["message"]
    assert client.post("/v1/embeddings", json={"input": "a child.", "dimensions": 16, "user": "me"}).status_code == 200
    other = client.post("/v1/invert", json={"embeddings": [1.0] + [0.0] * 15, "encoder": "all-MiniLM-L6-v2"})
    assert other.status_code == 422
    assert "embeddings of another recipe" in other.json()["error"]["message"]


def test_one_model_is_found_by_its_name_and_its_encoders(client: Client) -> None:
    every = client.get("/v1/models").json()["data"]
    assert [client.get(f"/v1/models/{one['id']}").json() for one in every] == every
    assert client.get("/v1/models/fake").json() == every[0]
    missing = client.get("/v1/models/some%2Fother")
    assert missing.status_code == 404
    assert "'some/other' is not served here" in missing.json()["error"]["message"]


def test_embeddings_of_another_encoder_are_doubted(start: Start) -> None:
    """By the figures of the inverter's own evaluation: here texts of random weights, far below them or far above."""
    for reach, said in ((0.99, True), (0.01, False)):
        served = Served("tiny", tiny_inverter(0, evaluation={"cosine": reach}), 1)
        client = start(Models([served]))
        rows = np.eye(4, 16).tolist()
        answer = client.post("/v1/invert", json={"embeddings": rows}).json()
        assert ("probably not fake's" in answer.get("warning", "")) == said
        for quiet in ({"cosine": False}, {"steps": 1}):
            assert "warning" not in client.post("/v1/invert", json={"embeddings": rows} | quiet).json()
    assert "warning" not in start(Models([served])).post("/v1/invert", json={"embeddings": rows[:2]}).json()
