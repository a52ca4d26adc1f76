"""Policies: predictions and a budget -> which candidate answers (numpy only).

The very same code decides in training, in evaluation and in the exported artifact.
"""

from router.policies.adequate import CheapestAdequate
from router.policies.base import Policy, draw, policy_from_dict, uniform_of
from router.policies.budget import Budget
from router.policies.hard_cap import HardCap
from router.policies.threshold import Threshold
from router.policies.utility import Utility

__all__ = [
    "Budget",
    "CheapestAdequate",
    "HardCap",
    "Policy",
    "Threshold",
    "Utility",
    "draw",
    "policy_from_dict",
    "uniform_of",
]
