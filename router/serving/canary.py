"""The canary: another artifact that answers a share of the requests."""

from __future__ import annotations

from dataclasses import replace

from router.artifact.runtime import Decision
from router.errors import RouterError
from router.policies import uniform_of
from router.serving.side import Request, Side


def decide_with_canary(
    live: Side, canary: Side, share: float, prompt: str, request: Request, charge: float = 0.0
) -> Decision:
    """The canary's decision with probability `share`, else the live side's; `Decision.artifact`
    tells whose it is.

    A request without a session is drawn by its seed and prompt. The logged probabilities are then
    the whole system's, share x the canary's + (1 - share) x the live one's: whoever weighs an
    outcome by them averages over that draw too, and both sides' favourites have a chance in every
    decision, even where each side for itself is certain. That takes both sides' predictions.

    A session stays on the side that its name draws, so that a conversation does not change sides.
    The logged probabilities are then that side's own. The mixture would be wrong: what is asked
    later in a conversation depends on the answers before, so on the side, and given such a prompt
    the side is no longer drawn with the share. Sessions are compared with sessions, by `artifact`.

    A side that cannot decide the request (its candidates are not on the list, or too dear) leaves
    it to the other, which then decides alone. Raises the live side's RouterError where neither can.
    """
    known = {*live.router.candidates, *canary.router.candidates}
    if request.candidates is not None and not known.issuperset(request.candidates):
        return live.decide(prompt, request, charge)  # says which one is unknown
    if request.session is not None:
        drawn = on_canary_side(f"session:{request.session}", share)
        sides = (canary, live) if drawn else (live, canary)
        decided = (_decided(side, prompt, request, charge) for side in sides)
        own = next((decision for decision in decided if decision is not None), None)
        return own or live.decide(prompt, request, charge)
    ours = _decided(live, prompt, request, charge)
    theirs = _decided(canary, prompt, request, charge)
    if ours is None or theirs is None:
        return ours or theirs or live.decide(prompt, request, charge)
    drawn = on_canary_side(f"request:{len(request.seed)}:{request.seed}{prompt}", share)
    return _mixed(theirs if drawn else ours, ours, theirs, share)


def on_canary_side(name: str, share: float) -> bool:
    """Whether a session or a request is the canary's, by a hash of its name."""
    return bool(uniform_of([f"canary:{name}"])[0] < share)


def _decided(side: Side, prompt: str, request: Request, charge: float) -> Decision | None:
    """None where the side cannot decide it."""
    if request.candidates is not None:
        own = [name for name in request.candidates if name in side.router.candidates]
        request = replace(request, candidates=own)
    try:
        return side.decide(prompt, request, charge)
    except RouterError:
        return None


def _mixed(drawn: Decision, ours: Decision, theirs: Decision, share: float) -> Decision:
    """The drawn side's decision with the probabilities of the draw of sides and both policies."""
    names = dict.fromkeys([*ours.probabilities, *theirs.probabilities])
    probabilities = {
        name: share * theirs.probabilities.get(name, 0.0)
        + (1 - share) * ours.probabilities.get(name, 0.0)
        for name in names
    }
    return replace(
        drawn,
        probabilities=probabilities,
        probability=probabilities[drawn.candidate],
        eligible=list(dict.fromkeys([*ours.eligible, *theirs.eligible])),
    )
