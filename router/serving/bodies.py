"""What the routing endpoints take and give, as the OpenAPI page shows it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from router.artifact.runtime import Decision

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Prompt = Annotated[str, StringConstraints(min_length=1)]
Amount = Annotated[float, Field(ge=0)]


class Given(BaseModel):
    """Of a request."""

    # Strict: "0.5" is no number. What was given is not shown in a message.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class _Wishes(Given):
    """What a caller may ask of the decision.

    seed: what the draw of an exploring policy depends on, beside the prompt; a new one for each
        request where it is left out.
    candidates: those that may be chosen; all where they are left out.
    session, user: for the log; a canary keeps a session on one side.
    budget: USD that the answer may cost. quality_floor: least predicted score.
    """

    seed: Annotated[str, StringConstraints(max_length=1000)] | None = None
    candidates: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None
    session: Name | None = None
    user: Name | None = None
    budget: Annotated[float, Field(gt=0)] | None = None
    quality_floor: Annotated[float, Field(ge=0, le=1)] | None = None


class RouteRequest(_Wishes):
    """One prompt."""

    prompt: Prompt


class BatchRequest(_Wishes):
    """Several prompts with the same wishes."""

    prompts: Annotated[list[Prompt], Field(min_length=1)]


class Chosen(BaseModel):
    """A decision; `router.Decision` tells each field. Outcomes are told under its request_id."""

    request_id: str
    candidate: str
    probability: float
    reason: str
    quality: dict[str, float]
    quality_se: dict[str, float]
    cost: dict[str, float] | None
    latency: dict[str, float] | None
    ask: dict[str, float]
    probabilities: dict[str, float]
    eligible: list[str]
    seed: str
    session: str | None
    artifact: str
    policy: str
    price_version: str | None

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """The decision, as JSON shows it."""
        return cls(**decision.to_dict())


class ChosenBatch(BaseModel):
    """A decision for each prompt, in order."""

    decisions: list[Chosen]


class Outcome(Given):
    """What became known of a decision.

    request_id: the decision's. score: in [0, 1]. cost_usd: of all tries. latency_s: seconds until
    the answer was complete. retries: further tries. task: kind of query. source: of the score.
    """

    request_id: Name
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    cost_usd: Amount | None = None
    input_tokens: Amount | None = None
    output_tokens: Amount | None = None
    latency_s: Amount | None = None
    retries: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    task: Name | None = None
    source: Name | None = None


Outcomes = Outcome | Annotated[list[Outcome], Field(min_length=1)]


class Accepted(BaseModel):
    """How many outcomes are in the log now."""

    accepted: int


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """artifact: SHA-256 of what is in service."""

    status: Literal["ready"] = "ready"
    artifact: str
