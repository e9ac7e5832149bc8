"""The OpenAPI document: the server does what it says, fuzzed by schemathesis; `/docs` shows it without a script."""

from pathlib import Path

import pytest
import schemathesis
from httpx2 import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks

load_all_checks()
WANTED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


OPERATIONS = (
    "POST /encode", "POST /decode", "GET /random", "GET /queue", "GET /health",
    "POST /v1/invert", "POST /v1/embeddings", "POST /v1/defences", "GET /v1/models",
    "GET /v1/models/{name}",
)  # fmt: skip


@pytest.fixture(scope="session")
def document(client: Client) -> schemathesis.BaseSchema:
    """What the server says of itself."""
    return schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))


def test_these_are_all_operations(document: schemathesis.BaseSchema) -> None:
    assert {operation.ok().label for operation in document.get_all_operations()} == set(OPERATIONS)


# Not schemathesis' own pytest integration, which relies on internals of an older pytest.
@pytest.mark.parametrize("label", OPERATIONS)
def test_the_server_does_what_its_document_says(document: schemathesis.BaseSchema, label: str) -> None:
    method, path = label.split()
    operation = document[path][method]

    @given(case=st.one_of(operation.as_strategy(), operation.as_strategy(schemathesis.GenerationMode.NEGATIVE)))
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        response = case.call()
        case.validate_response(response, checks=[CHECKS.get_one(name) for name in WANTED])

    check()


def test_every_endpoint_is_in_the_documentation(client: Client) -> None:
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text


def test_docs_needs_no_script_and_no_other_host(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "//" not in page.text.replace(f"curl {str(client.base_url).rstrip('/')}", "")
    assert f"curl {str(client.base_url).rstrip('/')}/v1/invert " in page.text
    assert "above 0" in page.text  # of seconds
    for path in ("/encode", "/decode", "/v1/invert", "/v1/embeddings", "/v1/defences", "/v1/models"):
        assert f"{path}</code>" in page.text
    assert "style-src 'sha256-" in page.headers["content-security-policy"]


def test_a_stranger_cannot_make_labels_up(client: Client) -> None:
    for method in ("BREW", "WHEN", "Y" * 60):
        assert client.request(method, "/v1/models").status_code == 405
    client.get("/some/path/of/my/own")
    text = client.get("/metrics").text
    assert 'method="OTHER"' in text
    assert not any(made_up in text for made_up in ("BREW", "WHEN", "YYY", "of/my/own"))


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
