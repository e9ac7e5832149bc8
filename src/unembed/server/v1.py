"""Our own endpoints under `/v1/`: inversion, embeddings in OpenAI's shape, and what is served."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel

from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding
from unembed.decoding.other_encoders import doubt
from unembed.errors import InputError
from unembed.search.options import Search
from unembed.server import guided, schemas
from unembed.server.context import Context, blind_cost
from unembed.server.event_streams import EventStream
from unembed.server.gate import client_of
from unembed.server.http_errors import Fault, detail, documented
from unembed.server.inputs import read_embeddings
from unembed.server.models import Served, describe
from unembed.server.pace import Cost
from unembed.server.settings import Settings
from unembed.server.tickets import Ticket
from unembed.server.work import Recovered, Snapshot, Work, invert

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
        body: schemas.InvertRequest, served: Served, e_BD: NDArray[np.float32], decoding: Decoding, client: str
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
            blind_cost(served, len(e_BD), decoding, body.cosine),
            client,
        )

    def guided_ticket(
        body: schemas.InvertRequest, served: Served, embeddings: dict[int, NDArray[np.float32]], decoding: Decoding,
        search: Search, client: str,
    ) -> Ticket:  # fmt: skip
        if body.alternatives:
            raise InputError(f"alternatives is {body.alternatives}, but a guided inversion has none: expected 0")
        seconds, rows = _search_seconds(search, len(embeddings), settings), list(embeddings)

        def begin(place: int, seconds: float) -> Iterator[Inversion]:
            row, within = rows[place], replace(search, seconds=seconds)
            return served.inverter.search(embeddings[row], decoding, within, first_row=row)

        def work(ticket: Ticket) -> Work:
            limits = guided.Limits(seconds, search.max_calls, ticket.deadline)
            return guided.search(begin, len(rows), limits, ticket.emit if body.stream else None)

        return batcher.submit(served, 1, work, Cost(seconds=len(rows) * seconds), client)

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
        body: schemas.InvertRequest,
        request: Request,
        last_event_id: Annotated[str | None, Header(include_in_schema=False)] = None,
    ) -> Response:
        """Recover the texts of embeddings, as one answer or, for one embedding, as a stream of passes or rounds."""
        served = context.models.find(body.model)
        if body.encoder is not None:
            served.inverter.check_recipe(body.encoder)
        most, skip_bad = settings.max_embeddings, body.skip_bad and not body.stream
        rows, bad = read_embeddings(body.embeddings, served, body.normalize, most, skip_bad)
        decoding, search = served.inverter.plan(**body.options)
        if decoding.candidates > settings.max_candidates:
            raise InputError(f"candidates is {decoding.candidates}, expected 1 to {settings.max_candidates}")
        if body.stream and len(rows) != 1:
            raise InputError(f"a stream takes one embedding, found {len(rows)}")
        started, client = time.perf_counter(), client_of(request.scope)
        good = {row: e_D for row, e_D in enumerate(rows) if row not in bad}
        found: list[Recovered] = []
        if good:
            if search is None:
                ticket = blind_ticket(body, served, rows, decoding, client)
            else:
                ticket = guided_ticket(body, served, good, decoding, search, client)
            if body.stream:
                return _stream(ticket, served, decoding.steps if search is None else None, last_event_id)
            with ticket:
                found = await ticket.result()
            if search is None:  # bad rows too, so that a row's number is what it is without them
                found = [found[row] for row in good]
        data: list[dict[str, Any]] = [{"index": row, "text": None, "skipped": why} for row, why in bad.items()]
        data += [schemas.inversion_object(served, one, row) for row, one in zip(good, found, strict=True)]
        data.sort(key=lambda entry: int(entry["index"]))
        usage = {"passes": sum(one.passes for one in found), "seconds": round(time.perf_counter() - started, 4)}
        answer = {"object": "list", "model": served.id, "data": data, "usage": usage}
        if warning := _warning(served, [one.inversions[0].cosine for one in found], decoding):
            answer["warning"] = warning
        return JSONResponse(answer | ({"skipped": len(bad)} if bad else {}))

    @api.post(
        "/embeddings",
        response_model=Answer,
        responses=documented(*FAULTS, v1=True),
        openapi_extra={
            "requestBody": {"content": {"application/json": {"example": {"input": "The cat sat on the mat."}}}}
        },
    )
    async def embeddings(body: schemas.EmbeddingsRequest, request: Request) -> Response:
        """Embed texts, in OpenAI's shape."""
        served = context.models.find(body.model)
        recipe, tokenizer = served.inverter.recipe, served.inverter.tokenizer
        if body.dimensions not in (None, recipe.dimension):
            text = f"dimensions is {body.dimensions}, expected {recipe.dimension}, which {recipe.encoder} gives"
            raise InputError(text)
        texts, found = await context.embedded(request, served, body.input, body.skip_bad)
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": index, "embedding": None, "skipped": why}
            for index, why in texts.bad.items()
        ]
        for index, vector, ids in zip(texts.texts, found.vectors, found.ids, strict=True):
            value = schemas.to_base64(vector) if body.encoding_format == "base64" else vector.tolist()
            entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": value}
            if body.include_tokens:
                entry |= {"tokens": [tokenizer.token(i) for i in ids], "ids": ids}
            data.append(entry)
        read = sum(len(ids) for ids in found.ids)
        usage = {"prompt_tokens": read, "total_tokens": read}
        data.sort(key=lambda entry: int(entry["index"]))
        answer = {"object": "list", "model": served.id, "data": data, "usage": usage}
        return JSONResponse(answer | ({"skipped": len(texts.bad)} if texts.bad else {}))

    @api.get("/models", responses=documented(403, 421, v1=True))
    async def models() -> ModelList:
        """What is served: dimensions, lengths, limits, strategies, and each model's own figures."""
        data = [describe(one, one is context.models.default, limits) for one in context.models.all]
        return ModelList(object="list", data=data)

    @api.get("/models/{name:path}", responses=documented(403, 404, 421, v1=True))
    async def model(name: str) -> dict[str, Any]:
        """One of these, by its name or its encoder's."""
        found = context.models.find(name)
        return describe(found, found is context.models.default, limits)

    return api


def _warning(served: Served, cosines: Sequence[float | None], decoding: Decoding) -> str | None:
    """Says where the embeddings are probably another encoder's."""
    reach = (served.inverter.results.get("evaluation") or {}).get("cosine")
    known = [cosine for cosine in cosines if cosine is not None]
    return doubt(known, reach, served.inverter.recipe.encoder) if decoding.steps > 1 else None


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
