"""The settings of what is in service (`live.` in conf/serve.yaml): each with its bounds."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CanarySettings(_Section):
    """Another artifact that answers a share of the requests (see `router.serving.canary`).

    artifact: its folder, zip file or registry alias; None: no canary.
    share: of the sessions, and of the requests without one.
    """

    artifact: str | None = Field(default=None, min_length=1, max_length=4096)
    share: float = Field(default=0.05, gt=0, lt=1)


class ShadowSettings(_Section):
    """Another artifact that is asked beside the live one and never answers.

    artifact: its folder, zip file or registry alias; None: no shadow.
    queue: requests that may wait for it; more are left out and counted.
    """

    artifact: str | None = Field(default=None, min_length=1, max_length=4096)
    queue: int = Field(default=1000, ge=1, le=1_000_000)


class KillSwitchSettings(_Section):
    """While the file exists every request goes to one candidate, and no artifact is asked.

    file: looked for at most once a second; None: no switch.
    candidate: who answers then; None: the best single one of the live artifact's baselines.
    """

    file: Path | None = None
    candidate: str | None = Field(default=None, min_length=1, max_length=1000)


class PacerSettings(_Section):
    """Holds the average spend (see `router.serving.pacer`).

    budget: USD per query; None: no pacer.
    state: SQLite file on a local disk that all workers of the service share; kept across restarts.
    window: queries over which the spend is averaged.
    rate: eta, the step of lambda for a query that costs twice the budget.
    most: greatest lambda; 1 outweighs a typical difference in quality.
    """

    budget: float | None = Field(default=None, gt=0, le=1e6)
    state: Path = Path("pacer.db")
    window: int = Field(default=100, ge=1, le=1_000_000)
    rate: float = Field(default=0.01, gt=0, le=1)
    most: float = Field(default=10.0, gt=0, le=1e6)


class LiveSettings(_Section):
    """What is in service and how it changes.

    artifact: a folder, a zip file or an alias of a model registry (`models:/name@champion`).
    poll_seconds: between two looks at the artifacts and the prices.
    pin_candidates: refuse a new artifact whose candidates are others than the first one's.
    public_key: file; every artifact must then bear a signature by its owner.
    tracking_uri: of the registry behind an alias; None: what the environment names.
    prices: file in the format of data.prices; in place of the prices in the artifacts.
    """

    artifact: str = Field(min_length=1, max_length=4096)
    poll_seconds: float = Field(default=5.0, ge=0.01, le=86_400)
    pin_candidates: bool = False
    public_key: Path | None = None
    tracking_uri: str | None = Field(default=None, min_length=1, max_length=4096)
    prices: Path | None = None
    canary: CanarySettings = CanarySettings()
    shadow: ShadowSettings = ShadowSettings()
    kill_switch: KillSwitchSettings = KillSwitchSettings()
    pacer: PacerSettings = PacerSettings()
