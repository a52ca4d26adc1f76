"""The gate: its rule, its error rates, its signed record, its exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Finished, TrainedRun, make_problem
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router.errors import RouterError
from router.evaluation.gate import Evidence, Rule, Ruling, decide
from router.evaluation.paired import Paired, holm, rare_losses
from router.evaluation.signed_record import read_signed, write_signed
from router.off_policy.paired_evidence import paired_evidence
from router.off_policy.replay import replay
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

RunRouter = Callable[..., Finished]


def exact(gain: float, cheaper: float, n: int = 10_000, slower: float = 0.0) -> Evidence:
    """The same differences on every query: nothing is uncertain but rare losses (4e-4)."""
    both = np.ones((n, 2))
    return Evidence(
        quality=both * [0.5 + gain, 0.5],
        cost=both * [1 - cheaper, 1.0],
        latency=both * [1 + slower, 1.0],
        groups=np.arange(n),
    )


def noisy(rng: np.random.Generator, n: int, gain: float, dearer: float, per: int = 1) -> Evidence:
    """Right and wrong answers that differ on three queries of ten; costs with a long tail; `per`
    queries of a group share what happens to them in half."""
    groups = np.repeat(np.arange(n // per), per)
    shared = rng.random(n // per)[groups]
    luck = np.where(rng.random(n) < 0.5, shared, rng.random(n))
    incumbent = (rng.random(n) < 0.7).astype(float)
    differs = rng.random(n) < 0.3
    candidate = np.where(differs, luck < 0.7 + gain / 0.3, incumbent)
    cost = rng.lognormal(sigma=0.5, size=n)
    change = np.where(differs, 1 + dearer / 0.3, 1.0)
    return Evidence(
        np.column_stack([candidate, incumbent]),
        np.column_stack([cost * change, cost]),
        None,
        groups,
    )


def promoted(repeats: int = 400, rule: Rule | None = None, **world: float) -> float:
    """How often a candidate of this world is promoted."""
    rng = np.random.default_rng(0)
    rulings = [decide(noisy(rng, **world), rule or Rule()) for _ in range(repeats)]
    return float(np.mean([ruling.decision == "promote" for ruling in rulings]))


# ---- The rule, where nothing is uncertain -------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "cheaper", "slower", "decision"),
    [
        (0.02, 0.1, 0.0, "promote"),  # better and cheaper
        (0.02, 0.0, 0.0, "promote"),  # better at equal cost
        (0.02, -0.04, 0.0, "promote"),  # better, dearer within the margin
        (0.02, -0.06, 0.0, "keep"),  # better, too dear
        (0.0, 0.1, 0.0, "promote"),  # cheaper at equal quality
        (-0.005, 0.1, 0.0, "promote"),  # cheaper, worse within the margin
        (-0.02, 0.5, 0.0, "keep"),  # far cheaper, too bad
        (0.0, 0.0, 0.0, "keep"),  # the same
        (-0.005, -0.01, 0.0, "keep"),  # within the margins, better in nothing
        (0.02, 0.1, 0.09, "promote"),  # slower within the margin
        (0.02, 0.1, 0.11, "keep"),  # too slow
    ],
)
def test_the_rule(gain: float, cheaper: float, slower: float, decision: str) -> None:
    ruling = decide(exact(gain, cheaper, slower=slower), Rule())
    assert ruling.decision == decision
    shown = [condition.shown for condition in ruling.conditions]
    assert all(shown) == (decision == "promote")
    for condition in ruling.conditions:
        assert (condition.sentence in ruling.why) == (decision == "promote" or not condition.shown)


@pytest.mark.parametrize(
    ("evidence", "rule", "decision"),
    [
        (exact(0.02, -9.0), Rule(cost=None), "promote"),
        (exact(0.0, 0.9), Rule(cost=None), "keep"),  # then cheapness earns nothing either
        (exact(0.02, 0.0, slower=9.0), Rule(latency=None), "promote"),
        (exact(-0.02, 0.5), Rule(quality=0.03), "promote"),
        (exact(0.02, 0.1, n=49), Rule(), "refused"),
        (exact(0.02, 0.1, n=49), Rule(least_groups=49), "keep"),  # too few to rule out rare losses
    ],
)
def test_margins_and_floors_are_settings(evidence: Evidence, rule: Rule, decision: str) -> None:
    assert decide(evidence, rule).decision == decision


def test_without_costs_only_the_score_counts() -> None:
    def free(gain: float) -> Evidence:
        known = exact(gain, 0.0)
        return Evidence(known.quality, None, None, known.groups)

    assert decide(free(0.02), Rule()).decision == "promote"
    assert decide(free(0.0), Rule()).why == "The candidate is not surely better."
    assert set(decide(free(0.0), Rule()).comparisons) == {"quality"}


def test_faults_of_the_evidence_refuse_whatever_the_figures_say() -> None:
    good = exact(0.02, 0.1)
    bad = Evidence(good.quality, good.cost, None, good.groups, faults=("It knows the answers.",))
    ruling = decide(bad, Rule())
    assert (ruling.decision, ruling.why) == ("refused", "It knows the answers.")


def test_many_queries_of_few_sessions_are_few() -> None:
    good = exact(0.02, 0.1)
    few = Evidence(good.quality, good.cost, None, good.groups % 20)
    ruling = decide(few, Rule())
    assert ruling.decision == "refused"
    assert ruling.why.startswith("20 independent groups of queries are too few")


def test_queries_without_a_latency_are_left_out_of_it_alone() -> None:
    good = exact(0.02, 0.1)
    latency = good.latency.copy()
    latency[: len(latency) // 2, 1] = np.nan
    latency[len(latency) // 2 :] = [3.0, 2.0]
    ruling = decide(Evidence(good.quality, good.cost, latency, good.groups), Rule())
    assert ruling.comparisons["latency"].difference.value == pytest.approx(0.5)
    assert ruling.comparisons["cost"].difference.value == pytest.approx(-0.1)
    unknown = Evidence(good.quality, good.cost, np.full_like(latency, np.nan), good.groups)
    assert "latency" not in decide(unknown, Rule()).comparisons


@pytest.mark.parametrize(
    "wrong", [{"quality": -0.1}, {"task": np.inf}, {"alpha": 0.5}, {"least_groups": 1}]
)
def test_a_rule_that_makes_no_sense_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(RouterError):
        Rule(**wrong)


# ---- Error rates: at every edge of what may be promoted, alpha at most --------------------------

SLACK = 0.03  # 2.7 standard errors of 400 repeats at 0.05


@pytest.mark.parametrize("n", [60, 300, 1500])
@pytest.mark.parametrize(
    "edge",
    [
        {"gain": -0.01, "dearer": -0.2},  # the score is at its margin
        {"gain": 0.08, "dearer": 0.05},  # the cost is at its margin
        {"gain": 0.0, "dearer": 0.0},  # better in nothing
        {"gain": -0.01, "dearer": -0.2, "per": 5},  # grouped
    ],
)
def test_a_candidate_that_must_not_be_promoted_seldom_is(n: int, edge: dict[str, float]) -> None:
    assert promoted(n=n, **edge) <= 0.05 + SLACK


def test_a_worse_candidate_is_hardly_ever_promoted() -> None:
    assert promoted(n=600, gain=-0.03, dearer=-0.2) <= 0.01


@pytest.mark.parametrize(("n", "rate"), [(60, 0.02), (200, 0.01), (500, 0.01)])
def test_rare_disasters_that_few_queries_do_not_show_are_not_taken_for_none(
    n: int, rate: float
) -> None:
    """The candidate is far cheaper and fails on one or two queries of a hundred, of which few
    show any. Without the added spread it would be promoted more often than alpha allows."""
    rng = np.random.default_rng(0)

    def ruling() -> Ruling:
        failed = rng.random(n) < rate
        quality = np.column_stack([~failed, np.ones(n)]).astype(float)
        return decide(Evidence(quality, np.ones((n, 2)) * [0.5, 1], None, np.arange(n)), Rule())

    assert np.mean([ruling().decision == "promote" for _ in range(400)]) <= 0.05 + SLACK


@pytest.mark.parametrize(
    ("world", "least"),
    [
        ({"gain": 0.05, "dearer": 0.0}, 0.9),
        ({"gain": 0.03, "dearer": -0.2}, 0.9),
        ({"gain": 0.0, "dearer": -0.2, "n": 8000}, 0.8),
    ],
)
def test_a_truly_better_candidate_is_promoted(world: dict[str, float], least: float) -> None:
    assert promoted(repeats=200, **{"n": 1500, **world}) >= least


def test_a_stricter_alpha_promotes_less() -> None:
    world = {"n": 400, "gain": 0.03, "dearer": 0.0}
    assert promoted(rule=Rule(alpha=0.01), **world) < promoted(rule=Rule(alpha=0.1), **world)


# ---- Paired bounds ------------------------------------------------------------------------------


def test_bounds_of_independent_queries_are_the_t_tests() -> None:
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    values = rng.normal(size=(25, 2)) / 10
    paired = Paired.of(values, np.arange(25))
    expected = ttest_rel(*values.T).confidence_interval(0.9)
    found = paired.difference(0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    harm = ttest_rel(values[:, 0] + 0.02, values[:, 1], alternative="less").pvalue
    assert paired.chance_of_loss_within(0.02) == pytest.approx(harm)


def test_a_query_that_is_logged_twice_in_one_group_tells_nothing_new() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.random((30, 2)), np.arange(30)
    once = Paired.of(values, groups)
    twice = Paired.of(np.repeat(values, 2, axis=0), np.repeat(groups, 2))
    assert twice.difference(0.05).low == pytest.approx(once.difference(0.05).low)
    assert twice.relative(0.05).high == pytest.approx(once.relative(0.05).high)


def test_the_relative_bounds_are_the_ratios_that_a_t_test_does_not_reject() -> None:
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(2)
    cost = rng.lognormal(size=(40, 2))
    found = Paired.of(cost, np.arange(40)).relative(0.05)
    for end, side in ((found.low, "greater"), (found.high, "less")):
        # At the end itself the test is just undecided.
        contrast = cost[:, 0] - (1 + end) * cost[:, 1]
        assert ttest_1samp(contrast, 0, alternative=side).pvalue == pytest.approx(0.05)


def test_relative_bounds_against_what_may_be_free_are_unbounded() -> None:
    groups = np.arange(30)
    free = np.zeros((30, 2))
    assert Paired.of(free, groups).relative(0.05).high == 0
    rare = free.copy()
    rare[0, 1] = 1.0
    assert Paired.of(rare, groups).relative(0.05).high == np.inf
    dear = np.column_stack([np.ones(30), np.zeros(30)])
    assert Paired.of(dear, groups).relative(0.05).value == np.inf


def test_one_group_bounds_nothing() -> None:
    paired = Paired.of(np.ones((9, 2)) * [0.0, 1.0], np.zeros(9, dtype=int))
    assert np.isnan(paired.difference(0.05).low)
    assert np.isnan(paired.relative(0.05).high)
    assert paired.chance_of_loss_within(0.0) == 1.0


@pytest.mark.parametrize(("lost", "exact_bound"), [(0, 3.00), (1, 4.74), (3, 7.75), (10, 16.96)])
def test_the_spread_for_rare_losses_comes_near_the_exact_bound(
    lost: int, exact_bound: float
) -> None:
    """Against the exact upper bound of a Poisson mean."""
    n = 100_000
    values = np.ones((n, 2))
    values[:lost, 0] = 0
    low = Paired.of(values, np.arange(n)).difference(0.05, rare_losses(n)).low
    assert -low * n == pytest.approx(exact_bound, rel=0.1)


# ---- Harm in a task -----------------------------------------------------------------------------


def with_tasks(losses: dict[str, float], each: int = 400) -> Evidence:
    """Cheaper and better overall; in each task right answers are lost at the given net rate."""
    rng = np.random.default_rng(0)
    parts, names = [], []
    for name, loss in losses.items():
        parts.append(np.where(rng.random(each) < 0.3, -loss / 0.3, 0.0))
        names += [name] * each
    difference = np.concatenate(parts)
    quality = np.column_stack([0.5 + difference / 1.0, np.full(len(difference), 0.5)])
    cost = np.ones_like(quality) * [0.5, 1.0]
    tasks = np.array(names, dtype=object)
    return Evidence(quality, cost, None, np.arange(len(quality)), tasks)


def test_harm_in_one_task_keeps_the_incumbent() -> None:
    fine = {f"t{i}": -0.05 for i in range(5)}
    assert decide(with_tasks(fine), Rule()).decision == "promote"
    harmed = decide(with_tasks({**fine, "algebra": 0.1}), Rule())
    assert harmed.decision == "keep"
    assert [task.task for task in harmed.tasks if task.harmed] == ["algebra"]
    assert harmed.why.startswith("Task algebra is harmed (-0.")
    assert decide(with_tasks({**fine, "algebra": 0.1}), Rule(task=None)).decision == "promote"
    assert decide(with_tasks({**fine, "algebra": 0.1}), Rule(task=0.2)).decision == "promote"


def test_queries_without_a_task_belong_to_none() -> None:
    known = with_tasks({"poetry": -0.05, "algebra": 0.2})
    tasks = known.tasks.copy()
    tasks[tasks == "algebra"] = None
    ruling = decide(Evidence(known.quality, known.cost, None, known.groups, tasks), Rule())
    assert [task.task for task in ruling.tasks] == ["poetry"]


@pytest.mark.parametrize(("each", "count"), [(5, 40), (30, 10), (200, 5)])
def test_false_alarms_over_many_tasks_are_bounded(each: int, count: int) -> None:
    """In every task the true loss is the margin itself: any harm that is found is a false alarm."""
    rng = np.random.default_rng(0)
    tasks = np.repeat([f"t{i}" for i in range(count)], each).astype(object)

    def alarm() -> bool:
        change = rng.choice([-1.0, 0.0, 1.0], size=len(tasks), p=[0.12, 0.78, 0.10])
        quality = np.column_stack([change, np.zeros(len(tasks))])
        evidence = Evidence(quality, None, None, np.arange(len(tasks)), tasks)
        return any(task.harmed for task in decide(evidence, Rule()).tasks)

    assert np.mean([alarm() for _ in range(150)]) <= 0.05 + 0.05


def closed_test(p_values: np.ndarray, i: int, alpha: float) -> bool:
    """Whether hypothesis i is rejected by the closed test of Bonferroni's tests, by brute force:
    every set of hypotheses that holds i must be rejected."""
    others = [j for j in range(len(p_values)) if j != i]
    return all(
        min(p_values[[i, *rest]]) * (size + 1) <= alpha
        for size in range(len(p_values))
        for rest in map(list, combinations(others, size))
    )


@given(arrays(float, st.integers(1, 6), elements=st.floats(0, 1)), st.floats(0.01, 0.4))
def test_holms_adjustment_is_the_closed_bonferroni_test(p: np.ndarray, alpha: float) -> None:
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    for i in range(len(p)):
        assert (adjusted[i] <= alpha) == closed_test(p, i, alpha)


def test_holms_own_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# ---- The signed record --------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_was_signed(tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    write_signed(file, {"a": (1, float("nan")), "b": {"c": float("inf"), "é": "ü"}})
    record = read_signed(file)
    assert record == {"a": [1, None], "b": {"c": None, "é": "ü"}, "sha256": record["sha256"]}
    file.write_text(json.dumps(record, sort_keys=True), encoding="utf-8")  # blanks are no content
    assert read_signed(file) == record


@pytest.mark.parametrize(
    "tamper",
    [
        lambda record: record | {"decision": "promote"},
        lambda record: record | {"more": 1},
        lambda record: {key: value for key, value in record.items() if key != "rule"},
        lambda record: record | {"rule": {"alpha": 0.5}},
        lambda record: {key: value for key, value in record.items() if key != "sha256"},
        lambda record: [record],
    ],
)
def test_a_changed_record_is_found_out(tmp_path: Path, tamper: Callable) -> None:
    file = tmp_path / "gate.json"
    write_signed(file, {"decision": "keep", "rule": {"alpha": 0.05}})
    file.write_text(json.dumps(tamper(read_signed(file))), encoding="utf-8")
    with pytest.raises(RouterError, match="changed after it was signed"):
        read_signed(file)


def test_what_is_no_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="cannot be read"):
        read_signed(tmp_path / "none.json")
    (tmp_path / "gate.json").write_text("{", encoding="utf-8")
    with pytest.raises(RouterError, match="no JSON"):
        read_signed(tmp_path / "gate.json")


# ---- The verb -----------------------------------------------------------------------------------


@pytest.fixture
def elect(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    """router gate on the shared run's table, with the small table's own floor."""
    monkeypatch.chdir(tmp_path)
    options = (*trained_run.workplace.data, "tracking=none", "least_groups=20", "signed_off_by=Ada")
    place = f"hydra.run.dir={tmp_path / 'verdict'}"
    return lambda *more: run_router("gate", *options, place, *more)


def verdict(folder: Path) -> dict:
    return read_signed(folder / "verdict" / "gate.json")


def test_a_cheap_router_takes_the_place_of_a_dear_model(
    elect: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    finished = elect(
        f"candidate={trained_run.artifact}", "incumbent=large", "margins.quality=0.5",
        "margins.task=null",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "Verdict    promote" in finished.out
    assert "signed off by Ada" in finished.out
    record = verdict(tmp_path)
    manifest = json.loads((trained_run.artifact / "manifest.json").read_text(encoding="utf-8"))
    assert record["decision"] == "promote"
    assert record["evidence"] == "full information"
    assert record["signed_off_by"] == "Ada"
    assert record["candidate"]["manifest_sha256"] == manifest["sha256"]
    assert record["incumbent"] == {"kind": "model", "model": "large"}
    assert record["data"]["test_sha256"] == manifest["data"]["test_sha256"]
    assert record["queries"] == 36
    metrics = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    quality = record["comparisons"]["quality"]
    assert quality["candidate"] == pytest.approx(metrics["router"]["quality"]["value"])
    cost = record["comparisons"]["cost"]
    assert cost["candidate"] == pytest.approx(metrics["router"]["cost"]["value"])


def test_another_budget_of_the_same_run_is_kept_out(
    elect: Callable[..., Finished], run_router: RunRouter, trained_run: TrainedRun, tmp_path: Path
) -> None:
    dear = tmp_path / "dear"
    exported = run_router("export", f"run={trained_run.folder}", f"out={dear}", "policy=utility")
    assert exported.code == 0, exported.err
    finished = elect(f"candidate={dear}", f"incumbent={trained_run.artifact}")
    assert finished.code == 1
    assert "Verdict    keep dear for " in finished.out
    record = verdict(tmp_path)
    assert record["decision"] == "keep"
    assert not all(condition["shown"] for condition in record["conditions"])
    assert record["candidate"]["manifest_sha256"] != record["incumbent"]["manifest_sha256"]
    assert [task["task"] for task in record["tasks"]] == ["algebra", "poetry"]
    assert "algebra" in finished.out


def test_one_model_may_stand_against_another(
    elect: Callable[..., Finished], tmp_path: Path
) -> None:
    assert elect("candidate=small", "incumbent=large").code == 1
    assert verdict(tmp_path)["comparisons"]["quality"]["difference"]["value"] < 0


def test_a_sweep_judges_every_candidate(elect: Callable[..., Finished], tmp_path: Path) -> None:
    finished = elect("-m", "candidate=small,medium", "incumbent=large", "hydra.sweep.dir=sweep")
    assert finished.code == 0, finished.err
    folders = [tmp_path / "sweep" / job for job in "01"]
    judged = [read_signed(folder / "gate.json")["candidate"]["model"] for folder in folders]
    assert judged == ["small", "medium"]


def test_too_few_queries_are_refused_and_yet_recorded(
    elect: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    finished = elect(f"candidate={trained_run.artifact}", "incumbent=large", "least_groups=50")
    assert finished.code == 2
    assert "Verdict    refused" in finished.out
    assert verdict(tmp_path)["conditions"][0]["sentence"].startswith("36 independent groups")


def test_queries_that_a_router_was_trained_on_are_no_evidence(
    elect: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    finished = elect(f"candidate={trained_run.artifact}", "incumbent=large", "split=all")
    assert finished.code == 2
    assert (
        "was trained on these outcomes with another split"
        in verdict(tmp_path)["conditions"][0]["sentence"]
    )


def test_the_verdict_is_in_mlflow(
    elect: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    database = shutil.copy(trained_run.workplace.folder / "mlflow.db", tmp_path / "mlflow.db")
    finished = elect(
        "candidate=small", "incumbent=large", "name=trial", "tracking=mlflow",
        f"tracking.uri=sqlite:///{database}", f"tracking.artifacts={tmp_path / 'artifacts'}",
    )  # fmt: skip
    assert finished.code == 1, finished.err
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("router")
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'trial'")
    assert len(runs) == 1
    data = runs[0].data
    assert data.tags["verdict"] == "keep"
    assert data.tags["signed_off_by"] == "Ada"
    assert (data.tags["candidate"], data.tags["incumbent"]) == ("small", "large")
    assert data.metrics["quality.difference.value"] < 0
    assert data.params["margins.quality"] == "0.01"
    recorded = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert "gate.json" in recorded


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["incumbent=large"], "candidate is needed: give candidate=FOLDER"),
        (["candidate=large", "incumbent=huge"], "incumbent=huge: neither the folder"),
        (["candidate=large", "incumbent=small", "margins.quality=null"], "margins.quality is None"),
        (["candidate=large", "incumbent=small", "margins.cost=-1"], "margin of cost is -1"),
        (["candidate=large", "incumbent=small", "alpha=0.7"], "alpha is 0.7"),
        (["candidate=large", "incumbent=small", "signed_off_by=7"], "signed_off_by is 7"),
        (["candidate=.", "incumbent=small"], "no artifact here"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    elect: Callable[..., Finished], tmp_path: Path, options: list[str], says: str
) -> None:
    finished = elect(*options)
    assert finished.code == 2
    assert says in finished.err
    assert not (tmp_path / "verdict").exists()


def test_a_router_that_may_ask_an_unknown_model_cannot_stand(
    elect: Callable[..., Finished], trained_run: TrainedRun
) -> None:
    finished = elect(
        f"candidate={trained_run.artifact}", "incumbent=large", "data.candidates=[large,small]"
    )
    assert finished.code == 2
    assert "the table has no outcome of 'medium'" in finished.err


# ---- A log of decisions -------------------------------------------------------------------------


def decision_log(n: int, explored: float, seed: int) -> tuple[OutcomeMatrix, OutcomeMatrix]:
    """(full table, what a policy that asks medium but explores would have logged of it)."""
    outcomes = make_problem(n, seed)[1]
    medium = np.eye(3)[[outcomes.candidates.index("medium")] * n]
    return outcomes, replay(outcomes, (1 - explored) * medium + explored / 3, seed)


def means_of(log: OutcomeMatrix, n: int) -> Prediction:
    """A plain reward model."""
    quality, cost = (np.tile(of, (n, 1)) for of in (log.mean_scores(), log.mean_costs()))
    return Prediction(log.candidates, quality, np.zeros_like(quality), cost)


def contest(log: OutcomeMatrix, candidate: str, incumbent: str, least_ess: float = 0) -> Evidence:
    plans = [np.eye(3)[[log.candidates.index(name)] * len(log)] for name in (candidate, incumbent)]
    return paired_evidence(Decisions.of(log), *plans, means_of(log, len(log)), least_ess)


def test_evidence_of_a_log_has_the_means_of_the_full_table() -> None:
    outcomes, log = decision_log(20_000, 0.5, 0)
    evidence = contest(log, "large", "medium")
    columns = [outcomes.candidates.index(name) for name in ("large", "medium")]
    assert evidence.kind == "off-policy"
    assert evidence.quality.mean(axis=0) == pytest.approx(
        outcomes.scores[:, columns].mean(axis=0), abs=0.02
    )
    assert evidence.cost.mean(axis=0) == pytest.approx(
        outcomes.cost[:, columns].mean(axis=0), rel=0.03
    )
    assert evidence.faults == ()


def test_a_log_seldom_promotes_the_worse_and_often_the_better() -> None:
    rule = Rule(cost=None, task=None)
    logs = [decision_log(1500, 0.5, seed)[1] for seed in range(60)]
    better = [decide(contest(log, "large", "medium"), rule).decision for log in logs]
    worse = [decide(contest(log, "small", "medium"), rule).decision for log in logs]
    same = [decide(contest(log, "medium", "medium"), rule).decision for log in logs]
    assert np.mean([decision == "promote" for decision in better]) >= 0.9
    assert "promote" not in worse
    assert "promote" not in same


def test_weights_that_rest_on_few_decisions_are_refused() -> None:
    log = decision_log(1500, 0.05, 0)[1]
    ruling = decide(contest(log, "large", "medium", least_ess=200), Rule())
    assert ruling.decision == "refused"
    assert "are worth 36 of the candidate's own, and at least 200 are asked for" in ruling.why
    assert "incumbent" not in ruling.why


@pytest.mark.parametrize("told", [True, False])
def test_a_log_without_exploration_is_refused(told: bool) -> None:
    """Whether or not it tells the zero propensity of what was not chosen."""
    log = decision_log(500, 0.0, 0)[1]
    propensity = log.propensity.copy()
    if not told:
        propensity[~log.observed] = np.nan
    log = replace(log, propensity=propensity)
    plans = [np.eye(3)[[log.candidates.index(name)] * 500] for name in ("large", "medium")]
    model = Prediction(log.candidates, np.zeros((500, 3)), np.zeros((500, 3)))
    ruling = decide(paired_evidence(Decisions.of(log), *plans, model, 0), Rule())
    assert ruling.decision == "refused"
    assert "The log left nothing to chance" in ruling.why


def test_the_verb_judges_a_log_of_decisions(
    elect: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    table = pd.read_csv(trained_run.workplace.table)
    drawn = table.groupby("query_id").sample(1, random_state=0).assign(propensity=1 / 3)
    drawn.to_csv(tmp_path / "log.csv", index=False)
    options = f"data.path={tmp_path / 'log.csv'}", "split=all", "least_ess=5"
    finished = elect(f"candidate={trained_run.artifact}", "incumbent=small", *options)
    assert finished.code in (0, 1), finished.err
    assert "off-policy: 120 queries" in finished.out
    record = verdict(tmp_path)
    assert record["evidence"] == "off-policy"
    assert record["rule"]["least_ess"] == 5
    assert record["comparisons"]["quality"]["difference"]["value"] > 0


def test_the_verb_refuses_a_log_that_never_chose_a_contender(
    elect: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    table = pd.read_csv(trained_run.workplace.table)
    drawn = table.groupby("query_id").sample(1, random_state=0).assign(propensity=1 / 3)
    drawn["split"] = np.where(drawn["model"] == "large", "train", "test")
    drawn.to_csv(tmp_path / "log.csv", index=False)
    finished = elect("candidate=small", "incumbent=large", f"data.path={tmp_path / 'log.csv'}")
    assert finished.code == 2
    assert "The log never chose 'large', which the two may ask" in finished.err
