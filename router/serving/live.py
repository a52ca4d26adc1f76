"""What is in service, and how it changes while it serves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from router.artifact.plan import Plan
from router.artifact.runtime import Decision, Router
from router.errors import RouterError
from router.serving.canary import decide_with_canary
from router.serving.kill_switch import KillSwitch
from router.serving.live_settings import LiveSettings
from router.serving.pacer import Pacer, Scale, predicted_cost
from router.serving.reload import PriceFile, Watched, artifact_source
from router.serving.shadow import Shadow
from router.serving.side import Request, Side

Prices = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _InService:
    """All that decides at one moment. A decision holds on to one of these from beginning to end, so
    that a change in between cannot mix two."""

    live: Side
    canary: Side | None
    shadow: Side | None
    incumbent: str | None


class Live:
    """What is in service. Thread-safe: threads decide while artifacts and prices change.

    A thread looks every `poll_seconds` at the artifacts and the prices. What is new is loaded and
    checked beside the old and then takes its place in one step; requests in flight end on the old.
    Whatever is wrong with it, the old stays, the failure is counted, logged once for each distinct
    reason and told by `describe`.

    One object for each worker process: `start` it there. What the workers must share (the pacer's
    account, the posterior) lies in files.
    """

    def __init__(self, settings: LiveSettings):
        self.settings = settings
        self._kill_switch = KillSwitch(settings.kill_switch)
        places = {
            "artifact": settings.artifact,
            "canary": settings.canary.artifact,
            "shadow": settings.shadow.artifact,
        }
        self._watched: dict[str, Watched[Any]] = {
            name: Watched(name, artifact_source(place, settings))
            for name, place in places.items()
            if place is not None
        }
        if settings.prices is not None:
            self._watched["prices"] = Watched("prices", PriceFile(settings.prices))
        self._in_service: _InService | None = None
        self._pinned: frozenset[str] = frozenset()
        self._pacer: Pacer | None = None
        self._shadow: Shadow | None = None
        self._changing = threading.Lock()
        self._closing = threading.Event()
        self._poller: threading.Thread | None = None

    def start(self) -> None:
        """Load everything and begin to watch it; raises RouterError where something is wrong: there
        is nothing older to keep."""
        values = {name: part.read_first() for name, part in self._watched.items()}
        self._pinned = frozenset(values["artifact"].candidates)
        self._in_service = self._assembled(values)
        if self.settings.pacer.budget is not None:
            self._pacer = Pacer(self.settings.pacer)
        if self._in_service.shadow is not None:
            self._shadow = Shadow(self.settings.shadow.queue)
        self._poller = threading.Thread(target=self._poll, name="router-live", daemon=True)
        self._poller.start()

    def close(self) -> None:
        """Stop watching, and close the shared state."""
        self._closing.set()
        # A registry that does not answer may hold the thread for minutes; it dies with the process.
        if self._poller is not None:
            self._poller.join(timeout=10)
        if self._shadow is not None:
            self._shadow.close()
        if self._pacer is not None:
            self._pacer.close()

    @property
    def router(self) -> Router:
        """The live artifact's router, at the current prices."""
        return self._now.live.router

    def decide(
        self,
        prompt: str,
        *,
        seed: str = "",
        candidates: Sequence[str] | None = None,
        session: str | None = None,
        budget: float | None = None,
        quality_floor: float | None = None,
    ) -> Decision:
        """`Router.route` by what is in service now: the kill switch first, then the canary's or the
        live artifact, at the pacer's charge. Give each request a seed of its own where a prompt
        that comes again shall be drawn anew.

        Raises RouterError as `Router.route` does.
        """
        request = Request(seed, candidates, session, budget, quality_floor)
        return self._decided([prompt], request)[0]

    def decide_batch(
        self,
        prompts: Sequence[str],
        *,
        seed: str = "",
        candidates: Sequence[str] | None = None,
        session: str | None = None,
        budget: float | None = None,
        quality_floor: float | None = None,
    ) -> list[Decision]:
        """One decision for each prompt, all by what is in service at the beginning."""
        request = Request(seed, candidates, session, budget, quality_floor)
        return self._decided(prompts, request)

    def plan(self, prompt: str, decision: Decision) -> Plan:
        """The plan that begins with a decision of `decide`, on the artifact that decided."""
        return Plan.begin(self._router_of(decision.artifact), prompt, decision)

    def resume(self, prompt: str, token: str, key: bytes) -> Plan:
        """The plan that wrote the token (see `Router.resume`), on its own artifact.

        Raises RouterError where that is no longer in service.
        """
        return self._router_of(Plan.artifact_of(token, key)).resume(prompt, token, key)

    def _router_of(self, artifact: str) -> Router:
        now = self._now
        for side in (now.live, now.canary):
            if side is not None and side.router.manifest["sha256"] == artifact:
                return side.router
        raise RouterError("The plan's artifact is no longer in service; begin the plan again.")

    def paid(self, request_id: str, cost_usd: float) -> None:
        """What an answer really cost takes the place of its predicted cost in the pacer; whichever
        worker decided it."""
        if self._pacer is not None:
            self._pacer.paid(request_id, cost_usd)

    def reload(self) -> None:
        """Read everything anew now, whether it seems to have changed or not."""
        self._look(again=True)

    def describe(self) -> dict[str, Any]:
        """What is in service, and how it fares, as plain JSON."""
        now = self._now
        told: dict[str, Any] = dict.fromkeys(("canary", "shadow", "prices", "pacer"))
        told |= {name: part.describe() for name, part in self._watched.items()}
        for name, side in (("artifact", now.live), ("canary", now.canary), ("shadow", now.shadow)):
            if side is not None:
                told[name]["sha256"] = side.router.manifest["sha256"]
                told[name]["candidates"] = list(side.router.candidates)
        if now.canary is not None:
            told["canary"]["share"] = self.settings.canary.share
        if self._shadow is not None:
            told["shadow"] |= self._shadow.describe()
        if self._pacer is not None:
            told["pacer"] = self._pacer.describe()
        told["kill_switch"] = {"on": self._kill_switch.on, "incumbent": now.incumbent}
        return told

    @property
    def _now(self) -> _InService:
        if self._in_service is None:
            raise RuntimeError("Live.start was not called")
        return self._in_service

    def _decided(self, prompts: Sequence[str], request: Request) -> list[Decision]:
        now = self._now
        if now.incumbent is not None and self._kill_switch.on:
            return [
                self._kill_switch.decision(
                    now.live.router,
                    now.incumbent,
                    seed=request.seed,
                    candidates=request.candidates,
                    session=request.session,
                )
                for _ in prompts
            ]
        charge = 0.0 if self._pacer is None else self._pacer.charge
        decisions = self._asked(now, prompts, request, charge)
        if self._pacer is not None:
            costs = [(decision.request_id, predicted_cost(decision)) for decision in decisions]
            self._pacer.book([(name, cost) for name, cost in costs if cost is not None])
        if self._shadow is not None and now.shadow is not None:
            for prompt, decision in zip(prompts, decisions, strict=True):
                self._shadow.offer(now.shadow, prompt, request, charge, decision)
        return decisions

    def _asked(
        self, now: _InService, prompts: Sequence[str], request: Request, charge: float
    ) -> list[Decision]:
        if now.canary is None:
            return now.live.decide_batch(prompts, request, charge)
        share = self.settings.canary.share
        return [
            decide_with_canary(now.live, now.canary, share, prompt, request, charge)
            for prompt in prompts
        ]

    def _assembled(self, values: dict[str, Any]) -> _InService:
        """Raises RouterError where the routers and the prices do not go together."""
        prices = values.get("prices")
        sides = {
            name: self._side(router, prices) for name, router in values.items() if name != "prices"
        }
        live = sides["artifact"]
        if self.settings.pacer.budget is not None and live.scale is None:
            raise RouterError(
                "live.pacer.budget needs predicted costs, but the artifact's log had none; train "
                "on a log with cost_usd, or on tokens with data.prices."
            )
        incumbent = self._kill_switch.incumbent(live.router)
        return _InService(live, sides.get("canary"), sides.get("shadow"), incumbent)

    def _side(self, router: Router, prices: Prices | None) -> Side:
        if prices is not None:
            router = router.repriced(prices)
        if self.settings.pacer.budget is None:
            return Side(router)
        return Side(router, Scale.of(router, self.settings.pacer.most))

    def _poll(self) -> None:
        while not self._closing.wait(self.settings.poll_seconds):
            self._look()

    def _look(self, again: bool = False) -> None:
        with self._changing:
            changed = [self._look_at(name, again) for name in self._watched]
            if any(changed):  # what was wrong before may be right beside what is new
                for name, part in self._watched.items():
                    if part.problem is not None:
                        self._look_at(name, again=True)

    def _look_at(self, name: str, again: bool) -> bool:
        return self._watched[name].look(lambda value: self._put_in_service(name, value), again)

    def _put_in_service(self, name: str, value: Any) -> None:
        if name == "artifact" and self.settings.pin_candidates:
            self._require_pinned(value)
        values = {other: part.value for other, part in self._watched.items()}
        self._in_service = self._assembled({**values, name: value})

    def _require_pinned(self, router: Router) -> None:
        if frozenset(router.candidates) != self._pinned:
            raise RouterError(
                f"Its candidates are {', '.join(router.candidates)}, but "
                f"{', '.join(sorted(self._pinned))} are in service and live.pin_candidates is on; "
                "start the service anew to change them."
            )
