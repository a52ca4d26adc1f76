"""Batch allocation: tuned prices solve the linear program, `router allocate` the integer one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Finished, TrainedRun
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linprog
from test_policies import many, outcomes_of, prediction_of, problems

import router
from router.artifact.manifest import amend_manifest
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.allocate import assign
from router.policies import Allocation, Budget, Utility
from router.prediction import Prediction

RunRouter = Callable[..., Finished]


def program(
    prediction: Prediction, value: np.ndarray, budget: float | None, limits: np.ndarray
) -> float:
    """The optimum of the whole linear program, one variable for each query and candidate."""
    n, m = value.shape
    each = np.kron(np.ones(n), np.eye(m)) / n
    rows, most = list(each), [min(limit, 1.0) for limit in limits]
    if budget is not None:
        assert prediction.cost is not None
        rows.append(prediction.cost.ravel() / budget / n)
        most.append(1.0)
    once = np.kron(np.eye(n), np.ones(m))
    found = linprog(-value.ravel() / n, A_ub=rows, b_ub=most, A_eq=once, b_eq=np.ones(n))
    assert found.status == 0, found.message
    return float(-found.fun)


@st.composite
def limited(draw: st.DrawFn) -> tuple[Prediction, np.ndarray, float | None]:
    """A prediction, capacities that hold all queries, and a budget that they allow or None.

    Every third has queries that are all alike, or of few kinds, so that plans must be mixed."""
    prediction, _ = draw(problems())
    n, m = prediction.quality.shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.sampled_from([n, 3, 1]))
    prediction = prediction.take(rng.integers(min(kinds, n), size=n))
    limits = np.where(rng.random(m) < 0.6, rng.random(m), np.inf)
    assume(limits.sum() >= 1)
    if draw(st.booleans()):
        return prediction, limits, None
    assert prediction.cost is not None
    least = -program(prediction, -prediction.cost, None, limits)
    dearest = float(prediction.cost.max(axis=1).mean())
    return prediction, limits, least + rng.uniform(0.01, 1) * (dearest - least)


def named(limits: np.ndarray) -> dict[str, float]:
    return {f"c{j}": float(limit) for j, limit in enumerate(limits) if np.isfinite(limit)}


# The policy


@many
@given(limited())
def test_the_mixture_is_the_optimum_and_keeps_budget_and_capacities(
    problem: tuple[Prediction, np.ndarray, float | None],
) -> None:
    prediction, limits, budget = problem
    assert prediction.cost is not None
    outcomes = outcomes_of(prediction.quality, prediction.cost)
    policy = Allocation(budget, named(limits)).tune(prediction, outcomes)
    plan = policy.probabilities(prediction)
    optimum = program(prediction, prediction.quality, budget, limits)
    # Utility calls two candidates tied that are TIE apart.
    assert (plan * prediction.quality).sum(axis=1).mean() == pytest.approx(optimum, abs=1e-5)
    assert (plan.mean(axis=0) <= limits + 1e-6).all()
    if budget is not None:
        assert (plan * prediction.cost).sum(axis=1).mean() <= budget * (1 + 1e-6)
    assert policy.plans is not None
    assert len(policy.plans) <= np.isfinite(limits).sum() + (budget is not None) + 1


@many
@given(problems(), st.floats(0.05, 0.95))
def test_what_is_spent_is_counted_in_logged_costs(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, outcomes = problem
    cost = np.where(outcomes.observed, outcomes.cost, prediction.cost)
    rows = np.arange(len(cost))
    dear, cheap = (cost[rows, Utility(w).choose(prediction)].mean() for w in (0.0, np.inf))
    assume(cheap < dear)
    budget = float(cheap + share * (dear - cheap))
    spent = {}
    for kind in (Allocation, Budget):
        plan = kind(budget).tune(prediction, outcomes).probabilities(prediction)
        spent[kind] = (plan * cost).sum(axis=1).mean()
        assert spent[kind] <= budget * (1 + 1e-6)


def test_without_capacities_it_buys_what_the_policy_budget_buys() -> None:
    rng = np.random.default_rng(0)
    prediction = prediction_of(rng.random((400, 4)), 10.0 ** rng.uniform(-4, -2, size=(400, 4)))
    outcomes = outcomes_of(prediction.quality, prediction.cost)
    for budget in (4e-4, 1e-3, 2e-3):
        bought = [
            (kind(budget).tune(prediction, outcomes).probabilities(prediction) * prediction.quality)
            .sum(axis=1)
            .mean()
            for kind in (Allocation, Budget)
        ]
        assert bought[0] == pytest.approx(bought[1], abs=1e-5)


def test_capacities_hold_on_queries_that_tuning_did_not_see() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal([0.9, 0.6, 0.5], 0.1, size=(8000, 3))
    prediction = prediction_of(quality, np.tile([3.0, 2.0, 1.0], (8000, 1)))
    past, future = prediction.take(slice(0, 4000)), prediction.take(slice(4000, 8000))
    policy = Allocation(2.2, {"c0": 0.5, "c1": 0.3})
    tuned = policy.tune(past, outcomes_of(past.quality, past.cost))
    load = tuned.probabilities(future).mean(axis=0)
    # Four standard errors of a share of 4,000 queries.
    assert (load[:2] <= np.array([0.5, 0.3]) + 4 * 0.5 / np.sqrt(4000)).all()
    assert load[0] > 0.45
    # The scarce candidate keeps the queries that it is best for.
    gain = future.quality[:, 0] - future.quality[:, 1:].max(axis=1)
    goes = tuned.probabilities(future)[:, 0] > 0.5
    assert gain[goes].mean() > gain[~goes].mean() + 0.1


def test_queries_that_are_alike_share_the_capacity_by_lot() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 10, [[4.0, 1.0]] * 10)
    outcomes = outcomes_of(prediction.quality, prediction.cost)
    policy = Allocation(capacities={"c0": 0.3}).tune(prediction, outcomes)
    np.testing.assert_allclose(policy.probabilities(prediction), [[0.3, 0.7]] * 10)
    # Rounding does not decide for one of them.
    noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, size=(500, 2))
    served = prediction_of(np.array([[0.9, 0.5]]) + noise, [[4.0, 1.0]] * 500)
    np.testing.assert_allclose(policy.probabilities(served), [[0.3, 0.7]] * 500)
    reason = policy.reason(prediction.take(slice(0, 1)), 0)
    assert reason.startswith("predicted quality 0.900 less 0 for its cost and ")


def test_limits_that_cannot_be_kept_are_told_with_the_least_that_can() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 10, [[4.0, 1.0]] * 10)
    outcomes = outcomes_of(prediction.quality, prediction.cost)
    with pytest.raises(RouterError, match=r"\$0\.5 per query is below \$1, .* any plan can have"):
        Allocation(0.5).tune(prediction, outcomes)
    # At most 60 % go to the cheap one: .6 + .4 x 4.
    with pytest.raises(RouterError, match=r"below \$2\.2, .* these capacities allow; raise it"):
        Allocation(2.0, {"c1": 0.6}).tune(prediction, outcomes)
    Allocation(2.2, {"c1": 0.6}).tune(prediction, outcomes)
    with pytest.raises(RouterError, match=r"hold 90\.0% of the queries"):
        Allocation(capacities={"c0": 0.5, "c1": 0.4}).tune(prediction, outcomes)
    with pytest.raises(RouterError, match="names 'x', which is none of the candidates c0, c1"):
        Allocation(capacities={"x": 0.5}).tune(prediction, outcomes)
    with pytest.raises(RouterError, match=r"policy\.capacities\.c0 is 1\.5; give a share"):
        Allocation(capacities={"c0": 1.5})
    with pytest.raises(RouterError, match="cannot be kept: the log has no costs"):
        Allocation(1.0).tune(prediction_of([[0.9, 0.5]]), outcomes_of(np.ones((1, 2)), None))
    with pytest.raises(RouterError, match="not tuned yet"):
        Allocation().probabilities(prediction)


def test_capacities_need_no_costs() -> None:
    prediction = prediction_of(np.linspace(0, 1, 20).reshape(10, 2) * [1.0, 0.5])
    outcomes = outcomes_of(np.ones((10, 2)), None)
    policy = Allocation(capacities={"c0": 0.2}).tune(prediction, outcomes)
    assert policy.probabilities(prediction).mean(axis=0)[0] <= 0.2 + 1e-9
    assert len(policy.path(prediction)) == 1


# The batch


@many
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_assignment_is_the_best_of_all(seed: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 7)), int(rng.integers(2, 4))
    quality = np.round(rng.random((n, m)), 1 if coarse else 8)
    cost = np.round(rng.uniform(0.1, 1, size=(n, m)), 1 if coarse else 8)
    room = rng.integers(1, n + 1, size=m)
    assume(room.sum() >= n)
    ways = np.array(list(itertools.product(range(m), repeat=n)))
    loads = np.array([(ways == j).sum(axis=1) for j in range(m)]).T
    fits = (loads <= room).all(axis=1)
    spent = cost[np.arange(n), ways].sum(axis=1)
    budget = float(rng.uniform(spent[fits].min(), cost.max(axis=1).sum()))
    best = quality[np.arange(n), ways].sum(axis=1)[fits & (spent <= budget)].max()
    capacities = {f"c{j}": int(room[j]) for j in range(m)}
    found = assign(prediction_of(quality, cost), budget, capacities)
    chosen = found.chosen
    assert quality[np.arange(n), chosen].sum() == pytest.approx(best, abs=1e-6)
    assert cost[np.arange(n), chosen].sum() <= budget * (1 + 1e-6)
    assert (np.bincount(chosen, minlength=m) <= room).all()
    assert found.gap == 0


def test_the_prices_are_what_more_money_and_more_room_add() -> None:
    rng = np.random.default_rng(0)
    prediction = prediction_of(rng.random((300, 3)), rng.uniform(0.5, 1.5, size=(300, 3)))

    def total(budget: float, room: int) -> float:
        chosen = assign(prediction, budget, {"c0": room}).chosen
        return float(prediction.quality[np.arange(300), chosen].sum())

    found = assign(prediction, 230.0, {"c0": 60})
    assert found.dollar > 0
    assert found.answer[0] > 0
    assert not found.answer[1:].any()
    # The price falls as the limit is raised: it lies between the gains of less and of more.
    for price, less, same, more, step in (
        (found.dollar, (225.0, 60), (230.0, 60), (235.0, 60), 5),
        (found.answer[0], (230.0, 55), (230.0, 60), (230.0, 65), 5),
    ):
        below, here, above = (total(*limits) for limits in (less, same, more))
        assert (above - here) / step - 0.02 <= price <= (here - below) / step + 0.02


def test_a_batch_of_many_is_solved_to_the_end() -> None:
    rng = np.random.default_rng(0)
    prediction = prediction_of(rng.beta(5, 2, (1500, 6)), rng.lognormal(sigma=2, size=(1500, 6)))
    found = assign(prediction, 600.0, {f"c{j}": 400 for j in range(6)})
    assert found.gap == 0
    assert np.bincount(found.chosen).max() <= 400


def test_a_batch_whose_limits_cannot_be_kept_is_told_the_least_budget() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 10, [[4.0, 1.0]] * 10)
    with pytest.raises(RouterError, match=r"these 10 prompts cost at least \$10\."):
        assign(prediction, 9.0, {})
    with pytest.raises(RouterError, match=r"cost at least \$22 within the capacities\."):
        assign(prediction, 20.0, {"c1": 6})
    assert (assign(prediction, 22.0, {"c1": 6}).chosen == 1).sum() == 6
    with pytest.raises(RouterError, match="capacities hold 9 of the 10 prompts"):
        assign(prediction, None, {"c0": 4, "c1": 5})
    with pytest.raises(RouterError, match="budget cannot be kept: the artifact's log had no costs"):
        assign(prediction_of([[0.9, 0.5]]), 1.0, {})


# The command


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.csv"
    topics = ("poetry", "algebra") * 10
    texts = [f"{topic} question number {i}" for i, topic in enumerate(topics)]
    pd.DataFrame({"query_id": range(20), "prompt": texts}).to_csv(file, index=False)
    return file


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_router_allocate_writes_a_row_for_each_prompt(
    run_router: RunRouter, trained_run: TrainedRun, prompts: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"plan.{suffix}"
    done = run_router(
        "allocate",
        f"artifact={trained_run.artifact}",
        f"prompts={prompts}",
        "budget=0.05",
        "capacities={medium:8}",
        f"out={out}",
    )
    assert done.code == 0, done.err
    readers = {
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }
    plan = readers[suffix](out)
    asked = pd.read_csv(prompts)
    assert plan["prompt"].tolist() == asked["prompt"].tolist()
    assert plan["query_id"].astype(int).tolist() == list(range(20))
    assert (plan["candidate"] == "medium").sum() <= 8
    assert 0 < plan["expected_cost_usd"].sum() <= 0.05
    loaded = router.load(trained_run.artifact)
    for row in plan.head(3).itertuples():
        decision = loaded.route(row.prompt)
        assert row.expected_quality == pytest.approx(decision.quality[row.candidate])
        assert row.expected_cost_usd == pytest.approx(decision.cost[row.candidate])
    assert "Expected   20 prompts, mean quality 0." in done.out
    assert " of $0.050000" in done.out
    assert "Worth      one more dollar would add " in done.out
    assert "one more answer of medium " in done.out


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["prompts=null"], "prompts is needed: give prompts=FILE."),
        (["out=plan.txt"], "out=plan.txt: give a file that ends in .csv, .jsonl, .parquet."),
        (["prompts=nowhere.csv"], "nowhere.csv: no such file; give prompts=FILE."),
        (["budget=-1"], "budget is -1; give USD for the whole batch above 0, or null."),
        (["budget=1e-9"], "budget=$1e-09 is too small: these 20 prompts cost at least $"),
        (["capacities={tiny:3}"], "capacities names 'tiny'; the artifact's candidates are 'large'"),
        (["capacities={small:some}"], "capacities.small is 'some'; give a number of prompts."),
        (["capacities=3"], "capacities is 3; give the most prompts of a candidate, as in "),
    ],
)
def test_router_allocate_says_what_is_wrong_and_writes_nothing(
    run_router: RunRouter,
    trained_run: TrainedRun,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given_ = {
        "artifact": str(trained_run.artifact),
        "prompts": str(prompts),
        "out": "plan.csv",
        **dict(override.split("=", 1) for override in overrides),
    }
    done = run_router("allocate", *[f"{key}={value}" for key, value in given_.items()])
    assert done.code == 2
    assert sentence in done.err
    assert not list(tmp_path.glob("plan.*"))


def test_a_file_without_prompts_is_told(
    run_router: RunRouter, trained_run: TrainedRun, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.csv"
    arguments = (f"artifact={trained_run.artifact}", f"prompts={file}", f"out={tmp_path / 'p.csv'}")
    file.write_text("text\nhello\n")
    assert "no column 'prompt'; its columns are 'text'" in run_router("allocate", *arguments).err
    file.write_text("query_id,prompt\n1,hello\n2,\n")
    assert "row 2, column 'prompt' is empty" in run_router("allocate", *arguments).err


def test_a_tuned_allocation_is_served(artifact_copy: Path) -> None:
    loaded = router.load(artifact_copy)
    texts = [f"poetry question number {i}" for i in range(200)]
    prediction = loaded.predict(loaded.encode(texts))
    outcomes = outcomes_of(prediction.quality, prediction.cost)
    policy = Allocation(capacities={loaded.candidates[0]: 0.25}).tune(prediction, outcomes)
    amend_manifest(artifact_copy, policy=policy.to_dict())
    served = router.load(artifact_copy)
    assert served.policy == policy
    chosen = [served.route(text).candidate for text in texts]
    assert chosen.count(loaded.candidates[0]) <= 0.25 * 200 + 4 * np.sqrt(200 * 0.25 * 0.75)
