"""The encoder of an express artifact: encoder.npy, without onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from router.encoding.query_features import query_features
from router.encoding.static_table import StaticTable
from router.errors import RouterError

KIND = "static"


class StaticEncoder:
    """Prompt -> vector. Thread-safe: nothing changes after loading.

    rows: what encoder.npy holds (see StaticTable).
    tokenizer: of tokenizer.json.
    facts: what the manifest says under `encoder`: kind, "static"; characters, of a prompt that are
        read; features_weight, of one query feature beside the vector, where there are some.

    Raises RouterError where the parts do not fit, or come from a newer version.
    """

    def __init__(self, rows: np.ndarray, tokenizer: Tokenizer, facts: dict[str, Any] | None):
        facts = facts or {}
        unknown = set(facts) - {"kind", "characters", "features_weight"}
        if facts.get("kind") != KIND or unknown or not isinstance(facts.get("characters"), int):
            raise RouterError(
                "manifest.json: the encoder is of a kind that this version does not know; "
                "update query-router."
            )
        self._table = StaticTable(rows, tokenizer, facts["characters"])
        weight = facts.get("features_weight")
        self._weight = None if weight is None else np.float32(weight)

    def encode_one(self, prompt: str) -> np.ndarray:
        """(1, d) float32: a vector of unit length, with the weighted query features behind it where
        the router was trained on them."""
        vector = self._table.encode_one(prompt)[None]
        if self._weight is None:
            return vector
        return np.hstack([vector, self._weight * query_features([prompt])])
