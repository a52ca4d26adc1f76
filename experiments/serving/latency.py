"""What an artifact takes on one core: time, memory, disk; beside ParetoBandit and the bare parts.

    python experiments/serving/latency.py [--peer PYTHON] [--write]

Prints Markdown: the part of README.md that is its own, and puts it there with --write. Artifacts
are made anew of the default data's train side (see artifacts.py); vectors come from the cache.

--peer: the Python of an environment with ParetoBandit (see peer.py); left out without it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from artifacts import EXPRESS, FP32, INT8, TOKENS, Made, Workshop, sixty_tokens
from beside_peer import beside_peer
from goals import Goal, compared
from page import microseconds, milliseconds, say, table, written
from timing import STARTS, cold_start, in_loops, in_turns

from router.artifact.onnx_part import session
from router.encoding.query_features import query_features

ROUTES, EXPRESS_ROUTES, HEADS_ROUNDS = 5, 20, 5  # rounds over all prompts
TREES = "lightgbm, 11 x 200 trees"
DEFAULT, RIDGE = "default", "ridge"
BUDGET = "policy=budget"
HEADS = {
    RIDGE: ["estimator=ridge", BUDGET],
    "logistic": ["estimator=logistic", BUDGET],
    "partition, 64 clusters": ["estimator=partition", "estimator.n_clusters=64", BUDGET],
    "item_response": ["estimator=item_response", BUDGET],
    "matrix_factorisation": ["estimator=matrix_factorisation", BUDGET],
    "mlp": ["estimator=mlp", BUDGET],
    "knn": ["estimator=knn", BUDGET],
    "bagged_partition": ["estimator=bagged_partition", BUDGET],
    DEFAULT: ["estimator=bagged_partition", "policy=guarded"],
    # 50 trees for each of the 4 folds that are averaged
    TREES: ["estimator=lightgbm", "estimator.n_estimators=50", BUDGET],
}
SMALL = (RIDGE, "logistic", "partition, 64 clusters", "item_response")  # those with goals
ROUTED = [(encoder, head) for encoder in (FP32, INT8, EXPRESS) for head in (DEFAULT, RIDGE)]


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", type=Path, help="the Python of ParetoBandit's environment")
    parser.add_argument("--write", action="store_true", help="into README.md")
    options = parser.parse_args()
    on_one_core()
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        made = {}
        for encoder in (FP32, INT8, EXPRESS):
            for head in (DEFAULT, RIDGE) if encoder == FP32 else HEADS:
                say(f"making {encoder}, {head}")
                made[encoder, head] = workshop.make(encoder, HEADS[head], many=head == TREES)
        prompts = sixty_tokens(workshop.outcomes.prompts, made[INT8, RIDGE].tokenizer)
        text = report(made, prompts, options.peer)
    print(text)
    if options.write:
        written("latency.py", text)


def on_one_core() -> None:
    """Start again, bound to one core, so that every thread and every process of this run is."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    cores = os.sched_getaffinity(0)
    if len(cores) == 1 and one.items() <= os.environ.items():
        return
    os.sched_setaffinity(0, {max(cores)})
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | one)  # noqa: S606


def report(made: dict[tuple[str, str], Made], prompts: list[str], peer: Path | None) -> str:
    """All sections, as Markdown."""
    goals: list[Goal] = []
    sections = {
        "From prompt to decision": routes(made, prompts, goals),
        "Head and policy on a ready vector": heads(made, prompts, goals),
        "Cold start": starts(made, prompts[0], goals),
        "Size": sizes(made, goals),
        "Beside ParetoBandit": beside_peer(
            {encoder: made[encoder, DEFAULT].router.route for encoder in (FP32, INT8, EXPRESS)},
            prompts,
            peer,
        ),
    }
    first = f"### Goals\n\n{compared(goals)}"
    return "\n\n".join([first, *(f"### {title}\n\n{text}" for title, text in sections.items())])


def routes(made: dict[tuple[str, str], Made], prompts: list[str], goals: list[Goal]) -> str:
    """`route`, beside the bare session and the other parts."""
    rows = []
    for encoder, head in ROUTED:
        say(f"routing with {encoder}, {head}")
        taken = routed(made[encoder, head], prompts, encoder != EXPRESS)
        route, bare = taken["route"], taken.get("bare session")
        cells = [milliseconds(route, 50), milliseconds(route, 99)]
        if bare is None:
            cells += [""] * 3
            goals.append(
                Goal(f"{encoder}, {head}: a decision, p50", 0.15, "ms", float(np.median(route)))
            )
        else:
            ratio = float(np.median(route) / np.median(bare))
            cells += [milliseconds(bare, 50), milliseconds(bare, 99), f"{ratio:.3f}"]
            what = f"{encoder}, {head}: a decision beside the bare session, p50"
            goals.append(Goal(what, 1.1, "x", ratio))
        parts = [milliseconds(taken[name], 50) for name in ("tokenizer", "features")]
        rows.append([encoder, head, *cells, *parts])
    return (
        f"Milliseconds of {len(prompts)} distinct prompts of {TOKENS} tokens, {ROUTES} times over "
        f"({EXPRESS_ROUTES} times with express). The bare session is onnxruntime's on ready tokens "
        "and features of the same prompt, one thread. `route`, session, tokenizer and query "
        "features take turns prompt by prompt.\n\n"
        + table(
            [
                *("encoder", "head", "`route` p50", "p99", "bare session p50", "p99", "ratio"),
                *("tokenizer alone p50", "query features alone p50"),
            ],
            rows,
        )
    )


def routed(made: Made, prompts: list[str], network: bool) -> dict[str, Any]:
    """Milliseconds of `route` and its parts."""
    calls: dict[str, Any] = {
        "route": made.router.route,
        "tokenizer": made.tokenizer.encode,
        "features": lambda prompt: query_features([prompt]),
    }
    given: dict[str, list[Any]] = dict.fromkeys(calls, prompts)
    if network:
        graph = session(made.place / "encoder.onnx")
        calls["bare session"] = lambda feed: graph.run(None, feed)
        given["bare session"] = [feed_of(made, prompt) for prompt in prompts]
    return in_turns(calls, given, ROUTES if network else EXPRESS_ROUTES)


def feed_of(made: Made, prompt: str) -> dict[str, np.ndarray]:
    """What the encoder's graph is given."""
    tokens = made.tokenizer.encode(prompt)
    return {
        "input_ids": np.array([tokens.ids], dtype=np.int64),
        "attention_mask": np.array([tokens.attention_mask], dtype=np.int64),
        "features": query_features([prompt]),
    }


def heads(made: dict[tuple[str, str], Made], prompts: list[str], goals: list[Goal]) -> str:
    """The served head beside the trained one."""
    rows = []
    for head in HEADS:
        for encoder in (INT8, EXPRESS):
            say(f"head {head} on {encoder}")
            one = made[encoder, head]
            taken = predicted(one, prompts)
            name, _ = one.part("head")
            columns = ("head", "head and policy", "decision", "trained")
            micro = {column: 1000 * taken[column] for column in columns}
            both = micro["head and policy"]
            rows.append(
                [
                    *(
                        head,
                        encoder,
                        f"`{name}`",
                        microseconds(micro["head"], 50),
                        microseconds(both, 50),
                    ),
                    *(
                        microseconds(both, 99),
                        microseconds(micro["decision"], 50),
                        microseconds(micro["trained"], 50),
                    ),
                    f"{np.median(micro['trained']) / np.median(micro['head']):.1f}",
                ]
            )
            if head in (*SMALL, TREES):
                goals.append(
                    Goal(
                        f"{head} beside {encoder}: head and policy, p50",
                        300 if head == TREES else 20,
                        "µs",
                        float(np.median(both)),
                    )
                )
    return (
        "Microseconds of one vector. Head and policy: `predict` and the policy's probabilities. "
        "Decision: all of `route` but the encoder, so checks, the draw and the record too. In its "
        "training library: the fitted estimators' own `predict` (scikit-learn, LightGBM, numpy) of "
        "the same numbers. Each is called on all vectors in a row, with warm caches.\n\n"
        + table(
            [
                *("head", "encoder", "file", "head p50", "head and policy p50", "p99"),
                *("decision p50", "in its training library p50", "times the head"),
            ],
            rows,
        )
    )


def predicted(made: Made, prompts: list[str]) -> dict[str, Any]:
    """Milliseconds of a vector through the head, and on to the decision."""
    router, policy = made.router, made.router.policy
    vectors = router.encode(prompts)
    ready = [(prompt, vectors[i : i + 1]) for i, prompt in enumerate(prompts)]
    calls = {
        "head": lambda one: router.predict(one[1]),
        "head and policy": lambda one: policy.probabilities(router.predict(one[1])),
        # What `route` does after its encoder, with the arguments that it has by default.
        "decision": lambda one: router._decided(one[0], one[1], "", None, None, None, None, 0.0),
        "trained": lambda one: made.head.predict(one[1]),
    }
    return in_loops(calls, ready, HEADS_ROUNDS)


def starts(made: dict[tuple[str, str], Made], prompt: str, goals: list[Goal]) -> str:
    """Cold starts."""
    limits = {INT8: (0.4, 120), EXPRESS: (0.2, 70)}
    rows = []
    for encoder, head in ROUTED:
        say(f"cold start of {encoder}, {head}")
        seconds, megabytes = cold_start(made[encoder, head].place, prompt)
        rows.append([encoder, head, f"{seconds:.2f}", f"{megabytes:.0f}"])
        if encoder in limits:
            what = f"{encoder}, {head}: cold start"
            most_seconds, most_megabytes = limits[encoder]
            goals.append(Goal(f"{what}, time", most_seconds, "s", seconds))
            goals.append(Goal(f"{what}, memory", most_megabytes, "MB", megabytes))
    return (
        "From the start of the process to its first decision (`router.load(...).route(...)`: "
        "hashes and golden vectors are checked), and its peak memory until then; medians of "
        f"{STARTS}.\n\n" + table(["encoder", "head", "seconds", "MB"], rows)
    )


def sizes(made: dict[tuple[str, str], Made], goals: list[Goal]) -> str:
    """Of the artifacts and their parts."""
    shared = []
    for encoder in (FP32, INT8, EXPRESS):
        one = made[encoder, RIDGE]
        name, size = one.part("encoder")
        rest = [f"{one.sizes[file] / 1e6:.3f}" for file in ("tokenizer.json", "manifest.json")]
        shared.append([encoder, f"`{name}`", f"{size / 1e6:.2f}", *rest])
    rows = []
    for head in HEADS:
        cells = [head]
        for encoder in (INT8, EXPRESS):
            one = made[encoder, head]
            name, size = one.part("head")
            cells += [f"`{name}`", f"{size / 1e3:.0f}", f"{one.whole / 1e6:.2f}"]
            if head in SMALL:
                goals.append(Goal(f"{head} beside {encoder}: head's file", 100, "KB", size / 1e3))
        rows.append(cells)
    for encoder, head, most in (
        (INT8, RIDGE, 24),
        (INT8, TREES, 29),
        (EXPRESS, RIDGE, 15),
        (EXPRESS, DEFAULT, 15),
    ):
        whole = made[encoder, head].whole / 1e6
        goals.append(Goal(f"{encoder}, {head}: whole artifact", most, "MB", whole))
    return (
        "Parts that all heads share, in MB, and the head's file in KB with the whole artifact in "
        "MB.\n\n"
        + table(["encoder", "file", "encoder", "tokenizer", "manifest"], shared)
        + "\n\n"
        + table(
            [
                *("head", f"{INT8}: file", "KB", "whole, MB"),
                *(f"{EXPRESS}: file", "KB", "whole, MB"),
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()
