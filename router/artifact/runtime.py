"""The router in production: numpy, onnxruntime and tokenizers, nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from router.artifact.allow_list import decide_among, eligible_of
from router.artifact.judge import AnswerJudge
from router.artifact.manifest import price_version, read_manifest
from router.encoding.query_features import query_features
from router.errors import RouterError
from router.policies import Policy, policy_from_dict, uniform_of
from router.prediction import Prediction

GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Decision:
    """Which candidate answers a prompt, and why.

    candidate: the chosen one. probability: with which it was chosen.
    quality, quality_se: predicted score of every candidate and its standard error.
    cost: predicted USD of every candidate's answer, or None where the log knew no cost.
    reason: one sentence.
    ask: the candidates to ask, each with its weight in the vote on the answer. That is the chosen
        one alone, with weight 1, under every policy but a subset, where the chosen one weighs most.
    latency: predicted seconds of every candidate's answer, or None where the log knew none.
    probabilities: with which each candidate was to be chosen; 0 where it was not eligible.
    eligible: the candidates that could be chosen.
    seed, session: as `Router.route` was given them.
    artifact, policy: what decided: the SHA-256 of its manifest, the policy's name.
    price_version: of the prices in the artifact, or None where its costs come from the log.
    request_id: names this decision in a decision log; two equal decisions differ in it alone.
    """

    candidate: str
    probability: float
    quality: dict[str, float]
    quality_se: dict[str, float]
    cost: dict[str, float] | None
    reason: str
    ask: dict[str, float]
    latency: dict[str, float] | None
    probabilities: dict[str, float]
    eligible: list[str]
    seed: str
    session: str | None
    artifact: str
    policy: str
    price_version: str | None
    request_id: str = field(default_factory=lambda: uuid4().hex, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Router:
    """A loaded artifact. Thread-safe: nothing changes after loading.

    folder: the artifact's folder. verify: recompute the golden vectors once at loading.

    Raises RouterError where the artifact is missing, damaged or from a newer version.
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.candidates: tuple[str, ...] = tuple(self.manifest["candidates"])
        self.policy: Policy = policy_from_dict(self.manifest["policy"])
        prices = self.manifest["prices"]
        self._price_version = price_version(prices)
        self._prices = None
        if prices is not None:
            per_million = [(prices[c]["input"], prices[c]["output"]) for c in self.candidates]
            self._prices = np.array(per_million) / 1e6
        self._tokenizer = _opened(Tokenizer.from_file, self.folder / "tokenizer.json")
        self._encoder = _opened(_session, self.folder / "encoder.onnx")
        self._reads_features = "features" in {given.name for given in self._encoder.get_inputs()}
        self._head = _opened(_session, self.folder / "head.onnx")
        self.judge: AnswerJudge | None = None
        if verify:
            self._verify()

    @property
    def identity(self) -> str:
        """Names everything that the vectors depend on, for the embedding cache."""
        files = self.manifest["files"]
        return (
            f"onnx-{files['encoder.onnx']['sha256'][:24]}-{files['tokenizer.json']['sha256'][:8]}"
        )

    def route(
        self,
        prompt: str,
        *,
        seed: str = "",
        candidates: Sequence[str] | None = None,
        session: str | None = None,
    ) -> Decision:
        """Choose the candidate that shall answer the prompt.

        A prompt longer than the encoder's window is judged by its first tokens.

        seed: what the draw of a policy that explores or mixes depends on, beside the prompt; a seed
            for each request draws anew where a prompt comes again.
        candidates: those that may be chosen; all if None (see `decide_among`).
        session: names the conversation, for the decision log.

        Raises RouterError where the prompt is no text or empty, or a candidate is unknown.
        """
        if not isinstance(prompt, str) or not prompt.strip():
            raise RouterError("The prompt is empty; give the text that the LLM shall answer.")
        eligible = eligible_of(self.candidates, candidates)
        prediction = self.predict(self._encode_one(prompt))
        # The length keeps a seed from running into the prompt.
        uniform = uniform_of([f"{len(seed)}:{seed}{prompt}" if seed else prompt])
        probabilities, votes, reason = decide_among(eligible, self.policy, prediction, uniform)
        chosen = int(votes.argmax())
        return Decision(
            candidate=self.candidates[chosen],
            probability=float(probabilities[chosen]),
            quality=self._by_candidate(prediction.quality[0]),
            quality_se=self._by_candidate(prediction.quality_se[0]),
            cost=None if prediction.cost is None else self._by_candidate(prediction.cost[0]),
            reason=reason,
            ask={self.candidates[j]: float(votes[j]) for j in np.flatnonzero(votes)},
            latency=(
                None if prediction.latency is None else self._by_candidate(prediction.latency[0])
            ),
            probabilities=self._by_candidate(probabilities),
            eligible=[self.candidates[j] for j in np.flatnonzero(eligible)],
            seed=seed,
            session=session,
            artifact=self.manifest["sha256"],
            policy=type(self.policy).__name__,
            price_version=self._price_version,
        )

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 vectors of unit length, each computed alone as `route` does."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(self._encode_one, prompts)))

    def predict(self, vectors: np.ndarray) -> Prediction:
        """Quality, cost and latency of (n, d) vectors."""
        names = [output.name for output in self._head.get_outputs()]
        outputs = dict(zip(names, self._head.run(None, {"vector": vectors}), strict=True))
        cost, latency = None, None
        if "latency" in outputs:  # neither in an artifact of a log without, nor in an old one
            latency = outputs["latency"].astype(np.float64)
        if "amounts" in outputs:
            amounts = outputs["amounts"].astype(np.float64)
            cost = (
                amounts[:, :, 0]
                if self._prices is None
                else np.einsum("nmk,mk->nm", amounts, self._prices)
            )
        return Prediction(
            self.candidates,
            outputs["quality"].astype(np.float64),
            outputs["quality_se"].astype(np.float64),
            cost,
            latency,
        )

    def _encode_one(self, prompt: str) -> np.ndarray:
        # A lone surrogate is no Unicode text; it is read as the replacement character.
        text = prompt.encode("utf-8", "replace").decode("utf-8")
        encoding = self._tokenizer.encode(text)
        feed = {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        }
        if self._reads_features:
            feed["features"] = query_features([prompt])
        return self._encoder.run(None, feed)[0]

    def _by_candidate(self, values: np.ndarray) -> dict[str, float]:
        return dict(zip(self.candidates, values.tolist(), strict=True))

    def _verify(self) -> None:
        for golden in self.manifest["golden"]:
            vector = self._encode_one(golden["prompt"])
            prediction = self.predict(vector)
            # Costs and latencies are compared in proportion: they span orders of magnitude, and may
            # be zero.
            pairs = [
                (vector[0, : len(golden["vector"])], golden["vector"], 0.0),
                (prediction.quality[0], golden["quality"], 0.0),
            ]
            if prediction.cost is not None:
                pairs.append((prediction.cost[0], golden["cost"], GOLDEN_TOLERANCE))
            if prediction.latency is not None:
                pairs.append((prediction.latency[0], golden["latency"], GOLDEN_TOLERANCE))
            for found, expected, relative in pairs:
                absolute = 0.0 if relative else GOLDEN_TOLERANCE
                if not np.allclose(found, expected, rtol=relative, atol=absolute):
                    raise RouterError(
                        f"{self.folder}: this machine computes other numbers than the one that "
                        "exported the router (golden vectors differ); export it again, or update "
                        "onnxruntime."
                    )


def load(folder: str | os.PathLike[str]) -> Router:
    """Load an artifact after checking its hashes and golden vectors."""
    return Router(folder)


def _opened(reader: Callable[[str], Any], path: Path) -> Any:
    """The file is whole, as its hash says: what cannot read it is too old for it."""
    try:
        return reader(str(path))
    except Exception as error:  # onnxruntime and tokenizers raise kinds of their own
        reason = " ".join(str(error).split())[:200]
        raise RouterError(
            f"{path}: cannot be loaded here ({reason}); update onnxruntime and tokenizers."
        ) from None


def _session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One thread per request: a service answers many at once, and results do not depend on cores.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
