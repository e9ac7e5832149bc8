"""The published demo's endpoints: shapes to the letter, and its page's own requests."""

import re
from pathlib import Path

import numpy as np
import pytest
from httpx2 import Client
from serving import Start, events

from unembed.server import published_demo
from unembed.server.example_sentences import EASY, HARD
from unembed.server.models import Models, Served


def decode(client: Client, **body: object) -> list[dict]:
    with client.stream("POST", "/decode", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response.read().decode())


def test_encode_gives_the_embedding_and_the_text(client: Client, served: Served) -> None:
    answer = client.post("/encode", json={"text": "the old cat watches a river.", "model": "tiny"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"embedding", "text"}
    assert answer.json()["text"] == "the old cat watches a river."
    expected = served.inverter.encode(["the old cat watches a river."])[0]
    np.testing.assert_allclose(answer.json()["embedding"], expected, atol=1e-6)


def test_decode_sends_an_event_for_each_pass_and_one_at_the_end(client: Client, served: Served) -> None:
    e_D = served.inverter.encode(["every dog follows the king."])[0]
    found = decode(client, embedding=e_D.tolist(), steps=4)
    *frames, last = found
    assert [frame["step"] for frame in frames] == [0, 1, 2, 3]
    for frame in frames:
        assert set(frame) == {"step", "total", "tokens", "text", "progress"}
        assert frame["total"] == 4
        assert len(frame["tokens"]) == 16
        assert {key for token in frame["tokens"] for key in token} == {"t", "s"}
        assert {token["s"] for token in frame["tokens"]} <= {"m", "c", "u"}
        assert frame["progress"] == pytest.approx(sum(token["s"] != "m" for token in frame["tokens"]) / 16)
    assert [sum(token["s"] == "c" for token in frame["tokens"]) for frame in frames] == [4, 4, 4, 4]
    assert all(token["t"] == "[MASK]" for token in frames[0]["tokens"] if token["s"] == "m")
    assert set(last) == {"step", "total", "tokens", "text", "progress", "cosine_similarity", "done"}
    assert (last["step"], last["total"], last["progress"], last["done"]) == (4, 4, 1.0, True)
    expected = served.inverter.invert(e_D, steps=4)[0]
    assert last["text"] == expected.text
    assert last["cosine_similarity"] == pytest.approx(expected.cosine, abs=1e-3)


def test_decode_is_steered_as_the_library_steers(client: Client, models: Models) -> None:
    inverter = models.find("other").inverter
    e_D = inverter.encode(["every dog follows the king."])[0]
    said = []
    for options in ({"steering": 0.0}, {}, {"steering": 20.0}):
        expected = inverter.invert(e_D, steps=4, **options)[0]
        *_, last = decode(client, embedding=(7.5 * e_D).tolist(), steps=4, model="other", **options)
        assert last["text"] == expected.text
        said.append(expected.text)
    assert len(set(said)) == 3  # so the comparison says something


def test_decode_normalises_as_the_published_demo_does(client: Client, served: Served) -> None:
    e_D = served.inverter.encode(["no horse is young."])[0]
    one, other = (decode(client, embedding=(e_D * scale).tolist(), steps=3) for scale in (1.0, 7.5))
    assert one[-1]["text"] == other[-1]["text"]


def test_the_published_page_works_unchanged(client: Client) -> None:
    """What its script sends, in order: /random with and without arguments, /encode and /decode with its model names."""
    for path in ("/random", "/random?model=qwen3", "/random?model=gemma&hard=true"):
        assert list(client.get(path).json()) == ["text"]
    for model in ("qwen3", "gemma"):
        embedded = client.post("/encode", json={"text": "a small ship.", "model": model})
        assert embedded.headers["x-unembed-model"] == "tiny"
        found = decode(client, embedding=embedded.json()["embedding"], steps=32, model=model)
        assert found[-1]["total"] == 16  # its 32 means "all" to a shorter canvas
        assert isinstance(found[-1]["cosine_similarity"], float)


def test_a_model_of_that_encoder_is_preferred_for_the_published_names(models: Models) -> None:
    class Recipe:
        encoder = "Qwen/Qwen3-Embedding-0.6B"

    class Inverter:
        recipe = Recipe()

    both = Models([models.default, Served("q", Inverter(), 0)])  # type: ignore[arg-type]
    assert both.find_published("qwen3").id == "q"
    assert both.find_published("gemma").id == "tiny"
    assert both.find_published(None).id == "tiny"


def test_random_is_easy_or_hard(client: Client) -> None:
    assert {client.get("/random").json()["text"] for _ in range(20)} <= set(EASY)
    assert {client.get("/random?hard=true").json()["text"] for _ in range(20)} <= set(HARD)


def test_queue_and_health(client: Client) -> None:
    assert client.get("/queue").json() == {"active": 0, "waiting": 0}
    assert client.get("/health").json() == {
        "status": "ok",
        "device": "cpu",
        "models": ["tiny", "other"],
        "queue": {"active": 0, "waiting": 0},
    }


def test_an_unknown_model_is_told_which_exist(client: Client) -> None:
    for method, path, body in (
        ("POST", "/encode", {"text": "a", "model": "gpt"}),
        ("POST", "/decode", {"embedding": [1.0], "model": "gpt"}),
        ("GET", "/random?model=gpt", None),
    ):
        answer = client.request(method, path, json=body)
        assert answer.status_code == 404
        assert answer.json() == {"error": "model 'gpt' is not served here, expected one of tiny, other"}


def test_the_page_and_its_files(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = tmp_path
    (web / "index.html").write_text('<!doctype html><meta property="og:image" content="{base}static/card.png">')
    (web / "app.js").write_text("export {}")
    monkeypatch.setattr(published_demo, "WEB", web)
    own = start()
    page = own.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert f'content="{own.base_url}/static/card.png"' in page.text
    assert own.head("/").status_code == 200
    script = own.get("/static/app.js")
    assert script.status_code == 200
    assert "javascript" in script.headers["content-type"]
    assert own.get("/static/../app.py").status_code == 404
    assert own.get("/static/%2e%2e/app.py").status_code == 404
    (web / "index.html").unlink()
    assert own.get("/").json() == {"error": "this installation has no page"}


def test_the_picture_of_a_link_is_served_and_small(client: Client) -> None:
    address = re.search('og:image" content="(.*?)"', client.get("/").text)
    assert address
    picture = client.get(address[1])
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert len(picture.content) < 60_000


def test_answers_are_compressed_and_streams_are_not(client: Client, served: Served) -> None:
    for path in ("/", "/static/app.js", "/v1/models"):
        plain, packed = (client.get(path, headers={"Accept-Encoding": kind}) for kind in ("identity", "gzip"))
        assert plain.content == packed.content
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert "Accept-Encoding" in packed.headers["vary"]
        assert int(packed.headers["content-length"]) < len(plain.content)
    e_D = served.inverter.encode(["every dog follows the king."])[0]
    body = {"embeddings": e_D.tolist(), "steps": 4, "stream": True}
    with client.stream("POST", "/v1/invert", json=body, headers={"Accept-Encoding": "gzip"}) as response:
        assert "content-encoding" not in response.headers
        assert [event["type"] for event in events(response.read().decode())] == ["frame"] * 5 + ["result"]
