"""What an estimator says and a policy reads: the record that crosses every floor (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """Per-candidate quality and cost of n queries.

    candidates: the m candidates, in the order of the columns.
    quality: (n, m) predicted mean score, on the scale of the logged scores, in [0, 1].
    quality_se: (n, m) standard error of that mean.
    cost: (n, m) predicted USD of one answer, or None where the log knows no cost.
    """

    candidates: tuple[str, ...]
    quality: np.ndarray
    quality_se: np.ndarray
    cost: np.ndarray | None = None

    def __post_init__(self) -> None:
        expected = (len(self.quality), len(self.candidates))
        for name in ("quality", "quality_se", "cost"):
            values = getattr(self, name)
            if values is not None and values.shape != expected:
                raise ValueError(f"Prediction.{name} has shape {values.shape}, expected {expected}")

    def __len__(self) -> int:
        return len(self.quality)

    def take(self, rows: np.ndarray | slice) -> Prediction:
        """The prediction of the given queries alone."""
        return replace(
            self,
            quality=self.quality[rows],
            quality_se=self.quality_se[rows],
            cost=None if self.cost is None else self.cost[rows],
        )
