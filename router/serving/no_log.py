"""A service without a decision log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.artifact.decision import Decision
from router.errors import RouterError


class NoLog:
    """In a `Recorder`'s place where log.folder is null: decisions are not kept, and outcomes, which
    have no other purpose, are refused (RouterError)."""

    async def decision(self, decision: Decision, prompt: str, user: str | None = None) -> None:
        """Nothing."""

    async def decisions(
        self, decisions: Sequence[Decision], prompts: Sequence[str], user: str | None = None
    ) -> None:
        """Nothing."""

    async def outcome(self, request_id: str, **told: Any) -> None:
        """Of a conversation, which has its answer without it: nothing."""

    async def outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Refused."""
        raise RouterError("This service keeps no decision log (log.folder=null).")

    async def problem(self) -> str | None:
        """None: there is nothing to go wrong."""
        return None

    async def close(self) -> None:
        """Nothing."""
