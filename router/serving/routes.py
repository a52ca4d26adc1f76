"""The endpoints of the routing service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from router.artifact.runtime import Decision
from router.serving.bodies import (
    Accepted,
    Alive,
    BatchRequest,
    Chosen,
    ChosenBatch,
    Outcomes,
    Ready,
    RouteRequest,
)
from router.serving.observation import DECISION
from router.serving.settings import LimitSettings

T = TypeVar("T")

routing = APIRouter(prefix="/v1", tags=["routing"])
watching = APIRouter(tags=["watching"])


@routing.post("/route", summary="Choose the LLM for a prompt")
async def route(request: Request, body: RouteRequest, response: Response) -> Chosen:
    """The decision is in the log before it is answered."""
    [decision] = await _decided(request, [body.prompt], body)
    response.headers[DECISION] = decision.request_id
    return Chosen.of(decision)


@routing.post("/route/batch", summary="Choose the LLM for each of several prompts")
async def route_batch(request: Request, body: BatchRequest) -> ChosenBatch:
    """All of them are in the log before they are answered, or none is."""
    decisions = await _decided(request, body.prompts, body)
    return ChosenBatch(decisions=[Chosen.of(decision) for decision in decisions])


@routing.post("/outcomes", summary="Tell what came of decisions")
async def outcomes(request: Request, body: Outcomes) -> Accepted:
    """One outcome, or a list of them, at any time and in any part: what is told again replaces the
    earlier. They are in the log before they are answered, all or none."""
    state = request.app.state
    told = body if isinstance(body, list) else [body]
    limits = state.settings.limits
    _require_few(told, limits)
    async with in_time(limits):
        await state.recorder.outcomes([outcome.model_dump() for outcome in told])
        costs = [(one.request_id, one.cost_usd) for one in told if one.cost_usd is not None]
        if costs:
            await run_in_threadpool(_pay, state.live.paid, costs)
    return Accepted(accepted=len(told))


@watching.get("/healthz", summary="Is the process alive?")
async def healthz() -> Alive:
    """It is, if it answers."""
    return Alive()


@watching.get("/readyz", summary="Can it answer requests?")
async def readyz(request: Request) -> Ready:
    """503 while the decision log is required and cannot be written."""
    state = request.app.state
    problem = await state.recorder.problem()
    if problem is not None and state.settings.log.required:
        raise HTTPException(503, problem)
    return Ready(artifact=state.live.router.manifest["sha256"])


@watching.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Of all workers together."""
    page = await run_in_threadpool(request.app.state.metrics.page)
    return Response(page, media_type=CONTENT_TYPE_LATEST)


async def _decided(
    request: Request, prompts: Sequence[str], wishes: RouteRequest | BatchRequest
) -> list[Decision]:
    state = request.app.state
    limits = state.settings.limits
    _require_few(prompts, limits)
    for prompt in prompts:
        require_short(prompt, limits)
    work = partial(
        state.live.decide_batch,
        prompts,
        seed=uuid4().hex if wishes.seed is None else wishes.seed,
        candidates=wishes.candidates,
        session=wishes.session,
        budget=wishes.budget,
        quality_floor=wishes.quality_floor,
    )
    async with in_time(limits):
        decisions: list[Decision] = await state.queue.run(work, len(prompts))
        await state.recorder.decisions(decisions, prompts, wishes.user)
    for decision in decisions:
        state.metrics.decisions.labels(decision.candidate).inc()
    return decisions


def require_short(text: str, limits: LimitSettings) -> None:
    """Raise HTTPException where a prompt, or an answer to one, is too long."""
    if len(text) > limits.prompt_characters:
        raise HTTPException(413, f"A text has more than {limits.prompt_characters} characters.")


def _require_few(several: Sequence[object], limits: LimitSettings) -> None:
    if len(several) > limits.batch:
        raise HTTPException(413, f"A request may hold {limits.batch} of them; send several.")


@asynccontextmanager
async def in_time(limits: LimitSettings) -> AsyncIterator[None]:
    """Raises HTTPException, 503, where what is inside takes longer than a request may."""
    try:
        async with asyncio.timeout(limits.request_seconds):
            yield
    except TimeoutError:
        raise HTTPException(
            503, "The request took too long; try again later", headers={"retry-after": "1"}
        ) from None


def _pay(paid: Callable[[str, float], None], costs: Sequence[tuple[str, float]]) -> None:
    for request_id, cost in costs:
        paid(request_id, cost)
