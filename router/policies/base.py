"""The contract of a policy, and what all of them share."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from router.errors import RouterError
from router.policies.expected import Expected, expected_of_mixture
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

TIE = 1e-6  # utilities this close are one: rounding must not decide, the lower cost does
PATH_POINTS = 100


@dataclass(frozen=True)
class Policy(ABC):
    """Predictions -> the probability with which each candidate answers.

    A frozen dataclass whose fields are its parameters: plain numbers, text, tuples and other
    policies, so that the artifact's manifest can hold them.
    """

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        """The policy with the parameters that hold its promise on validation outcomes."""
        return self

    @abstractmethod
    def probabilities(self, prediction: Prediction) -> np.ndarray:
        """(n, m) probability of each candidate; rows sum to one."""

    def votes(self, prediction: Prediction, chosen: np.ndarray) -> np.ndarray:
        """(n, m) weight of each candidate in the answer where `chosen` (n,) was drawn; rows sum to
        one, and a candidate without weight is not asked. The drawn one answers alone, unless the
        policy asks several together."""
        return one_hot(chosen, len(prediction.candidates))

    def asks_several(self, prediction: Prediction) -> bool:
        """Whether some query's answer is a vote, so that no single answer's outcome is its own."""
        votes = self.votes(prediction, self.probabilities(prediction).argmax(axis=1))
        return bool(((votes > 0).sum(axis=1) > 1).any())

    def without_answers(self) -> Policy:
        """The policy where no answer can be judged, as of a lookup baseline."""
        return self

    def expected(
        self,
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray | None = None,
        latency: np.ndarray | None = None,
    ) -> Expected:
        """Score, USD and seconds that each query's decision is expected to yield, given (n, m)
        outcomes."""
        return expected_of_mixture(self.probabilities(prediction), scores, cost, latency)

    @abstractmethod
    def path(self, prediction: Prediction) -> list[Policy]:
        """The policy at about a hundred settings of its budget, from dear to cheap."""

    @abstractmethod
    def reason(self, prediction: Prediction, chosen: int) -> str:
        """One sentence on why `chosen` answers the single query of `prediction`."""

    def to_dict(self) -> dict[str, Any]:
        """Name and parameters, ready for JSON, which knows no infinity: that is the text "inf"."""
        fields = (field.name for field in dataclasses.fields(self))
        parameters = {name: _to_json(getattr(self, name)) for name in fields}
        return {"name": type(self).__name__, **parameters}


def policy_from_dict(content: dict[str, Any]) -> Policy:
    """The policy that `to_dict` wrote; only this package's own policies are known."""
    import router.policies as room

    parameters = dict(content)
    name = parameters.pop("name", None)
    kind = getattr(room, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, Policy) and kind is not Policy):
        raise RouterError(f"Policy {name!r} is unknown to this version; update query-router.")
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    if set(parameters) - set(known):
        extra = ", ".join(sorted(set(parameters) - set(known)))
        raise RouterError(f"Policy {name} has no parameter {extra}; update query-router.")
    try:
        return kind(**{key: _from_json(value, known[key]) for key, value in parameters.items()})
    except (TypeError, ValueError, AttributeError):
        raise RouterError(f"Policy {name} has a parameter of another kind than it knows.") from None


def _to_json(value: Any) -> Any:
    if isinstance(value, Policy):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_to_json(part) for part in value]
    return str(value) if isinstance(value, float) and np.isinf(value) else value


def _from_json(value: Any, kind: str) -> Any:
    if isinstance(value, dict):
        return policy_from_dict(value)
    # A candidate may be called "inf": only numbers are read so.
    if value in ("inf", "-inf") and "float" in kind and "str" not in kind:
        return float(value)
    # JSON knows no tuples: lists, and lists in them, are what became of those.
    return tuple(_from_json(part, kind) for part in value) if isinstance(value, list) else value


def require_cost(prediction: Prediction, policy: str) -> np.ndarray:
    """(n, m) predicted costs; raises RouterError where the log had none."""
    if prediction.cost is None:
        raise RouterError(
            f"policy={policy} weighs costs, but the log has none; "
            "log cost_usd, or tokens with data.prices."
        )
    return prediction.cost


def require_weight(latency_weight: float) -> None:
    """Raise RouterError where a second would be worth less than nothing, or everything."""
    if not 0 <= latency_weight < np.inf:
        raise RouterError(
            f"policy.latency_weight is {latency_weight}; give a finite score per second from 0 up."
        )


def net_of_latency(prediction: Prediction, latency_weight: float) -> Prediction:
    """The prediction with quality less the weighted seconds in place of quality, a linear form of
    MixLLM's latency penalty (arXiv 2502.18482).

    latency_weight: score that one second is worth.

    Raises RouterError where seconds count and the log has none.
    """
    if latency_weight == 0:
        return prediction
    if prediction.latency is None:
        raise RouterError(
            f"policy.latency_weight={latency_weight:g} weighs seconds, but the log has none; "
            "log latency_s, or set it to 0."
        )
    return replace(prediction, quality=prediction.quality - latency_weight * prediction.latency)


def filled(prediction: Prediction, outcomes: OutcomeMatrix) -> tuple[np.ndarray, np.ndarray | None]:
    """(n, m) scores and costs of every candidate.

    Where the log did not see an outcome, the prediction stands in. Where it saw the chosen
    candidate's alone and knows its propensity, what was observed beyond the prediction counts 1 /
    propensity times: these doubly robust scores (Dudik et al., arXiv 1103.4601) may leave [0, 1],
    and their mean over queries is right even where the prediction is not, if the prediction comes
    from other queries.
    """
    scores = _filled(prediction.quality, outcomes.scores, outcomes)
    if prediction.cost is None or outcomes.cost is None:
        return scores, None
    return scores, _filled(prediction.cost, outcomes.cost, outcomes)


def filled_latency(prediction: Prediction, outcomes: OutcomeMatrix) -> np.ndarray:
    """(n, m) seconds, likewise; of a prediction that has some."""
    assert prediction.latency is not None
    if outcomes.latency is None:
        return prediction.latency
    return _filled(prediction.latency, outcomes.latency, outcomes)


def _filled(predicted: np.ndarray, values: np.ndarray, outcomes: OutcomeMatrix) -> np.ndarray:
    weight = outcomes.inverse_propensity
    corrected = values if weight is None else predicted + weight * (values - predicted)
    return np.where(np.isnan(corrected), predicted, corrected)


def cheapest_best(
    utility: np.ndarray, cost: np.ndarray | None, tolerance: float | np.ndarray = TIE
) -> np.ndarray:
    """(n,) candidate of greatest utility; among ties the cheapest, then the first.

    utility, cost: (n, m). tolerance: a number, or (n, 1)."""
    tied = utility >= utility.max(axis=1, keepdims=True) - tolerance
    if cost is None:
        return tied.argmax(axis=1)
    return np.where(tied, cost, np.inf).argmin(axis=1)


def best_of_cheapest(quality: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """(n,) cheapest candidate; among equal costs the best, then the first."""
    least = cost.min(axis=1, keepdims=True)
    return np.where(cost <= least, quality, -np.inf).argmax(axis=1)


def reason_of_best(
    prediction: Prediction,
    chosen: int,
    allowed: np.ndarray | None = None,
    what: str = "predicted quality",
) -> str | None:
    """How the single query's candidate comes to have the best predicted quality (of the allowed
    ones, (m,)); None where it does not have it. what: the name of the number compared."""
    quality = prediction.quality[0]
    level = quality if allowed is None else np.where(allowed, quality, -np.inf)
    tied = np.flatnonzero(level >= level.max() - TIE).tolist()
    if chosen not in tied:
        return None
    others = ", ".join(prediction.candidates[j] for j in tied if j != chosen)
    if not others:
        return f"best {what} ({quality[chosen]:.3f})"
    rule = "first" if prediction.cost is None else "cheapest"
    shared = f"shares the best {what} ({quality[chosen]:.3f}) with {others}"
    return f"{shared}; the {rule} of them answers"


def one_hot(chosen: np.ndarray, m: int) -> np.ndarray:
    """(n, m) probability one on the chosen candidate."""
    return _unit_rows(m).take(chosen, axis=0)


@cache
def _unit_rows(m: int) -> np.ndarray:
    rows = np.eye(m)
    rows.flags.writeable = False
    return rows


def draw(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """(n,) candidate drawn from each row by inverse transform of the row's uniform number in
    [0, 1); never one of probability zero."""
    reached = np.add.accumulate(probabilities, axis=1)
    # The sum of a row may round to less than a uniform number close to 1, hence a share of it.
    return (reached > uniforms[:, None] * reached[:, -1:]).argmax(axis=1)


def uniform_of(texts: Sequence[str]) -> np.ndarray:
    """(n,) numbers in [0, 1) that depend on the text alone: the same prompt gets the same answer,
    in training and in serving, and across prompts the shares are kept."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])


def spread(values: np.ndarray, points: int = PATH_POINTS) -> np.ndarray:
    """At most `points` quantiles of the values, ascending and without repeats."""
    if len(values) == 0:
        return values
    return np.unique(np.quantile(values, np.linspace(0, 1, points), method="nearest"))
