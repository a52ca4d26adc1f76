"""Hybrid-LLM's labels: near enough to the best counts as right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_problem

from router.errors import RouterError
from router.estimators import Marginal, NearBest


def test_the_mean_label_is_the_share_of_queries_within_the_margin() -> None:
    X, outcomes = make_problem(200)
    scores = np.random.default_rng(0).random(outcomes.scores.shape)
    graded = replace(outcomes, scores=scores)
    for margin in (0.0, 0.2, 1.0):
        predicted = NearBest(Marginal(), margin).fit(X, graded).predict(X[:1]).quality[0]
        within = (scores >= scores.max(axis=1, keepdims=True) - margin).mean(axis=0)
        np.testing.assert_allclose(predicted, within)


def test_only_observed_scores_compete() -> None:
    X, outcomes = make_problem(200)
    scores = np.tile([1.0, 0.5, 0.0], (200, 1))
    observed = np.tile([False, True, True], (200, 1))
    observed[0] = True
    log = replace(outcomes, scores=scores, observed=observed)
    quality = NearBest(Marginal(), 0.1).fit(X, log).predict(X[:1]).quality[0]
    np.testing.assert_allclose(quality, [1.0, 199 / 200, 0.0])


def test_a_margin_below_zero_is_refused() -> None:
    with pytest.raises(RouterError, match=r"NearBest\.margin is -0\.1"):
        NearBest(Marginal(), -0.1).fit(*make_problem(20))
