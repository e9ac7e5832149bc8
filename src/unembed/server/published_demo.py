"""The published demo's endpoints, with its shapes to the letter, and the page.

What is ours beside them: errors have a status of their own, and a header tells which model answered.
"""

import random
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from unembed.server import schemas
from unembed.server.context import Context, blind_cost
from unembed.server.event_streams import EventStream
from unembed.server.example_sentences import EASY, HARD
from unembed.server.gate import client_of
from unembed.server.http_errors import Fault, documented, message
from unembed.server.inputs import read_embeddings
from unembed.server.work import Recovered, Snapshot, invert

WEB = Path(__file__).parent / "web"
MODEL_HEADER = "X-Unembed-Model"
FAULTS = (400, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503, 504)


def router(context: Context) -> APIRouter:
    """`/encode`, `/decode`, `/random`, `/queue`, `/health` and `/`."""
    api = APIRouter()
    batcher = context.batcher

    @api.post("/encode", responses=documented(*FAULTS), openapi_extra=_example({"text": "The cat sat on the mat."}))
    async def encode(body: schemas.EncodeRequest, request: Request, response: Response) -> schemas.EncodeResponse:
        """Embed a text."""
        served = context.models.find_published(body.model)
        _, found = await context.embedded(request, served, body.text)
        response.headers[MODEL_HEADER] = served.id
        return schemas.EncodeResponse(embedding=found.vectors[0].tolist(), text=body.text)

    @api.post(
        "/decode",
        status_code=200,
        response_class=EventStream,
        responses=documented(*FAULTS, stream=True),
        openapi_extra=_example({"embedding": [0.1, -0.2, 0.3], "steps": 8}),
    )
    async def decode(body: schemas.DecodeRequest, request: Request) -> Response:
        """Recover the text of an embedding: a server-sent event for each pass, and one with the cosine at the end."""
        served = context.models.find_published(body.model)
        e_BD, _ = read_embeddings(body.embedding, served, normalize=True, most=1)
        decoding, _ = served.inverter.plan(**body.options(served.inverter.length))
        ticket = batcher.submit(
            served,
            2 if decoding.guidance else 1,
            lambda ticket: invert(served, e_BD, decoding, watch=ticket.emit),
            blind_cost(served, 1, decoding),
            client_of(request.scope),
        )

        def frame(snapshot: Snapshot) -> tuple[dict[str, Any], None] | None:
            return (schemas.decode_event(served, snapshot), None) if snapshot.step else None

        def end(found: list[Recovered]) -> tuple[dict[str, Any], None]:
            return schemas.decode_end(served, found[0].inversions[0], decoding.steps), None

        def failure(fault: Fault) -> dict[str, Any]:
            return {"error": message(fault)}

        return EventStream(ticket, frame, end, failure, {MODEL_HEADER: served.id})

    @api.get("/random", responses=documented(403, 404, 421, 422))
    async def sentence(model: str | None = None, hard: bool = False) -> schemas.TextResponse:
        """A sentence to try."""
        context.models.find_published(model)
        return schemas.TextResponse(text=random.choice(HARD if hard else EASY))

    @api.get("/queue", responses=documented(403, 421))
    async def queue() -> schemas.Queue:
        """How many requests are being worked on, and how many wait."""
        return schemas.Queue(active=batcher.active, waiting=batcher.waiting)

    @api.get(
        "/health", responses={**documented(403, 421), 503: {"model": schemas.Health, "description": "Cannot work"}}
    )
    async def health(response: Response) -> schemas.Health:
        """Whether the server can work."""
        if batcher.status != "ok":
            response.status_code = 503
        return schemas.Health(
            status=batcher.status,
            device=str(context.models.default.inverter.device),
            models=context.models.ids,
            queue=schemas.Queue(active=batcher.active, waiting=batcher.waiting),
        )

    @api.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        index = WEB / "index.html"
        if not index.is_file():
            raise Fault(404, "not_found", "this installation has no page")
        # The picture of a link's preview needs a whole address.
        text = index.read_text(encoding="utf-8").replace("{base}", escape(str(request.base_url)))
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    @api.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)  # browsers ask for it without being told to

    return api


def _example(body: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"example": body}}}}
