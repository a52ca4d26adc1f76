"""What stands for election: an exported router, or one model that is always asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.artifact.runtime import Router
from router.encoding.cache import encode_cached
from router.errors import RouterError
from router.outcomes.faults import listed
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.run_folder import shown
from router.policies.expected import Expected, expected_of_mixture
from router.prediction import Prediction


@dataclass(frozen=True, eq=False)
class Contender:
    """name: as shown. candidates: what it may ask. router: None where it always asks one model."""

    name: str
    candidates: tuple[str, ...]
    router: Router | None = None

    def to_dict(self) -> dict[str, Any]:
        """What tells it from every other: the artifact's own hash, or the model's name."""
        if self.router is None:
            return {"kind": "model", "model": self.name}
        return {
            "kind": "artifact",
            "folder": str(self.router.folder),
            "manifest_sha256": self.router.manifest["sha256"],
            "policy": self.router.policy.to_dict(),
        }

    def predict(self, prompts: list[str]) -> Prediction:
        """Of a router alone; vectors as served, from the cache where they are there."""
        assert self.router is not None
        return self.router.predict(
            encode_cached(self.router, prompts, f"Embedding for {self.name}")
        )

    def probabilities(self, outcomes: OutcomeMatrix) -> np.ndarray:
        """(n, m) over the matrix's candidates, one of which is asked.

        Raises RouterError where the policy asks several together.
        """
        columns = [outcomes.candidates.index(name) for name in self.candidates]
        plan = np.zeros(outcomes.scores.shape)
        plan[:, columns] = 1.0
        if self.router is not None:
            prediction = self.predict(outcomes.prompts)
            plan[:, columns] = self.router.policy.probabilities(prediction)
            if self.router.policy.asks_several(prediction):
                raise RouterError(
                    f"{self.name} asks several models together; logged answers of one model do not "
                    "tell what such a vote would score."
                )
        return plan

    def expected(self, outcomes: OutcomeMatrix) -> Expected:
        """(n,) score, USD and seconds of its decisions; outcomes: of every candidate that it may
        ask."""
        own = outcomes.select(self.candidates)
        known = own.scores, own.cost, own.latency
        if self.router is None:
            return expected_of_mixture(np.ones((len(own), 1)), *known)
        return self.router.policy.expected(self.predict(own.prompts), *known)


def contender(given: Any, option: str, outcomes: OutcomeMatrix) -> Contender:
    """The exported router in a folder or a zip file, or the model of that name.

    Raises RouterError where it is neither, or may ask what the table does not know.
    """
    if given is None:
        raise RouterError(f"{option} is needed: give {option}=FOLDER, or the name of a model.")
    text = str(given)
    if not Path(text).is_dir() and (text in outcomes.candidates or not Path(text).is_file()):
        if text not in outcomes.candidates:
            raise RouterError(
                f"{option}={text}: neither the folder of an artifact nor a model of the table; "
                f"its models are {listed(outcomes.candidates)}."
            )
        return Contender(text, (text,))
    router = Router(text)
    missing = [name for name in router.candidates if name not in outcomes.candidates]
    if missing:
        raise RouterError(
            f"{option}={text}: the table has no outcome of {listed(missing)}, which this router "
            "may ask; log some, or export a router without."
        )
    return Contender(str(shown(Path(text))), router.candidates, router)
