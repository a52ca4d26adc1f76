"""Estimators: vectors and logged outcomes -> per-candidate quality with a standard error."""

from router.estimators.average import Average
from router.estimators.bandit import LinearBandit
from router.estimators.base import Estimator
from router.estimators.boosting import LightGBM
from router.estimators.bradley_terry import BradleyTerry
from router.estimators.calibrated import Calibrated
from router.estimators.contrastive import CostBandedContrastive, DualContrastive
from router.estimators.debiased import Debiased
from router.estimators.direct import BestCandidate
from router.estimators.doubly_robust import DoublyRobust
from router.estimators.eagle import Eagle
from router.estimators.inverse_propensity import InversePropensity
from router.estimators.kernel_ridge import KernelRidge
from router.estimators.knn import KNN
from router.estimators.labels import Labels
from router.estimators.logistic import Logistic
from router.estimators.low_rank import ItemResponse, MatrixFactorisation
from router.estimators.marginal import Marginal
from router.estimators.message_passing import MessagePassing
from router.estimators.mlp import MLP
from router.estimators.near_best import NearBest
from router.estimators.partition import Partition
from router.estimators.ridge import Ridge
from router.estimators.running_mean import RunningMean
from router.estimators.similarity_ranking import SimilarityRanking
from router.estimators.stack import Stack

__all__ = [
    "KNN",
    "MLP",
    "Average",
    "BestCandidate",
    "BradleyTerry",
    "Calibrated",
    "CostBandedContrastive",
    "Debiased",
    "DoublyRobust",
    "DualContrastive",
    "Eagle",
    "Estimator",
    "InversePropensity",
    "ItemResponse",
    "KernelRidge",
    "Labels",
    "LightGBM",
    "LinearBandit",
    "Logistic",
    "Marginal",
    "MatrixFactorisation",
    "MessagePassing",
    "NearBest",
    "Partition",
    "Ridge",
    "RunningMean",
    "SimilarityRanking",
    "Stack",
]
