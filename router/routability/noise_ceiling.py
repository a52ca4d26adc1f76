"""How much of the oracle's height is luck? Repeats of a prompt tell; else chance is a measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from router.evaluation.bootstrap import Bootstrap, Interval
from router.evaluation.metrics import ROUNDING
from router.outcomes.matrix import OutcomeMatrix

HALVINGS = 20
PERMUTATIONS = 20


@dataclass(frozen=True)
class SplitHalf:
    """Prompts asked repeatedly of every candidate, their repeats split in random halves.

    prompts, outcomes: how many. noise_share: share of the variance of a candidate's scores that
    lies between repeats of one prompt, which no router can know beforehand.
    best_single: mean score of the best candidate. same_half: the oracle chosen and judged on one
    half. other_half: chosen on one half, judged on the other; the true ceiling is not below it.
    all_repeats: chosen and judged on all repeats; the true ceiling is not above it (both but for
    sampling).
    luck: share of the same-half oracle's gain on the best single that the other half does not
    confirm; None where there is no gain.
    """

    prompts: int
    outcomes: int
    noise_share: float | None
    best_single: Interval
    same_half: Interval
    other_half: Interval
    all_repeats: Interval
    luck: float | None


def split_half(
    outcomes: OutcomeMatrix, resamples: int = 1000, random_state: int = 0
) -> SplitHalf | None:
    """None where fewer than two groups of prompts have two outcomes or more of every candidate."""
    prompt, _ = pd.factorize(outcomes.queries["prompt"].str.strip())
    count = _sums(prompt, outcomes.observed.astype(float))
    repeated = np.asarray((count >= 2).all(axis=1))
    part = outcomes.take(repeated[prompt])
    if len(np.unique(part.groups)) < 2:
        return None
    prompt = np.unique(prompt[repeated[prompt]], return_inverse=True)[1]
    scores = np.where(part.observed, part.scores, 0.0)
    count = count[repeated]
    mean = _sums(prompt, scores) / count
    groups = np.empty(len(mean), dtype=int)
    groups[prompt] = part.groups
    bootstrap = Bootstrap(groups, resamples)
    best = int(mean.mean(axis=0).argmax())

    rng = np.random.default_rng(random_state)
    same, other = np.zeros(len(mean)), np.zeros(len(mean))
    for _ in range(HALVINGS):
        first = _first_half(prompt, part.observed, count, rng)
        n_first = count // 2
        a = _sums(prompt, np.where(first, scores, 0.0)) / n_first
        b = (mean * count - a * n_first) / (count - n_first)
        # Of candidates that tie on a prompt, the one that is the best elsewhere.
        tied = a >= a.max(axis=1, keepdims=True) - ROUNDING
        chosen = np.where(tied, a.mean(axis=0), -np.inf).argmax(axis=1)
        same += a.max(axis=1) / HALVINGS
        other += b[np.arange(len(b)), chosen] / HALVINGS
    level = float(mean[:, best].mean())
    gain = float(same.mean()) - level
    return SplitHalf(
        prompts=len(mean),
        outcomes=int(count.sum()),
        noise_share=_noise_share(part, prompt, mean, count),
        best_single=bootstrap.mean(mean[:, best]),
        same_half=bootstrap.mean(same),
        other_half=bootstrap.mean(other),
        all_repeats=bootstrap.mean(mean.max(axis=1)),
        luck=float(np.clip((same - other).mean() / gain, 0, 1)) if gain > 0 else None,
    )


def _sums(prompt: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(prompts, m) sums of (n, m) values."""
    return np.stack([np.bincount(prompt, column) for column in values.T], axis=1)


def _first_half(
    prompt: np.ndarray, observed: np.ndarray, count: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(n, m) True for a random half, rounded down, of each prompt's outcomes of each candidate.
    Where all are known, whole queries are halved: what moves all scores of a query stays so."""
    key = rng.random(len(prompt))
    first = np.zeros_like(observed)
    starts = np.cumsum(np.bincount(prompt)) - np.bincount(prompt)
    for j in range(observed.shape[1]):
        order = np.lexsort((key, ~observed[:, j], prompt))
        rank = np.arange(len(prompt)) - starts[prompt[order]]
        first[order, j] = rank < count[prompt[order], j] // 2
    return first


def _noise_share(
    part: OutcomeMatrix, prompt: np.ndarray, mean: np.ndarray, count: np.ndarray
) -> float | None:
    """Unbiased variance within prompts, over that within and between, pooled over candidates."""
    within = _sums(prompt, np.where(part.observed, (part.scores - mean[prompt]) ** 2, 0.0))
    noise = float((within.sum(axis=0) / (count - 1).sum(axis=0)).mean())
    # The spread of the means holds some noise, each mean's own.
    spread = float(mean.var(axis=0, ddof=1).mean()) - noise * float((1 / count).mean())
    total = noise + max(spread, 0.0)
    return noise / total if total > 0 else None


def luck_oracle(outcomes: OutcomeMatrix, random_state: int = 0) -> float:
    """Mean score of the oracle if each candidate's scores were shuffled within a task, apart from
    the others': what chance alone gives where the task is all there is to know.

    outcomes: fully observed. Candidates tend to fail on the same hard queries, so the real oracle
    may lie below it.
    """
    rng = np.random.default_rng(random_state)
    tasks = np.zeros(len(outcomes)) if outcomes.tasks is None else outcomes.tasks
    cells = [np.flatnonzero(tasks == task) for task in pd.unique(tasks)]
    levels = []
    for _ in range(PERMUTATIONS):
        total = sum(rng.permuted(outcomes.scores[rows], axis=0).max(axis=1).sum() for rows in cells)
        levels.append(total / len(outcomes))
    return float(np.mean(levels))
