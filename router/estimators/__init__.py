"""Estimators: vectors and logged outcomes -> per-candidate quality with a standard error."""

from router.estimators.average import Average
from router.estimators.base import Estimator
from router.estimators.boosting import LightGBM
from router.estimators.knn import KNN
from router.estimators.logistic import Logistic
from router.estimators.marginal import Marginal
from router.estimators.partition import Partition
from router.estimators.ridge import Ridge

__all__ = [
    "KNN",
    "Average",
    "Estimator",
    "LightGBM",
    "Logistic",
    "Marginal",
    "Partition",
    "Ridge",
]
