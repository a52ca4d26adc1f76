"""What is written down of an answer: the decision log's outcome, and what the pacer is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from router.artifact.runtime import Decision
from router.errors import RouterError
from router.serving.answering import Answered, Failures
from router.serving.upstreams import Usage

if TYPE_CHECKING:
    from router.serving.live import Live
    from router.serving.records import Recorder

logger = logging.getLogger("router.chat")


class AnswerBooks:
    """The entries of one routed request, from its decision to the end of its answer.

    What cannot be written is told in a log line: the answer is there and paid for, so it goes out.
    """

    def __init__(
        self, live: Live, recorder: Recorder, chosen: Decision, prompt: str, user: str | None
    ):
        self._live = live
        self._recorder = recorder
        self._chosen = chosen
        self._prompt = prompt
        self._user = user

    async def begin(self) -> None:
        """Enter the decision, before anybody is asked; raises RouterError where it cannot be."""
        await self._recorder.decision(self._chosen, self._prompt, user=self._user)

    async def answered(self, answered: Answered) -> None:
        """Where another answers, enter its decision, and of the chosen one that it failed."""
        if answered.decision.request_id == self._chosen.request_id:
            return
        await self._failed(answered.failures)
        await _told(self._recorder.decision(answered.decision, self._prompt, user=self._user))

    async def unanswered(self, failures: Failures) -> None:
        """Nobody answered. What was refused costs nothing; what was left for its silence may."""
        await self._failed(failures)
        if all(failure.kind != "timeout" for failure in failures.values()):
            await self._paid(0.0)

    async def ended(self, answered: Answered, usage: Usage | None, complete: bool) -> None:
        """The answer is there, or its stream broke off: then it has no latency."""
        seconds = asyncio.get_running_loop().time() - answered.asked
        cost = cost_of(self._live.router.manifest["prices"], answered.decision.candidate, usage)
        await _told(
            self._recorder.outcome(
                answered.decision.request_id,
                cost_usd=cost,
                input_tokens=None if usage is None else usage.input_tokens,
                output_tokens=None if usage is None else usage.output_tokens,
                latency_s=seconds if complete else None,
                retries=answered.answer.retries,
            )
        )
        if cost is not None:
            await self._paid(cost)  # for the query, whoever answered

    async def _failed(self, failures: Failures) -> None:
        retries = failures[self._chosen.candidate].retries
        await _told(self._recorder.outcome(self._chosen.request_id, retries=retries))

    async def _paid(self, cost_usd: float) -> None:
        await _told(run_in_threadpool(self._live.paid, self._chosen.request_id, cost_usd))


def cost_of(
    prices: Mapping[str, Mapping[str, Any]] | None, candidate: str, usage: Usage | None
) -> float | None:
    """USD of an answer: its tokens at the artifact's prices per million; where the artifact has
    none for the candidate, at LiteLLM's."""
    if usage is None:
        return None
    price = (prices or {}).get(candidate)
    if price is None:
        return usage.cost_usd
    return float(usage.input_tokens * price["input"] + usage.output_tokens * price["output"]) / 1e6


async def _told(entry: Awaitable[None]) -> None:
    try:
        await entry
    except RouterError as error:
        logger.warning("%s", error)
    except Exception as error:  # of the disk or the pacer's account; its words may hold anything
        logger.warning("Something of an answer was not written down: %s.", type(error).__name__)
