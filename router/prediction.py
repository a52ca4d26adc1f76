"""What an estimator says and a policy reads: the record that crosses every floor (numpy only)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from router.errors import RouterError


@dataclass(frozen=True)
class Prediction:
    """Per-candidate quality, cost and latency of n queries.

    candidates: the m candidates, in the order of the columns.
    quality: (n, m) predicted mean score, on the scale of the logged scores; a linear estimator's
        may leave [0, 1].
    quality_se: (n, m) standard error of that mean.
    cost: (n, m) predicted USD of one answer, or None where the log knows no cost.
    latency: (n, m) predicted seconds of one answer, or None where the log knows no latency.
    judged: (n, m) expected score of the candidate's own answer, by whoever has seen it (see Judge);
        NaN where it has not been seen; None where nobody judges.

    Raises RouterError where a number is NaN or infinite: no policy can decide on it.
    """

    candidates: tuple[str, ...]
    quality: np.ndarray
    quality_se: np.ndarray
    cost: np.ndarray | None = None
    latency: np.ndarray | None = None
    judged: np.ndarray | None = None

    def __post_init__(self) -> None:
        expected = (len(self.quality), len(self.candidates))
        # The costs stand in where there are no latencies, so that two sums look at all numbers.
        cost = self.quality if self.cost is None else self.cost
        latency = cost if self.latency is None else self.latency
        for name, values in (
            ("quality", self.quality),
            ("quality_se", self.quality_se),
            ("cost", cost),
            ("latency", latency),
        ):
            if values.shape != expected:
                raise ValueError(f"Prediction.{name} has shape {values.shape}, expected {expected}")
        # A sum of products is finite if all of them are, but where one overflows: one quick look.
        if not math.isfinite(np.vdot(self.quality, self.quality_se) + np.vdot(cost, latency)):
            self._require_finite()
        if self.judged is not None and self.judged.shape != expected:
            raise ValueError(f"Prediction.judged has shape {self.judged.shape}, not {expected}")

    def _require_finite(self) -> None:
        for name in ("quality", "quality_se", "cost", "latency"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                row, column = np.argwhere(~np.isfinite(values))[0]
                raise RouterError(
                    f"The predicted {name} of {self.candidates[column]!r} is "
                    f"{values[row, column]} for query {row}; check the vectors and the estimator."
                )

    def __len__(self) -> int:
        return len(self.quality)

    def select(self, columns: np.ndarray) -> Prediction:
        """The prediction of the given candidates alone; columns: positions, or m True and False."""
        names = tuple(np.array(self.candidates, dtype=object)[columns].tolist())

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[:, columns]

        quality, se = self.quality[:, columns], self.quality_se[:, columns]
        return Prediction(names, quality, se, of(self.cost), of(self.latency), of(self.judged))

    def take(self, rows: np.ndarray | slice) -> Prediction:
        """The prediction of the given queries alone."""
        return replace(
            self,
            quality=self.quality[rows],
            quality_se=self.quality_se[rows],
            cost=None if self.cost is None else self.cost[rows],
            latency=None if self.latency is None else self.latency[rows],
            judged=None if self.judged is None else self.judged[rows],
        )
