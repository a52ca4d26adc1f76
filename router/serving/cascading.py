"""A cascade behind the chat front: steps are asked one after the other until an answer stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from router.artifact.plan import Plan
from router.errors import RouterError
from router.serving.answer_books import cost_of
from router.serving.answering import Answered, Failures, NoAnswer, answer_to
from router.serving.upstreams import Upstreams, Whole

if TYPE_CHECKING:
    from router.serving.live import Live
    from router.serving.records import Recorder

logger = logging.getLogger("router.chat")


@dataclass(frozen=True)
class Cascaded:
    """The answer that stands, and how it came about.

    answered: its step. plan: over. failures: of the steps that gave no answer.
    """

    answered: Answered
    plan: Plan
    failures: Failures


async def answer_by_steps(
    plan: Plan,
    upstreams: Upstreams,
    parameters: Mapping[str, Any],
    live: Live,
    recorder: Recorder,
    user: str | None,
) -> Cascaded:
    """Ask until an answer stands. The first step's decision is in the log already; each further one
    is entered before it is asked, and each answer's cost after it. A step that fails is left out of
    the plan.

    parameters: of the request, by LiteLLM's names; no answer is streamed, as it is judged whole.

    Raises NoAnswer where no step answers.
    """
    whole = {
        name: value
        for name, value in parameters.items()
        if name not in ("stream", "stream_options")
    }
    first, spent = plan.decision.request_id, 0.0
    answers: dict[str, Answered] = {}
    failures: Failures = {}
    while plan.step is not None:
        step = plan.step
        try:
            answered = await answer_to(plan.decision, upstreams, whole, [])
        except NoAnswer as error:
            failures |= error.failures
            kind = error.failures[step].kind
            if kind not in upstreams.settings.fallback.failures:
                raise NoAnswer(failures) from None
            try:
                plan = await run_in_threadpool(plan.failed)
            except RouterError:
                raise NoAnswer(failures) from None
        else:
            assert isinstance(answered.answer, Whole)
            answers[step] = answered
            spent += await _entered(answered, live, recorder)
            plan = await run_in_threadpool(_judged, plan, answered.answer.body)
        if plan.step is not None:
            await recorder.decision(plan.decision, plan.prompt, user=user)
    await run_in_threadpool(live.paid, first, spent)
    assert plan.answer is not None
    return Cascaded(answers[plan.answer], plan, failures)


def as_events(body: Mapping[str, Any], usage: bool) -> AsyncIterator[dict[str, Any]]:
    """A whole answer as the chunks of a stream. usage: whether the caller asked for it."""

    async def chunks() -> AsyncIterator[dict[str, Any]]:
        kept = {name: body[name] for name in ("id", "created", "model") if name in body}
        head = {**kept, "object": "chat.completion.chunk"}
        for choice in body.get("choices", []):
            place, message = choice.get("index", 0), choice.get("message") or {}
            delta = {name: value for name, value in message.items() if value is not None}
            for number, call in enumerate(delta.get("tool_calls") or []):
                call["index"] = number
            yield {**head, "choices": [{"index": place, "delta": delta, "finish_reason": None}]}
            finish = choice.get("finish_reason")
            yield {**head, "choices": [{"index": place, "delta": {}, "finish_reason": finish}]}
        if usage and body.get("usage") is not None:
            yield {**head, "choices": [], "usage": body["usage"]}

    return chunks()


def _judged(plan: Plan, body: Mapping[str, Any]) -> Plan:
    """What follows from an answer; one that calls tools has no text to judge, and stands."""
    choice = (body.get("choices") or [{}])[0]
    text = (choice.get("message") or {}).get("content")
    if not isinstance(text, str):
        return plan.stands()
    logprobs = (choice.get("logprobs") or {}).get("content") or []
    told = [token["logprob"] for token in logprobs if isinstance(token.get("logprob"), float)]
    return plan.accept(text, {"logprobs": told} if told else {})


async def _entered(answered: Answered, live: Live, recorder: Recorder) -> float:
    """Log what a step cost; returns the USD, 0 where they are not known."""
    assert isinstance(answered.answer, Whole)
    usage, name = answered.answer.usage, answered.decision.candidate
    cost = cost_of(live.router.manifest["prices"], name, usage)
    try:
        await recorder.outcome(
            answered.decision.request_id,
            cost_usd=cost,
            input_tokens=None if usage is None else usage.input_tokens,
            output_tokens=None if usage is None else usage.output_tokens,
            latency_s=asyncio.get_running_loop().time() - answered.asked,
            retries=answered.answer.retries,
        )
    except RouterError as error:  # the answer is there and paid for, so it goes on
        logger.warning("%s", error)
    return cost or 0.0
