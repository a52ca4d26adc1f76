"""What the service answers where it cannot: every error in OpenAI's form, which clients know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from router.errors import RouterError
from router.serving.records import LogUnavailable

TYPES = {
    401: "authentication_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}


class Fault(BaseModel):
    """type: of a few fixed words. message: one sentence for people."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class FaultBody(BaseModel):
    """The body of every answer that is no success."""

    error: Fault


_MEANINGS: dict[int | str, str] = {
    400: "The request is faulty; the message says where.",
    401: "No token, or none that is known.",
    408: "The request did not arrive in time.",
    413: "The request, or a prompt in it, is too large.",
    415: "The request is no JSON.",
    429: "Too busy; try again after the seconds in Retry-After.",
    503: "Not now; the message says why.",
    "4XX": "Any other fault of the request.",
    "5XX": "Any other fault of the service.",
}
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": FaultBody, "description": meaning} for status, meaning in _MEANINGS.items()
}


class Busy(Exception):
    """More is asked than can be done now. seconds: after which to try again."""

    def __init__(self, seconds: int):
        super().__init__(f"busy for {seconds} s")
        self.seconds = seconds


def fault(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer with this status and one sentence."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = FaultBody(error=Fault(message=message, type=kind))
    return JSONResponse(body.model_dump(), status, dict(headers or {}))


def busy(seconds: int) -> JSONResponse:
    """429."""
    message = f"The router is busy; try again in {seconds} s."
    return fault(429, message, {"retry-after": str(seconds)})


def add_handlers(app: FastAPI) -> None:
    """Give every exception that a handler may raise its answer."""

    async def of_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return fault(error.status_code, f"{str(error.detail).rstrip('.')}.", error.headers)

    async def of_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return fault(400, _first(error))

    async def of_router(_: Request, error: Exception) -> JSONResponse:
        return fault(400, str(error))

    async def of_log(_: Request, error: Exception) -> JSONResponse:
        return fault(503, str(error), {"retry-after": "1"})

    async def of_busy(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Busy)
        return busy(error.seconds)

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(RouterError, of_router)
    app.add_exception_handler(LogUnavailable, of_log)
    app.add_exception_handler(Busy, of_busy)


def _first(error: RequestValidationError) -> str:
    """The place and what is wrong there; never what was given, such as a key that is unknown."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "The body is no JSON."
    place = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(place[:-1]) or 'The body'}: it holds a key that is unknown here."
    return f"{'.'.join(place) or 'The body'}: {first['msg']}."
