"""What the serving study measures: artifacts of the default data's train side, and prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from tokenizers import Tokenizer

from router import Router
from router.artifact.export import Description, write_artifact
from router.artifact.precision import quantised
from router.encoding.cache import encode_cached
from router.estimators.head import Head
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import AutoSplit
from router.pipelines.options import config_folder
from router.pipelines.parts import build

TOKENS = 60  # of each prompt, the two special ones among them
PROMPTS = 200
FP32, INT8, EXPRESS = "MiniLM fp32", "MiniLM int8", "express"
MANY = 11  # candidates of the made-up log
SEED = 0


def train_side() -> OutcomeMatrix:
    """The default data's; the test side is not looked at."""
    outcomes = ParetoBanditData().load()
    return outcomes.take(AutoSplit()(outcomes).train)


def eleven_candidates(outcomes: OutcomeMatrix, vectors: np.ndarray) -> OutcomeMatrix:
    """The same queries with made-up outcomes of eleven candidates, which the vectors tell in part:
    trees that find nothing would not grow."""
    generator = np.random.default_rng(SEED)
    towards = generator.normal(size=(vectors.shape[1], MANY))
    logits = 2 * vectors @ towards + generator.normal(size=(len(vectors), MANY))
    cost = generator.lognormal(np.linspace(-9, -5, MANY), 0.5, size=logits.shape)
    return replace(
        outcomes,
        candidates=tuple(f"candidate {j}" for j in range(MANY)),
        scores=1 / (1 + np.exp(-logits)),
        observed=np.ones(logits.shape, dtype=bool),
        cost=cost,
        tokens=None,
        prices=None,
        price_dates=(),
        latency=None,
        propensity=None,
        weights=None,
        answers=None,
    )


def sixty_tokens(prompts: list[str], tokenizer: Tokenizer) -> list[str]:
    """Distinct prompts, cut to exactly TOKENS tokens; shorter ones are left out.

    tokenizer: of MiniLM's artifact, which puts one special token before and one behind.
    """
    found: dict[str, None] = {}
    for prompt in prompts:
        tokens = tokenizer.encode(prompt)
        if len(tokens.ids) < TOKENS:
            continue
        cut = prompt[: tokens.offsets[TOKENS - 2][1]]
        if len(tokenizer.encode(cut).ids) == TOKENS:
            found[cut] = None
        if len(found) == PROMPTS:
            return list(found)
    raise SystemExit(f"Only {len(found)} prompts of {TOKENS} tokens; {PROMPTS} are needed.")


def part(group: str, options: list[str]) -> Any:
    """What `router train` would build of one group of its configuration."""
    return build(composed(options)[group], group)


def composed(options: list[str]) -> DictConfig:
    """The configuration of `router train` with these options."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=options)


@dataclass(frozen=True)
class Folder:
    """An exported encoder in a folder."""

    folder: Path

    def export(self) -> Path:
        """See ExportableEncoder."""
        return self.folder


@dataclass(frozen=True)
class Made:
    """An artifact, its head as it was trained, and its parts' sizes in bytes."""

    place: Path
    head: Head
    router: Router

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in sorted(self.place.iterdir())}

    @property
    def whole(self) -> int:
        return sum(self.sizes.values())

    def part(self, kind: str) -> tuple[str, int]:
        """Name and size of its encoder or its head."""
        [found] = [item for item in self.sizes.items() if item[0].startswith(f"{kind}.")]
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.place / "tokenizer.json"))


class Workshop:
    """Makes artifacts below a folder.

    Policies are tuned on the train side's own predictions: times and sizes do not depend on it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.outcomes = train_side()
        minilm, express = part("encoder", []), part("encoder", ["encoder=express"])
        exact = minilm.export()
        self._exported = {FP32: exact, INT8: quantised(exact), EXPRESS: express.export()}
        vectors = encode_cached(minilm, self.outcomes.prompts)
        self._vectors = {
            FP32: vectors,
            INT8: vectors,
            EXPRESS: encode_cached(express, self.outcomes.prompts),
        }
        self._heads: dict[str, Head] = {}

    def make(self, encoder: str, options: list[str], many: bool = False) -> Made:
        """An artifact.

        encoder: FP32, INT8 or EXPRESS. options: of `router train`: estimator=..., policy=....
        many: on the made-up log with eleven candidates.
        """
        X = self._vectors[encoder]
        outcomes = eleven_candidates(self.outcomes, X) if many else self.outcomes
        head = self._head(X, outcomes, [one for one in options if not one.startswith("policy")])
        policy = part("policy", options).tune(head.predict(X), outcomes)
        name = json.dumps([encoder, *options]).translate({ord(sign): "-" for sign in ' "[],/'})
        place = self._folder / name
        place.mkdir()
        description = Description(prices=None, data={}, baselines={})
        exported = Folder(self._exported[encoder])
        router = write_artifact(place, exported, head, policy, outcomes.candidates, description)
        return Made(place, head, router)

    def _head(self, X: np.ndarray, outcomes: OutcomeMatrix, options: list[str]) -> Head:
        """Fitted once for fp32 and int8, which share their vectors."""
        key = f"{id(X)} {options}"
        if key not in self._heads:
            head = Head(part("estimator", options), part("cost", options))
            self._heads[key] = head.fit(X, outcomes)
        return self._heads[key]
