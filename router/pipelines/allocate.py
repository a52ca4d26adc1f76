"""`router allocate`: one candidate for each prompt of a batch, within a total budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from router.artifact.runtime import Router
from router.encoding.cache import encode_cached
from router.errors import RouterError
from router.outcomes.faults import listed
from router.outcomes.files import read_table
from router.pipelines.console import console
from router.pipelines.run_folder import shown
from router.pipelines.values import fits
from router.policies.allocation import Program
from router.prediction import Prediction
from router.staging import staged_file

FIRST_CLOSE = (
    200  # prompts of the first search: those for which another candidate is nearly as good
)
LEAST_GAP = 1e-6  # of summed score: less is rounding
SECONDS = 60  # of a search, after which what was found is taken, with how far off it may be
WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(
        path, orient="records", lines=True, force_ascii=False
    ),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
}


@dataclass(frozen=True, eq=False)
class Assignment:
    """chosen: (n,) candidate of each prompt. gap: summed score by which a better assignment could
    at most be better. dollar, answer: what one more dollar, and one more answer of each candidate
    (m,), would add to the summed score."""

    chosen: np.ndarray
    gap: float
    dollar: float
    answer: np.ndarray


def allocate(config: DictConfig) -> None:
    """Assign every prompt of the file to a candidate and write the plan to `out`."""
    for key, what in {"artifact": "FOLDER", "prompts": "FILE", "out": "FILE"}.items():
        if config[key] is None:
            raise RouterError(f"{key} is needed: give {key}={what}.")
    out = Path(str(config.out))
    if out.suffix not in WRITERS:
        raise RouterError(f"out={out}: give a file that ends in {', '.join(WRITERS)}.")
    router = Router(str(config.artifact))
    budget = _budget(config)
    capacities = _capacities(config, router.candidates)
    frame = _read_prompts(Path(str(config.prompts)))
    prompts = frame["prompt"].tolist()
    prediction = router.predict(encode_cached(router, prompts, "Embedding prompts as served"))
    with console.status("Allocating"):
        assignment = assign(prediction, budget, capacities)
    rows = np.arange(len(prompts))
    plan = frame.assign(
        candidate=np.array(router.candidates, dtype=object)[assignment.chosen],
        expected_quality=prediction.quality[rows, assignment.chosen],
    )
    if prediction.cost is not None:
        plan["expected_cost_usd"] = prediction.cost[rows, assignment.chosen]
    try:
        with staged_file(out) as staged:
            WRITERS[out.suffix](plan, staged)
    except OSError as error:
        raise RouterError(f"{out}: cannot be written ({error.strerror}).") from None
    _report(plan, assignment, router.candidates, budget, capacities)
    console.print(f"Written    {shown(out)}")


def assign(prediction: Prediction, budget: float | None, capacities: dict[str, int]) -> Assignment:
    """The assignment of greatest summed predicted quality (FORC's integer program, arXiv
    2308.06077).

    budget: USD for the whole batch. capacities: candidate -> most prompts.

    The linear program's prices give every (prompt, candidate) the least loss that it stands for.
    What loses more than the gap between a found assignment and the program's bound is in no best
    assignment, so the integer program is solved over the rest alone, and the answer is as good as
    over all.

    Raises RouterError where the limits cannot be kept, with the least that can.
    """
    n = len(prediction)
    quality, cost = prediction.quality, prediction.cost
    counts = np.array([capacities.get(name, n) for name in prediction.candidates])
    if counts.sum() < n:
        raise RouterError(
            f"capacities hold {counts.sum():,} of the {n:,} prompts; raise them, or leave out a "
            "candidate that needs no limit."
        )
    if budget is not None and cost is None:
        raise RouterError("budget cannot be kept: the artifact's log had no costs; leave it out.")
    program = Program(prediction, cost, counts / n)
    if budget is not None:
        least = program.least_cost(budget / n) * n
        if least > budget * (1 + 1e-9):
            raise RouterError(
                f"budget=${budget:g} is too small: these {n:,} prompts cost at least ${least:.6g}"
                f"{' within the capacities' if capacities else ''}."
            )
    prices = program.solve(None if budget is None else budget / n)
    dollar, answer = prices.dollar, np.where(counts < n, prices.answer, 0.0)
    value = quality - answer - (0.0 if cost is None else dollar * cost)
    best = value.max(axis=1, keepdims=True)
    loss = best - value
    bound = float(best.sum() + answer @ counts + dollar * (budget or 0.0))
    second = np.sort(loss, axis=1)[:, 1]
    reach = max(float(np.sort(second)[min(FIRST_CLOSE, n) - 1]), LEAST_GAP)
    while True:
        kept = loss <= reach
        chosen, proven = _best_of(kept, prediction, budget, counts)
        if chosen is not None:
            gap = max(bound - float(quality[np.arange(n), chosen].sum()), 0.0)
            if gap <= reach or kept.all() or not proven:
                # All that a better assignment could use was searched.
                return Assignment(chosen, 0.0 if proven else gap, dollar, answer)
            reach = gap
        elif kept.all():
            raise RouterError(f"No assignment was found within {SECONDS} seconds; split the batch.")
        else:
            reach *= 4


def _best_of(
    kept: np.ndarray, prediction: Prediction, budget: float | None, counts: np.ndarray
) -> tuple[np.ndarray | None, bool]:
    """(n,) best candidate of each prompt among the kept pairs (n, m), None where they cannot keep
    the limits; and whether it is proven best."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix, vstack

    row, column = np.nonzero(kept)
    n, pairs = len(kept), np.arange(len(row))
    ones = np.ones(len(row))
    once = csr_matrix((ones, (row, pairs)), shape=(n, len(row)))
    used = [csr_matrix((ones, (column, pairs)), shape=(len(counts), len(row)))]
    most = [counts.astype(float)]
    if budget is not None and prediction.cost is not None:
        used.append(csr_matrix(prediction.cost[kept][None] / budget))
        most.append(np.ones(1))
    found = milp(
        -prediction.quality[kept],
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(vstack(used, format="csr"), -np.inf, np.concatenate(most)),
        ],
        integrality=ones,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
    )
    if found.x is None:
        return None, False
    chosen = np.empty(n, dtype=int)
    taken = found.x > 0.5
    chosen[row[taken]] = column[taken]
    return chosen, found.status == 0


def _budget(config: DictConfig) -> float | None:
    budget: Any = config.budget
    if not fits(budget, float | None) or (budget is not None and not budget > 0):
        raise RouterError(f"budget is {budget!r}; give USD for the whole batch above 0, or null.")
    return None if budget is None else float(budget)


def _capacities(config: DictConfig, candidates: tuple[str, ...]) -> dict[str, int]:
    given: Any = config.capacities
    given = OmegaConf.to_object(given) if OmegaConf.is_config(given) else given
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RouterError(
            f"capacities is {given!r}; give the most prompts of a candidate, as in "
            f"capacities={{{candidates[0]}:100}}."
        )
    for name, count in given.items():
        if name not in candidates:
            raise RouterError(
                f"capacities names {str(name)!r}; the artifact's candidates are "
                f"{listed(candidates)}."
            )
        if not fits(count, int) or count < 0:
            raise RouterError(f"capacities.{name} is {count!r}; give a number of prompts.")
    return dict(given)


def _read_prompts(path: Path) -> pd.DataFrame:
    """query_id, where the file has one, and prompt."""
    if not path.is_file():
        raise RouterError(f"{path}: no such file; give prompts=FILE.")
    frame = read_table(path)
    if "prompt" not in frame:
        raise RouterError(f"{path}: no column 'prompt'; its columns are {listed(frame.columns)}.")
    blank = [not isinstance(text, str) or not text.strip() for text in frame["prompt"]]
    if any(blank):
        raise RouterError(f"{path}: row {blank.index(True) + 1}, column 'prompt' is empty.")
    return frame[[name for name in ("query_id", "prompt") if name in frame]].reset_index(drop=True)


def _report(
    plan: pd.DataFrame,
    assignment: Assignment,
    candidates: tuple[str, ...],
    budget: float | None,
    capacities: dict[str, int],
) -> None:
    """Totals, traffic and what more money or room would bring."""
    total = f"mean quality {plan['expected_quality'].mean():.4f}"
    if "expected_cost_usd" in plan:
        total += f", ${plan['expected_cost_usd'].sum():.6f} in all"
        total += "" if budget is None else f" of ${budget:.6f}"
    console.print(f"Expected   {len(plan):,} prompts, {total}")
    counts = plan["candidate"].value_counts()
    traffic = [f"{name} {count:,}" for name, count in counts.items()]
    console.print(f"Traffic    {', '.join(traffic)}")
    worth = []
    if budget is not None:
        worth.append(f"one more dollar would add {assignment.dollar:.4g}")
    worth += [
        f"one more answer of {name} {assignment.answer[candidates.index(name)]:.4g}"
        for name in capacities
    ]
    if worth:
        console.print(f"Worth      {', '.join(worth)} to the summed quality, at the margin.")
    if assignment.gap > LEAST_GAP:
        console.print(
            f"Search     ended after {SECONDS} seconds; another assignment could add at most "
            f"{assignment.gap:.4g} to the summed quality."
        )
