"""An encoder's vector with query features beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router.cache_folder import cache_folder
from router.encoding.cache import encode_cached
from router.encoding.encoder import learns
from router.encoding.query_features import FEATURES, query_features
from router.errors import RouterError
from router.staging import staged_file, staged_folder


class FeaturedEncoder:
    """Vectors of an encoder, joined with `weight` x the query features (see query_features): what
    a sentence encoder smooths over, such as length, digits, code, layout and punctuation.

    encoder: of unit vectors. weight: of one feature, beside a vector of length 1; above 0.
    """

    # The encoder's vectors are cached; the features cost less than to look them up.
    identity = None

    def __init__(self, encoder: Any, weight: float = 0.1):
        if not weight > 0:
            raise RouterError(
                f"encoder.weight is {weight}; give a number above 0, or take the encoder alone."
            )
        self.encoder = encoder
        self.weight = weight

    @property
    def learns(self) -> bool:
        """Whether the encoder learns from outcomes."""
        return learns(self.encoder)

    def fit(self, texts: Sequence[str], scores: np.ndarray, observed: np.ndarray) -> None:
        """Fit the encoder, where it is one that learns."""
        self.encoder.fit(texts, scores, observed)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d + features) float32."""
        vectors = encode_cached(self.encoder, texts)
        return np.hstack([vectors, np.float32(self.weight) * query_features(texts)])

    def export(self) -> Path:
        """Folder with tokenizer.json and encoder.onnx, which takes `features` (batch, features) as
        an input beside the tokens; or, of a StaticEncoder, encoder.npy and encoder.json, which says
        the features' weight."""
        if not hasattr(self.encoder, "export"):
            raise RouterError(
                f"{type(self.encoder).__name__} has no method export, so no artifact can be made; "
                "train with export=false."
            )
        source: Path = self.encoder.export()
        if (source / "encoder.npy").is_file():
            return _with_weight(source, self.weight)
        with (source / "encoder.onnx").open("rb") as file:
            made_of = hashlib.file_digest(file, "sha256")
        made_of.update(f"{self.weight!r} {len(FEATURES)}".encode())
        folder = cache_folder("encoders") / f"featured-{made_of.hexdigest()[:32]}"
        folder.mkdir(parents=True, exist_ok=True)
        if not all((folder / name).is_file() for name in ("encoder.onnx", "tokenizer.json")):
            with staged_file(folder / "encoder.onnx") as staged:
                _join(source / "encoder.onnx", staged, self.weight)
            with staged_file(folder / "tokenizer.json") as staged:
                staged.write_bytes((source / "tokenizer.json").read_bytes())
        return folder


def _with_weight(source: Path, weight: float) -> Path:
    """Folder of a static encoder beside which the artifact computes the features."""
    folder = source.with_name(f"{source.name}-featured-{weight!r}-{len(FEATURES)}")
    if not folder.is_dir():
        with staged_folder(folder) as staged:
            for name in ("encoder.npy", "tokenizer.json"):
                shutil.copyfile(source / name, staged / name)
            facts = json.loads((source / "encoder.json").read_text(encoding="utf-8"))
            facts["features_weight"] = weight
            (staged / "encoder.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _join(source: Path, target: Path, weight: float) -> None:
    """The graph of `source` with the weighted features behind its vector."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(source)
    graph = model.graph
    (vector,) = graph.output
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == vector.name:
                    names[place] = "text_vector"
    graph.input.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(FEATURES)])
    )
    graph.initializer.append(helper.make_tensor("features_weight", TensorProto.FLOAT, [], [weight]))
    graph.node.extend(
        [
            helper.make_node("Mul", ["features", "features_weight"], ["weighted_features"]),
            helper.make_node("Concat", ["text_vector", "weighted_features"], ["vector"], axis=1),
        ]
    )
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", "dimension"])
    )
    onnx.checker.check_model(model)
    onnx.save(model, target)
