"""`/v1/defences`: embeddings as a store would keep them, and as who copies it would invert them.

The forms are those that `unembed audit --defences` prices. Those that are fitted to a store's vectors are not offered.
"""

import asyncio
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from unembed.alignment.linear import normalised
from unembed.audit.stored_forms import AMOUNTS, Fit, Form, chosen
from unembed.server.context import Context
from unembed.server.http_errors import documented
from unembed.server.inputs import read_embeddings
from unembed.server.schemas import Request, SkipBad, Vectors

SEED = 0  # of noise and rotation: the same request has the same answer
FAULTS = (400, 403, 404, 408, 413, 415, 421, 422, 429, 500)


class DefencesRequest(Request):
    """Embeddings, and what a store does to them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    embeddings: Vectors
    kind: Literal["noise", "rounding", "dropping", "rotation"]
    amount: float | None = Field(None, description="; ".join(f"{kind}: {says}" for kind, says in AMOUNTS.items()))
    model: str | None = None
    encoder: str | None = Field(None, description="What made the embeddings; refused if the model is for another one.")
    normalize: bool = Field(False, description="Scale embeddings to length 1 first.")
    skip_bad: SkipBad = False


class Kept(BaseModel):
    """What is kept of a vector, and one entry for each embedding."""

    object: str
    model: str
    kind: str
    amount: float | None
    numbers: int
    bytes: int
    data: list[dict[str, Any]]


def router(context: Context) -> APIRouter:
    """`/v1/defences`."""
    api = APIRouter(prefix="/v1")
    turn = asyncio.Lock()  # a large rotation takes seconds and memory, so one at a time is made

    @api.post(
        "/defences",
        response_model=Kept,
        responses=documented(*FAULTS, v1=True),
        openapi_extra={
            "requestBody": {
                "content": {
                    "application/json": {"example": {"embeddings": [[0.1, -0.2, 0.3]], "kind": "rounding", "amount": 4}}
                }
            }
        },
    )
    async def defences(body: DefencesRequest) -> JSONResponse:
        """Change embeddings as a store may do to protect them, and scale them to length 1, ready to be inverted."""
        served = context.models.find(body.model)
        if body.encoder is not None:
            served.inverter.check_recipe(body.encoder)
        most = context.settings.max_embeddings
        fit = chosen(body.kind, body.amount)
        checked = read_embeddings(body.embeddings, served, body.normalize, most, body.skip_bad)
        e_ND = normalised(checked.rows)
        async with turn:
            form, kept_NK = await asyncio.to_thread(_kept, body.kind, fit, e_ND)
        back_ND = np.pad(kept_NK, ((0, 0), (0, e_ND.shape[1] - kept_NK.shape[1])))
        data: list[dict[str, Any]] = []
        for index, (before, after) in enumerate(zip(e_ND, normalised(back_ND), strict=True)):
            entry: dict[str, Any] = {"object": "embedding", "index": index}
            if index in checked.bad:
                entry |= {"embedding": None, "skipped": checked.bad[index]}
            else:
                entry |= {"embedding": after.tolist(), "cosine": round(float(before @ after), 4)}
            data.append(entry)
        answer = {
            "object": "list", "model": served.id, "kind": body.kind, "amount": body.amount,
            "numbers": kept_NK.shape[1], "bytes": form.bytes, "data": data,
        }  # fmt: skip
        return JSONResponse(answer | ({"skipped": len(checked.bad)} if checked.bad else {}))

    return api


def _kept(kind: str, fit: Fit, e_ND: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Form, Any]:
    """The form, and what it stores of embeddings (n, d): (n, k)."""
    form = _rotation(fit, e_ND.shape[1]) if kind == "rotation" else fit(e_ND, np.random.default_rng(SEED))
    return form, form.store(e_ND)


@lru_cache(maxsize=4)
def _rotation(fit: Fit, dimension: int) -> Form:
    """Made once for each dimension, of which there are as many as models."""
    return fit(np.empty((0, dimension), np.float32), np.random.default_rng(SEED))
