"""Plans over HTTP: a cascade step by step, its state in a sealed token that the caller carries."""

from __future__ import annotations

import os
import secrets
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import Field

from router.artifact.plan import Plan
from router.serving.bodies import Given, Prompt, RouteRequest
from router.serving.routes import in_time, require_short

KEY = "ROUTER_PLAN_KEY"  # environment variable; the same on all machines that share plans
routing = APIRouter(prefix="/v1", tags=["plans"])


class Signals(Given):
    """What is known of an answer beside its text; see data/README.md."""

    self_verification: Annotated[float, Field(ge=0, le=1)] | None = None
    consistency: Annotated[float, Field(ge=0, le=1)] | None = None
    max_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    responses: Annotated[list[str], Field(max_length=1000)] | None = None
    logprobs: Annotated[list[Annotated[float, Field(le=0)]], Field(max_length=100_000)] | None = (
        None
    )


class NextRequest(Given):
    """What the step's candidate answered.

    prompt: the one that the plan began on. token: as the last reply had it. response: the answer;
    None where the candidate gave none. user: for the log.
    """

    prompt: Prompt
    token: Annotated[str, Field(min_length=1, max_length=100_000)]
    response: str | None
    signals: Signals = Signals()
    user: Annotated[str, Field(min_length=1, max_length=1000)] | None = None


class PlanReply(Given):
    """Whom to ask now (step), or whose answer is the caller's (answer).

    request_id: of the step's decision, under which its outcome is told. asked: the steps so far,
    with what the judge said. token: for /v1/plan/next; None once the plan is over.
    """

    step: str | None
    answer: str | None
    asked: list[dict[str, Any]]
    reason: str
    request_id: str
    artifact: str
    token: str | None

    @classmethod
    def of(cls, plan: Plan) -> PlanReply:
        """The plan, with its sealed state."""
        return cls(**plan.to_dict(), token=None if plan.step is None else plan.token(plan_key()))


def plan_key() -> bytes:
    """What tokens are sealed with: of the environment, which `router serve` hands to its workers; a
    random one where it is not set."""
    return os.environ.setdefault(KEY, secrets.token_hex(32)).encode()


@routing.post("/plan", summary="Begin a plan: whom to ask first")
async def plan(request: Request, body: RouteRequest) -> PlanReply:
    """Of a cascade the first step, of a router the only one. It is in the log as a decision."""
    state = request.app.state
    require_short(body.prompt, state.settings.limits)

    def begin() -> Plan:
        decision = state.live.decide(
            body.prompt,
            seed=uuid4().hex if body.seed is None else body.seed,
            candidates=body.candidates,
            session=body.session,
            budget=body.budget,
            quality_floor=body.quality_floor,
        )
        begun: Plan = state.live.plan(body.prompt, decision)
        return begun

    return await _stepped(request, begin, body.prompt, body.user, new_step=True)


@routing.post("/plan/next", summary="Tell an answer: does it stand, or who is next?")
async def plan_next(request: Request, body: NextRequest) -> PlanReply:
    """A further step is in the log as a decision of its own, before it is answered. The budget and
    the floor of the beginning count for the first step."""
    state = request.app.state
    for text in (body.prompt, body.response or ""):
        require_short(text, state.settings.limits)
    return await _stepped(request, partial(_next, state.live, body), body.prompt, body.user)


def _next(live: Any, body: NextRequest) -> Plan:
    resumed: Plan = live.resume(body.prompt, body.token, plan_key())
    if body.response is None:
        return resumed.failed()
    return resumed.accept(body.response, body.signals.model_dump(exclude_none=True))


async def _stepped(
    request: Request, work: Any, prompt: str, user: str | None, new_step: bool = False
) -> PlanReply:
    state = request.app.state
    async with in_time(state.settings.limits):
        made: Plan = await state.queue.run(work)
        if new_step or made.step is not None:
            await state.recorder.decisions([made.decision], [prompt], user)
    return PlanReply.of(made)
