"""Drift: its error rates, what it finds and names, decision logs, the verb and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CANDIDATES, Finished, TrainedRun, make_table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, mannwhitneyu

from router.drift.compare import CHOICE, Comparison, Drift, Rule, Seen, Smallest, compare
from router.drift.observed import of_candidate
from router.drift.outcome_shift import Strata, outcome_shift
from router.drift.shift import joint_groups, standardised_mean
from router.drift.task_shift import RARE, task_shift
from router.drift.two_samples import tell_apart
from router.errors import RouterError
from router.evaluation.bootstrap import Interval
from router.off_policy.replay import replay
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Subset, Utility
from router.prediction import Prediction

RunRouter = Callable[..., Finished]

TASKS = np.array(["code", "law", "maths"])
CHANCE = np.array([[0.9, 0.6, 0.4], [0.8, 0.7, 0.3], [0.6, 0.5, 0.2]])  # of success: task, model
DOLLARS = np.array([0.01, 0.001, 0.0001])
EVEN = (1 / 3, 1 / 3, 1 / 3)
POLICY = Utility(cost_weight=10.0)
EVERYTHING = Smallest(vectors=0.5 + 1e-12, **dict.fromkeys(
    ("tasks", "score", "cost", "bias", "error"), 1e-12))  # fmt: skip


def world(
    rng: np.random.Generator,
    n: int,
    shares: tuple[float, ...] = EVEN,
    moved: float = 0.0,
    worse: float = 0.0,
    price: float = 1.0,
    off: float = 0.0,
    per: int = 1,
) -> Seen:
    """n queries of three tasks; the prediction knows every chance of success.

    moved: shift of the vectors. worse: loss of the first model. price: factor on the second
    model's. off: what the predictions of the third model are too high. per: queries of a group,
    which share task and luck.
    """
    group = np.arange(n) // per
    kind = rng.choice(3, size=n, p=shares)[group * per]
    vectors = rng.normal(size=(n, 6))[group * per] + rng.normal(size=(n, 6))
    vectors[:, :3] += np.eye(3)[kind]
    vectors[:, 5] += moved
    chance = CHANCE[kind] - worse * np.eye(3)[0]
    scores = (rng.random((n, 3))[group * per] < chance).astype(float)
    cost = DOLLARS * [1, price, 1] * rng.lognormal(sigma=0.5, size=(n, 3))
    start = rng.integers(10**12)
    queries = pd.DataFrame({
        "query_id": [f"q{start + i}" for i in range(n)],
        "prompt": [f"prompt {start + i}" for i in range(n)],
        "task": TASKS[kind],
        "group": group,
    })  # fmt: skip
    outcomes = OutcomeMatrix(queries, CANDIDATES, scores, np.ones((n, 3), dtype=bool), cost)
    quality = CHANCE[kind] + off * np.eye(3)[2]
    expected = np.broadcast_to(DOLLARS, (n, 3))
    return Seen(outcomes, vectors, Prediction(CANDIDATES, quality, 0.1 * np.ones((n, 3)), expected))


def judged(reference: Seen, recent: Seen, rule: Rule | None = None) -> Drift:
    return compare(reference.outcomes, reference, recent, POLICY, rule or Rule())


def logged(seen: Seen, seed: int = 0, told: bool = True, softness: float = 0.15) -> Seen:
    """What a log would hold whose policy prefers the first model on code and the third on maths;
    told: with propensities."""
    kind = np.searchsorted(TASKS, seen.outcomes.tasks)
    chance = (1 - 3 * softness) * np.eye(3)[kind] + softness
    # Other uniform numbers than those that drew the world.
    log = replay(seen.outcomes, chance, 10_000 + seed)
    return replace(seen, outcomes=log if told else replace(log, propensity=None))


def named(found: Drift) -> set[str]:
    return {one.name for one in found.comparisons if one.finding == "drift"}


def of(found: Drift, name: str) -> Comparison:
    return next(one for one in found.comparisons if one.name == name)


# ---- Nothing moved ------------------------------------------------------------------------------


@pytest.mark.parametrize("per", [1, 3])
def test_a_false_alarm_is_as_rare_as_promised(per: int) -> None:
    rng = np.random.default_rng(per)
    rule = Rule(EVERYTHING)  # no shift is too small: significance alone decides
    runs = [judged(world(rng, 600, per=per), world(rng, 300, per=per), rule) for _ in range(150)]
    # 0.05 promised; three standard errors of 150 runs are 0.053.
    assert np.mean([run.decision == "drift" for run in runs]) <= 0.05 + 0.053
    for kind in ("vectors", "tasks", "score", "cost", "bias", "error"):
        p = np.array([one.p for run in runs for one in run.comparisons if one.kind == kind])
        assert np.mean(p < 0.1) == pytest.approx(0.1, abs=0.075), kind


def test_what_is_called_by_the_default_rule_moved() -> None:
    rng = np.random.default_rng(0)
    runs = [judged(world(rng, 500), world(rng, 250)) for _ in range(100)]
    assert sum(run.decision == "drift" for run in runs) <= 5 + 7


def test_queries_that_are_few_or_alike_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    for recent in (world(rng, 49), world(rng, 147, per=3)):
        found = judged(world(rng, 300), recent)
        assert found.decision == "cannot tell"
        assert found.sentence.startswith("49 independent recent queries are too few")
        assert found.comparisons == []
    found = judged(world(rng, 30), world(rng, 300))
    assert found.sentence.startswith("30 independent reference (held-out) queries are too few")


def test_an_uncertain_figure_is_not_said_to_be_the_same() -> None:
    rng = np.random.default_rng(0)
    few = judged(world(rng, 120), world(rng, 60))
    assert of(few, "score of large").finding == "cannot tell"
    assert few.decision in ("no drift", "cannot tell")
    many = judged(world(rng, 20_000), world(rng, 20_000))
    assert {one.finding for one in many.comparisons} == {"no drift"}
    assert many.decision == "no drift"


def test_the_same_queries_asked_again_are_compared_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    seen = world(rng, 400)
    found = judged(seen, seen)
    assert found.decision == "no drift"
    for kind in ("score", "cost"):
        shift = of(found, f"{kind} of large").shift
        assert (shift.value, shift.high - shift.low) == pytest.approx((0, 0), abs=0.02)
    assert found.tasks is not None
    assert found.tasks.p == 1.0


# ---- Something moved ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "names"),
    [
        ({"moved": 0.7}, {"vectors"}),
        ({"worse": 0.2}, {"score of large", "bias of large", "error of large",
                          f"bias of {CHOICE}", f"error of {CHOICE}"}),
        ({"price": 2.0}, {"cost of medium"}),
        ({"off": 0.2}, {"bias of small", "error of small"}),
        ({"shares": (0.6, 0.2, 0.2)}, {"tasks", "vectors"}),
    ],
)  # fmt: skip
def test_what_moved_is_found_and_named_and_nothing_else(moved: dict, names: set[str]) -> None:
    rng = np.random.default_rng(1)
    rule = Rule(Smallest(error=0.01))
    found = judged(world(rng, 3000), world(rng, 3000, **moved), rule)
    assert found.decision == "drift"
    assert named(found) == names
    for name in names:
        assert f"{name} " in found.sentence


def test_the_power_is_high_where_a_shift_is_large() -> None:
    rng = np.random.default_rng(0)
    runs = [judged(world(rng, 400), world(rng, 400, worse=0.2)) for _ in range(30)]
    assert np.mean(["score of large" in named(run) for run in runs]) > 0.9


def test_other_queries_are_told_from_other_models() -> None:
    rng = np.random.default_rng(2)
    reference, recent = world(rng, 4000), world(rng, 4000, shares=(0.05, 0.05, 0.9))
    found = judged(reference, recent)
    score = of(found, "score of large")
    assert score.recent - score.reference < -0.1
    assert score.by_queries == pytest.approx(score.recent - score.reference, abs=0.03)
    assert score.finding != "drift"
    assert named(found) == {"tasks", "vectors"}
    assert found.sentence.startswith("The queries changed, in 2 of 16 figures: vectors AUC ")
    # Without tasks nobody can tell them apart: the score moved.
    blind = [
        replace(seen, outcomes=replace(seen.outcomes, queries=seen.outcomes.queries.drop(
            columns="task")))
        for seen in (reference, recent)
    ]  # fmt: skip
    assert "score of large" in named(judged(blind[0], blind[1]))
    assert np.isnan(of(judged(blind[0], blind[1]), "score of large").by_queries)


def test_the_interval_of_a_shift_holds_the_truth() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(150):
        recent = world(rng, 200, worse=0.1, price=1.5, shares=(0.6, 0.3, 0.1))
        found = judged(world(rng, 300), recent)
        score, cost = of(found, "score of large").shift, of(found, "cost of medium").shift
        inside += [(score.low <= -0.1 <= score.high, cost.low <= 0.5 <= cost.high)]
    assert np.mean(inside, axis=0) == pytest.approx([0.95, 0.95], abs=0.05)


def test_a_small_shift_is_no_drift_however_sure() -> None:
    rng = np.random.default_rng(0)
    found = judged(world(rng, 40_000), world(rng, 40_000, worse=0.02, price=1.05, moved=0.05))
    for name in ("score of large", "cost of medium", "bias of large"):
        assert of(found, name).p_adjusted < 0.001
        assert of(found, name).finding == "no drift"
    assert of(found, "vectors").p_adjusted < 0.05
    assert found.decision == "no drift"


def test_many_comparisons_raise_the_bar_of_each() -> None:
    rng = np.random.default_rng(0)
    found = judged(world(rng, 500), world(rng, 500))
    p = np.array([one.p for one in found.comparisons])
    least = found.comparisons[int(p.argmin())]
    assert least.p_adjusted == pytest.approx(min(1.0, least.p * len(p)))
    assert all(one.p_adjusted >= one.p for one in found.comparisons)


def test_a_task_that_is_new_is_drift_and_has_no_score_to_compare() -> None:
    rng = np.random.default_rng(0)
    found = judged(world(rng, 500, shares=(0.5, 0.5, 0)), world(rng, 500, shares=(0, 0, 1)))
    assert {"vectors", "tasks"} <= named(found)
    score = of(found, "score of large")
    assert (score.finding, score.obstacle) == ("cannot tell", "no task has outcomes in both tables")
    assert score.name in score.sentence


def test_an_answer_of_several_models_has_no_calibration_of_its_own() -> None:
    rng = np.random.default_rng(0)
    seen, recent = world(rng, 200), world(rng, 200)
    found = compare(seen.outcomes, seen, recent, Subset(least_confidence=0.2), Rule())
    assert CHOICE not in {one.of for one in found.comparisons}


# ---- Logs of decisions --------------------------------------------------------------------------


def test_a_biased_log_with_propensities_is_no_drift_though_its_means_moved() -> None:
    rng = np.random.default_rng(0)
    rule = Rule(EVERYTHING)
    alarms, naive = [], []
    for seed in range(100):
        reference, recent = world(rng, 600), logged(world(rng, 900), seed)
        # Without the tasks only the weights can set the selection right.
        blind = [
            replace(seen, outcomes=replace(seen.outcomes, queries=seen.outcomes.queries.drop(
                columns="task")))
            for seen in (reference, recent)
        ]  # fmt: skip
        found = judged(*blind, rule)
        alarms.append(found.decision == "drift")
        score = of(found, "score of large")
        naive.append(np.nanmean(recent.outcomes.scores[:, 0]) - score.reference)
    assert np.mean(alarms) <= 0.05 + 0.065
    assert np.mean(naive) > 0.05  # the plain mean is of the queries that the model is good at


def test_a_model_that_got_worse_is_found_in_a_log_too() -> None:
    rng = np.random.default_rng(0)
    found = judged(world(rng, 2000), logged(world(rng, 4000, worse=0.2, price=2.0)))
    assert {"score of large", "bias of large", "cost of medium"} <= named(found)
    assert not {name for name in named(found) if name.endswith("small")}


def test_a_log_may_be_the_reference() -> None:
    rng = np.random.default_rng(0)
    log = logged(world(rng, 3000))
    assert judged(log, logged(world(rng, 3000), 1)).decision == "no drift"
    assert "score of large" in named(judged(log, logged(world(rng, 3000, worse=0.25), 1)))


def test_without_propensities_selection_and_drift_are_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    found = judged(world(rng, 2000), logged(world(rng, 4000, worse=0.3, moved=1.0), told=False))
    assert named(found) == {"vectors"}
    for one in found.comparisons:
        if one.kind not in ("vectors", "tasks"):
            assert one.finding == "cannot tell"
            assert "selection and drift cannot be told apart" in str(one.obstacle)
            assert np.isnan(one.p_adjusted)
    found = judged(world(rng, 2000), logged(world(rng, 4000), told=False))
    assert found.decision == "cannot tell"
    assert found.sentence.startswith("No figure of the outcomes is certain enough: the log tells ")


def test_a_log_that_never_asks_a_model_on_some_queries_cannot_speak_for_them() -> None:
    rng = np.random.default_rng(0)
    found = judged(world(rng, 2000), logged(world(rng, 2000), softness=0.0))
    score = of(found, "score of large")
    assert score.finding == "cannot tell"
    assert "never asks it on about 6" in str(score.obstacle)
    assert named(found) == set()


def test_a_model_without_outcomes_is_not_compared() -> None:
    rng = np.random.default_rng(0)
    seen, recent = world(rng, 300), world(rng, 300)
    observed = np.array(recent.outcomes.observed)
    observed[:, 2] = False
    found = judged(seen, replace(recent, outcomes=replace(recent.outcomes, observed=observed)))
    score = of(found, "score of small")
    assert score.finding == "cannot tell"
    assert str(score.obstacle).startswith("0 independent recent outcomes are too few")
    assert np.isnan(score.recent)


# ---- The mathematics ----------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_without_groups_the_task_test_is_pearsons(seed: int, tasks: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(10 * np.ones(tasks))
    reference = rng.choice(tasks, size=2000, p=shares)
    recent = rng.choice(tasks, size=1000, p=shares)
    found = task_shift(reference, recent, np.arange(3000), 999)
    if found is None or RARE in found.tasks:
        return
    counts = [np.bincount(reference, minlength=tasks), np.bincount(recent, minlength=tasks)]
    counts = np.array(counts)[:, np.sum(counts, axis=0) > 0]
    assert found.p == pytest.approx(chi2_contingency(counts, correction=False).pvalue, abs=0.02)
    assert found.psi.value >= 0
    assert found.recent.sum() == pytest.approx(1)


def test_queries_that_come_in_groups_are_no_more_evidence_than_the_groups() -> None:
    rng = np.random.default_rng(0)
    reference, recent = rng.choice(3, size=400), rng.choice(3, size=200)
    once = task_shift(reference, recent, np.arange(600), 199)
    four = task_shift(np.repeat(reference, 4), np.repeat(recent, 4), np.repeat(np.arange(600), 4),
                      199)  # fmt: skip
    assert once is not None
    assert four is not None
    assert four.p == pytest.approx(once.p)
    assert four.psi.error == pytest.approx(once.psi.error, rel=0.05)


def test_rare_tasks_are_counted_together() -> None:
    reference = np.array(["a"] * 100 + ["b"] * 100 + [f"rare {i}" for i in range(20)])
    found = task_shift(reference, reference[:200], np.arange(420), 199)
    assert found is not None
    assert found.tasks == ["a", "b", RARE]
    assert found.tasks[found.most_moved[0]] == RARE
    assert task_shift(np.array(["a"] * 50), np.array(["a"] * 50), np.arange(100), 49) is None


def test_the_auc_is_that_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(0)
    reference, recent = rng.normal(size=(300, 4)), rng.normal(size=(200, 4)) + 0.3
    found = tell_apart(reference, recent, np.arange(500))
    statistic = mannwhitneyu(found.recent, found.reference).statistic
    assert found.auc.value == pytest.approx(statistic / (len(found.recent) * len(found.reference)))
    assert 0 < found.auc.error < 0.06


def test_the_halves_depend_on_the_random_state_alone() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(300, 4)), rng.normal(size=(200, 4)) + 0.3
    once, again, other = (
        tell_apart(*samples, np.arange(500), random_state) for random_state in (0, 0, 1)
    )
    assert once.auc == again.auc
    assert once.auc != other.auc


def test_no_group_is_learned_from_and_judged() -> None:
    # Each vector comes twice and carries its label; only a split within groups would see that.
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(400, 300)), 2, axis=0)
    groups = np.repeat(np.arange(400), 2)
    found = tell_apart(vectors[:400], vectors[400:], groups)
    assert abs(found.auc.t(0.5)) < 4
    assert found.auc.value < 0.65


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_influence_is_the_derivative_of_the_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    strata, values, weights = rng.integers(2, size=n), rng.random(n), rng.random(n) + 0.1
    shares = np.array([0.3, 0.7])
    mean = standardised_mean(values, weights, strata, shares)
    expected = sum(
        share * np.average(values[strata == k], weights=weights[strata == k])
        for k, share in enumerate(shares)
    )
    assert mean.value == pytest.approx(expected)
    assert mean.influence.sum() == pytest.approx(0, abs=1e-9)
    more = weights.copy()
    more[7] *= 1 + 1e-6
    slope = (standardised_mean(values, more, strata, shares).value - mean.value) / 1e-6
    count = (strata == strata[7]).sum()
    assert mean.influence[7] == pytest.approx(slope * np.sqrt(count / (count - 1)), abs=1e-6)


def test_a_ratio_of_costs_does_not_depend_on_the_currency() -> None:
    rng = np.random.default_rng(0)
    before, now = world(rng, 300).outcomes, world(rng, 300, price=1.5).outcomes
    groups = joint_groups(before, now)
    strata = Strata.of(before.tasks, now.tasks, [300, 300])

    def shift(factor: float) -> Interval:
        sides = (of_candidate(side, factor * side.cost, 1) for side in (before, now))
        return outcome_shift(*sides, strata, groups, 50, relative=True).shift

    ends = [(found.value, found.low, found.high) for found in (shift(1.0), shift(1000.0))]
    assert ends[0] == pytest.approx(ends[1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Smallest(vectors=0.5), "smallest.vectors is 0.5"),
        (lambda: Smallest(cost=0.0), "smallest.cost is 0.0"),
        (lambda: Smallest(score=float("inf")), "smallest.score is inf"),
        (lambda: Rule(alpha=0.0), "alpha is 0.0"),
        (lambda: Rule(least_groups=5), "least_groups is 5"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(RouterError, match=says):
        wrong()


# ---- The verb -----------------------------------------------------------------------------------


@pytest.fixture
def drift(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    """router drift of a table against the shared run's, with the small tables' own floor; smallest
    shifts of interest that 60 queries can show."""
    monkeypatch.chdir(tmp_path)
    options = (
        f"artifact={trained_run.artifact}", "data=table", "data@reference=table",
        f"reference.path={trained_run.workplace.table}", "least_groups=20",
        f"hydra.run.dir={tmp_path / 'found'}", "smallest.vectors=0.75",
    )  # fmt: skip

    def run(frame: pd.DataFrame | None, *more: str) -> Finished:
        if frame is not None:
            frame.to_csv(tmp_path / "recent.csv", index=False)
            more = ("data.path=recent.csv", *more)
        return run_router("drift", *options, *more)

    return run


def test_the_verb_says_that_nothing_moved(drift: Callable[..., Finished], tmp_path: Path) -> None:
    finished = drift(make_table(300, seed=5)[0])
    assert finished.code == 0, finished.out + finished.err
    assert "trained on" not in finished.err
    assert "Verdict    no drift. No shift of interest is seen in 16 figures" in finished.out
    assert "300 recent queries against 120 of the reference (36 held out" in finished.out
    record = json.loads((tmp_path / "found" / "drift.json").read_text(encoding="utf-8"))
    assert record["decision"] == "no drift"
    assert [task["task"] for task in record["tasks"]] == ["algebra", "poetry"]
    rows = pd.read_csv(tmp_path / "found" / "drift.csv")
    assert list(rows["kind"].unique()) == ["vectors", "tasks", "score", "cost", "bias", "error"]
    assert len(rows) == len(record["comparisons"]) == 16
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "config.yaml", "drift.csv", "drift.json", "drift.png",
    }  # fmt: skip
    assert (tmp_path / "found" / "drift.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb_names_what_moved_and_ends_with_one(
    drift: Callable[..., Finished], tmp_path: Path
) -> None:
    frame = make_table(300, seed=5)[0]
    frame.loc[frame["model"] == "large", "cost_usd"] *= 2
    finished = drift(frame)
    assert finished.code == 1, finished.err
    assert "Verdict    drift. The models' scores or costs changed, in 1 of 16 figures: cost of " \
        "large +" in finished.out  # fmt: skip
    record = json.loads((tmp_path / "found" / "drift.json").read_text(encoding="utf-8"))
    moved = [one for one in record["comparisons"] if one["finding"] == "drift"]
    assert [(one["kind"], one["of"]) for one in moved] == [("cost", "large")]
    assert 0.6 < moved[0]["shift"]["value"] < 1.5


def test_the_verb_reads_a_log_of_decisions_of_two_models(drift: Callable[..., Finished]) -> None:
    frame = make_table(300, seed=5)[0]
    chosen = frame["query_id"].str[1:].astype(int) % 2 == 0
    frame = frame[chosen & (frame["model"] == "large") | ~chosen & (frame["model"] == "small")]
    finished = drift(frame.assign(propensity=0.5), "smallest.cost=0.2")
    assert finished.code == 0, finished.out + finished.err
    assert "300 recent decisions against" in finished.out
    assert "data: no outcome of medium, so it cannot be compared." in finished.err
    assert "Not judged score of medium" in finished.out


def test_too_few_are_refused_and_yet_recorded(
    drift: Callable[..., Finished], tmp_path: Path
) -> None:
    finished = drift(make_table(15, seed=5)[0])
    assert finished.code == 2
    assert "Verdict    cannot tell. 15 independent recent queries are too few" in finished.out
    record = json.loads((tmp_path / "found" / "drift.json").read_text(encoding="utf-8"))
    assert record["decision"] == "cannot tell"
    assert (tmp_path / "found" / "drift.png").is_file()


def test_another_reference_or_split_than_the_routers_own_is_warned_of(
    drift: Callable[..., Finished], tmp_path: Path
) -> None:
    finished = drift(make_table(300, seed=5)[0], "split=all")
    assert "trained on the reference with another split" in finished.err
    make_table(200, seed=6)[0].to_csv(tmp_path / "other.csv", index=False)
    again = f"hydra.run.dir={tmp_path / 'again'}"
    finished = drift(make_table(300, seed=5)[0], "reference.path=other.csv", again)
    assert "not the table that the router was trained on" in finished.err


def test_a_sweep_judges_every_table(drift: Callable[..., Finished], tmp_path: Path) -> None:
    make_table(300, seed=5)[0].to_csv(tmp_path / "one.csv", index=False)
    make_table(15, seed=5)[0].to_csv(tmp_path / "two.csv", index=False)
    finished = drift(None, "-m", "data.path=one.csv,two.csv", "hydra.sweep.dir=sweep")
    assert finished.code == 0, finished.err
    decisions = [
        json.loads((tmp_path / "sweep" / job / "drift.json").read_text(encoding="utf-8"))[
            "decision"
        ]
        for job in "01"
    ]
    assert decisions == ["no drift", "cannot tell"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["artifact=null"], "An artifact is needed"),
        (["artifact=."], "no artifact here"),
        (["smallest.score=much"], "smallest.score is 'much'; give a number above 0."),
        (["smallest.cost=-1"], "smallest.cost is -1.0; give a number above 0."),
        (["alpha=0"], "The error rate alpha is 0.0"),
        (["least_groups=1"], "least_groups is 1; give a whole number from 10 upwards."),
        (["reference.path=recent.csv"], "data and reference are the same outcomes"),
        (["reference.path=nowhere.csv"], "nowhere.csv"),
        (["data@reference=nothing"], "nothing"),
        (["reference.depth=3"], "depth"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    drift: Callable[..., Finished], tmp_path: Path, options: list[str], says: str
) -> None:
    finished = drift(make_table(60, seed=5)[0], *options)
    assert finished.code == 2
    assert says in finished.err
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "found").exists()


def test_a_model_that_the_router_does_not_know_is_told_with_its_node(
    drift: Callable[..., Finished],
) -> None:
    frame = make_table(60, seed=5)[0].replace({"model": {"small": "tiny"}})
    finished = drift(frame)
    assert finished.code == 2
    assert "data: the artifact does not know tiny; leave it out with data.candidates=[" in (
        finished.err
    )
    renamed = {name: f"other {name}" for name in CANDIDATES}
    finished = drift(make_table(60, seed=5)[0].replace({"model": renamed}))
    assert finished.code == 2
    assert "data: none of its models (other large, " in finished.err
