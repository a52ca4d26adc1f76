"""From a decision to an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.artifact.runtime import Decision
from router.serving.choosing import in_place_of
from router.serving.upstream_failure import UpstreamFailure
from router.serving.upstreams import Streamed, Upstreams, Whole

Failures = dict[str, UpstreamFailure]  # by candidate, in the order in which they were asked


@dataclass(frozen=True)
class Answered:
    """An answer, whole or begun.

    decision: under which it is logged; the chosen candidate's own, or another's that answers in its
    place. asked: when that candidate was asked, by the event loop's clock. failures: of those that
    were asked before.
    """

    decision: Decision
    answer: Whole | Streamed
    asked: float
    failures: Failures


class NoAnswer(Exception):
    """Nobody answered. failures: of all that were asked."""

    def __init__(self, failures: Failures):
        super().__init__(", ".join(f"{name} ({why.kind})" for name, why in failures.items()))
        self.failures = failures


async def answer_to(
    decision: Decision,
    upstreams: Upstreams,
    parameters: Mapping[str, Any],
    fallbacks: Sequence[str],
) -> Answered:
    """The one place where a decision becomes an answer: the chosen candidate is asked, and where
    its upstream fails, the fallbacks one after the other.

    parameters: of the request, by LiteLLM's names.

    Raises NoAnswer where all fail, the deadline has passed, or the failure is not one to fall back
    on.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + upstreams.settings.deadline_seconds
    failures: Failures = {}
    for candidate in (decision.candidate, *fallbacks):
        asked = loop.time()
        try:
            answer = await upstreams.ask(candidate, parameters, deadline)
        except UpstreamFailure as failure:
            failures[candidate] = failure
            if failure.kind not in upstreams.settings.fallback.failures or loop.time() >= deadline:
                break
            continue
        if failures:
            decision = in_place_of(decision, candidate, failures[decision.candidate].kind)
        return Answered(decision, answer, asked, failures)
    raise NoAnswer(failures)
