"""Which queries belong together, so that no split may part them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group_queries(prompts: pd.Series, logged_groups: pd.Series | None = None) -> np.ndarray:
    """(n,) integers: equal where prompts are identical or the logged group is the same."""
    n = len(prompts)
    same_prompt, _ = pd.factorize(prompts.str.strip())
    if logged_groups is None or logged_groups.isna().all():
        return same_prompt
    same_group, unique_groups = pd.factorize(logged_groups)
    known = np.flatnonzero(same_group >= 0)
    nodes = n + same_prompt.max() + 1 + len(unique_groups)
    rows = np.concatenate([np.arange(n), known])
    columns = np.concatenate([n + same_prompt, n + same_prompt.max() + 1 + same_group[known]])
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes))
    _, component = connected_components(links, directed=False)
    groups, _ = pd.factorize(component[:n])
    return groups
