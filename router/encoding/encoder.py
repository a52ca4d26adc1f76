"""The contract of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np


class Encoder(Protocol):
    """Texts -> float32 array (n, dimension). `identity` names everything the vectors depend on;
    None: not to be cached, since it costs less than to look up."""

    @property
    def identity(self) -> str | None: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class LearningEncoder(Encoder, Protocol):
    """An encoder that is fitted on the train side's outcomes before it encodes."""

    def fit(self, texts: Sequence[str], scores: np.ndarray, observed: np.ndarray) -> None:
        """Learn from (n, m) scores where `observed`."""


def learns(encoder: Any) -> TypeGuard[LearningEncoder]:
    """Whether the encoder says of itself that it learns from outcomes."""
    return bool(getattr(encoder, "learns", False))
