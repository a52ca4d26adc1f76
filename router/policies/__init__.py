"""Policies: predictions and a budget -> which candidate answers (numpy only).

The very same code decides in training, in evaluation and in the exported artifact.
"""

from router.policies.adequate import CheapestAdequate
from router.policies.allocation import Allocation
from router.policies.base import Policy, draw, policy_from_dict, uniform_of
from router.policies.budget import Budget
from router.policies.cascade import Cascade
from router.policies.cascade_routing import CascadeRouting
from router.policies.certified import Certified
from router.policies.epsilon_greedy import EpsilonGreedy
from router.policies.guarded import Guarded
from router.policies.hard_cap import HardCap
from router.policies.learned_stopping import LearnedStopping
from router.policies.per_query_budget import PerQueryBudget
from router.policies.subset import Subset
from router.policies.thompson import Thompson
from router.policies.threshold import Threshold
from router.policies.upper_confidence import UpperConfidence
from router.policies.utility import Utility

__all__ = [
    "Allocation",
    "Budget",
    "Cascade",
    "CascadeRouting",
    "Certified",
    "CheapestAdequate",
    "EpsilonGreedy",
    "Guarded",
    "HardCap",
    "LearnedStopping",
    "PerQueryBudget",
    "Policy",
    "Subset",
    "Thompson",
    "Threshold",
    "UpperConfidence",
    "Utility",
    "draw",
    "policy_from_dict",
    "uniform_of",
]
