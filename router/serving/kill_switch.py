"""The kill switch: while a file exists, one candidate answers everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from router.artifact.runtime import Decision, Router
from router.errors import RouterError
from router.serving.live_settings import KillSwitchSettings

POLICY = "KillSwitch"
LOOK_SECONDS = 1.0


class KillSwitch:
    """Looks for the file at most once a second.

    clock: seconds that never go back.
    """

    def __init__(self, settings: KillSwitchSettings, clock: Callable[[], float] = time.monotonic):
        self._settings = settings
        self._clock = clock
        self._looked: float | None = None
        self._on = False

    @property
    def on(self) -> bool:
        """Whether the file exists."""
        if self._settings.file is None:
            return False
        now = self._clock()
        if self._looked is None or not 0 <= now - self._looked < LOOK_SECONDS:
            self._on, self._looked = self._settings.file.exists(), now
        return self._on

    def incumbent(self, router: Router) -> str | None:
        """Who answers; None where there is no switch.

        Raises RouterError where the candidate is none of the router's.
        """
        if self._settings.file is None:
            return None
        name = self._settings.candidate or str(router.manifest["baselines"].get("best_single"))
        if name not in router.candidates:
            raise RouterError(
                f"live.kill_switch.candidate: {name!r} is none of the artifact's candidates; "
                f"give one of {', '.join(router.candidates)}."
            )
        return name

    def decision(
        self,
        router: Router,
        incumbent: str,
        *,
        seed: str,
        candidates: Sequence[str] | None,
        session: str | None,
    ) -> Decision:
        """The incumbent, without a look at the prompt: nothing is predicted, and no budget and no
        floor of the request is kept. A list of candidates is: it may be there for the law's sake.

        Raises RouterError where the incumbent is not on it.
        """
        if candidates is not None and incumbent not in candidates:
            raise RouterError(
                f"The kill switch is on, and {incumbent!r}, which answers everything now, is not "
                "on the list of candidates; add it, or try again later."
            )
        return Decision(
            candidate=incumbent,
            probability=1.0,
            quality={},
            quality_se={},
            cost=None,
            reason=f"the kill switch is on: {incumbent} answers everything",
            ask={incumbent: 1.0},
            latency=None,
            probabilities={name: float(name == incumbent) for name in router.candidates},
            eligible=[incumbent],
            seed=seed,
            session=session,
            artifact=router.manifest["sha256"],
            policy=POLICY,
            price_version=None,
        )
