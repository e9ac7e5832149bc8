"""Our own endpoints under `/v1/`: inversion, embeddings in OpenAI's shape, and what is served."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel

from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding
from unembed.errors import InputError
from unembed.search.options import Search
from unembed.server import guided, schemas
from unembed.server.context import Context
from unembed.server.event_streams import EventStream
from unembed.server.http_errors import Fault, detail, documented
from unembed.server.models import Served, describe
from unembed.server.settings import Settings
from unembed.server.tickets import Ticket
from unembed.server.work import Embedded, Recovered, Snapshot, Work, embed, invert

FAULTS = (400, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503, 504)


class ModelList(BaseModel):
    """What is served, the default first."""

    object: str
    data: list[dict[str, Any]]


class Answer(BaseModel):
    """One entry for each input."""

    object: str
    model: str
    data: list[dict[str, Any]]
    usage: dict[str, Any]


def router(context: Context) -> APIRouter:
    """`/v1/invert`, `/v1/embeddings` and `/v1/models`."""
    api = APIRouter(prefix="/v1")
    batcher, settings = context.batcher, context.settings
    limits: dict[str, float] = {
        "candidates": settings.max_candidates,
        "embeddings": settings.max_embeddings,
        "alternatives": schemas.MAX_ALTERNATIVES,
        "seconds": settings.max_seconds,
        "text_characters": settings.max_text,
    }

    def blind_ticket(
        body: schemas.InvertRequest, served: Served, e_BD: NDArray[np.float32], decoding: Decoding
    ) -> Ticket:
        canvases = min(len(e_BD) * decoding.candidates, max(batcher.at_once, decoding.candidates))
        return batcher.submit(
            served,
            canvases * (2 if decoding.guidance else 1),
            lambda ticket: invert(
                served,
                e_BD,
                decoding,
                body.alternatives,
                body.cosine,
                batcher.at_once,
                ticket.emit if body.stream else None,
            ),
            cost=len(e_BD) * decoding.candidates * decoding.steps,
        )

    def guided_ticket(
        body: schemas.InvertRequest, served: Served, e_BD: NDArray[np.float32], decoding: Decoding, search: Search
    ) -> Ticket:
        if body.alternatives:
            raise InputError(f"alternatives is {body.alternatives}, but a guided inversion has none: expected 0")
        seconds = _search_seconds(search, len(e_BD), settings)

        def begin(row: int, seconds: float) -> Iterator[Inversion]:
            return served.inverter.search(e_BD[row], decoding, replace(search, seconds=seconds), first_row=row)

        def work(ticket: Ticket) -> Work:
            limits = guided.Limits(seconds, search.max_calls, ticket.deadline)
            return guided.search(begin, len(e_BD), limits, ticket.emit if body.stream else None)

        return batcher.submit(served, 1, work, cost=len(e_BD) * seconds, guided=True)

    @api.post(
        "/invert",
        response_model=Answer,
        responses={
            **documented(*FAULTS, v1=True),
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The texts"},
        },
        openapi_extra={
            "requestBody": {
                "content": {"application/json": {"example": {"embeddings": [[0.1, -0.2, 0.3]], "steps": 8}}}
            }
        },
    )
    async def inversions(
        body: schemas.InvertRequest, last_event_id: Annotated[str | None, Header(include_in_schema=False)] = None
    ) -> Response:
        """Recover the texts of embeddings, as one answer or, for one embedding, as a stream of passes or rounds."""
        served = context.models.find(body.model)
        e_BD = schemas.read_embeddings(body.embeddings, served, body.normalize, settings.max_embeddings)
        decoding, search = served.inverter.plan(**body.options)
        if decoding.candidates > settings.max_candidates:
            raise InputError(f"candidates is {decoding.candidates}, expected 1 to {settings.max_candidates}")
        if body.stream and len(e_BD) != 1:
            raise InputError(f"a stream takes one embedding, found {len(e_BD)}")
        started = time.perf_counter()
        if search is None:
            ticket = blind_ticket(body, served, e_BD, decoding)
        else:
            ticket = guided_ticket(body, served, e_BD, decoding, search)
        if body.stream:
            return _stream(ticket, served, decoding.steps if search is None else None, last_event_id)
        with ticket:
            found: list[Recovered] = await ticket.result()
        data = [schemas.inversion_object(served, recovered, index) for index, recovered in enumerate(found)]
        usage = {"passes": sum(one["passes"] for one in data), "seconds": round(time.perf_counter() - started, 4)}
        return JSONResponse({"object": "list", "model": served.id, "data": data, "usage": usage})

    @api.post(
        "/embeddings",
        response_model=Answer,
        responses=documented(*FAULTS, v1=True),
        openapi_extra={
            "requestBody": {"content": {"application/json": {"example": {"input": "The cat sat on the mat."}}}}
        },
    )
    async def embeddings(body: schemas.EmbeddingsRequest) -> Response:
        """Embed texts, in OpenAI's shape."""
        served = context.models.find(body.model)
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not 1 <= len(texts) <= settings.max_texts:
            raise InputError(f"input has {len(texts)} texts, expected 1 to {settings.max_texts}")
        if problem := schemas.text_problem(texts, settings.max_text):
            raise InputError(problem)
        with batcher.submit(served, 1, lambda _: embed(served, texts, with_ids=True)) as ticket:
            found: Embedded = await ticket.result()
        tokenizer = served.inverter.tokenizer
        data: list[dict[str, Any]] = []
        for index, (vector, ids) in enumerate(zip(found.vectors, found.ids, strict=True)):
            value = schemas.to_base64(vector) if body.encoding_format == "base64" else vector.tolist()
            entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": value}
            if body.include_tokens:
                entry |= {"tokens": [tokenizer.token(i) for i in ids], "ids": ids}
            data.append(entry)
        read = sum(len(ids) for ids in found.ids)
        usage = {"prompt_tokens": read, "total_tokens": read}
        return JSONResponse({"object": "list", "model": served.id, "data": data, "usage": usage})

    @api.get("/models", responses=documented(403, 421, v1=True))
    async def models() -> ModelList:
        """What is served: dimensions, lengths, limits, strategies, and each model's own figures."""
        data = [describe(one, one is context.models.default, limits) for one in context.models.all]
        return ModelList(object="list", data=data)

    return api


def _search_seconds(search: Search, embeddings: int, settings: Settings) -> float:
    """Seconds that each search may take. Raises InputError."""
    most, whole = settings.max_seconds, settings.time_limit
    if not most:
        raise InputError("this server allows no guided inversion: expected neither seconds nor max_calls")
    if search.seconds is None:
        return min(most, whole / embeddings)
    if search.seconds > most:
        raise InputError(f"seconds is {search.seconds:g}, expected at most {most:g}")
    if embeddings * search.seconds > whole:
        raise InputError(
            f"{embeddings} embeddings of {search.seconds:g} s each exceed a request's limit of {whole:g} s"
        )
    return search.seconds


def _stream(ticket: Ticket, served: Served, total: int | None, last_event_id: str | None) -> EventStream:
    """The events of an inversion of `total` passes, or of a search."""
    seen = -1
    with contextlib.suppress(ValueError):
        seen = int(last_event_id or -1)

    def frame(reached: Snapshot | guided.Reached) -> tuple[dict[str, Any], int] | None:
        if reached.step <= seen:
            return None
        if isinstance(reached, Snapshot):
            return schemas.frame_event(served, reached), reached.step
        return schemas.round_event(served, reached), reached.step

    def end(found: list[Recovered]) -> tuple[dict[str, Any], int]:
        result = schemas.inversion_object(served, found[0], 0)
        step = result["rounds"] if total is None else total
        head = {"type": "result", "step": step, "total": total, "progress": 1.0, "done": True, "model": served.id}
        return head | {"result": result}, step

    def failure(fault: Fault) -> dict[str, Any]:
        return {"type": "error", "done": True, "error": detail(fault)}

    return EventStream(ticket, frame, end, failure)
