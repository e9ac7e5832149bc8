"""Who may ask, how often, and what every answer carries."""

import json
import threading

import pytest
from httpx2 import Client
from serving import Start, connect, post, wait_until
from starlette.testclient import TestClient

from unembed.errors import ConfigError
from unembed.server import batching
from unembed.server.app import create_app
from unembed.server.gate import client_of
from unembed.server.models import Models
from unembed.server.settings import Settings

TEXT = {"text": "a cat."}


def own_origin(client: Client) -> str:
    return str(client.base_url).rstrip("/")


def test_every_answer_has_the_security_headers(client: Client) -> None:
    for method, path in (
        ("GET", "/health"),
        ("GET", "/nowhere"),
        ("POST", "/encode"),
        ("GET", "/docs"),
        ("GET", "/metrics"),
    ):
        headers = client.request(method, path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_origins_are_compared_as_a_whole(client: Client) -> None:
    own = own_origin(client)
    assert client.post("/encode", json=TEXT, headers={"Origin": own}).status_code == 200
    for origin in (
        "https://example.org",
        own + ".example.org",
        own.replace("http", "https"),
        own + "0",
        own + "/",
        "http://127.0.0.1",
        "null",
        "",
    ):
        answer = client.post("/encode", json=TEXT, headers={"Origin": origin})
        assert answer.status_code == 403, origin
        assert "access-control-allow-origin" not in answer.headers
    assert client.get("/v1/models", headers={"Origin": "null"}).json()["error"]["type"] == "forbidden_origin"


def test_an_allowed_origin_may_call_and_no_other(start: Start) -> None:
    client = start(allow_origin=("https://example.org",))
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    preflight = client.options("/v1/invert", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    assert "content-type" in preflight.headers["access-control-allow-headers"]
    answer = client.post("/encode", json=TEXT, headers={"Origin": "https://example.org"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert answer.headers["vary"] == "Origin"
    for origin in ("https://example.org.evil.net", "https://sub.example.org", "http://example.org"):
        assert client.post("/encode", json=TEXT, headers={"Origin": origin}).status_code == 403
        assert client.options("/encode", headers=asked | {"Origin": origin}).status_code == 403


@pytest.mark.parametrize("origin", ["*", "example.org", "https://example.org/", "https://*.example.org", "null"])
def test_an_allowed_origin_must_be_one(models: Models, origin: str) -> None:
    app = create_app(models, Settings(allow_origin=(origin,)))
    with pytest.raises(ConfigError, match="expected an origin such as"), TestClient(app):
        pass


def test_only_our_own_hosts_are_answered_to(client: Client, start: Start) -> None:
    port = client.base_url.port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "LOCALHOST", "[::1]:9000"):
        assert client.get("/queue", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "", "localhost.", f"evil.example:{port}"):
        assert client.get("/queue", headers={"Host": host}).status_code == 421, host
    proxied = start(allow_host=("demo.example.org",))
    assert proxied.get("/queue", headers={"Host": "demo.example.org"}).status_code == 200
    assert proxied.get("/queue", headers={"Host": "example.org"}).status_code == 421


def test_each_client_has_a_rate(start: Start) -> None:
    client = start(rate_limit=3)
    statuses = [client.post("/encode", json=TEXT).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = client.post("/v1/embeddings", json={"input": "a cat."}, headers={"X-Forwarded-For": "192.0.2.7"})
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert client.get("/health").status_code == 200  # looking costs nothing
    assert client.get("/metrics").status_code == 429  # but for what takes a while to write


def test_a_trusted_proxy_names_the_client(start: Start) -> None:
    client = start(rate_limit=1, trusted_proxy=("127.0.0.1",))
    answers = [client.post("/encode", json=TEXT, headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in (1, 1, 2)]
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    secure = {
        "X-Forwarded-For": "192.0.2.9",
        "X-Forwarded-Proto": "https",
        "Origin": f"https://127.0.0.1:{client.base_url.port}",
    }
    assert client.post("/encode", json=TEXT, headers=secure).status_code == 200


def test_a_customers_ipv6_network_is_one_client() -> None:
    one, other, third = (
        client_of({"client": (address, 1)}) for address in ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1")
    )
    assert one == other != third
    assert client_of({"client": ("192.0.2.1", 1)}) == "192.0.2.1"


def test_a_full_queue_is_a_503_before_the_stream_begins(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = batching.predict
    monkeypatch.setattr(batching, "predict", lambda asked: gate.wait(20) and real(asked))
    client = start(max_waiting=0)
    body = json.dumps({"embedding": [1.0] * 16}).encode()
    with connect(client, post("/decode", body)):
        assert wait_until(lambda: client.get("/queue").json() == {"active": 1, "waiting": 0})
        for path, refused in (
            ("/encode", TEXT),
            ("/decode", {"embedding": [1.0] * 16}),
            ("/v1/invert", {"embeddings": [1.0] * 16, "stream": True, "normalize": True}),
        ):
            answer = client.post(path, json=refused)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "waiting already" in answer.text
        gate.set()
    assert wait_until(lambda: client.get("/queue").json() == {"active": 0, "waiting": 0})
    assert client.post("/encode", json=TEXT).status_code == 200
