"""The pictures are drawn, without a warning, whatever the models, costs and tasks are called."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from router.evaluation.baselines import Baselines
from router.evaluation.evaluate import Evaluation, evaluate
from router.evaluation.labels import MISSING, drawable, place_labels
from router.evaluation.plots import MOST_TASKS, plot_frontier, plot_tasks
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Utility
from router.prediction import Prediction

ODD = [
    "$5 and $6",
    "$\\frac{1}",
    "😀 emoji",
    "任务",
    "עברית",
    "_hidden",
    "100 %",
    "tab\there\nand line",
    "#" * 200,
    "a {brace} \\alpha^2_",
    "nul\0",
    "(none)",
]


def judged(n_models=3, names=None, tasks=None, prices=None, n=120) -> Evaluation:
    """An evaluation of models that get better and, by default, dearer; prices=() leaves costs
    out."""
    rng = np.random.default_rng(0)
    chance = np.linspace(0.3, 0.9, n_models) + 0.2 * rng.normal(size=(n, 1))
    if prices is None:
        prices = np.geomspace(1e-5, 1e-2, n_models)
    has_costs = len(prices) > 0
    queries = pd.DataFrame({"query_id": [f"q{i}" for i in range(n)], "group": np.arange(n)})
    queries["prompt"] = [f"prompt {i} " + "x" * int(rng.integers(90)) for i in range(n)]
    if tasks is not None:
        queries["task"] = [tasks[i % len(tasks)] for i in range(n)]
    outcomes = OutcomeMatrix(
        queries,
        tuple(names or [f"model {j}" for j in range(n_models)]),
        (rng.random((n, n_models)) < chance).astype(float),
        np.ones((n, n_models), dtype=bool),
        prices * rng.lognormal(sigma=0.2, size=(n, 1)) if has_costs else None,
    )
    quality = np.clip(chance + 0.1 * rng.normal(size=chance.shape), 0, 1)
    cost = np.tile(prices, (n, 1)) if has_costs else None
    prediction = Prediction(outcomes.candidates, quality, quality * 0, cost)
    policy = Utility(10.0 if has_costs else 0.0)
    return evaluate(outcomes, prediction, policy, Baselines.fit(outcomes, policy), resamples=40)


def drawn(draw, path, *arguments) -> np.ndarray:
    """Pixels of a picture that was written to the path."""
    draw(*arguments, path)
    return imread(path)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"n_models": 2},
        {"n_models": 20},
        {"n_models": 70},
        {"names": ["mistralai/Mixtral-8x7B-Instruct-v0.1-AWQ", "x" * 300, "a\nb"]},
        {"n_models": len(ODD), "names": ODD},
        {"names": ODD[:3]},
        {"prices": np.array([0, 1e-3, 1e-2])},
        {"prices": np.array([1e-3, 1e-2, 0])},
        {"prices": np.zeros(3)},
        {"prices": np.full(3, 1e-3)},
        {"prices": np.array([1e-3, 1e-3, 2e-3])},
        {"prices": np.array([1e-9, 1e-3, 1e3])},
        {"prices": np.array([1.0, 1.01, 1.02]) * 1e-3},
        {"prices": ()},
        {"prices": (), "names": ODD[:3]},
    ],
    ids=lambda case: ",".join(f"{key}={value!r:.20}" for key, value in case.items()) or "plain",
)
def test_frontier_picture(case, tmp_path):
    pixels = drawn(plot_frontier, tmp_path / "frontier.png", judged(**case))
    assert pixels.shape[1] == 1440
    assert 800 <= pixels.shape[0] <= 2100
    assert (pixels[:, :, :3].std(axis=(0, 1)) > 0.05).all()  # there is something on it


@pytest.mark.parametrize("tasks", [["only one"], ODD, [f"task {i}" for i in range(60)]])
def test_task_picture(tasks, tmp_path):
    evaluation = judged(tasks=tasks)
    pixels = drawn(plot_tasks, tmp_path / "tasks.png", evaluation.tasks)
    rows = min(len(tasks), MOST_TASKS)
    assert pixels.shape[:2] == (pytest.approx(150 * (1.4 + 0.24 * rows), abs=2), 1200)


def test_task_picture_of_tasks_with_one_query(tmp_path):
    """They have no interval, and are drawn all the same."""
    evaluation = judged(tasks=[f"task {i}" for i in range(12)], n=12)
    assert evaluation.tasks["low"].isna().all()
    assert drawn(plot_tasks, tmp_path / "tasks.png", evaluation.tasks).size


def test_the_routers_marker_hides_no_baseline(tmp_path):
    """A baseline on the very spot of the router still shows."""
    evaluation = judged()
    table = evaluation.frontier.copy()
    at_router = table.loc[table["kind"] == "router", ["cost", "quality"]].iloc[0]
    table.loc[table["kind"] == "baseline", ["cost", "quality"]] = at_router.to_numpy()
    pictures = []
    for left_out in ("none", "random"):
        shown = table[(table["kind"] != "baseline") | (table["name"] != left_out)]
        changed = dataclasses.replace(evaluation, frontier=shown)
        pixels = drawn(plot_frontier, tmp_path / "frontier.png", changed)
        pictures.append(pixels[:, :1100, :3])  # without the legend
    assert np.abs(pictures[0] - pictures[1]).max() > 0.5


def boxes_of(axes) -> np.ndarray:
    """(k, 4) left, bottom, right, top of the labels in pixels."""
    return np.array([text.get_window_extent().extents for text in axes.texts])


@pytest.mark.parametrize("n_labels", [2, 8, 20])
def test_labels_overlap_neither_each_other_nor_the_frame(n_labels):
    rng = np.random.default_rng(n_labels)
    points = rng.random((n_labels, 2)) * [1, 0.5]
    points[1] = points[0] + 0.005  # two that nearly coincide
    figure = Figure(figsize=(9, 5))
    axes = figure.add_subplot(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    names = [f"model {i}" for i in range(n_labels)]
    place_labels(axes, names, points, points)
    assert [text.get_text() for text in axes.texts] == names
    figure.draw_without_rendering()
    left, bottom, right, top = boxes_of(axes).T
    frame = axes.get_window_extent()
    assert left.min() >= frame.x0
    assert right.max() <= frame.x1
    assert bottom.min() >= frame.y0
    assert top.max() <= frame.y1
    for i in range(n_labels):
        for j in range(i):
            apart = right[i] <= left[j] or right[j] <= left[i]
            assert apart or top[i] <= bottom[j] or top[j] <= bottom[i], (names[i], names[j])


def test_labels_are_written_as_they_are():
    axes = Figure().add_subplot()
    place_labels(axes, ["$x_1$"], np.array([(0.5, 0.5)]), np.empty((0, 2)))
    assert not axes.texts[0].get_parse_math()


@given(st.text(max_size=80), st.integers(5, 60))
def test_drawable_is_one_short_line(name, width):
    text = drawable(name, width)
    assert len(text) <= width
    assert len(text.splitlines()) <= 1
    assert drawable(text, width) == text


def test_drawable_keeps_what_it_can():
    assert drawable("meta-llama/llama-3.1-8b-instruct") == "meta-llama/llama-3.1-8b-instruct"
    assert drawable("a\tb\n c") == "a b c"
    assert drawable("任务 1") == f"{MISSING}{MISSING} 1"
    cut = drawable("provider/" + "x" * 60 + "-v0.1")
    assert len(cut) == 40
    assert cut.startswith("provider/")
    assert cut.endswith("-v0.1")
    assert "…" in cut
