"""ParetoBandit's choice and ours of the same prompts, in turns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from page import milliseconds, say, table
from timing import in_turns

ROUNDS = 2  # over all prompts


def beside_peer(
    calls: dict[str, Callable[[str], object]], prompts: list[str], python: Path | None
) -> str:
    """ParetoBandit and ours, prompt by prompt, as Markdown.

    calls: what chooses, by encoder. python: of ParetoBandit's environment; None leaves it out.
    """
    if python is None:
        return "Left out: no `--peer` was given."
    say("beside ParetoBandit")
    with Peer(python) as peer:
        ours = in_turns(
            {**calls, "peer": peer.route}, dict.fromkeys([*calls, "peer"], prompts), ROUNDS
        )
    theirs = np.array(peer.milliseconds[-ROUNDS * len(prompts) :])
    rows = [["ParetoBandit 0.1.1", milliseconds(theirs, 50), milliseconds(theirs, 99), "1"]]
    for encoder in calls:
        ratio = np.median(theirs) / np.median(ours[encoder])
        rows.append(
            [
                f"query-router, {encoder}, default",
                *(milliseconds(ours[encoder], q) for q in (50, 99)),
                f"{ratio:.3g}",
            ]
        )
    return (
        "ParetoBandit's `BanditRouter.create().route(prompt)` (MiniLM by sentence-transformers, "
        "PCA, LinUCB) in a process and an environment of its own, with the same three candidates, "
        "one thread on the same core; all take turns prompt by prompt, "
        f"{ROUNDS} times over the same prompts. Its time is its own process's clock.\n\n"
        + table(["router", "p50, ms", "p99, ms", "ParetoBandit takes, times"], rows)
    )


class Peer:
    """ParetoBandit in its own process."""

    def __init__(self, python: Path):
        script = Path(__file__).with_name("peer.py")
        self._process = subprocess.Popen(
            [str(python), "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.milliseconds: list[float] = []

    def __enter__(self) -> Peer:
        while (line := self._answer()) != "ready":
            say(line)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def route(self, prompt: str) -> None:
        """Ask once, and keep what it took by its own clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(prompt) + "\n")
        self.milliseconds.append(float(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("ParetoBandit's process ended; its last lines say why.")
        return line.strip()
