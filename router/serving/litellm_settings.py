"""What the plug-in for LiteLLM's proxy reads from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from router.errors import RouterError
from router.serving.live_settings import LiveSettings


class PluginSettings(BaseModel):
    """What the plug-in is told.

    group: the model group whose requests are routed.
    log: folder of the decision log; None: none is kept.
    keep: "hash" or "text" of the prompts in it.
    default: who answers where routing fails; None: the best single one of the artifact's baselines.
    sticky_seconds: for which a session keeps its candidate after its last request; 0: it does not.
    live: what decides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    group: str = Field(default="router", min_length=1)
    log: Path | None = None
    keep: Literal["hash", "text"] = "hash"
    default: str | None = Field(default=None, min_length=1)
    sticky_seconds: float = Field(default=1800.0, ge=0, le=86_400 * 30)
    live: LiveSettings


# Each variable and the setting that it is. Kubernetes may set others of this beginning.
ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "ROUTER_ARTIFACT": ("live", "artifact"),
    "ROUTER_GROUP": ("group",),
    "ROUTER_DEFAULT": ("default",),
    "ROUTER_LOG": ("log",),
    "ROUTER_KEEP": ("keep",),
    "ROUTER_STICKY_SECONDS": ("sticky_seconds",),
    "ROUTER_POLL_SECONDS": ("live", "poll_seconds"),
    "ROUTER_PUBLIC_KEY": ("live", "public_key"),
    "ROUTER_PRICES": ("live", "prices"),
    "ROUTER_KILL_SWITCH": ("live", "kill_switch", "file"),
    "ROUTER_BUDGET": ("live", "pacer", "budget"),
    "ROUTER_PACER_STATE": ("live", "pacer", "state"),
}


def settings_from(environment: Mapping[str, str]) -> PluginSettings:
    """The settings that stand in the environment; an empty variable is none.

    Raises RouterError, which names the variable.
    """
    if not environment.get("ROUTER_ARTIFACT"):
        raise RouterError("ROUTER_ARTIFACT is not set; give the artifact's folder.")
    values: dict[str, Any] = {}
    for name, (*sections, field) in ENVIRONMENT.items():
        if environment.get(name):
            section = values
            for step in sections:
                section = section.setdefault(step, {})
            section[field] = environment[name]
    try:
        return PluginSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = {place: name for name, place in ENVIRONMENT.items()}[tuple(map(str, first["loc"]))]
        raise RouterError(f"{name} is {environment[name]!r}: {first['msg']}.") from None
