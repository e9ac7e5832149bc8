"""Metrics for Prometheus: requests and their latency by endpoint, the queue, passes and how full they are."""

from http import HTTPMethod
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from unembed.server.batching import Batcher

METHODS = frozenset(HTTPMethod)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class KnownMethods:
    """ASGI middleware: what is no method of HTTP is called OTHER, so that strangers cannot make labels up."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in METHODS:
            scope = {**scope, "method": "OTHER"}
        await self.app(scope, receive, send)


class Telemetry:
    """The metrics of one server; what the batcher tells ends here."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        ProcessCollector(registry=here)  # memory, processor time, open files
        self._passes = Counter(
            "unembed_passes", "Passes of the denoiser, one for each canvas.", ["model"], registry=here
        )
        self._merged = Counter(
            "unembed_merged_passes", "Calls of the denoiser, each for many canvases.", ["model"], registry=here
        )
        self._rows = Histogram(
            "unembed_batch_canvases", "Canvases in a merged pass.", ["model"], buckets=ROWS, registry=here
        )
        self._requests = Histogram(
            "unembed_batch_requests", "Requests in a merged pass.", ["model"], buckets=ROWS, registry=here
        )
        self._seconds = Histogram(
            "unembed_pass_seconds", "Seconds of a merged pass.", ["model"], buckets=SECONDS, registry=here
        )
        self._texts = Counter("unembed_texts", "Texts embedded.", ["model"], registry=here)
        self._encoding = Counter("unembed_encoder_seconds", "Seconds spent embedding texts.", ["model"], registry=here)
        self._rounds = Histogram(
            "unembed_round_seconds", "Seconds of a guided round.", ["model"], buckets=SECONDS, registry=here
        )
        self._calls = Counter("unembed_encoder_calls", "Encoder calls of guided inversions.", ["model"], registry=here)

    def merged_pass(self, model: str, requests: int, rows: int, seconds: float) -> None:
        """One pass was run for `rows` canvases of `requests` requests."""
        self._passes.labels(model).inc(rows)
        self._merged.labels(model).inc()
        self._rows.labels(model).observe(rows)
        self._requests.labels(model).observe(requests)
        self._seconds.labels(model).observe(seconds)

    def texts(self, model: str, texts: int, seconds: float) -> None:
        """Texts were embedded."""
        self._texts.labels(model).inc(texts)
        self._encoding.labels(model).inc(seconds)

    def round(self, model: str, passes: int, calls: int, seconds: float) -> None:
        """A round of a guided inversion was run, with so many passes and encoder calls."""
        self._passes.labels(model).inc(passes)
        self._calls.labels(model).inc(calls)
        self._rounds.labels(model).observe(seconds)

    def watch(self, batcher: "Batcher", max_batch: int) -> None:
        """Report the queue as it is when asked."""
        gauges = {
            "unembed_requests_active": ("Requests being worked on.", lambda: batcher.active),
            "unembed_requests_waiting": ("Requests that wait for a place.", lambda: batcher.waiting),
            "unembed_batch_canvases_max": ("Canvases that fit a merged pass.", lambda: max_batch),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=self.registry).set_function(value)

    def install(self, app: FastAPI) -> None:
        """Measure the requests of `app` and answer `/metrics`."""
        instrumentator = Instrumentator(
            should_group_status_codes=False, excluded_handlers=["/metrics"], registry=self.registry
        )
        instrumentator.instrument(app).expose(app, include_in_schema=False)
        app.add_middleware(KnownMethods)
