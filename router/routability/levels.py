"""Is there anything to route? What simple routers gain, told before anything is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from sklearn.base import clone

from router.estimators.base import Estimator
from router.estimators.head import Head, cross_predict
from router.evaluation.baselines import Baselines
from router.evaluation.bootstrap import Bootstrap, Interval
from router.evaluation.completed import completed
from router.evaluation.crossfit import aiq_gain
from router.evaluation.frontier import curve_of, quality_neutral_cost
from router.evaluation.metrics import ROUNDING, effective_decisions
from router.evaluation.verdict import Verdict
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds
from router.policies import Utility
from router.policies.expected import Expected, expected_of_mixture
from router.prediction import Prediction

QUICK = "quick router"
BEST = "best single"
TASK_LABELS = "task-label lookup"
WORTHWHILE_SAVING = 0.05  # of the best single model's cost, at its quality


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """Every plan judged on queries that it was not fitted on.

    prediction: of all n queries, out of fold.
    judged: (k,) rows of the queries that judge: those of which every outcome is known; in a log of
        the chosen candidates alone with propensities, all.
    test: their outcomes; in such a log the doubly robust ones (see `completed`).
    off_policy: whether it is such a log. Then there is no oracle.
    effective: what its decisions are worth in decisions of the quick router's own; k otherwise.
    expected: name -> what the plan yields on the judged queries; choices are by quality alone.
    best_single: the candidate that most folds took for the best.
    """

    prediction: Prediction
    judged: np.ndarray
    test: OutcomeMatrix
    off_policy: bool
    effective: float
    expected: dict[str, Expected]
    best_single: str

    def gain(self, name: str) -> np.ndarray:
        """(k,) score of each judged query, less the best single model's."""
        return np.asarray(self.expected[name].score - self.expected[BEST].score)

    def gain_in_hindsight(self, name: str) -> np.ndarray:
        """(k,) likewise, less the candidate that is the best on the judged queries.

        Where candidates are about equal, the one that is ahead on the fit folds tends to be behind
        on the held-out one, and even a router that knows nothing seems to gain on it.
        """
        best = int(self.test.scores.mean(axis=0).argmax())
        return np.asarray(self.expected[name].score - self.test.scores[:, best])


def cross_validate(
    head: Head, X: np.ndarray, outcomes: OutcomeMatrix, n_folds: int
) -> CrossValidated:
    """The quick router, the baselines and the oracle by grouped cross-validation.

    All observed outcomes teach. The best single model and the lookups are chosen on the fit folds.

    X: (n, d). Raises RouterError where a candidate has no outcome in some fit fold.
    """
    prediction = cross_predict(head, X, outcomes, n_folds)
    stands_for = outcomes.inverse_propensity
    off_policy = stands_for is not None
    judged = np.flatnonzero(outcomes.fully_observed | off_policy)
    test = outcomes.take(judged)
    effective = float(len(judged))
    if stands_for is not None:
        test = completed(prediction, outcomes)
        weight = (outcomes.observed * stands_for * Utility().probabilities(prediction)).sum(axis=1)
        effective = effective_decisions(weight)
    place = np.full(len(outcomes), -1)
    place[judged] = np.arange(len(judged))
    rows, parts, best = [], [], []
    for fit_rows, held_out in grouped_folds(outcomes.groups, n_folds):
        held_out = held_out[place[held_out] >= 0]
        if len(held_out) == 0:
            continue
        part = test.take(place[held_out])
        plan = Utility().probabilities(prediction.take(held_out))
        baselines = Baselines.fit(outcomes.take(fit_rows), Utility())
        router = expected_of_mixture(plan, part.scores, part.cost)
        parts.append({**baselines.expected(part, plan, oracle=not off_policy), QUICK: router})
        rows.append(held_out)
        best.append(baselines.best_single)
    order = np.argsort(np.concatenate(rows)) if rows else judged
    names = parts[0] if parts else {}
    joined = {name: _joined([part[name] for part in parts], order) for name in names}
    usual = Counter(best).most_common(1)[0][0] if best else ""
    return CrossValidated(prediction, judged, test, off_policy, effective, joined, usual)


def _joined(parts: list[Expected], order: np.ndarray) -> Expected:
    score = np.concatenate([part.score for part in parts])[order]
    costs = [part.cost for part in parts if part.cost is not None]
    return Expected(score, np.concatenate(costs)[order] if costs else None, None)


def quality_only(outcomes: OutcomeMatrix) -> OutcomeMatrix:
    """The outcomes without dollars and seconds, where only choices by quality are wanted."""
    return replace(outcomes, cost=None, tokens=None, prices=None, price_dates=(), latency=None)


def shuffled(outcomes: OutcomeMatrix, random_state: int = 0) -> OutcomeMatrix:
    """The same queries, each with another's outcomes: the control in which nothing can be learned,
    and candidates keep their means."""
    order = np.random.default_rng(random_state).permutation(len(outcomes))
    return replace(outcomes.take(order), queries=outcomes.queries)


def frontier_gain(crossed: CrossValidated, bootstrap: Bootstrap) -> tuple[Interval, float]:
    """(cross-fitted AIQ gain of the quick router over mixing the single models; least cost at which
    it has the best single model's quality, as a share of that model's cost, drawn on the judged
    queries and so a little flattering)."""
    test = crossed.test
    assert test.cost is not None
    curve = curve_of(Utility(), crossed.prediction.take(crossed.judged), test)
    gain = aiq_gain(curve.cost, curve.quality, test.cost.T, test.scores.T, bootstrap, test.groups)
    best = crossed.expected[BEST]
    assert best.cost is not None
    neutral = quality_neutral_cost(curve.points, float(best.score.mean()), float(best.cost.mean()))
    return gain, neutral


def explained(prediction: Prediction, outcomes: OutcomeMatrix) -> np.ndarray:
    """(m,) of each candidate, the share of the variance of its observed scores that the out-of-fold
    predictions explain; below 0 they are worse than its mean. NaN where the score never varies.
    It asks for no query with all outcomes, so a log of chosen models alone can tell it."""
    shares = []
    for j in range(len(outcomes.candidates)):
        seen = outcomes.observed[:, j]
        score = outcomes.scores[seen, j]
        spread = float(((score - score.mean()) ** 2).sum())
        error = float(((score - prediction.quality[seen, j]) ** 2).sum())
        shares.append(1 - error / spread if spread > ROUNDING else np.nan)
    return np.array(shares)


def fraction_gains(
    estimator: Estimator,
    X: np.ndarray,
    outcomes: OutcomeMatrix,
    crossed: CrossValidated,
    n_folds: int,
    fractions: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2),
) -> tuple[np.ndarray, np.ndarray]:
    """(L,) labelled queries that the router learns from, and (k, L) its gain over the best single
    model of the whole fit side, query by query; the last point is the whole fit side, in `crossed`.

    Smaller fractions are parts of larger ones, whole groups at a time. A fraction in which some
    candidate has no outcome is left out.
    """
    place = np.full(len(outcomes), -1)
    place[crossed.judged] = np.arange(len(crossed.judged))
    best = crossed.expected[BEST].score
    folds = grouped_folds(outcomes.groups, n_folds)
    sizes, gains = [], []
    for fraction in fractions:
        gain = np.empty(len(best))
        learned = []
        for number, (fit_rows, held_out) in enumerate(folds):
            part = _part(outcomes.groups[fit_rows], fraction, number)
            chosen = fit_rows[part]
            if not outcomes.observed[chosen].any(axis=0).all():
                break
            held_out = held_out[place[held_out] >= 0]
            if len(held_out):
                fitted = clone(estimator).fit(X[chosen], quality_only(outcomes.take(chosen)))
                choice, at = Utility().choose(fitted.predict(X[held_out])), place[held_out]
                gain[at] = crossed.test.scores[at, choice] - best[at]
            learned.append(len(chosen))
        if len(learned) == len(folds):
            sizes.append(np.mean(learned))
            gains.append(gain)
    sizes.append(np.mean([len(fit_rows) for fit_rows, _ in folds]))
    return np.array(sizes), np.stack([*gains, crossed.gain(QUICK)], axis=1)


def _part(groups: np.ndarray, fraction: float, random_state: int) -> np.ndarray:
    """(n,) True for the queries of a random fraction of the groups."""
    names = np.unique(groups)
    kept = np.random.default_rng(random_state).permutation(names)[: int(fraction * len(names))]
    return np.isin(groups, kept)


def judge_routability(
    gains: dict[str, Interval],
    in_hindsight: dict[str, Interval],
    best_single: str,
    margin: float,
    resolution: float,
    oracle: Interval | None = None,
    foreseen: Interval | None = None,
    frontier: Interval | None = None,
    neutral_cost: float = float("inf"),
) -> Verdict:
    """The decision, "worth training", "little to gain" or "cannot tell", with the figures.

    Worth it: a simple router surely gains on the best single model, be it chosen on the fit folds
    or in hindsight, and perhaps as much as the margin; or its frontier surely lies above the single
    models' and it saves 5 % at equal quality. Little: not even the oracle can gain as much as the
    margin; or neither the simple routers nor the frontier can, today or with four times the labels,
    and the log is large enough to have shown it. Several intervals of 95 % are looked at, so of the
    logs without any signal a few in a hundred are called worth training.

    gains: name -> mean score less the best single model's; in_hindsight: likewise, see
        `CrossValidated.gain_in_hindsight`. margin: of score, the least that counts.
    resolution: half the width of an interval of what this log can tell; above the margin it is too
    small to exclude a gain. oracle: its gain; None where unknown. foreseen: the quick router's with
    more labels; None where the learning curve does not rise. frontier, neutral_cost: of
    `frontier_gain`; None and infinite without costs.
    """
    # The largest first: it is the one that decides.
    named = sorted(gains.items(), key=lambda item: -item[1].value)
    all_gains = ", ".join(f"{name} {_told(gain)}" for name, gain in named)
    against = f"always asking {best_single}"
    sure = [min(gain.low, in_hindsight[name].low) > ROUNDING for name, gain in named]
    if any(gain.high >= margin and is_sure for (_, gain), is_sure in zip(named, sure, strict=True)):
        return Verdict("worth training", f"simple routers beat {against}: {all_gains}.")
    pays = neutral_cost <= 1 - WORTHWHILE_SAVING
    if frontier is not None and frontier.low > ROUNDING and pays:
        return Verdict(
            "worth training",
            f"the quick router has the quality of {best_single} at {neutral_cost:.0%} of its cost "
            f"(AIQ {_told(frontier)} above mixing single models); gains by quality alone: "
            f"{all_gains}.",
        )
    unknown_saving = "; without costs a saving cannot be told" if frontier is None else ""
    if oracle is not None and oracle.high < margin:
        return Verdict(
            "little to gain",
            f"even the oracle gains only {_told(oracle)} over {against}"
            f"{unknown_saving or '; at most a saving could be had'}.",
        )
    possible = [gain for gain in (*gains.values(), frontier, foreseen) if gain is not None]
    if any(gain.high >= margin for gain in possible):
        more = f"; more labels may bring {_told(foreseen)}" if foreseen is not None else ""
        return Verdict(
            "cannot tell",
            f"neither a gain over {against} nor its absence is certain: {all_gains}{more}.",
        )
    if resolution > margin:
        return Verdict(
            "cannot tell",
            f"no gain over {against} is seen, but so few queries cannot exclude one of "
            f"{margin:g}: {all_gains}.",
        )
    return Verdict(
        "little to gain",
        f"simple routers gain surely less than {margin:g} over {against}: {all_gains}"
        f"{unknown_saving}.",
    )


def _told(gain: Interval) -> str:
    return f"{gain.value:+z.4f} [{gain.low:+z.4f}, {gain.high:+z.4f}]"
