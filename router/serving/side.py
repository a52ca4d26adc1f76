"""One artifact in service, at the pacer's charge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from router.artifact.runtime import Decision, Router
from router.serving.pacer import Scale


@dataclass(frozen=True)
class Request:
    """What a decision is asked under; see `Router.route`."""

    seed: str = ""
    candidates: Sequence[str] | None = None
    session: str | None = None
    budget: float | None = None
    quality_floor: float | None = None


@dataclass(frozen=True)
class Side:
    """A router, and what the pacer's lambda means to it; None where no pacer charges."""

    router: Router
    scale: Scale | None = None

    def decide(self, prompt: str, request: Request, charge: float = 0.0) -> Decision:
        """One decision at lambda = charge; raises RouterError as `Router.route` does."""
        return self.decide_batch([prompt], request, charge)[0]

    def decide_batch(
        self, prompts: Sequence[str], request: Request, charge: float = 0.0
    ) -> list[Decision]:
        """One decision for each prompt."""
        weight = 0.0 if self.scale is None else self.scale.cost_weight(charge)
        decisions = self._route(prompts, request, request.candidates, weight)
        if self.scale is None:
            return decisions
        for place, decision in enumerate(decisions):
            affordable = self.scale.affordable(decision, charge)
            if affordable is not None:
                again = self._route([prompts[place]], request, affordable, weight)
                decisions[place] = again[0]
        return decisions

    def _route(
        self,
        prompts: Sequence[str],
        request: Request,
        candidates: Sequence[str] | None,
        weight: float,
    ) -> list[Decision]:
        options: dict[str, Any] = {
            "seed": request.seed,
            "candidates": candidates,
            "session": request.session,
            "budget": request.budget,
            "quality_floor": request.quality_floor,
            "cost_weight": weight,
        }
        if len(prompts) == 1:
            return [self.router.route(prompts[0], **options)]
        return self.router.route_batch(prompts, **options)
