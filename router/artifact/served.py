"""An exported encoder before its artifact is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from router.artifact.manifest import file_hash
from router.artifact.onnx_part import OnnxEncoder


class ServedEncoder:
    """encoder.onnx and tokenizer.json of a folder, computed as the artifact will: one prompt at a
    time, on one thread each.

    A dynamic 8-bit graph scales its activations by the largest of the whole batch, so a vector
    that was computed beside others is not the one that is served.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def identity(self) -> str:
        """The one of the artifact that will hold these files, so that both share cached vectors."""
        encoder, tokenizer = (
            file_hash(self.folder / name) for name in ("encoder.onnx", "tokenizer.json")
        )
        return f"onnx-{encoder[:24]}-{tokenizer[:8]}"

    @cached_property
    def size(self) -> int:
        """Bytes of the graph."""
        return (self.folder / "encoder.onnx").stat().st_size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32."""
        encode_one = self._opened.encode_one  # opened once, before the threads start
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(encode_one, texts)))

    def encode_one(self, text: str) -> np.ndarray:
        """(1, d) float32."""
        return self._opened.encode_one(text)

    @cached_property
    def _opened(self) -> OnnxEncoder:
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        return OnnxEncoder(self.folder / "encoder.onnx", tokenizer)
