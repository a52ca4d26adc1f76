"""A plan in progress: whom to ask now, and what follows from the answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard
from uuid import uuid4

import numpy as np

from router.errors import RouterError
from router.outcomes.log_records import prompt_sha256
from router.policies import Policy
from router.policies.sequential import STOP, Sequential

if TYPE_CHECKING:
    from router.artifact.decision import Decision
    from router.artifact.runtime import Router

MOST_TOKEN_CHARACTERS = 100_000


@dataclass(frozen=True)
class Asked:
    """A step behind us: who was asked, and what the answer is worth to the judge; None where nobody
    judges it."""

    candidate: str
    judged: float | None


@dataclass(frozen=True)
class Plan:
    """The steps of one prompt, known before the first is taken and decided anew after each answer.

    Every policy makes one: of a router it has a single step, of a cascade up to as many as there
    are candidates.

    decision: on the present step, for a decision log; the first is as `Router.route` tells it, the
        later ones follow from the answers, with probability 1 and a request id of their own.
    step: candidate to ask now; None once the plan is over.
    answer: candidate whose answer is the caller's; None until the plan is over.
    asked: the steps behind us.
    reason: one sentence on the present state.
    """

    router: Router
    prompt: str
    decision: Decision
    step: str | None
    answer: str | None
    asked: tuple[Asked, ...]
    reason: str

    @classmethod
    def begin(cls, router: Router, prompt: str, decision: Decision) -> Plan:
        """The plan before its first step."""
        return cls(router, prompt, decision, decision.candidate, None, (), decision.reason)

    @property
    def looks(self) -> bool:
        """Whether answers are looked at, so that there may be several steps."""
        return self._goes_on(self.router.policy)

    def accept(self, response: str, signals: Mapping[str, Any] | None = None) -> Plan:
        """What follows from the answer of `step`: another step, or the end.

        response: the answer's text. signals: what else is known of it (self_verification,
            consistency, max_probability, log-probabilities; or `responses`, further samples, and
            `logprobs`, of its tokens).

        Raises RouterError where the plan is over, or a signal is unknown or no number.
        """
        if self.step is None:
            raise RouterError("The plan is over; begin another with plan(prompt).")
        if not isinstance(response, str):
            raise RouterError("The response is no text; give what the candidate answered.")
        policy = self.router.policy
        if not self._goes_on(policy):
            return replace(self.stands(), reason="the only step")
        judged = self.router.judge_answer(self.prompt, self.step, response, signals or {})
        return self._after((*self.asked, Asked(self.step, judged)), policy)

    def stands(self) -> Plan:
        """The plan where the answer of `step` stands unjudged, and so ends it."""
        if self.step is None:
            raise RouterError("The plan is over; begin another with plan(prompt).")
        asked = (*self.asked, Asked(self.step, None))
        return replace(self, step=None, answer=self.step, asked=asked, reason="not judged")

    def _goes_on(self, policy: Policy) -> TypeGuard[Sequential]:
        """Whether an answer may lead to another step: not where something else than the artifact's
        own policy decided, such as a kill switch."""
        own = self.decision.policy == type(policy).__name__
        return isinstance(policy, Sequential) and self.router.judge is not None and own

    def failed(self) -> Plan:
        """What follows where `step` gave no answer: as if it were not among the candidates.

        Raises RouterError where nobody is left to ask.
        """
        if self.step is None:
            raise RouterError("The plan is over; begin another with plan(prompt).")
        left = [name for name in self.decision.eligible if name != self.step]
        if not left:
            raise RouterError(f"{self.step} gave no answer, and no other candidate is eligible.")
        without = replace(self, decision=replace(self.decision, eligible=left))
        policy = self.router.policy
        if self.asked and self._goes_on(policy):
            return without._after(self.asked, policy)
        again = self.router.route(
            self.prompt,
            seed=self.decision.seed,
            candidates=left,
            session=self.decision.session,
        )
        return replace(without, decision=again, step=again.candidate, reason=again.reason)

    def _after(self, asked: tuple[Asked, ...], policy: Sequential) -> Plan:
        names = self.router.candidates
        places = {name: j for j, name in enumerate(names)}
        eligible = np.isin(names, [*self.decision.eligible, *(step.candidate for step in asked)])
        judged = np.full((1, len(names)), np.nan)
        seen = np.zeros((1, len(names)), dtype=bool)
        for step in asked:
            seen[0, places[step.candidate]] = True
            judged[0, places[step.candidate]] = np.nan if step.judged is None else step.judged
        prediction = replace(self.router.predict_prompt(self.prompt), judged=judged)
        left, seen = prediction.select(eligible), seen[:, eligible]
        last = np.array([left.candidates.index(asked[-1].candidate)])
        following = int(policy.next_step(left, seen, last)[0])
        latest = asked[-1]
        worth = "" if latest.judged is None else f" judged {latest.judged:.3f}"
        if following == STOP:
            answer = left.candidates[int(policy.returned(left, seen, last)[0])]
            reason = f"{latest.candidate}{worth}; the answer of {answer} stands"
            return replace(self, step=None, answer=answer, asked=asked, reason=reason)
        name = left.candidates[following]
        reason = f"{latest.candidate}{worth}; {name} is worth asking too"
        decision = replace(
            self.decision,
            candidate=name,
            probability=1.0,
            probabilities={**dict.fromkeys(names, 0.0), name: 1.0},
            ask={name: 1.0},
            reason=reason,
            request_id=uuid4().hex,
        )
        return replace(self, decision=decision, step=name, answer=None, asked=asked, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """What a caller over HTTP is told, less the token."""
        return {
            "step": self.step,
            "answer": self.answer,
            "asked": [{"candidate": s.candidate, "judged": s.judged} for s in self.asked],
            "reason": self.reason,
            "request_id": self.decision.request_id,
            "artifact": self.decision.artifact,
        }

    def token(self, key: bytes = b"") -> str:
        """The state as text, to `resume` from. Its seal is an HMAC-SHA256 under the key: without
        the key nobody can change it unnoticed. An empty key guards against damage alone."""
        decision = self.decision
        state = {
            "request_id": decision.request_id,
            "artifact": decision.artifact,
            "prompt": prompt_sha256(self.prompt),
            "eligible": decision.eligible,
            "seed": decision.seed,
            "session": decision.session,
            "policy": decision.policy,
            "step": self.step,
            "asked": [[step.candidate, step.judged] for step in self.asked],
        }
        text = json.dumps(state, separators=(",", ":"), allow_nan=False).encode()
        return f"{_base64(text)}.{_base64(_seal(text, key))}"

    @classmethod
    def resume(cls, router: Router, prompt: str, token: str, key: bytes = b"") -> Plan:
        """The plan that wrote the token, for the same prompt and artifact.

        Raises RouterError where the token is not one of these, was changed, or the plan is over.
        """
        state = _opened(token, key)
        if state["artifact"] != router.manifest["sha256"]:
            raise RouterError("The plan's token is of another artifact; begin the plan again.")
        if state["prompt"] != prompt_sha256(prompt):
            raise RouterError("The plan's token is of another prompt; send the prompt it began on.")
        if state["step"] is None:
            raise RouterError("The plan is over; begin another with plan(prompt).")
        try:
            asked = tuple(Asked(str(name), judged) for name, judged in state["asked"])
            decision = router.route(
                prompt, seed=state["seed"], candidates=state["eligible"], session=state["session"]
            )
            unknown = {state["step"], *(step.candidate for step in asked)} - {*router.candidates}
            sound = all(isinstance(step.judged, float | None) for step in asked)
        except (KeyError, TypeError, ValueError):
            raise _wrong_token() from None
        if unknown or not sound:
            raise _wrong_token()
        decision = replace(
            decision,
            candidate=state["step"],
            policy=state["policy"],
            request_id=state["request_id"],
        )
        return cls(router, prompt, decision, state["step"], None, asked, "resumed")

    @staticmethod
    def artifact_of(token: str, key: bytes = b"") -> str:
        """The SHA-256 of the artifact whose plan wrote the token; raises RouterError as `resume`
        does."""
        return str(_opened(token, key)["artifact"])


def _seal(text: bytes, key: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _opened(token: str, key: bytes) -> dict[str, Any]:
    if not isinstance(token, str) or len(token) > MOST_TOKEN_CHARACTERS or token.count(".") != 1:
        raise _wrong_token()
    try:
        text, seal = (_bytes(part) for part in token.split("."))
        if not hmac.compare_digest(seal, _seal(text, key)):
            raise _wrong_token()
        state = json.loads(text)
        present = {"artifact", "prompt", "step", "asked", "eligible", "seed", "session", "policy"}
        if not isinstance(state, dict) or not present <= set(state):
            raise _wrong_token()
    except (ValueError, RecursionError):
        raise _wrong_token() from None
    return state


def _wrong_token() -> RouterError:
    return RouterError(
        "The plan's token is damaged, or was sealed with another key; begin the plan again."
    )


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
