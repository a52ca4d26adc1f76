"""The frontier of settings that were not chosen on the queries that judge them.

A hull takes the luckiest of a hundred noisy points. On the queries that were used to draw it, even
a router that knows nothing seems to rise above its single models, and a bootstrap of the hull takes
the luckiest points of every resample as well, so its interval confirms the illusion. Here each
query's mixture comes from the hull of the other folds.
"""

from __future__ import annotations

import numpy as np

from router.evaluation.bootstrap import Bootstrap, Interval
from router.evaluation.frontier import hull_rows, mean_height
from router.outcomes.splits import grouped_folds

FOLDS = 5


def cross_fitted(
    cost: np.ndarray, quality: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """(n, T, 2) cost and quality of each query under the mixture of settings that reaches each
    target on the hull of the other folds.

    cost, quality: (L, n) of each query at each setting.
    targets: (T,) mean costs; a target outside the hull takes its nearest end.
    groups: (n,) integers; a group is never split over folds.
    """
    fitted = np.empty((cost.shape[1], len(targets), 2))
    for others, fold in grouped_folds(groups, FOLDS):
        points = np.stack([cost[:, others].mean(axis=1), quality[:, others].mean(axis=1)], axis=1)
        rows = hull_rows(points)
        shares = _shares(points[rows, 0], targets)
        fitted[fold, :, 0] = (shares @ cost[np.ix_(rows, fold)]).T
        fitted[fold, :, 1] = (shares @ quality[np.ix_(rows, fold)]).T
    return fitted


def _shares(corners: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(T, h) share of each corner of a hull, by rising cost, in the mixture at each target."""
    return np.stack([np.interp(targets, corners, unit) for unit in np.eye(len(corners))], axis=1)


def aiq_gain(
    cost: np.ndarray,
    quality: np.ndarray,
    model_cost: np.ndarray,
    model_quality: np.ndarray,
    bootstrap: Bootstrap,
    groups: np.ndarray,
) -> Interval:
    """AIQ of a router less that of mixing the single models, both cross-fitted.

    cost, quality: (L, n) of the router's settings; model_cost, model_quality: (m, n).
    """
    if bootstrap.n_groups < 2:
        return Interval(float("nan"), float("nan"), float("nan"))
    return bootstrap.interval(
        *resampled_gain(cost, quality, model_cost, model_quality, bootstrap, groups)
    )


def resampled_gain(
    cost: np.ndarray,
    quality: np.ndarray,
    model_cost: np.ndarray,
    model_quality: np.ndarray,
    bootstrap: Bootstrap,
    groups: np.ndarray,
) -> tuple[float, np.ndarray]:
    """The gain of `aiq_gain`, and (resamples,) the same on every resample."""
    means = model_cost.mean(axis=1)
    ends = (means.min(), means.max())
    settings = np.unique(np.clip(np.concatenate([ends, cost.mean(axis=1)]), *ends))
    router = cross_fitted(cost, quality, settings, groups)
    models = cross_fitted(model_cost, model_quality, np.unique(means), groups)

    def gain(costs: np.ndarray, router: np.ndarray, models: np.ndarray) -> float:
        ends = costs.min(), costs.max()
        above, below = (
            mean_height(curve[curve[:, 0].argsort()], *ends) for curve in (router, models)
        )
        return above - below

    parts = (model_cost.T, router, models)
    resampled = zip(*map(bootstrap.means, parts), strict=True)
    value = gain(*(part.mean(axis=0) for part in parts))
    return value, np.array([gain(*means) for means in resampled])
