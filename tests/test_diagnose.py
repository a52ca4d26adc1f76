"""`router diagnose`: planted cases whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import RouterError
from router.estimators import Marginal, Partition
from router.estimators.head import Head
from router.evaluation.bootstrap import Bootstrap, Interval
from router.off_policy.replay import replay
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.pipelines.diagnosis_report import markdown
from router.pipelines.diagnosis_sections import sections
from router.routability.diagnosis import Diagnosis, diagnose
from router.routability.dominated import candidate_report
from router.routability.duplicates import find_duplicates
from router.routability.labels_needed import (
    LearningCurve,
    PowerLaw,
    labels_needed,
    queries_to_show,
)
from router.routability.levels import cross_validate, judge_routability, shuffled
from router.routability.log_over_time import log_over_time
from router.routability.noise_ceiling import luck_oracle, split_half

QUICK = Head(Partition(n_clusters=4), Marginal())
NAMES = ("alpha", "beta", "gamma")


def make_log(
    chance: np.ndarray,
    n: int = 600,
    seed: int = 0,
    cost: tuple[float, ...] | None = None,
    **columns: Any,
) -> tuple[np.ndarray, OutcomeMatrix]:
    """(vectors, outcomes) of n queries of as many kinds as `chance` (kinds, m) has rows; a kind is
    a corner of the vector space and a task. columns: of the table, one value a query."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(chance), size=n)
    vectors = 4 * np.eye(8)[kind] + rng.normal(size=(n, 8))
    scores = (rng.random((n, chance.shape[1])) < chance[kind]).astype(float)
    return vectors, log_of(scores, cost, task=[f"kind {k}" for k in kind], **columns)


def log_of(
    scores: np.ndarray, cost: tuple[float, ...] | None = None, **columns: Any
) -> OutcomeMatrix:
    """Outcomes of (n, m) scores; NaN is not observed."""
    n, m = scores.shape
    rows, columns_of = np.nonzero(~np.isnan(scores))
    columns = {"prompt": [f"prompt number {i}" for i in range(n)], **columns}
    table = pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in rows],
            "model": np.array(NAMES)[columns_of],
            "score": scores[rows, columns_of],
            **{name: np.array(values)[rows] for name, values in columns.items()},
        }
    )
    if cost is not None:
        table["cost_usd"] = np.array(cost)[columns_of]
    return build_matrix(table, candidates=NAMES[:m])


SIGNAL = np.array([[0.9, 0.2, 0.3], [0.3, 0.9, 0.2]])
NOISE = np.array([[0.8, 0.4, 0.3]])


# ---- The verdict ---------------------------------------------------------------------------------


def test_a_strong_signal_is_worth_training() -> None:
    vectors, outcomes = make_log(SIGNAL)
    found = diagnose(outcomes, vectors, QUICK, resamples=200)
    assert found.verdict.decision == "worth training"
    assert found.routability is not None
    gain = found.routability.levels["quick router"].gain
    # Alternating experts: .9 everywhere, against about .6 of the best single.
    assert gain is not None
    assert gain.low > 0.2
    assert gain.high < 0.4
    assert found.routability.levels["task-label lookup"].gain is not None


def test_without_signal_there_is_little_to_gain_and_nothing_leaks() -> None:
    vectors, outcomes = make_log(NOISE, n=6000)
    found = diagnose(outcomes, vectors, QUICK, resamples=200)
    assert found.verdict.decision == "little to gain"
    assert found.routability is not None
    control = found.routability.levels["shuffled labels"].gain
    assert control is not None
    assert abs(control.value) < 0.01
    # The oracle is high by luck, and luck explains it.
    oracle = found.routability.levels["oracle"].quality.value
    assert oracle > 0.9
    assert found.routability.luck == pytest.approx(oracle, abs=0.01)


def test_a_small_log_without_signal_cannot_tell() -> None:
    vectors, outcomes = make_log(NOISE, n=150)
    found = diagnose(outcomes, vectors, QUICK, resamples=200)
    assert found.verdict.decision == "cannot tell"


def test_the_shuffled_control_gains_nothing_even_where_there_is_a_strong_signal() -> None:
    vectors, outcomes = make_log(SIGNAL, n=1500)
    control = shuffled(outcomes)
    assert np.allclose(control.mean_scores(), outcomes.mean_scores())
    assert control.prompts == outcomes.prompts
    gain = cross_validate(QUICK, vectors, control, 5).gain("quick router")
    assert Bootstrap(outcomes.groups, 200).mean(gain).low < 0
    true_gain = cross_validate(QUICK, vectors, outcomes, 5).gain("quick router")
    assert true_gain.mean() > 0.25 > 0.05 > gain.mean()


def test_an_equal_quality_for_less_is_worth_training_too() -> None:
    # beta is as good as alpha on one kind, at a hundredth of the cost.
    chance = np.array([[0.9, 0.9], [0.9, 0.2]])
    vectors, outcomes = make_log(chance, n=2000, cost=(0.01, 0.0001))
    found = diagnose(outcomes, vectors, QUICK, resamples=200)
    assert found.verdict.decision == "worth training"
    assert found.routability is not None
    assert found.routability.neutral_cost is not None
    assert 0.35 < found.routability.neutral_cost < 0.65


def test_equal_candidates_are_not_taken_for_a_signal() -> None:
    # Here the best of the fit folds loses on the held-out one, and a coin would beat it.
    decisions = []
    for seed in range(8):
        vectors, outcomes = make_log(np.full((2, 3), 0.5), n=300, seed=seed)
        crossed = cross_validate(QUICK, vectors, outcomes, 5)
        assert crossed.gain_in_hindsight("best single").mean() <= 0
        decisions.append(diagnose(outcomes, vectors, QUICK, resamples=50).verdict.decision)
    assert decisions.count("worth training") <= 1


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("gain", "more", "decision"),
    [
        ((0.002, 0.03), {}, "worth training"),
        ((0.002, 0.008), {}, "little to gain"),  # sure, but too small to count
        ((0.002, 0.03), {"hindsight": (-0.001, 0.03)}, "cannot tell"),
        ((-0.01, 0.03), {}, "cannot tell"),
        ((-0.01, 0.005), {}, "little to gain"),
        ((-0.01, 0.005), {"resolution": 0.05}, "cannot tell"),
        ((-0.01, 0.005), {"foreseen": interval(-0.01, 0.05)}, "cannot tell"),
        ((-0.01, 0.02), {"oracle": interval(0.0, 0.009)}, "little to gain"),
        ((-0.01, 0.005), {"frontier": interval(0.001, 0.003)}, "little to gain"),
        (
            (-0.01, 0.005),
            {"frontier": interval(0.001, 0.003), "neutral_cost": 0.8},
            "worth training",
        ),
        (
            (-0.01, 0.005),
            {"frontier": interval(-0.001, 0.003), "neutral_cost": 0.8},
            "little to gain",
        ),
    ],
)
def test_every_branch_of_the_verdict(
    gain: tuple[float, float], more: dict[str, Any], decision: str
) -> None:
    given = {"resolution": 0.001, **more}
    gains = {"quick router": interval(*gain)}
    in_hindsight = {"quick router": interval(*given.pop("hindsight", gain))}
    verdict = judge_routability(gains, in_hindsight, "alpha", 0.01, **given)
    assert verdict.decision == decision
    assert "alpha" in verdict.sentence


# ---- How many labels -----------------------------------------------------------------------------


@given(
    limit=st.floats(-0.1, 0.5),
    scale=st.floats(0.1, 2.0),
    exponent=st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0, 1.5]),
)
def test_the_power_law_finds_itself(limit: float, scale: float, exponent: float) -> None:
    sizes = np.array([100.0, 200.0, 400.0, 800.0])
    law = PowerLaw.fit(sizes, limit - scale * sizes**-exponent)
    assert law.limit == pytest.approx(limit, abs=1e-6)
    assert law.exponent == pytest.approx(exponent)
    assert law.at(3200.0) == pytest.approx(limit - scale * 3200**-exponent, abs=1e-6)


def test_a_curve_that_falls_is_taken_as_flat() -> None:
    law = PowerLaw.fit(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.4, 0.3, 0.2, 0.1]))
    assert law.scale == 0
    assert law.at(1000.0) == pytest.approx(0.25)


def simulated_gains(k: int, sizes: np.ndarray) -> np.ndarray:
    """(k, 4) gains whose means are .05 - .5 n^-.5 to the last digit, and scatter by .3."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((k, 1)) + 0.2 * rng.standard_normal((k, len(sizes)))
    noise = 0.3 * (noise - noise.mean(axis=0)) / noise.std(axis=0)
    return np.asarray(0.05 - 0.5 * sizes**-0.5 + noise)


def test_the_labels_needed_are_near_the_truth() -> None:
    sizes = np.array([25.0, 50.0, 100.0, 200.0])
    gains = simulated_gains(250, sizes)
    bootstrap = Bootstrap(np.arange(250), 300)
    curve = LearningCurve.of(sizes, gains, bootstrap)
    assert curve is not None
    assert curve.rises
    needed = labels_needed(curve, bootstrap.mean(gains[:, -1]), 250, 5)
    # What the same formula says of the true curve and deviation.
    grid = np.arange(250, 25_000)
    truth = grid[(0.05 - 0.5 * (0.8 * grid) ** -0.5) * np.sqrt(grid) >= 1.96 * 0.3][0]
    assert truth > 400
    assert needed is not None
    assert needed == pytest.approx(truth, rel=0.1)


def test_with_that_many_queries_the_interval_just_excludes_zero() -> None:
    n = queries_to_show(0.02, 0.4)
    assert n is not None
    assert n == pytest.approx(1537, abs=1)
    rng = np.random.default_rng(0)
    values = rng.standard_normal(round(n))
    values = 0.02 + 0.4 * (values - values.mean()) / values.std()
    assert Bootstrap(np.arange(len(values)), 4000).mean(values).low == pytest.approx(0, abs=0.001)


def test_no_number_of_labels_helps_where_the_curve_is_flat_below_zero() -> None:
    rng = np.random.default_rng(0)
    gains = -0.01 + 0.1 * rng.standard_normal((400, 1)) + 0.02 * rng.standard_normal((400, 4))
    gains -= gains.mean(axis=0) + 0.01
    bootstrap = Bootstrap(np.arange(400), 200)
    curve = LearningCurve.of(np.array([40.0, 80.0, 160.0, 320.0]), gains, bootstrap)
    assert curve is not None
    assert not curve.rises
    assert labels_needed(curve, bootstrap.mean(gains[:, -1]), 400, 5) is None
    assert queries_to_show(0.0, 0.1) is None


def test_two_points_are_no_learning_curve() -> None:
    gains = np.zeros((20, 2))
    assert LearningCurve.of(np.array([5.0, 10.0]), gains, Bootstrap(np.arange(20), 10)) is None


# ---- Noise ---------------------------------------------------------------------------------------


def repeated_log(repeats: int, n_prompts: int = 400, seed: int = 0) -> tuple[OutcomeMatrix, float]:
    """(outcomes of prompts asked repeatedly, the true ceiling)."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(1, 1, size=(n_prompts, 3))
    scores = (rng.random((repeats, n_prompts, 3)) < chance).astype(float).reshape(-1, 3)
    prompts = [f"prompt {i}" for _ in range(repeats) for i in range(n_prompts)]
    return log_of(scores, prompt=prompts), float(chance.max(axis=1).mean())


def test_many_repeats_put_the_ceiling_near_the_truth() -> None:
    outcomes, ceiling = repeated_log(repeats=16)
    found = split_half(outcomes, resamples=200)
    assert found is not None
    assert found.prompts == 400
    assert found.outcomes == 16 * 400 * 3
    assert ceiling - 0.05 < found.other_half.value < ceiling < found.all_repeats.value
    assert found.all_repeats.value < ceiling + 0.05
    # Beta(1, 1): the variance of a score is 1/4, of a chance 1/12, so noise is two thirds.
    assert found.noise_share == pytest.approx(2 / 3, abs=0.03)


def test_two_repeats_bracket_the_ceiling_and_tell_luck() -> None:
    outcomes, ceiling = repeated_log(repeats=2)
    found = split_half(outcomes, resamples=200)
    assert found is not None
    assert found.luck is not None
    assert found.other_half.value < ceiling < found.all_repeats.value < found.same_half.value
    assert found.noise_share == pytest.approx(2 / 3, abs=0.06)
    assert 0.3 < found.luck < 0.9


def test_pure_noise_is_all_luck_and_exact_repeats_are_none() -> None:
    rng = np.random.default_rng(0)
    prompts = [f"prompt {i}" for _ in range(2) for i in range(500)]
    noise = split_half(log_of((rng.random((1000, 3)) < 0.5).astype(float), prompt=prompts), 100)
    assert noise is not None
    assert noise.luck is not None
    assert noise.luck > 0.85
    once = (rng.random((500, 3)) < 0.5).astype(float)
    exact = split_half(log_of(np.vstack([once, once]), prompt=prompts), 100)
    assert exact is not None
    assert exact.luck == 0
    assert exact.noise_share == 0
    assert exact.same_half.value == pytest.approx(exact.other_half.value)
    assert exact.same_half.value == pytest.approx(exact.all_repeats.value)


def test_repeats_that_lack_a_candidate_do_not_count() -> None:
    outcomes, _ = repeated_log(repeats=2, n_prompts=20)
    scores = np.array(outcomes.scores)
    scores[:19, 0] = np.nan
    assert split_half(log_of(scores, prompt=outcomes.prompts), 50) is None
    scores = np.array(outcomes.scores)
    scores[:10, 0] = np.nan
    found = split_half(log_of(scores, prompt=outcomes.prompts), 50)
    assert found is not None
    assert found.prompts == 10


def test_the_luck_oracle_is_that_of_independent_draws() -> None:
    _, outcomes = make_log(np.array([[0.5, 0.4, 0.2], [0.9, 0.1, 0.1]]), n=4000)
    assert outcomes.tasks is not None
    kinds = [outcomes.scores[outcomes.tasks == task] for task in ("kind 0", "kind 1")]
    expected = sum(len(of) * (1 - np.prod(1 - of.mean(axis=0))) for of in kinds) / len(outcomes)
    assert luck_oracle(outcomes) == pytest.approx(expected, abs=0.003)
    # Without tasks, one cell of all queries.
    bare = replace(outcomes, queries=outcomes.queries.drop(columns="task"))
    assert luck_oracle(bare) == pytest.approx(
        1 - np.prod(1 - outcomes.scores.mean(axis=0)), abs=0.003
    )


# ---- Duplicates ----------------------------------------------------------------------------------


def test_planted_duplicates_and_leaks_are_found() -> None:
    rng = np.random.default_rng(0)
    n = 60
    prompts = [f"question {i} of its own" for i in range(n)]
    vectors = rng.normal(size=(n, 64))
    prompts[1] = prompts[0]  # word for word, across the split
    vectors[1] = vectors[0]
    prompts[3] = f"  {prompts[2].upper()}! "  # the same but for case and ends, on one side
    vectors[5] = 3 * vectors[4] + 1e-3 * vectors[6]  # near by its vector, across the split
    scores = (rng.random((n, 2)) < 0.5).astype(float)
    scores[0], scores[1] = (1, 0), (0, 0)
    side = ["train", "test", "train", "train", "test", "train", *["train", "test"] * 27]
    found = find_duplicates(log_of(scores, prompt=prompts, split=side), vectors)
    assert (found.repeated_prompts, found.repeated_queries) == (1, 2)
    assert (found.repeated_pairs, found.conflicting) == (2, 1)
    assert np.flatnonzero(found.near).tolist() == [2, 3, 4, 5]
    assert found.compared == n - 1
    assert len(found.examples) == 2
    assert found.sides is not None
    assert found.sides.set_index("split")["same_elsewhere"].to_dict() == {"test": 1, "train": 1}
    assert found.sides.set_index("split")["near_elsewhere"].to_dict() == {"test": 1, "train": 1}


def test_near_duplicates_of_one_logged_group_are_not_parted_by_a_split() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 32))
    vectors[1] = vectors[0]
    scores = (rng.random((20, 2)) < 0.5).astype(float)
    alone = find_duplicates(log_of(scores), vectors)
    assert alone.near.sum() == 2
    groups = ["a", "a", *(f"g{i}" for i in range(18))]
    assert find_duplicates(log_of(scores, group=groups), vectors).near.sum() == 0


# ---- Dominated candidates ------------------------------------------------------------------------


def test_a_planted_dominated_candidate_is_found_and_idle() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((800, 3)) < [0.7, 0.6, 0]).astype(float)
    scores[:, 2] = scores[:, 0] * (rng.random(800) < 0.8)  # right only where alpha is
    outcomes = log_of(scores, cost=(0.001, 0.0001, 0.002))
    report = candidate_report(outcomes, Bootstrap(outcomes.groups, 300)).set_index("candidate")
    assert report["dominated_by"].to_dict()["gamma"] == "alpha"
    assert report["dominated_by"].isna().to_dict() == {"alpha": True, "beta": True, "gamma": False}
    assert report["idle"].to_dict() == {"alpha": False, "beta": False, "gamma": True}
    assert report.loc["gamma", "unique_wins"] == 0
    assert report.loc["gamma", "oracle_loss"] == 0
    alone = int(((scores[:, 1] == 1) & (scores[:, 0] == 0)).sum())
    assert report.loc["beta", "unique_wins"] == alone
    assert report.loc["beta", "oracle_loss"] == pytest.approx(alone / 800)


def test_of_twins_the_first_stays() -> None:
    scores = np.tile((np.random.default_rng(0).random((100, 1)) < 0.5).astype(float), (1, 2))
    outcomes = log_of(scores)
    report = candidate_report(outcomes, Bootstrap(outcomes.groups, 50))
    assert report["dominated_by"].isna().tolist() == [True, False]


# ---- Time ----------------------------------------------------------------------------------------


def test_a_planted_drift_is_found_and_only_that() -> None:
    n = 2000
    rng = np.random.default_rng(2)
    late = np.arange(n) / n
    scores = (rng.random((n, 2)) < np.stack([0.5 + 0.4 * late, np.full(n, 0.6)], axis=1)) * 1.0
    stamps = pd.date_range("2026-01-01", periods=n, freq="h").astype(str)
    task = np.where(rng.random(n) < 0.2 + 0.6 * late, "new", "old")
    found = log_over_time(log_of(scores, timestamp=stamps, task=task))
    assert found is not None
    assert found.change[0] == pytest.approx(0.4, abs=0.07)
    assert found.p[0] is not None
    assert found.p[1] is not None
    assert found.p[0] < 1e-6 < 0.01 < found.p[1]
    assert found.scores.shape == (2, 4)
    assert found.tasks_p is not None
    assert found.tasks_p < 1e-6
    shares = dict(zip(found.tasks, found.shares, strict=True))
    assert shares["new"][0] < 0.4
    assert shares["new"][-1] > 0.6
    assert found.starts[0] == "2026-01-01 00:00:00"


def test_one_instant_is_no_time_and_equal_instants_stay_together() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((40, 2)) < 0.5) * 1.0
    assert log_over_time(log_of(scores)) is None
    assert log_over_time(log_of(scores, timestamp=["2026-01-01"] * 40)) is None
    two = log_over_time(log_of(scores, timestamp=["2026-01-01"] * 20 + ["2026-01-02"] * 20))
    assert two is not None
    assert two.scores[0].tolist() == [scores[:20, 0].mean(), scores[20:, 0].mean()]


# ---- Logs of every kind --------------------------------------------------------------------------


def whole_report(found: Diagnosis) -> str:
    """The page; fails where a figure that does not exist is shown as one."""
    json.dumps(found.to_dict(), allow_nan=False)
    page = markdown(found, "a log", None)
    assert "nan" not in page.split()
    assert "[nan" not in page
    assert len(sections(found)) == 6
    return page


def test_a_log_without_costs_tasks_or_times_is_told_in_full() -> None:
    vectors, outcomes = make_log(SIGNAL, n=200)
    outcomes = replace(outcomes, queries=outcomes.queries.drop(columns="task"))
    page = whole_report(diagnose(outcomes, vectors, QUICK, resamples=50))
    assert "task-label lookup" not in page
    assert "USD" not in page
    assert "no timestamps" in page
    assert "no split column" in page


def test_a_log_with_everything_is_told_in_full() -> None:
    n = 200
    vectors, outcomes = make_log(
        SIGNAL,
        n=n,
        cost=(0.01, 0.002, 0.001),
        timestamp=pd.date_range("2026-01-01", periods=n, freq="h").astype(str),
        split=["train", "test"] * (n // 2),
        prompt=[f"prompt {i // 2}" for i in range(n)],
    )
    page = whole_report(diagnose(outcomes, vectors, QUICK, resamples=50))
    for words in ("USD per 1,000", "share of kind 0", "LEAKS: 200", "100 prompts were asked"):
        assert words in page


def test_partial_outcomes_teach_and_full_ones_judge() -> None:
    vectors, outcomes = make_log(SIGNAL, n=900)
    scores = np.array(outcomes.scores)
    scores[:600, 0] = np.nan
    scores[300:600, 1] = np.nan
    assert outcomes.tasks is not None
    partial = log_of(scores, task=outcomes.tasks)
    found = diagnose(partial, vectors, QUICK, resamples=100)
    assert (found.queries, found.judged) == (900, 300)
    assert found.verdict.decision == "worth training"
    assert "300 of 900 queries judged" in whole_report(found)


def chosen_only(n: int) -> tuple[np.ndarray, OutcomeMatrix]:
    vectors, outcomes = make_log(SIGNAL, n=n, cost=(0.01, 0.002, 0.001))
    return vectors, replay(outcomes, np.full((n, 3), 1 / 3))


def test_a_log_of_choices_with_propensities_is_judged_off_policy() -> None:
    vectors, log = chosen_only(3000)
    found = diagnose(log, vectors, QUICK, resamples=100)
    assert found.off_policy
    assert found.routability is not None
    assert found.verdict.decision == "worth training"
    gain = found.routability.levels["quick router"].gain
    assert gain is not None
    assert gain.low < 0.3 < gain.high
    assert "oracle" not in found.routability.levels
    assert "doubly robust" in whole_report(found)


def test_too_few_choices_of_the_routers_own_carry_no_verdict() -> None:
    vectors, log = chosen_only(300)
    found = diagnose(log, vectors, QUICK, resamples=50)
    assert found.verdict.decision == "cannot tell"
    assert "decides too seldom" in found.verdict.sentence


def test_a_log_of_choices_alone_tells_what_it_can() -> None:
    vectors, log = chosen_only(600)
    found = diagnose(replace(log, propensity=None), vectors, QUICK, resamples=50)
    assert found.verdict.decision == "cannot tell"
    assert found.routability is None
    assert found.candidates["outcomes"].sum() == 600
    assert (found.candidates["explained"] > 0.1).any()  # that scores can be foreseen is told
    page = whole_report(found)
    assert "Cannot be told" in page


# ---- The verb ------------------------------------------------------------------------------------


def test_the_verb_answers_in_its_first_line_and_writes_the_report(
    run_router: Callable[..., Any], workplace: Any
) -> None:
    done = run_router(
        "diagnose", *workplace.data, *workplace.encoder, "resamples=50", "hydra.run.dir=out"
    )
    assert done.code == 0, done.err
    first = done.out.splitlines()[0]
    written = json.loads(Path("out/diagnose.json").read_text(encoding="utf-8"))
    decision = written["verdict"]["decision"]
    assert decision in ("worth training", "little to gain", "cannot tell")
    assert first == f"Anything to route here?  {decision}: {written['verdict']['sentence']}"
    assert written["judged_queries"] == 60
    page = Path("out/diagnose.md").read_text(encoding="utf-8")
    assert "![levels and learning curve](diagnose.png)" in page
    assert Path("out/diagnose.png").read_bytes().startswith(b"\x89PNG")
    for section in ("What simple routers gain", "Would more labels help", "Drift over time"):
        assert section in done.out
        assert f"## {section}" in page


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("folds=1", "folds is 1; give a whole number from 2 upwards."),
        ("resamples=few", "resamples is 'few'; give a whole number from 2 upwards."),
        ("margin=2", "margin is 2; give a number between 0 and 1."),
        ("encoder=finetuned", "learns from outcomes"),
    ],
)
def test_bad_input_gets_one_sentence_and_no_folder(
    run_router: Callable[..., Any], workplace: Any, override: str, sentence: str
) -> None:
    done = run_router("diagnose", *workplace.data, "hydra.run.dir=out", override)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("out").exists()


def test_a_candidate_without_outcomes_in_a_fold_is_named() -> None:
    vectors, outcomes = make_log(SIGNAL, n=60)
    scores = np.array(outcomes.scores)
    scores[1:, 2] = np.nan
    with pytest.raises(RouterError, match="'gamma'"):
        diagnose(log_of(scores), vectors, QUICK, resamples=20)
