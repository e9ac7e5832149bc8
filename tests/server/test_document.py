"""The OpenAPI document: the server does what it says, fuzzed by schemathesis; `/docs` shows it without a script."""

from collections.abc import Iterator

import pytest
import schemathesis
from httpx2 import Client
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks
from serving import running

from unembed.server.models import Models

load_all_checks()
WANTED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.fixture(scope="session")
def address(models: Models) -> Iterator[str]:
    """A server of its own for the fuzzing."""
    with running(models) as server:
        yield server.address


@pytest.fixture
def document(address: str) -> schemathesis.BaseSchema:
    """What the server says of itself."""
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_its_document_says(case: schemathesis.Case) -> None:
    response = case.call()
    case.validate_response(response, checks=[CHECKS.get_one(name) for name in WANTED])


def test_every_endpoint_is_in_the_documentation(client: Client) -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text


def test_docs_needs_no_script_and_no_other_host(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "//" not in page.text.replace("http://127.0.0.1:8080", "")
    for path in ("/encode", "/decode", "/v1/invert", "/v1/embeddings", "/v1/models"):
        assert f"{path}</code>" in page.text
    assert "style-src 'sha256-" in page.headers["content-security-policy"]


def test_metrics_tell_requests_queue_and_passes(client: Client) -> None:
    client.post("/v1/invert", json={"embeddings": [1.0] + [0.0] * 15, "steps": 4})
    client.get("/nowhere")
    text = client.get("/metrics").text
    for line in (
        'http_requests_total{handler="/v1/invert",method="POST",status="200"}',
        'http_request_duration_seconds_count{handler="/v1/invert",method="POST"}',
        "unembed_requests_active 0.0",
        "unembed_requests_waiting 0.0",
        'unembed_passes_total{model="tiny"}',
        'unembed_batch_canvases_bucket{le="1.0",model="tiny"}',
        'unembed_pass_seconds_count{model="tiny"}',
        'unembed_texts_total{model="tiny"}',
    ):
        assert line in text
    assert "/nowhere" not in text  # or anyone could fill the memory with names
