"""`router add-candidate`: a new LLM joins a finished run; which queries to label first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Finished, make_table
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from router.artifact.runtime import Router
from router.encoding.cache import encode_cached
from router.outcomes.matrix import build_matrix
from router.outcomes.splits import AutoSplit
from router.pipelines.cluster_report import wilson
from router.pipelines.label_first import Belief, Clusters, allocation, label_first

RunRouter = Callable[..., Finished]
NEW = "large"


def kept(table: pd.DataFrame, *models: str) -> pd.DataFrame:
    return table[table["model"].isin(models)]


def train(folder: Path, encoder: Path, *options: str, table: pd.DataFrame | None = None) -> Path:
    """A finished run of the models that were there before NEW, on folder/log.csv."""
    from router.cli import main

    table = make_table(120)[0] if table is None else table
    kept(table, "medium", "small").to_csv(folder / "log.csv", index=False)
    run = folder / "run"
    main(
        [
            "train",
            "data=table",
            f"data.path={folder / 'log.csv'}",
            "encoder=sentence_transformer",
            f"encoder.name={encoder}",
            "encoder.dtype=float32",
            "evaluation.resamples=20",
            "examples=[]",
            "estimator=partition",
            "estimator.n_clusters=4",
            "cost=partition",
            "policy=utility",
            "tracking=none",
            "latest=null",
            f"hydra.run.dir={run}",
            *options,
        ]
    )
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """Read only."""
    return train(tmp_path_factory.mktemp("before"), tiny_encoder)


@pytest.fixture(scope="module")
def off_test() -> list[str]:
    """query_id of what is not on the run's test side, in the order of the log."""
    table, _ = make_table(120)
    outcomes = build_matrix(kept(table, "medium", "small"))
    train_rows = AutoSplit()(outcomes).train
    return outcomes.queries["query_id"].iloc[train_rows].tolist()


@pytest.fixture
def labels(tmp_path: Path, off_test: list[str]) -> Path:
    """Forty labels of NEW."""
    table, _ = make_table(120)
    new = kept(table, NEW)
    path = tmp_path / "labels.csv"
    new[new["query_id"].isin(off_test[:40])].to_csv(path, index=False)
    return path


def added(run_router: RunRouter, run: Path, labels: Path, to: Path, *more: str) -> Finished:
    return run_router(
        "add-candidate", f"run={run}", f"labels={labels}", f"hydra.run.dir={to}", *more
    )


def test_the_old_candidates_stay_as_they_were_and_the_new_one_is_chosen(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    finished = added(run_router, run, labels, tmp_path / "new")
    assert finished.code == 0, finished.err
    old, new = Router(run / "artifact"), Router(tmp_path / "new" / "artifact")
    assert new.candidates == (*old.candidates, NEW)
    vectors = encode_cached(new, [f"algebra question number {i}" for i in range(30)])
    before, after = old.predict(vectors), new.predict(vectors)
    np.testing.assert_array_equal(after.quality[:, :-1], before.quality)
    np.testing.assert_array_equal(after.quality_se[:, :-1], before.quality_se)
    assert after.cost is not None
    assert before.cost is not None
    np.testing.assert_array_equal(after.cost[:, :-1], before.cost)
    # NEW is right nine times in ten, wherever; the others are not.
    assert after.quality[:, -1].mean() > 0.7
    assert (new.policy.probabilities(after)[:, -1] > 0.5).mean() > 0.5
    assert new.manifest["data"]["sha256"] == old.manifest["data"]["sha256"]
    assert list(new.manifest["data"]["added"]) == [NEW]
    assert new.manifest["validation"]["quality"] > 0.6
    # The cost of NEW is ten times that of the next.
    assert 0.005 < after.cost[:, -1].mean() < 0.02


def test_the_report_counts_every_label_once(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    finished = added(run_router, run, labels, tmp_path / "new")
    report = pd.read_csv(tmp_path / "new" / "clusters.csv")
    by_cluster, overall = report.iloc[:-1], report.iloc[-1]
    given_labels = pd.read_csv(labels)
    assert by_cluster["labels"].sum() == overall["labels"] == 40
    assert overall["mean"] == pytest.approx(given_labels["score"].mean())
    assert by_cluster["queries"].sum() == overall["queries"] == 84
    assert (report["low"] <= report["high"]).all()
    assert set(report["best_known"]) <= {"medium", "small"}
    for word in ("poetry", "algebra", "Before", "After", NEW, "95 % interval"):
        assert word in finished.out


def test_the_new_run_can_be_exported_judged_and_added_to_again(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert added(run_router, run, labels, first).code == 0
    exported = run_router("export", f"run={first}", f"out={tmp_path / 'out'}", "policy=budget")
    assert exported.code == 0, exported.err
    another = pd.read_csv(labels).assign(model="huge", score=1.0)
    another.to_csv(tmp_path / "huge.csv", index=False)
    assert added(run_router, first, tmp_path / "huge.csv", second).code == 0
    assert Router(second / "artifact").candidates == ("medium", "small", NEW, "huge")
    table, _ = make_table(120)
    table.to_csv(tmp_path / "all.csv", index=False)
    judged = run_router(
        "evaluate",
        f"artifact={first / 'artifact'}",
        "data=table",
        f"data.path={tmp_path / 'all.csv'}",
        "evaluation.resamples=20",
        f"hydra.run.dir={tmp_path / 'judged'}",
    )
    assert judged.code == 0, judged.err


def test_labels_of_new_prompts_count_and_those_of_the_test_side_do_not(
    run_router: RunRouter, run: Path, off_test: list[str], tmp_path: Path
) -> None:
    table, _ = make_table(120)
    new = kept(table, NEW)
    on_test = new[~new["query_id"].isin(off_test)]
    elsewhere = new[new["query_id"].isin(off_test)].head(30)
    unseen = elsewhere.assign(
        query_id=[f"new{i}" for i in range(30)],
        prompt=[f"algebra anew, number {i}" for i in range(30)],
    )
    pd.concat([on_test, unseen]).to_csv(tmp_path / "labels.csv", index=False)
    finished = added(run_router, run, tmp_path / "labels.csv", tmp_path / "new")
    assert finished.code == 0, finished.err
    assert f"{len(on_test)} labels left out" in finished.err
    assert pd.read_csv(tmp_path / "new" / "clusters.csv")["labels"].iloc[-1] == 30
    on_test.to_csv(tmp_path / "labels.csv", index=False)
    refused = added(run_router, run, tmp_path / "labels.csv", tmp_path / "none")
    assert refused.code == 2
    assert "0 different prompts off the test side" in refused.err


def test_a_log_priced_by_tokens_and_timed_needs_the_new_price_and_times(
    run_router: RunRouter,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_encoder: Path,
    off_test: list[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    price = {"input": 1.0, "output": 4.0, "date": "2026-01-01"}
    old = {"models": {"medium": price, "small": {**price, "input": 0.1, "output": 0.4}}}
    (folder / "old.yaml").write_text(yaml.safe_dump(old))
    table, _ = make_table(120, costs="tokens")
    table["latency_s"] = np.where(table["model"] == NEW, 8.0, 1.0)
    run = train(folder, tiny_encoder, f"data.prices={folder / 'old.yaml'}", table=table)
    new = kept(table, NEW)
    new = new[new["query_id"].isin(off_test[:40])]
    path = tmp_path / "labels.csv"
    prices = f"prices={tmp_path / 'new.yaml'}"
    (tmp_path / "new.yaml").write_text(
        yaml.safe_dump({"models": {NEW: {**price, "input": 10.0, "output": 40.0}}})
    )
    for faulty, given_prices, sentence in (
        (new, "prices=null", "give prices=FILE.yaml with the price of 'large'"),
        (new.drop(columns="output_tokens"), prices, "column 'output_tokens' is missing"),
        (new.drop(columns="latency_s"), prices, "log latency_s of 'large' too"),
    ):
        faulty.to_csv(path, index=False)
        refused = added(run_router, run, path, tmp_path / "none", given_prices)
        assert refused.code == 2
        assert sentence in refused.err
        assert not (tmp_path / "none").exists()
    new.to_csv(path, index=False)
    finished = added(run_router, run, path, tmp_path / "new", prices)
    assert finished.code == 0, finished.err
    router = Router(tmp_path / "new" / "artifact")
    assert router.manifest["prices"][NEW]["output"] == pytest.approx(40.0)
    prediction = router.predict(encode_cached(router, new["prompt"].tolist()))
    expected = (10 * new["input_tokens"] + 40 * new["output_tokens"]).mean() / 1e6
    assert prediction.cost is not None
    assert prediction.latency is not None
    assert prediction.cost[:, -1].mean() == pytest.approx(expected, rel=0.2)
    np.testing.assert_allclose(prediction.latency, np.tile([1.0, 1.0, 8.0], (40, 1)), rtol=0.05)


# ---- What is refused, in one sentence, with nothing written -------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.assign(model="small"), "'small' is a candidate of the run already"),
        (lambda table: table.head(4), "4 different prompts off the test side; label at least 5"),
        (
            lambda table: table.assign(prompt="Something else"),
            "has another prompt in the run's log",
        ),
        (
            lambda table: table.assign(model=[NEW] * 20 + ["huge"] * (len(table) - 20)),
            "outcomes of 2 models (huge, large)",
        ),
        (lambda table: table.drop(columns="cost_usd"), "column 'cost_usd' is missing"),
        (lambda table: table.assign(score=3.0), "lies outside [0, 1]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    run_router: RunRouter,
    run: Path,
    labels: Path,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    sentence: str,
) -> None:
    change(pd.read_csv(labels)).to_csv(labels, index=False)
    finished = added(run_router, run, labels, tmp_path / "new")
    assert finished.code == 2
    assert sentence in finished.err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Give labels=FILE with the new model's outcomes, or suggest=100"),
        (["labels=nowhere.csv"], "labels=nowhere.csv: no such file"),
        (["suggest=0"], "suggest is 0; give a whole number from 1 upwards"),
        (["suggest=10", "run=nowhere"], "nowhere: no finished run with an artifact here"),
    ],
)
def test_what_is_missing_is_asked_for(
    run_router: RunRouter, run: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    finished = run_router(
        "add-candidate", f"run={run}", *options, f"hydra.run.dir={tmp_path / 'new'}"
    )
    assert finished.code == 2
    assert sentence in finished.err
    assert not list(tmp_path.iterdir())


def copied(run: Path, to: Path, **estimator: object) -> Path:
    """The run with another estimator in its configuration than the one that it exported."""
    shutil.copytree(run, to)
    config = OmegaConf.load(to / "config.yaml")
    config.estimator = {**config.estimator, **estimator}
    OmegaConf.save(config, to / "config.yaml")
    return to


def test_an_estimator_that_cannot_says_which_can(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    other = copied(run, tmp_path / "other")
    config = OmegaConf.load(other / "config.yaml")
    config.estimator = {"_target_": "router.estimators.LightGBM"}
    OmegaConf.save(config, other / "config.yaml")
    finished = added(run_router, other, labels, tmp_path / "new")
    assert finished.code == 2
    assert "LightGBM as configured cannot take in a candidate" in finished.err
    assert "Partition" in finished.err
    assert not (tmp_path / "new").exists()


def test_a_head_that_is_not_the_exported_one_is_refused(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    other = copied(run, tmp_path / "other", shrinkage=40.0)
    finished = added(run_router, other, labels, tmp_path / "new")
    assert finished.code == 2
    assert "the head rebuilt from its log is not the one that it exported" in finished.err
    assert not (tmp_path / "new").exists()


def test_a_log_that_has_changed_is_refused(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    other = copied(run, tmp_path / "other")
    config = OmegaConf.load(other / "config.yaml")
    log = pd.read_csv(config.data.path)
    log.loc[0, "score"] = 1 - log.loc[0, "score"]
    log.to_csv(tmp_path / "log.csv", index=False)
    config.data.path = str(tmp_path / "log.csv")
    OmegaConf.save(config, other / "config.yaml")
    finished = added(run_router, other, labels, tmp_path / "new")
    assert finished.code == 2
    assert "has changed since (other SHA-256)" in finished.err
    assert not (tmp_path / "new").exists()


def test_labels_that_have_changed_are_refused(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    assert added(run_router, run, labels, tmp_path / "new").code == 0
    table = pd.read_csv(labels)
    table.assign(model="huge").to_csv(tmp_path / "huge.csv", index=False)
    table.assign(score=1 - table["score"]).to_csv(labels, index=False)
    finished = added(run_router, tmp_path / "new", tmp_path / "huge.csv", tmp_path / "newer")
    assert finished.code == 2
    assert "have changed since" in finished.err


# ---- Which queries to label first ---------------------------------------------------------------


def test_a_suggestion_filled_in_is_a_table_of_labels(
    run_router: RunRouter, run: Path, off_test: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "first.csv"
    finished = run_router("add-candidate", f"run={run}", "suggest=25", f"out={out}")
    assert finished.code == 0, finished.err
    assert "Written" in finished.out
    suggested = pd.read_csv(out)
    assert suggested["query_id"].nunique() == len(suggested) == 25
    assert set(suggested["query_id"]) <= set(off_test)
    assert set(suggested["task"]) == {"poetry", "algebra"}
    assert suggested[["model", "score", "cost_usd"]].isna().all(axis=None)
    again = run_router("add-candidate", f"run={run}", "suggest=25", f"out={out}")
    assert again.code == 2
    assert "there already; give another file" in again.err
    table, _ = make_table(120)
    truth = kept(table, NEW).set_index("query_id").loc[suggested["query_id"]]
    filled = suggested.assign(
        model=NEW, score=truth["score"].to_numpy(), cost_usd=truth["cost_usd"].to_numpy()
    )
    filled.to_csv(tmp_path / "labels.csv", index=False)
    assert added(run_router, run, tmp_path / "labels.csv", tmp_path / "new").code == 0
    more = run_router(
        "add-candidate",
        f"run={run}",
        f"labels={tmp_path / 'labels.csv'}",
        "suggest=30",
        f"out={tmp_path / 'more.csv'}",
    )
    assert more.code == 0, more.err
    further = pd.read_csv(tmp_path / "more.csv")
    assert not set(further["query_id"]) & set(suggested["query_id"])
    assert (further["model"] == NEW).all()


def islands(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8) vectors around k far points, and the island of each."""
    rng = np.random.default_rng(seed)
    island = np.arange(n) % k
    return 5 * np.eye(8)[island] + 0.1 * rng.normal(size=(n, 8)), island


def test_the_first_labels_are_spread_over_the_log_and_never_repeated() -> None:
    X, island = islands(400, 8)
    scores = np.random.default_rng(1).random((400, 3))
    none = np.array([], dtype=int)
    clusters = Clusters.of(X)
    first = label_first(clusters, scores, 16, none, np.array([]))
    assert len(set(first.tolist())) == 16
    assert set(island[first[:8]]) == set(range(8))  # who labels eight has one of each
    everything = label_first(clusters, scores, 1000, first, np.ones(16))
    assert sorted([*everything, *first]) == list(range(400))


def test_further_labels_go_where_they_could_change_the_choice() -> None:
    X, island = islands(800, 2)
    rng = np.random.default_rng(2)
    # On the first island the best known candidate is hard to beat, on the second it is not.
    chance = np.where(island[:, None] == 0, [0.99, 0.1, 0.1], [0.55, 0.5, 0.45])
    scores = (rng.random((800, 3)) < chance).astype(float)
    labelled = np.arange(40)
    new_scores = (rng.random(40) < np.where(island[:40] == 0, 0.2, 0.5)).astype(float)
    chosen = label_first(Clusters.of(X), scores, 60, labelled, new_scores)
    assert (island[chosen] == 1).sum() >= 44


def belief(mean: float, best: float, spread: float = 0.1, noise: float = 0.2) -> Belief:
    return Belief(np.array([mean]), np.array([spread]), noise, np.array([best]))


def test_the_expected_loss_is_that_of_a_wrong_choice() -> None:
    count = np.array([12])
    one = belief(0.55, 0.6)
    deviation = np.sqrt(0.2 / (12 + 0.2 / 0.1**2))
    truth = 0.55 + deviation * np.random.default_rng(0).normal(size=400_000)
    # The known candidate is taken, as it looks better; it is wrong where the new one is above.
    loss = np.maximum(truth - 0.6, 0).mean()
    assert one.expected_loss(count)[0] == pytest.approx(loss, rel=0.01)


@given(st.integers(0, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_further_label_never_adds_to_the_expected_loss(n: int, mean: float, best: float) -> None:
    one = belief(mean, best)
    assert one.expected_loss(np.array([n + 1]))[0] <= one.expected_loss(np.array([n]))[0] + 1e-15


def test_labels_are_shared_out_in_full_and_no_cluster_gets_more_than_it_holds() -> None:
    three = Belief(np.full(3, 0.5), np.full(3, 0.1), 0.2, np.full(3, 0.55))
    size, count = np.array([3, 50, 100]), np.array([2, 0, 10])
    for n in (1, 10, 60, 1000):
        given_labels = allocation(three, size, count, n)
        assert given_labels.sum() == min(n, 141)
        assert (given_labels <= size - count).all()


def test_a_belief_without_labels_is_a_candidate_like_the_others() -> None:
    cluster = np.repeat([0, 1], 300)
    rng = np.random.default_rng(0)
    chance = np.where(cluster[:, None] == 0, [0.8, 0.6], [0.3, 0.1])
    scores = (rng.random((600, 2)) < chance).astype(float)
    none = np.array([], dtype=int)
    before = Belief.of(cluster, 2, scores, none, np.array([]))
    np.testing.assert_allclose(before.mean, [0.7, 0.2], atol=0.05)
    np.testing.assert_allclose(before.best, [0.8, 0.3], atol=0.06)
    # A hundred right answers in the easy cluster say something of the hard one too.
    after = Belief.of(cluster, 2, scores, np.zeros(100, dtype=int), np.ones(100))
    assert after.mean[0] > 0.9
    assert 0.25 < after.mean[1] < 0.6


def test_clusters_find_the_islands_and_tell_which_one_a_vector_is_on() -> None:
    X, island = islands(200, 5)
    clusters = Clusters.of(X, 5)
    assert len(clusters) == 5
    assert len(set(zip(island.tolist(), clusters.labels.tolist(), strict=True))) == 5
    np.testing.assert_array_equal(clusters.nearest(X), clusters.labels)
    assert len(Clusters.of(np.zeros((20, 4)))) == 1


def test_the_interval_is_wilsons() -> None:
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(float("nan"), 0) == (0.0, 1.0)


def test_the_source_run_is_left_as_it_was(
    run_router: RunRouter, run: Path, labels: Path, tmp_path: Path
) -> None:
    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}

    before = state()
    assert added(run_router, run, labels, tmp_path / "new").code == 0
    assert state() == before
    manifest = json.loads((tmp_path / "new" / "artifact" / "manifest.json").read_text())
    assert manifest["metrics"] is None  # figures of the old candidates' test side
