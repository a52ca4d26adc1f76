"""The OpenAI-compatible front: `POST /v1/chat/completions` and `GET /v1/models`."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from router.artifact.plan import Plan
from router.artifact.runtime import Decision
from router.errors import RouterError
from router.serving.answer_books import AnswerBooks
from router.serving.answering import Answered, Failures, NoAnswer, answer_to
from router.serving.cascading import answer_by_steps, as_events
from router.serving.chat_request import HEADERS, ChatRequest, RoutingOptions
from router.serving.choosing import allowed_of, choose, fallbacks_of
from router.serving.sessions import Sessions
from router.serving.upstream_failure import UpstreamFailure
from router.serving.upstream_settings import UpstreamSettings
from router.serving.upstreams import Streamed, Upstreams, Whole

MOST_SHOWN = 500  # characters of a header
ERROR_TYPES = {
    400: "invalid_request_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "service_unavailable",
    504: "timeout_error",
}

logger = logging.getLogger("router.chat")


def routes(settings: UpstreamSettings) -> APIRouter:
    """The front's routes; an app that includes them has its `live` and `recorder` on `app.state`
    by the time it starts.

    Raises RouterError where the settings are at odds with themselves; and at the app's start where
    a key is missing, or no candidate of the artifact has an upstream.
    """
    front = _Front(settings)
    router = APIRouter(route_class=_OpenAIRoute, lifespan=front.lifespan, tags=["chat"])
    shown: dict[int | str, dict[str, Any]] = {
        status: {"description": kind} for status, kind in ERROR_TYPES.items()
    }
    router.add_api_route(
        "/v1/chat/completions",
        front.complete,
        methods=["POST"],
        responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}, **shown},
        openapi_extra={
            "parameters": [
                {"name": header, "in": "header", "schema": {"type": "string"}}
                for header in HEADERS.values()
            ]
        },
        response_class=Response,
        response_model=None,
    )
    router.add_api_route("/v1/models", front.models, methods=["GET"], response_model=None)
    return router


class _OpenAIRoute(APIRoute):
    """Tells what is wrong with a request in OpenAI's form, which the clients know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestValidationError, ValidationError) as error:
                return _error(400, _fault_of(error))
            except HTTPException as error:
                headers = dict(error.headers or {})
                return _error(error.status_code, str(error.detail), headers=headers)

        return handler


class _Front:
    def __init__(self, settings: UpstreamSettings):
        self._settings = settings
        self._upstreams = Upstreams(settings)
        self._sessions = Sessions(settings.sticky_seconds, settings.sticky_sessions)
        self._closing: set[asyncio.Task[None]] = set()  # streams that end beside their requests

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(self._upstreams.start)
        known = app.state.live.router.candidates
        allowed_of(known, self._upstreams.candidates, None)
        without = [name for name in known if name not in self._upstreams.candidates]
        if without:
            logger.warning("No upstream for %s: not chosen.", ", ".join(without))
        try:
            yield
        finally:
            await asyncio.gather(*self._closing, return_exceptions=True)
            await self._upstreams.close()

    async def models(self) -> dict[str, Any]:
        """The names that a request may give as its model: to be routed, or a candidate's own."""
        names = [*self._settings.names, *self._upstreams.candidates]
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "router"} for name in names
        ]
        return {"object": "list", "data": rows}

    async def complete(self, request: Request, body: ChatRequest) -> Response:
        """Answer a conversation: by the candidate that the router chooses where `model` is the
        router's name, else by the candidate of that name.

        Only what the router chose is logged: whom a caller names was nobody's draw, and tells
        nothing of the other candidates. Neither the kill switch nor the pacer touches it.
        """
        options = (body.router or RoutingOptions()).with_headers(request.headers)
        try:
            parameters = body.parameters(self._settings.extra_parameters)
            if body.model in self._settings.names:
                return await self._routed(request, body, options, parameters)
        except RouterError as error:
            return _error(400, str(error))
        if body.model not in self._upstreams.candidates:
            names = ", ".join([*self._settings.names, *self._upstreams.candidates])
            message = f"The model {body.model[:100]!r} is unknown here; name one of {names}."
            return _error(404, message, code="model_not_found")
        if options.budget or options.quality_floor or options.candidates:
            return _error(
                400,
                "A budget, a quality floor and a list of candidates are for the router to keep; "
                f"name {self._settings.names[0]} as the model, or leave them out.",
            )
        return await self._named(body.model, parameters)

    async def _routed(
        self,
        request: Request,
        body: ChatRequest,
        options: RoutingOptions,
        parameters: dict[str, Any],
    ) -> Response:
        live = request.app.state.live
        prompt = body.prompt(self._settings.prompt)
        allowed = allowed_of(live.router.candidates, self._upstreams.candidates, options.candidates)
        seed = options.seed if options.seed is not None else uuid4().hex
        chosen = await run_in_threadpool(
            choose, live, self._sessions, prompt, options, seed, allowed
        )
        user = options.user or (body.user or "").strip() or None
        books = AnswerBooks(live, request.app.state.recorder, chosen, prompt, user)
        try:
            await books.begin()
        except RouterError as error:  # nobody is asked what cannot be written down
            logger.warning("%s", error)
            return _error(503, "The decision log cannot be written to now; try again later.")
        plan = live.plan(prompt, chosen)
        if plan.looks:
            return await self._by_steps(request, body, options, parameters, plan, user)
        fallbacks = fallbacks_of(chosen, allowed, options, self._settings.fallback.order)
        try:
            answered = await answer_to(chosen, self._upstreams, parameters, fallbacks)
        except NoAnswer as error:
            _warn(error.failures)
            await books.unanswered(error.failures)
            return _no_answer(error.failures, _headers(chosen, error.failures))
        _warn(answered.failures)
        if options.session is not None and answered.failures:
            self._sessions.keep(options.session, answered.decision.candidate)
        await books.answered(answered)
        headers = _headers(answered.decision, answered.failures)
        if isinstance(answered.answer, Whole):
            await books.ended(answered, answered.answer.usage, complete=True)
            return JSONResponse(answered.answer.body, headers=headers)
        return _event_stream(self._events(answered.answer, answered, books), headers)

    async def _by_steps(
        self,
        request: Request,
        body: ChatRequest,
        options: RoutingOptions,
        parameters: dict[str, Any],
        plan: Plan,
        user: str | None,
    ) -> Response:
        """A cascade: its steps are asked whole, as they are judged, and the answer that stands is
        passed on, as a stream too where the caller wants one."""
        state = request.app.state
        try:
            done = await answer_by_steps(
                plan, self._upstreams, parameters, state.live, state.recorder, user
            )
        except NoAnswer as error:
            _warn(error.failures)
            return _no_answer(error.failures, _headers(plan.decision, error.failures))
        except RouterError as error:
            logger.warning("%s", error)
            return _error(503, "The decision log cannot be written to now; try again later.")
        _warn(done.failures)
        if options.session is not None:
            self._sessions.keep(options.session, done.answered.decision.candidate)
        steps = [
            step.candidate if step.judged is None else f"{step.candidate}={step.judged:.3f}"
            for step in done.plan.asked
        ]
        headers = _headers(done.answered.decision, done.failures)
        headers["x-router-steps"] = _ascii(", ".join(steps))
        headers["x-router-reason"] = _ascii(done.plan.reason)
        assert isinstance(done.answered.answer, Whole)
        answer = done.answered.answer.body
        if not body.stream:
            return JSONResponse(answer, headers=headers)
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return _event_stream(_all_events(as_events(answer, usage)), headers)

    async def _named(self, candidate: str, parameters: dict[str, Any]) -> Response:
        deadline = asyncio.get_running_loop().time() + self._settings.deadline_seconds
        headers = {"x-router-candidate": _ascii(candidate), "x-router-reason": "asked by name"}
        try:
            answer = await self._upstreams.ask(candidate, parameters, deadline)
        except UpstreamFailure as failure:
            _warn({candidate: failure})
            return _no_answer({candidate: failure}, headers)
        if isinstance(answer, Whole):
            return JSONResponse(answer.body, headers=headers)
        return _event_stream(self._events(answer), headers)

    async def _events(
        self, stream: Streamed, answered: Answered | None = None, books: AnswerBooks | None = None
    ) -> AsyncIterator[str]:
        """The stream as server-sent events. A failure in between is the last of them: what was
        passed on cannot be taken back, so no other candidate is asked."""
        complete = False
        try:
            async for chunk in stream:
                yield f"data: {json.dumps(chunk)}\n\n"
            complete = True
        except UpstreamFailure as failure:
            logger.warning("A stream broke off: %s (%s).", failure.kind, failure.cause)
            content = _error_content(502, "The upstream broke off its answer.", code=failure.kind)
            yield f"data: {json.dumps(content)}\n\n"
        finally:
            # A caller who goes away cancels this; what is to be written is written all the same.
            task = asyncio.create_task(_end(stream, answered, books, complete))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)
        if complete:
            yield "data: [DONE]\n\n"


async def _all_events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


async def _end(
    stream: Streamed, answered: Answered | None, books: AnswerBooks | None, complete: bool
) -> None:
    try:
        await stream.close()
    except Exception as error:  # by what is left of a connection; nobody waits for it
        logger.debug("A stream did not close: %s", type(error).__name__)
    if answered is not None and books is not None:
        await books.ended(answered, stream.usage, complete)


def _event_stream(events: AsyncIterator[str], headers: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        # No proxy on the way may hold chunks back.
        headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _headers(decision: Decision, failures: Failures) -> dict[str, str]:
    """The decision under which the answer is logged; a score is told under its request id."""
    return {
        "x-router-request-id": decision.request_id,
        "x-router-candidate": _ascii(decision.candidate),
        "x-router-probability": f"{decision.probability:.6g}",
        "x-router-reason": _ascii(decision.reason),
        "x-router-fallbacks": _ascii(
            ", ".join(f"{name}={failure.kind}" for name, failure in failures.items())
        ),
        "x-router-artifact": decision.artifact,
    }


def _ascii(text: str) -> str:
    """As a header can hold it."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    return re.sub(r"[^\x20-\x7e]", " ", plain)[:MOST_SHOWN].strip()


def _warn(failures: Failures) -> None:
    for name, failure in failures.items():
        logger.warning(
            "The upstream of %s failed: %s (status %s, %s) after %d retries.",
            *(name, failure.kind, failure.status, failure.cause, failure.retries),
        )


def _no_answer(failures: Failures, headers: dict[str, str]) -> JSONResponse:
    """The last failure decides: it is why nobody else was asked."""
    failure = list(failures.values())[-1]
    if failure.kind == "request":
        told = {"message": "The upstream finds the request faulty.", **failure.details}
        return _error(failure.status or 400, headers=headers, **told)
    asked = ", ".join(f"{name} ({failure.kind})" for name, failure in failures.items())
    message = f"No upstream answered: {asked}; try again later."
    status = {"timeout": 504, "rate_limit": 429}.get(failure.kind, 502)
    if failure.retry_after is not None:
        headers = {**headers, "retry-after": failure.retry_after}
    return _error(status, message, code=failure.kind, headers=headers)


def _error(
    status: int, message: str, *, headers: dict[str, str] | None = None, **details: str
) -> JSONResponse:
    return JSONResponse(_error_content(status, message, **details), status, headers)


def _error_content(status: int, message: str, **details: str) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kind = ERROR_TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None, **details}}


def _fault_of(error: RequestValidationError | ValidationError) -> str:
    """The place and what is wrong there; never what was given."""
    # Where a value may be of several kinds there is a fault for each; the deepest came closest.
    fault = max(error.errors(), key=lambda fault: len(fault["loc"]))
    steps = [str(step) for step in fault["loc"] if step != "body"]
    place = ".".join(step for step in steps if "[" not in step)  # less the kind that was tried
    return f"{place}: {fault['msg']}." if place else f"{fault['msg']}."
