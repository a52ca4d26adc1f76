"""The shadow: another artifact that is asked beside the live one and never answers."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from typing import Any

from router.artifact.runtime import Decision
from router.serving.pacer import predicted_cost
from router.serving.side import Request, Side

log = logging.getLogger(__name__)


class Shadow:
    """Decides again, in a thread of its own, what the live side has decided, and counts.

    size: requests that may wait; more are left out and counted, as no answer waits for the shadow.
    """

    def __init__(self, size: int):
        self._waiting: queue.Queue[tuple[Side, str, Request, float, Decision] | None]
        self._waiting = queue.Queue(size)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._choices: Counter[str] = Counter()
        self._quality, self._cost, self._with_cost = 0.0, 0.0, 0
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="router-shadow", daemon=True)
        self._thread.start()

    def offer(
        self, side: Side, prompt: str, request: Request, charge: float, decision: Decision
    ) -> None:
        """Compare later; never waits."""
        try:
            self._waiting.put_nowait((side, prompt, request, charge, decision))
        except queue.Full:
            with self._lock:
                self._counts["dropped"] += 1

    def describe(self) -> dict[str, Any]:
        """Counters, as plain JSON.

        compared: decisions of which the shadow's own is known. agreement: share of them with the
        same candidate. choices: how often the shadow chose each. predicted_quality,
        predicted_cost: mean of the shadow's prediction for its choice less the live side's for its
        own; each believes itself, so a gain here is a claim and no proof.
        """
        with self._lock:
            compared = self._counts["compared"]
            return {
                "compared": compared,
                "agreement": self._counts["agreed"] / compared if compared else None,
                "dropped": self._counts["dropped"],
                "failed": self._counts["failed"],
                "choices": dict(self._choices),
                "predicted_quality": self._quality / compared if compared else None,
                "predicted_cost": self._cost / self._with_cost if self._with_cost else None,
            }

    def close(self) -> None:
        """Leave out what waits, and end the thread."""
        while True:
            try:
                self._waiting.put_nowait(None)
                break
            except queue.Full:
                self._take()
        self._thread.join()

    def _take(self) -> None:
        try:
            self._waiting.get_nowait()
        except queue.Empty:  # the thread was faster
            return

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            try:
                self._compare(*job)
            except Exception as error:  # whatever it is, the answers go on
                self._fail(error)

    def _compare(
        self, side: Side, prompt: str, request: Request, charge: float, live: Decision
    ) -> None:
        own = side.decide(prompt, request, charge)
        paid, asked = predicted_cost(live), predicted_cost(own)
        with self._lock:
            self._counts["compared"] += 1
            self._counts["agreed"] += own.candidate == live.candidate
            self._choices[own.candidate] += 1
            self._quality += own.quality[own.candidate] - live.quality[live.candidate]
            if paid is not None and asked is not None:
                self._cost += asked - paid
                self._with_cost += 1

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._counts["failed"] += 1
        reason = f"{type(error).__name__}: {error}"
        if reason not in self._told:
            self._told.add(reason)
            log.warning("The shadow could not decide a request: %s", reason)
