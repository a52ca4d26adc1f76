"""The router in production: numpy and tokenizers, and onnxruntime where a part is an ONNX graph."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from tokenizers import Tokenizer

from router.artifact.allow_list import decide_among, eligible_of, narrowed
from router.artifact.archive import Archive, open_artifact
from router.artifact.decision import Decision
from router.artifact.judge import AnswerJudge
from router.artifact.manifest import price_version
from router.artifact.manifest_form import JUDGE
from router.artifact.plan import Plan
from router.artifact.program import Program
from router.errors import RouterError
from router.policies import Policy, policy_from_dict, uniform_of
from router.prediction import Prediction

GOLDEN_TOLERANCE = 1e-3

__all__ = ["Decision", "Router", "load"]


class _Encoder(Protocol):
    def encode_one(self, prompt: str) -> np.ndarray: ...


class _Head(Protocol):
    def run(self, vector: np.ndarray) -> dict[str, np.ndarray]: ...


class Router:
    """A loaded artifact. Thread-safe: nothing changes after loading.

    place: the artifact's folder or zip file. verify: recompute the golden vectors once at loading.
    public_key: file of the key by which the artifact must be signed; not asked for if None.

    Raises RouterError where the artifact is missing, damaged, not signed as it must be, or from a
    newer version.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        verify: bool = True,
        public_key: str | os.PathLike[str] | None = None,
    ):
        self.folder = Path(place)
        with open_artifact(place, public_key) as parts:
            self.manifest = parts.manifest
            self.candidates: tuple[str, ...] = tuple(self.manifest["candidates"])
            self.policy: Policy = policy_from_dict(self.manifest["policy"])
            self._encoder: _Encoder = _opened(_encoder, parts, parts.encoder)
            self._head: _Head = _opened(_head, parts, parts.head)
            self.judge: AnswerJudge | None = None
            if self.manifest.get("judge") is not None:
                scores = _opened(_head, parts, JUDGE)
                self.judge = AnswerJudge(
                    self.manifest["judge"], lambda read: scores.run(read)["judged"]
                )
        self._set_prices(self.manifest["prices"])
        if verify:
            self._verify()

    def _set_prices(self, prices: dict[str, Any] | None) -> None:
        self._price_version = price_version(prices)
        self._prices = None
        if prices is not None:
            per_million = [(prices[c]["input"], prices[c]["output"]) for c in self.candidates]
            self._prices = np.array(per_million) / 1e6

    @property
    def identity(self) -> str | None:
        """Names everything that the vectors depend on, for the embedding cache; None of a table of
        token vectors, which computes one about as fast as it is looked up."""
        files = self.manifest["files"]
        if "encoder.npy" in files:
            return None
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
        budget: float | None = None,
        quality_floor: float | None = None,
        cost_weight: float = 0.0,
    ) -> Decision:
        """Choose the candidate that shall answer the prompt; of a cascade, the first one to ask.

        A prompt longer than the encoder's window is judged by its first tokens, and no more than
        its first 50,000 characters are read.

        seed: what the draw of a policy that explores or mixes depends on, beside the prompt; a seed
            for each request draws anew where a prompt comes again.
        candidates: those that may be chosen; all if None (see `decide_among`).
        session: names the conversation, for the decision log.
        budget: USD that this one answer may cost; candidates predicted dearer are not eligible.
        quality_floor: candidates predicted below are not eligible; where none reaches it, the best
            predicted is alone.
        cost_weight: score per USD that is charged on top of the policy, as a pacer does.

        Raises RouterError where the prompt is no text or empty, a candidate is unknown, or nobody
        keeps the budget.
        """
        vector = self._encode(prompt)
        limits = candidates, budget, quality_floor, cost_weight
        return self._decided(prompt, vector, seed, session, *limits)

    def route_batch(
        self,
        prompts: Sequence[str],
        *,
        seed: str = "",
        candidates: Sequence[str] | None = None,
        session: str | None = None,
        budget: float | None = None,
        quality_floor: float | None = None,
        cost_weight: float = 0.0,
    ) -> list[Decision]:
        """`route` of each prompt, on as many threads as there are cores."""
        for prompt in prompts:
            _require_text(prompt)
        limits = candidates, budget, quality_floor, cost_weight
        vectors = self.encode(prompts)
        return [
            self._decided(prompt, vectors[i : i + 1], seed, session, *limits)
            for i, prompt in enumerate(prompts)
        ]

    def plan(
        self,
        prompt: str,
        *,
        seed: str = "",
        candidates: Sequence[str] | None = None,
        session: str | None = None,
    ) -> Plan:
        """Whom to ask first, and through `Plan.accept` what follows from the answer. Arguments and
        errors are those of `route`."""
        return Plan.begin(
            self,
            prompt,
            self.route(prompt, seed=seed, candidates=candidates, session=session),
        )

    def resume(self, prompt: str, token: str, key: bytes = b"") -> Plan:
        """The plan that wrote the token (see `Plan.token`).

        Raises RouterError where the token does not fit artifact, prompt or key.
        """
        return Plan.resume(self, prompt, token, key)

    def repriced(self, prices: Mapping[str, Mapping[str, Any]]) -> Self:
        """The router at other prices: nothing is trained anew, tokens are.

        prices: candidate -> {"input": USD per million tokens, "output": likewise, "date": day};
            others than its candidates may be among them.

        Raises RouterError where the artifact predicts dollars in place of tokens, or a candidate
        has no price.
        """
        if self._prices is None:
            raise RouterError(
                f"{self.folder}: it predicts dollars and no tokens, so new prices cannot be set; "
                "train on tokens with data.prices."
            )
        missing = [name for name in self.candidates if name not in prices]
        if missing:
            raise RouterError(f"The prices lack {missing[0]!r}; give every candidate's.")
        own = {name: dict(prices[name]) for name in self.candidates}
        for name, price in own.items():
            amounts = [price.get("input"), price.get("output")]
            numbers = all(
                isinstance(amount, int | float) and 0 <= amount < np.inf for amount in amounts
            )
            if not numbers or not any(amounts) or not isinstance(price.get("date"), str):
                raise RouterError(
                    f"The price of {name!r} is {price}; give input and output in USD per million "
                    "tokens, not both 0, and their date."
                )
        clone = copy.copy(self)
        clone.manifest = {**self.manifest, "prices": own}
        clone._set_prices(own)
        return clone

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 vectors, each computed alone as `route` does."""
        if not len(prompts):
            return np.zeros((0, 0), dtype=np.float32)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(self._encoder.encode_one, prompts)))

    def predict(self, vectors: np.ndarray) -> Prediction:
        """Quality, cost and latency of (n, d) vectors."""
        outputs = self._head.run(vectors)
        cost, latency = None, None
        if "latency" in outputs:  # neither in an artifact of a log without, nor in an old one
            latency = outputs["latency"].astype(np.float64)
        if "amounts" in outputs:
            amounts = outputs["amounts"].astype(np.float64)
            cost = amounts[:, :, 0]
            if self._prices is not None:
                cost = np.einsum("nmk,mk->nm", amounts, self._prices)
        return Prediction(
            self.candidates,
            outputs["quality"].astype(np.float64),
            outputs["quality_se"].astype(np.float64),
            cost,
            latency,
        )

    def predict_prompt(self, prompt: str) -> Prediction:
        """Quality, cost and latency of one prompt; raises RouterError where it is no text."""
        return self.predict(self._encode(prompt))

    def judge_answer(
        self, prompt: str, candidate: str, response: str, signals: Mapping[str, Any]
    ) -> float:
        """What the artifact's judge says of an answer: its expected score, in [0, 1].

        Raises RouterError where the artifact has no judge, or a signal is none.
        """
        if self.judge is None:
            raise RouterError(f"{self.folder}: it has no judge of answers; train with judge=...")
        column = self.candidates.index(candidate)
        vector = self._encoder.encode_one(response) if self.judge.reads_response else None
        return self.judge.of_answer(column, self._encode(prompt), prompt, response, vector, signals)

    def _encode(self, prompt: str) -> np.ndarray:
        _require_text(prompt)
        return self._encoder.encode_one(prompt)

    def _decided(
        self,
        prompt: str,
        vector: np.ndarray,
        seed: str,
        session: str | None,
        candidates: Sequence[str] | None,
        budget: float | None,
        quality_floor: float | None,
        cost_weight: float,
    ) -> Decision:
        prediction = self.predict(vector)
        eligible = eligible_of(self.candidates, candidates)
        eligible, limited = narrowed(eligible, prediction, budget, quality_floor)
        seen = prediction if not cost_weight else self._charged(prediction, cost_weight)
        # The length keeps a seed from running into the prompt.
        uniform = uniform_of([f"{len(seed)}:{seed}{prompt}" if seed else prompt])
        probabilities, votes, reason = decide_among(eligible, self.policy, seen, uniform)
        chosen = int(votes.argmax())
        return Decision(
            candidate=self.candidates[chosen],
            probability=float(probabilities[chosen]),
            quality=self._by_candidate(prediction.quality[0]),
            quality_se=self._by_candidate(prediction.quality_se[0]),
            cost=None if prediction.cost is None else self._by_candidate(prediction.cost[0]),
            reason=f"{reason}; {limited}" if limited else reason,
            ask={self.candidates[j]: float(votes[j]) for j in votes.nonzero()[0].tolist()},
            latency=(
                None if prediction.latency is None else self._by_candidate(prediction.latency[0])
            ),
            probabilities=self._by_candidate(probabilities),
            eligible=[self.candidates[j] for j in eligible.nonzero()[0].tolist()],
            seed=seed,
            session=session,
            artifact=self.manifest["sha256"],
            policy=type(self.policy).__name__,
            price_version=self._price_version,
        )

    def _charged(self, prediction: Prediction, cost_weight: float) -> Prediction:
        """The prediction with quality less the weighted cost in place of quality."""
        if prediction.cost is None:
            raise RouterError(f"{self.folder}: it knows no costs, so none can be charged.")
        if not 0 <= cost_weight < np.inf:
            raise RouterError(f"cost_weight is {cost_weight!r}; give score per USD from 0 up.")
        return replace(prediction, quality=prediction.quality - cost_weight * prediction.cost)

    def _by_candidate(self, values: np.ndarray) -> dict[str, float]:
        return dict(zip(self.candidates, values.tolist(), strict=True))

    def _verify(self) -> None:
        for golden in self.manifest["golden"]:
            vector = self._encode(golden["prompt"])
            prediction = self.predict(vector)
            # Costs and latencies are compared in proportion: they span orders of magnitude, and may
            # be zero.
            pairs = [
                (vector[0, : len(golden["vector"])], golden["vector"], 0.0),
                (prediction.quality[0], golden["quality"], 0.0),
            ]
            for kind in ("cost", "latency"):
                predicted = getattr(prediction, kind)
                if predicted is not None:
                    told = golden.get(kind) or np.nan
                    pairs.append((predicted[0], told, GOLDEN_TOLERANCE))
            for found, expected, relative in pairs:
                absolute = 0.0 if relative else GOLDEN_TOLERANCE
                if not np.allclose(found, expected, rtol=relative, atol=absolute):
                    raise RouterError(
                        f"{self.folder}: this machine computes other numbers than the one that "
                        "exported the router (golden vectors differ); export it again, or update "
                        "onnxruntime."
                    )


def load(
    place: str | os.PathLike[str], *, public_key: str | os.PathLike[str] | None = None
) -> Router:
    """Load an artifact, a folder or a zip file, after checking its hashes, its golden vectors and,
    where a public key is given, its signature."""
    return Router(place, public_key=public_key)


def _require_text(prompt: Any) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise RouterError("The prompt is empty; give the text that the LLM shall answer.")


def _opened(reader: Callable[[Archive, str], Any], parts: Archive, name: str) -> Any:
    """The file is whole, as its hash says: what cannot read it is too old for it."""
    try:
        return reader(parts, name)
    except RouterError:
        raise
    except Exception as error:  # onnxruntime and tokenizers raise kinds of their own
        reason = " ".join(str(error).split())[:200]
        raise RouterError(
            f"{parts.place / name}: cannot be loaded here ({reason}); update onnxruntime and "
            "tokenizers."
        ) from None


def _encoder(parts: Archive, name: str) -> _Encoder:
    tokenizer = _opened(_tokenizer, parts, "tokenizer.json")
    if name == "encoder.npy":
        from router.artifact.static_encoder import StaticEncoder

        rows = np.load(io.BytesIO(parts.read(name)), allow_pickle=False)
        return StaticEncoder(rows, tokenizer, parts.manifest["encoder"])
    from router.artifact.onnx_part import OnnxEncoder

    # From a folder onnxruntime reads the file itself, which spares a copy in memory; but between
    # our check and its reading another could put a file there that nobody signed.
    path = None if parts.must_be_signed else parts.path(name)
    return OnnxEncoder(path or parts.read(name), tokenizer)


def _tokenizer(parts: Archive, name: str) -> Tokenizer:
    return Tokenizer.from_buffer(parts.read(name))


def _head(parts: Archive, name: str) -> _Head:
    if name == "head.npz":
        return Program(parts.read(name))
    from router.artifact.onnx_part import OnnxHead

    return OnnxHead(parts.read(name))
