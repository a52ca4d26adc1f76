"""What the router says to a prompt."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Decision:
    """Which candidate answers a prompt, and why.

    candidate: the chosen one. probability: with which it was chosen.
    quality, quality_se: predicted score of every candidate and its standard error.
    cost: predicted USD of every candidate's answer, or None where the log knew no cost.
    reason: one sentence.
    ask: the candidates to ask, each with its weight in the vote on the answer. That is the chosen
        one alone, with weight 1, under every policy but a subset, where the chosen one weighs most.
    latency: predicted seconds of every candidate's answer, or None where the log knew none.
    probabilities: with which each candidate was to be chosen; 0 where it was not eligible.
    eligible: the candidates that could be chosen.
    seed, session: as `Router.route` was given them.
    artifact, policy: what decided: the SHA-256 of its manifest, the policy's name.
    price_version: of the prices that were used, or None where costs come from the log.
    request_id: names this decision in a decision log; two equal decisions differ in it alone.
    """

    candidate: str
    probability: float
    quality: dict[str, float]
    quality_se: dict[str, float]
    cost: dict[str, float] | None
    reason: str
    ask: dict[str, float]
    latency: dict[str, float] | None
    probabilities: dict[str, float]
    eligible: list[str]
    seed: str
    session: str | None
    artifact: str
    policy: str
    price_version: str | None
    request_id: str = field(default_factory=lambda: uuid4().hex, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
