"""Goals of the serving study, and whether they are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from page import table


@dataclass(frozen=True)
class Goal:
    """A figure that shall be at most `most`, in the same unit."""

    what: str
    most: float
    unit: str
    measured: float

    @property
    def met(self) -> bool:
        return self.measured <= self.most

    def row(self) -> list[str]:
        """Goal, measured, and by how much it is missed."""
        missed = f"**missed by {self.measured / self.most - 1:.0%}**"
        return [
            self.what,
            f"{self.most:g} {self.unit}",
            f"{self.measured:.3g} {self.unit}",
            "met" if self.met else missed,
        ]


def compared(goals: Sequence[Goal]) -> str:
    """A sentence and a row for each goal."""
    met = sum(goal.met for goal in goals)
    titles = ["goal", "at most", "measured", ""]
    return f"{met} of {len(goals)} are met.\n\n{table(titles, [goal.row() for goal in goals])}"
