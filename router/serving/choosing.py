"""Who answers a chat request: a new decision, or the candidate that its session keeps."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from router.artifact.runtime import Decision
from router.errors import RouterError
from router.serving.chat_request import RoutingOptions
from router.serving.kill_switch import POLICY as KILL_SWITCH
from router.serving.sessions import Sessions

if TYPE_CHECKING:
    from router.serving.live import Live

STICKY, FALLBACK = "StickySession", "Fallback"  # stand in a decision log in place of a policy


def allowed_of(
    known: Sequence[str], served: Container[str], wanted: Sequence[str] | None
) -> list[str]:
    """The candidates that may answer: of those wanted (None: all known ones) the ones that have an
    upstream; names that nobody knows stay, for the router to refuse.

    Raises RouterError where none is left.
    """
    names = known if wanted is None else wanted
    allowed = [name for name in names if name in served or name not in known]
    if not allowed:
        raise RouterError(
            f"None of {', '.join(names)} has an upstream; name others, or add upstreams.candidates."
        )
    return allowed


def choose(
    live: Live,
    sessions: Sessions,
    prompt: str,
    options: RoutingOptions,
    seed: str,
    allowed: Sequence[str],
) -> Decision:
    """The decision, and whom the session keeps from now on.

    A session stays with its candidate while that is allowed and its predicted cost is within the
    budget; a quality floor counts where the session begins. The decision of such a repeat is logged
    with probability 1, as a choice among this one candidate: given the session nothing was drawn.
    The kill switch goes before; what it answers, no session keeps.

    A policy that asks several candidates together (a vote) is answered by the one of greatest
    weight alone, since free answers cannot be compared; the log keeps the weights, and leaves the
    outcome out of what is learned.

    Raises RouterError as `Live.decide` does.
    """
    kept = None if options.session is None else sessions.candidate(options.session)
    if kept is not None and kept in allowed:
        try:
            decision = live.decide(
                prompt, seed=seed, candidates=[kept], session=options.session, budget=options.budget
            )
        except RouterError:  # too dear for this request, or no candidate any more: choose anew
            pass
        else:
            sessions.keep(str(options.session), kept)
            if decision.policy == KILL_SWITCH:
                return decision
            return replace(decision, policy=STICKY, reason=f"the session stays with {kept}")
    everybody = set(allowed) == set(live.router.candidates)
    decision = live.decide(
        prompt,
        seed=seed,
        candidates=None if everybody else allowed,
        session=options.session,
        budget=options.budget,
        quality_floor=options.quality_floor,
    )
    if options.session is not None and decision.policy != KILL_SWITCH:
        sessions.keep(options.session, decision.candidate)
    return decision


def fallbacks_of(
    decision: Decision,
    allowed: Sequence[str],
    options: RoutingOptions,
    order: Sequence[str] | None,
) -> list[str]:
    """Whom to ask one after the other where the chosen candidate fails.

    order: as `upstreams.fallback.order` has it.
    """
    asked = allowed if order is None else order
    others = [name for name in asked if name in allowed and name != decision.candidate]
    if options.budget is not None and decision.cost is not None:
        dearest = options.budget
        others = [name for name in others if decision.cost.get(name, float("inf")) <= dearest]
    if order is not None:
        return others
    floor = options.quality_floor or 0.0

    def rank(name: str) -> tuple[bool, float, float]:
        quality = decision.quality.get(name, 0.0)
        return quality < floor, -quality, (decision.cost or {}).get(name, 0.0)

    return sorted(others, key=rank)


def in_place_of(decision: Decision, candidate: str, why: str) -> Decision:
    """The decision under which the answer of another candidate is logged where the chosen failed.

    It has a request id of its own, so that neither the answer nor a score that comes later is
    credited to a candidate that did not answer; its probability is 1, since given the failure
    nothing was drawn. The chosen one's own decision stays as it was drawn, without a score.
    """
    return replace(
        decision,
        candidate=candidate,
        probability=1.0,
        probabilities={**dict.fromkeys(decision.probabilities, 0.0), candidate: 1.0},
        eligible=[candidate],
        ask={candidate: 1.0},
        policy=FALLBACK,
        reason=f"{decision.candidate} failed ({why}); {candidate} answers in its place",
        request_id=uuid4().hex,
    )
