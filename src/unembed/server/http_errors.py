"""What a request can fail with, and how that looks on the wire.

Under `/v1/` an error has OpenAI's shape, elsewhere the published demo's. An unforeseen exception is logged
here and told to the client as nothing but "internal error".
"""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from unembed.errors import InputError, UnembedError

log = logging.getLogger("unembed.server")

LONGEST = 400  # characters of a message
TYPES = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    422: "invalid_request",
    503: "overloaded",
}


class Fault(UnembedError):  # noqa: N818 (what is raised here is an answer, not a breakdown)
    """A request that fails with a status, a type for programs and a line for people."""

    def __init__(self, status: int, kind: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.retry_after = retry_after


class Error(BaseModel):
    """An error outside `/v1/`."""

    error: str


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorV1(BaseModel):
    """An error under `/v1/`, in OpenAI's shape."""

    error: ErrorDetail


def fault_of(error: BaseException) -> Fault:
    """The fault that an exception means to the client; logs those that are the server's own."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, InputError):
        return Fault(422, "invalid_request", str(error))
    log.error("a request failed", exc_info=error)
    return Fault(500, "internal_error", "internal error")


def message(fault: Fault) -> str:
    """Its line for people; it may quote the request, so it is cut, and half characters are replaced."""
    text = str(fault).encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def detail(fault: Fault) -> dict[str, Any]:
    """The `error` object of `/v1/`."""
    return ErrorDetail(message=message(fault), type=fault.kind).model_dump()


def response(path: str, fault: Fault) -> JSONResponse:
    """The answer to a request for `path` that failed."""
    body = {"error": detail(fault)} if path.startswith("/v1/") else {"error": message(fault)}
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return JSONResponse(body, fault.status, headers)


def documented(*statuses: int, v1: bool = False, stream: bool = False) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint for its OpenAPI entry, JSON also where the endpoint answers with a `stream`."""
    model = ErrorV1 if v1 else Error
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    kind: dict[str, Any] = {"content": content} if stream else {"model": model}
    return {status: {**kind, "description": HTTPStatus(status).phrase} for status in statuses}


def install(app: FastAPI) -> None:
    """Answer every failure of `app` in its endpoint's shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return response(request.url.path, fault_of(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = TYPES.get(error.status_code, "invalid_request")
        found = response(request.url.path, Fault(error.status_code, kind, " ".join(str(error.detail).split())))
        found.headers.update(error.headers or {})
        return found

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response(request.url.path, _validation_fault(error))

    app.add_exception_handler(UnembedError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _validation_fault(error: RequestValidationError) -> Fault:
    """The first problem, on one line, without the value that caused it: it may be huge, or not JSON."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Fault(400, "malformed_request", "the body is not JSON")
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    more = len(error.errors()) - 1
    return Fault(422, "invalid_request", f"{where}: {first['msg']}" + (f" (and {more} more)" if more else ""))
