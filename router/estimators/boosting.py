"""E3: boosted trees per candidate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import lightgbm
import numpy as np
from joblib import Parallel, delayed

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of, weights_of
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds
from router.prediction import Prediction

LARGEST_ZERO = float(np.float32(1e-35))  # kZeroThreshold of LightGBM


class LightGBM(Estimator):
    """Boosted regression trees, averaged over folds; one binned data set for all candidates.

    Each fold leaves one part of the prompts out, so that the spread of the folds' predictions gives
    the standard error: the delete-a-group jackknife (Kott 2001). Few folds may agree by chance, so
    it is never below the standard error of the candidate's overall mean.

    n_estimators: trees per candidate and fold.
    learning_rate, num_leaves, min_child_samples, feature_fraction: as in LightGBM.
    n_folds: number of folds, at least 2.
    random_state: seed of trees and folds.
    """

    takes_weights = True

    def __init__(
        self,
        n_estimators: int = 60,
        learning_rate: float = 0.06,
        num_leaves: int = 8,
        min_child_samples: int = 20,
        feature_fraction: float = 0.2,
        n_folds: int = 4,
        random_state: int = 0,
    ):
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.min_child_samples = min_child_samples
        self.feature_fraction = feature_fraction
        self.n_folds = n_folds
        self.random_state = random_state

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.n_folds < 2 or self.n_estimators < 1:
            raise RouterError("LightGBM needs n_folds of at least 2 and at least one tree.")
        X, outcomes, targets = check_fit(self, X, outcomes)
        observed = outcomes.observed
        self.candidates_ = outcomes.candidates
        weights = weights_of(outcomes)
        self.overall_ = overall_of(targets, weights)
        folds = grouped_folds(outcomes.groups, self.n_folds, self.random_state)
        parameters = {
            "objective": "regression",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_child_samples": self.min_child_samples,
            "feature_fraction": self.feature_fraction,
            "max_bin": 63,
            "seed": self.random_state,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        binned = lightgbm.Dataset(X.astype(np.float32), params=parameters).construct()
        # [j][f]: candidate j fitted without fold f; None where too few outcomes are left for one
        # split, and means_[j, f] answers.
        self.boosters_: list[list[lightgbm.Booster | None]] = []
        self.means_ = np.zeros((len(self.candidates_), len(folds)))
        for j in range(len(self.candidates_)):
            binned.set_label(targets[:, j])
            # Weights, even equal ones, take LightGBM to other sums, which round otherwise.
            alike = np.ptp(weights[observed[:, j], j]) == 0
            binned.set_weight(None if alike else weights[:, j])
            parts: list[lightgbm.Dataset | None] = []
            for f, (rows, _) in enumerate(folds):
                seen = np.sort(rows[observed[rows, j]])
                if len(seen) >= 2 * self.min_child_samples:
                    # Constructed now, as it takes the labels that the whole set has at this time.
                    parts.append(binned.subset(seen.tolist()).construct())
                    continue
                parts.append(None)
                self.means_[j, f] = (
                    np.average(targets[seen, j], weights=weights[seen, j])
                    if len(seen)
                    else self.overall_.mean[j]
                )
            # One thread a fold: trees are too small to share, and cores do not change the sums.
            of_candidate = Parallel(n_jobs=-1, prefer="threads")(
                delayed(self._boost)(parameters, part) for part in parts
            )
            self.boosters_.append(of_candidate)
        return self

    def _boost(
        self, parameters: dict[str, Any], part: lightgbm.Dataset | None
    ) -> lightgbm.Booster | None:
        return None if part is None else lightgbm.train(parameters, part, self.n_estimators)

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float32)
        by_fold = np.tile(self.means_, (len(X), 1, 1))
        for j, of_candidate in enumerate(self.boosters_):
            for f, booster in enumerate(of_candidate):
                if booster is not None:
                    by_fold[:, j, f] = booster.predict(X, num_threads=1)
        n_folds = by_fold.shape[2]
        quality = by_fold.mean(axis=2)
        deviation = ((by_fold - quality[:, :, None]) ** 2).sum(axis=2)
        jackknife = np.sqrt(deviation * (n_folds - 1) / n_folds)
        return Prediction(self.candidates_, quality, np.maximum(jackknife, self.overall_.se))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m, n_folds = self.means_.shape
        flat = graph.op(
            "TreeEnsembleRegressor",
            vector,
            domain="ai.onnx.ml",
            **_tree_attributes(
                [booster for of_candidate in self.boosters_ for booster in of_candidate]
            ),
        )
        shape = graph.constant([-1, m, n_folds], np.int64)
        by_fold = graph.op("Add", graph.op("Reshape", flat, shape), graph.constant(self.means_))
        quality = graph.op("ReduceMean", by_fold, axes=[2], keepdims=0)
        centre = graph.op("ReduceMean", by_fold, axes=[2], keepdims=1)
        deviation = graph.op("Sub", by_fold, centre)
        total = graph.op(
            "ReduceSum",
            graph.op("Mul", deviation, deviation),
            graph.constant([2], np.int64),
            keepdims=0,
        )
        scaled = graph.op("Mul", total, graph.constant((n_folds - 1) / n_folds))
        jackknife = graph.op("Sqrt", scaled)
        return quality, graph.op("Max", jackknife, graph.constant(self.overall_.se))


def _tree_attributes(boosters: list[lightgbm.Booster | None]) -> dict[str, Any]:
    """All boosters as one ONNX tree ensemble, booster i summing into target i."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes",
            "nodes_truenodeids", "nodes_falsenodeids", "target_treeids", "target_nodeids",
            "target_ids", "target_weights",
        )
    }  # fmt: skip
    tree_id = 0
    for target, booster in enumerate(boosters):
        trees = [] if booster is None else booster.dump_model()["tree_info"]
        # A booster without trees still owns its target: a single leaf of zero.
        for tree in [tree["tree_structure"] for tree in trees] or [{"leaf_value": 0.0}]:
            _append_tree(columns, tree_id, target, list(_numbered(tree)))
            tree_id += 1
    return {"n_targets": len(boosters), "aggregate_function": "SUM", **columns}


def _numbered(tree: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], int, int]]:
    """(id, node, id of the left child, id of the right child), depth first."""
    pending, next_id = [(0, tree)], 1
    while pending:
        node_id, node = pending.pop()
        if "left_child" not in node:
            yield node_id, node, 0, 0
            continue
        left, right, next_id = next_id, next_id + 1, next_id + 2
        pending += [(left, node["left_child"]), (right, node["right_child"])]
        yield node_id, node, left, right


def _append_tree(
    columns: dict[str, list[Any]],
    tree_id: int,
    target: int,
    nodes: list[tuple[int, dict[str, Any], int, int]],
) -> None:
    for node_id, node, left, right in nodes:
        is_leaf = left == right
        threshold = 0.0 if is_leaf else _threshold(node["threshold"])
        columns["nodes_treeids"].append(tree_id)
        columns["nodes_nodeids"].append(node_id)
        columns["nodes_featureids"].append(0 if is_leaf else node["split_feature"])
        columns["nodes_values"].append(threshold)
        columns["nodes_modes"].append("LEAF" if is_leaf else "BRANCH_LEQ")
        columns["nodes_truenodeids"].append(left)
        columns["nodes_falsenodeids"].append(right)
        if is_leaf:
            columns["target_treeids"].append(tree_id)
            columns["target_nodeids"].append(node_id)
            columns["target_ids"].append(target)
            columns["target_weights"].append(float(node["leaf_value"]))


def _threshold(threshold: float) -> float:
    """The float32 that decides as LightGBM does, which reads the least numbers as 0."""
    if -LARGEST_ZERO <= threshold < 0:
        return float(np.nextafter(np.float32(-LARGEST_ZERO), np.float32(-np.inf)))
    return float32_at_most(threshold)


def float32_at_most(threshold: float) -> float:
    """For float32 x, x <= threshold holds exactly where x <= this float32 holds."""
    with np.errstate(over="ignore"):  # beyond float32's range it is infinite
        rounded = np.float32(threshold)
        if float(rounded) > threshold:
            rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)
