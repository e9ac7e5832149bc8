"""A queried encoder: what it sends, what it believes, and what it does when the other side fails."""

import base64
import contextlib
import json
import ssl
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from fakes import fake_encoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.encoders import endpoint
from unembed.encoders.endpoint import KEY
from unembed.encoders.http_client import safe_url
from unembed.encoders.remote import RemoteEncoder
from unembed.errors import EncoderError, InputError
from unembed.inverter import Inverter

URL = "https://encoder.example/v1/embeddings"
FAKE = fake_encoder()
TEXTS = tiny_texts(5)
VECTORS = FAKE.encode(TEXTS)

Handler = Callable[[httpx2.Request], httpx2.Response]
Change = Callable[[list[dict[str, Any]]], Any]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's environment has."""
    monkeypatch.delenv(KEY, raising=False)


def sent(request: httpx2.Request) -> list[str]:
    """The texts of a request in the OpenAI shape."""
    texts: list[str] = json.loads(request.content)["input"]
    return texts


def answer(request: httpx2.Request, change: Change = lambda data: data) -> httpx2.Response:
    """What an honest endpoint would say, last text first, changed."""
    data = [{"index": index, "embedding": row.tolist()} for index, row in enumerate(FAKE.encode(sent(request)))]
    return httpx2.Response(200, json={"data": change(data[::-1])})


def remote(
    handler: Handler, slept: list[float] | None = None, url: str = URL, batch: int | None = None
) -> RemoteEncoder:
    slept = [] if slept is None else slept
    return RemoteEncoder(
        url, FAKE.recipe, FAKE.tokenizer, batch=batch, transport=httpx2.MockTransport(handler), sleep=slept.append
    )


def says(status: int, **more: Any) -> Handler:
    """An endpoint that always answers the same."""
    return lambda request: httpx2.Response(status, **more)


def test_texts_come_back_in_their_order_and_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret\n")
    requests: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return answer(request)

    encoder = remote(handler, batch=2)
    found = encoder.encode([*TEXTS, TEXTS[0]])
    np.testing.assert_allclose(found, FAKE.encode([*TEXTS, TEXTS[0]]), atol=1e-6)
    assert found.dtype == np.float32
    assert [len(sent(request)) for request in requests] == [2, 2, 1]
    assert requests[0].headers["Authorization"] == "Bearer secret"
    assert json.loads(requests[0].content)["model"] == "fake"
    assert encoder.calls == 5
    assert encoder.tokens == sum(len(ids) + 2 for ids in FAKE.tokenizer.encode_batch(TEXTS))  # [CLS] and [SEP]
    encoder.encode(TEXTS)
    assert len(requests) == 3
    assert encoder.encode([]).shape == (0, 16)
    rows = FAKE.tokenizer.encode_batch(TEXTS[:2])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    tokens = encoder.encode_tokens(ids, torch.tensor([len(row) for row in rows]))
    np.testing.assert_allclose(tokens.numpy(), found[:2], atol=1e-6)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_batch_that_is_too_large_is_halved_and_its_size_remembered(status: int) -> None:
    texts = tiny_texts(60)
    sizes: list[int] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sizes.append(len(sent(request)))
        return answer(request) if sizes[-1] <= 10 else httpx2.Response(status, text="batch size: at most 10")

    encoder = remote(handler)
    np.testing.assert_allclose(encoder.encode(texts[:40]), FAKE.encode(texts[:40]), atol=1e-6)
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    encoder.encode(texts)
    assert sizes[7:] == [8, 8, 4]
    assert encoder.calls == 60  # what was refused costs nothing


def test_a_text_that_is_refused_alone_is_the_end() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        bad = TEXTS[2] in sent(request)
        return httpx2.Response(400, json={"error": {"message": "this text is invalid"}}) if bad else answer(request)

    encoder = remote(handler)
    with pytest.raises(EncoderError, match=r"refused with status 400 \(this text is invalid\)"):
        encoder.encode(TEXTS)
    assert encoder.calls == 2  # those before it, which stay known
    encoder.encode(TEXTS[:2])
    assert encoder.calls == 2
    assert encoder.batch == 32
    with pytest.raises(InputError, match="batch is 0, expected at least 1"):
        remote(answer, batch=0)


def test_what_was_answered_stays_known_when_a_later_batch_fails() -> None:
    down = [True]

    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(403) if down[0] and TEXTS[4] in sent(request) else answer(request)

    encoder = remote(handler, batch=2)
    with pytest.raises(EncoderError, match="status 403; its key is read from UNEMBED_API_KEY"):
        encoder.encode(TEXTS)
    assert encoder.calls == 4
    down[0] = False
    np.testing.assert_allclose(encoder.encode(TEXTS), VECTORS, atol=1e-6)
    assert encoder.calls == 5


@pytest.mark.parametrize("failure", [429, 500, 503, httpx2.ReadTimeout("slow"), httpx2.ConnectError("gone")])
def test_what_may_pass_is_tried_again(failure: int | Exception) -> None:
    failures = iter([None, failure, failure])
    slept: list[float] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        found = next(failures, None)
        if isinstance(found, Exception):
            raise found
        return answer(request) if found is None else httpx2.Response(found)

    encoder = remote(handler, slept)
    encoder.probe()
    assert encoder.calls == 1
    assert encoder.encode(TEXTS).shape == (5, 16)
    assert slept == [0.5, 1.0]


@pytest.mark.parametrize("failure", [httpx2.ConnectError("no such host"), httpx2.ConnectTimeout("timed out")])
def test_a_host_that_was_never_reached_is_not_tried_again(failure: Exception) -> None:
    slept: list[float] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        raise failure

    encoder = remote(handler, slept)
    with pytest.raises(EncoderError, match=rf"cannot be reached \({type(failure).__name__}: {failure}\); check the"):
        encoder.probe()
    assert (slept, encoder.calls) == ([], 0)


def test_it_waits_as_long_as_it_is_told() -> None:
    headers = iter(["7", "Wed, 21 Oct 2026 07:28:00 GMT", "9999", None])
    slept: list[float] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        after = next(headers)
        return answer(request) if after is None else httpx2.Response(429, headers={"Retry-After": after})

    remote(handler, slept).encode(TEXTS)
    assert slept == [7.0, 1.0, 60.0]


@pytest.mark.parametrize(
    ("header", "pause"),
    [("-5", 0.5), ("nan", 0.5), ("inf", 60.0), ("-inf", 0.5), ("soon", 0.5), ("", 0.5), ("9" * 400, 60.0), ("0", 0.0)],
)
def test_pauses_stay_within_bounds(header: str, pause: float) -> None:
    slept: list[float] = []
    with pytest.raises(EncoderError):
        remote(says(503, headers={"Retry-After": header}), slept).encode(TEXTS)
    assert slept[0] == pause


def test_it_gives_up_in_the_end() -> None:
    slept: list[float] = []
    message = r"no answer after 6 attempts, the last with status 503 \(loading the model\)"
    with pytest.raises(EncoderError, match=message):
        remote(says(503, json={"error": "loading the model"}), slept).encode(TEXTS)
    assert len(slept) == 5


def test_a_refusal_is_not_repeated() -> None:
    slept: list[float] = []
    with pytest.raises(EncoderError, match=r"refused with status 401 \(no such key\); its key is read from UNEMBED_A"):
        remote(says(401, text="no such\nkey", headers={"Location": "/x"}), slept).encode(TEXTS)
    with pytest.raises(EncoderError, match=r'status 404 \(model "fake" not found\); check the address.*--encoder-mod'):
        remote(says(404, json={"error": {"message": 'model "fake" not found'}}), slept).encode(TEXTS)
    with pytest.raises(EncoderError, match=r"status 200 \(Unexpected endpoint or method. \(POST /v1\)\)"):
        remote(says(200, json={"error": "Unexpected endpoint or method. (POST /v1)"}), slept).encode(TEXTS)
    assert slept == []


ROWS = VECTORS.tolist()
ENTRIES = [{"embedding": row} for row in ROWS]
BASE64 = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in VECTORS]


@pytest.mark.parametrize(
    "tree",
    [
        {"data": ENTRIES},
        {"data": [{**entry, "index": 0} for entry in ENTRIES]},
        {"data": [{**entry, "index": None} for entry in ENTRIES]},
        {"data": [{"embedding": text, "index": i} for i, text in reversed([*enumerate(BASE64)])]},
        {"data": [{"embedding": (row * 5.3).tolist()} for row in VECTORS]},
        {"model": "fake", "embeddings": ROWS, "total_duration": 1},
        ROWS,
        [{"index": i, "embedding": [row]} for i, row in enumerate(ROWS)],
    ],
    ids=["no index", "index 0", "index null", "base64", "not normalised", "ollama", "TEI", "llama.cpp"],
)
def test_answers_of_real_servers_are_understood(tree: Any) -> None:
    np.testing.assert_allclose(remote(says(200, json=tree)).encode(TEXTS), VECTORS, atol=1e-6)


def test_the_interfaces_of_ollama_and_tei_are_asked_as_they_wish() -> None:
    bodies: list[dict[str, Any]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        bodies.append(body)
        if request.url.path == "/api/embeddings":
            return httpx2.Response(200, json={"embedding": FAKE.encode([body["prompt"]])[0].tolist()})
        return httpx2.Response(200, json=FAKE.encode(body["inputs"]).tolist())

    for url in ("http://h/api/embeddings", "http://h/embed", "http://h"):
        np.testing.assert_allclose(remote(handler, url=url).encode(TEXTS), VECTORS, atol=1e-6)
    assert bodies[0] == {"model": "fake", "prompt": TEXTS[0]}
    assert len(bodies) == 5 + 2
    assert bodies[5]["normalize"] is bodies[5]["truncate"] is True


def bad_base64(dtype: str) -> Change:
    return lambda data: [{"embedding": base64.b64encode(np.ones(16, dtype).tobytes()).decode()} for _ in data]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[1:], "answered 4 embeddings, expected 5"),
        (lambda data: data[:4], "answered 4 embeddings not numbered from 0 on, expected 5"),
        (lambda data: [data[0], *data[:-1]], "answered 5 embeddings not numbered from 0 on, expected 5"),
        (lambda data: [{**entry, "embedding": [1.0] * 8} for entry in data], "8 dimensions, expected 16.*--encoder-m"),
        (lambda data: [{**entry, "embedding": [[1.0] * 16] * 2} for entry in data], r"has the shape \(2, 16\)"),
        (lambda data: [{**entry, "embedding": [0.0] * 16} for entry in data], "embedding 0 of 5 is zero or not fin"),
        (lambda data: [{**entry, "embedding": [float("nan")] * 16} for entry in data], "zero or not finite"),
        (lambda data: [{**entry, "embedding": [1e300] * 16} for entry in data], "zero or not finite"),
        (lambda data: [{**entry, "embedding": [10**400] * 16} for entry in data], "not a list of numbers"),
        (lambda data: [{**entry, "embedding": [[1], 2]} for entry in data], "not a list of numbers"),
        (lambda data: [{**entry, "embedding": "text"} for entry in data], "base64 of 3 bytes .expected 64"),
        (lambda data: [{**entry, "embedding": "text!"} for entry in data], "is text, expected numbers or base64"),
        (bad_base64("<f8"), r"base64 of 128 bytes \(float64, or 32 dimensions of float32: expected 64"),
        (bad_base64("<f2"), r"base64 of 32 bytes \(expected 64"),
        (lambda data: [{"vector": entry["embedding"]} for entry in data], "entries without an embedding"),
        (lambda data: [data[0], [1.0]], "entries without an embedding"),
        (lambda data: None, "none of the shapes of embeddings endpoints"),
    ],
)  # fmt: skip
def test_answers_are_not_trusted(change: Change, message: str) -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        data = json.loads(answer(request).content)["data"]
        return httpx2.Response(200, text=json.dumps({"data": change(data)}))  # NaN too

    with pytest.raises(EncoderError, match=message):
        remote(handler).encode(TEXTS)


@pytest.mark.parametrize("body", ["<html>", "[" * 200_000, "\xff", '{"a":' * 50_000, "1" * 10_000])
def test_an_answer_that_is_no_json(body: str) -> None:
    with pytest.raises(EncoderError, match=r"not JSON|none of the shapes"):
        remote(says(200, content=body.encode("latin-1"))).encode(TEXTS)
    with pytest.raises(EncoderError, match="refused with status 400"):
        remote(says(400, content=body.encode("latin-1"))).encode(TEXTS)


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("ftp://encoder", "encoder.example/v1"):
        with pytest.raises(InputError, match="expected http:// or https://"):
            remote(answer, url=url)
    for url in ("http://", "http://user:pa/ss@h:x/", "http://a\x1b[31m/", "http://:80/"):
        with pytest.raises(InputError, match=r"expected http://HOST\[:PORT\]/PATH") as raised:
            remote(answer, url=url)
        assert not any(part in str(raised.value) for part in ("pa", "ss", "\x1b"))
    for key in ("sesame\nopen", "sésame"):
        monkeypatch.setenv(KEY, key)
        with pytest.raises(InputError, match="UNEMBED_API_KEY holds characters") as raised:
            remote(answer)
        assert "same" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8080/v1/embeddings", "http://127.0.0.1:8080/v1/embeddings"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("https://u:pw@h:1/v1?api_key=abc&v=2#top", "https://***@h:1/v1?***"),
        ("https://token@h/v1", "https://***@h/v1"),
        ("https://h/accounts/1/run/@cf/model", "https://h/accounts/1/run/@cf/model"),
        ("https://h/v1?mail=a@b", "https://h/v1?***"),
        ("http://u:p/w@h/x", "http://***@h/x"),
        ("http://u:12/34@h/x", "http://***@h/x"),
        ("http://u:p?w@h/x", "http://***?***"),
        ("http://u:12#w@h/x", "http://***?***"),
        ("u:pw@h/x", "***@h/x"),
        ("u:p://w@h/x", "***@h/x"),
        ("http://h/\x1b]0;x\x07\u202e\x9b\n", "http://h/\ufffd]0;x\ufffd\ufffd\ufffd"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def echo(status: int) -> Handler:
    """An endpoint that repeats all that it was told, and plays with the terminal."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        told = f"{request.headers.get('Authorization')} {request.url} {request.content!r}"
        return httpx2.Response(status, json={"error": {"message": f"\x1b]0;x\x07 {told} \u202e\x9b2J" + " much" * 999}})

    return handler


@pytest.mark.parametrize("url", ["https://h/v1?api_key=query/se%20cret", "https://me:pass/w%20ord@h/v1?k=query-secret"])
@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_no_secret_and_no_control_character_is_in_a_message(
    url: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, 'key"/+secret')
    encoder = remote(echo(status), url=url.replace("pass/w", "pass%2Fw"))
    with pytest.raises(EncoderError) as raised:
        encoder.encode(TEXTS)
    said = str(raised.value)
    for secret in ("secret", "se cret", "se%20", "ord", "a2V5", "bWU6", "query"):
        assert secret not in said
    assert "***" in said
    assert said.isprintable()
    assert len(said) < 400


def test_a_key_that_an_error_cannot_be_without_is_not_shown_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "k" * 50)
    with pytest.raises(EncoderError) as raised:
        remote(says(401, text="x" * 190 + "k" * 50)).encode(TEXTS)
    assert "kkk" not in str(raised.value)


def bomb(mebibytes: int) -> bytes:
    """So many MiB of zeros in gzip, which never were in memory at once."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(mebibytes)), packer.flush()])


class _Server(BaseHTTPRequestHandler):
    """Answers of a hostile server, by path."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None]]

    def do_POST(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.rfile.read(int(self.headers["Content-Length"]))
        getattr(self, self.path.strip("/"))()

    def bomb(self) -> None:
        body = bomb(128)
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self._for_ever()

    def headers_drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self._for_ever()

    def _for_ever(self) -> None:
        for _ in range(100):
            self.wfile.write(b"1")
            self.wfile.flush()
            time.sleep(0.05)

    def redirect(self) -> None:
        self.send_response(307)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/other?key=abc")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has left
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def hostile(path: str) -> Iterator[tuple[RemoteEncoder, list[tuple[str, str | None]]]]:
    """An encoder that asks a real server, and what that was asked."""
    asked: list[tuple[str, str | None]] = []
    handler = type("Handler", (_Server,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        encoder = RemoteEncoder(f"http://127.0.0.1:{server.server_port}/{path}", FAKE.recipe, FAKE.tokenizer)
        try:
            yield encoder, asked
        finally:
            encoder.close()
            server.shutdown()


def test_an_answer_that_grows_is_cut_off() -> None:
    with hostile("bomb") as (encoder, _):
        tracemalloc.start()
        with pytest.raises(
            EncoderError, match="the answer has more than 1,053,696 bytes, which embeddings do not take"
        ):
            encoder.encode(TEXTS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2**24  # of 2**27


@pytest.mark.parametrize("path", ["drip", "headers_drip"])
def test_an_answer_that_never_ends_is_left(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "WHOLE", 0.4)
    with hostile(path) as (encoder, asked):
        started = time.monotonic()
        with pytest.raises(EncoderError, match="the answer was not whole after 0.4 s"):
            encoder.encode(TEXTS)
        assert time.monotonic() - started < 3
        assert len(asked) == 1


def test_the_key_does_not_follow_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sesame")
    with hostile("redirect") as (encoder, asked):
        with pytest.raises(EncoderError, match=r"status 307, a redirect to http://localhost:\d+/other\?\*\*\*; give"):
            encoder.encode(TEXTS)
        assert asked == [("/redirect", "Bearer sesame")]


def test_connections_that_are_not_safe_are_not_tried_again() -> None:
    slept: list[float] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
        untrusted.verify_message = "self-signed certificate"
        raise httpx2.ConnectError("certificate verify failed") from untrusted

    with pytest.raises(EncoderError, match=r"its certificate is not trusted: self-signed certificate"):
        remote(handler, slept).encode(TEXTS)
    with hostile("bomb") as (plain, asked):
        encoder = RemoteEncoder(
            plain.url.replace("http://", "https://"), FAKE.recipe, FAKE.tokenizer, sleep=slept.append
        )
        with pytest.raises(EncoderError, match=r"no safe connection \(TLS: .*; check https:// and the port\)"):
            encoder.encode(TEXTS)
        encoder.close()
    assert (slept, asked) == ([], [])


def test_it_is_enough_to_search() -> None:
    encoder = remote(answer)
    inverter = Inverter(tiny_parts()._replace(surrogate=tiny_surrogate()), encoder)
    (found,) = inverter.invert(FAKE.encode(TEXTS[:1]), max_calls=60)
    assert 8 < found.encoder_calls == encoder.calls <= 60
    (again,) = inverter.invert(FAKE.encode(TEXTS[:1]), max_calls=60)
    assert (again.text, again.encoder_calls) == (found.text, found.encoder_calls)
    assert encoder.calls == found.encoder_calls  # every text was known
