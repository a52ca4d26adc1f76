"""Learned query routing: choose the LLM before asking, from logged outcomes.

The names here belong to the runtime tier (numpy, onnxruntime, tokenizers). Training lives in
`router.pipelines` and behind the command `router`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from router.errors import RouterError

if TYPE_CHECKING:
    from router.artifact.decision_log import DecisionLog
    from router.artifact.runtime import Decision, Router, load

__all__ = ["Decision", "DecisionLog", "Router", "RouterError", "load"]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: the training side needs no onnxruntime to read a table.
    if name in ("Decision", "Router", "load"):
        import router.artifact.runtime as runtime

        return getattr(runtime, name)
    if name == "DecisionLog":
        from router.artifact.decision_log import DecisionLog

        return DecisionLog
    raise AttributeError(f"module 'router' has no attribute {name!r}")
