"""Parts of an artifact that onnxruntime runs; it is imported when the first of them is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from router.encoding.query_features import query_features

if TYPE_CHECKING:
    import onnxruntime

# Of a prompt that are read at all, so that a huge one costs no more than a long one: the window is
# full long before, save of a text that is nearly all blanks.
READ_CHARACTERS = 50_000


def session(content: bytes | Path) -> onnxruntime.InferenceSession:
    """A session of one thread: a service answers many requests at once, and results do not depend
    on the number of cores. content: the graph, or where it lies."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(content) if isinstance(content, Path) else content
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OnnxEncoder:
    """Prompt -> vector: the tokens of the prompt's beginning through encoder.onnx. Thread-safe."""

    def __init__(self, content: bytes | Path, tokenizer: Tokenizer):
        self._session = session(content)
        self._tokenizer = tokenizer
        self._reads_features = "features" in {given.name for given in self._session.get_inputs()}

    def encode_one(self, prompt: str) -> np.ndarray:
        """(1, d) float32."""
        # A lone surrogate is no Unicode text; it is read as the replacement character.
        text = prompt[:READ_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
        encoding = self._tokenizer.encode(text)
        feed = {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        }
        if self._reads_features:
            feed["features"] = query_features([prompt])
        return self._session.run(None, feed)[0]


class OnnxHead:
    """`vector` (batch, d) -> outputs by name. Thread-safe."""

    def __init__(self, content: bytes | Path):
        self._session = session(content)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name."""
        return dict(zip(self._names, self._session.run(None, {"vector": vector}), strict=True))
