"""The one command: router <verb> [overrides]."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from router.errors import RouterError

HELP = """\
router: learn from logged outcomes which LLM to ask, before asking.

usage: router <verb> [key=value ...]

  train      train a router, judge it, export it      router train
  evaluate   judge an exported router on a table      router evaluate artifact=DIR data.path=FILE
  export     another budget for a finished run        router export run=DIR out=DIR policy=budget
  route      choose the LLM for a prompt              router route --artifact DIR "prompt"
  data       check and summarise a table              router data data=table data.path=FILE

Your own table:    router train data=table data.path=outcomes.parquet
Another method:    router train estimator=ridge policy=cheapest_adequate
A sweep:           router train -m estimator=ridge,knn,partition
Every option:      router train --help        The composed configuration:  router train --cfg job

Exit codes: 0 done, 1 unexpected failure, 2 bad input (one sentence says what to mend), 130 Ctrl-C.
"""

# verb -> (module, function): imported when asked for, as training needs seconds to import.
HYDRA_VERBS = {
    "train": ("router.pipelines.train", "train"),
    "evaluate": ("router.pipelines.evaluate", "evaluate_artifact"),
    "export": ("router.pipelines.export", "export"),
    "data": ("router.pipelines.data", "describe_data"),
}
BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `router`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        raise SystemExit(0 if arguments else BAD_INPUT)
    verb, *rest = arguments
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if verb == "route":
            route(rest)
        elif verb in HYDRA_VERBS:
            run_with_hydra(verb, rest)
        else:
            verbs = ", ".join([*HYDRA_VERBS, "route"])
            raise RouterError(f"'{verb}' is no verb of router; verbs are {verbs}.")
    except RouterError as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written is left behind.", INTERRUPTED)


def run_with_hydra(verb: str, overrides: list[str]) -> None:
    """Compose conf/<verb>.yaml with the overrides and run the verb, once or as a sweep."""
    try:
        import hydra
    except ModuleNotFoundError:
        raise RouterError(
            f"router {verb} needs the training tier: pip install 'query-router[train]'."
        ) from None

    def task(config: Any) -> Any:
        _set_up_logging()
        try:
            module, function = HYDRA_VERBS[verb]
            run: Callable[[Any], Any] = getattr(import_module(module), function)
            return run(config)
        except RouterError as error:
            # Hydra turns exceptions into a traceback; SystemExit passes through it.
            _fail(str(error), BAD_INPUT)
        except KeyboardInterrupt:
            _fail("interrupted; nothing half-written is left behind.", INTERRUPTED)

    sys.argv = [f"router {verb}", *overrides]
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)(task)()


def config_folder() -> Path:
    """conf/, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def route(arguments: list[str]) -> None:
    """`router route`: needs the runtime tier alone."""
    parser = argparse.ArgumentParser(
        prog="router route", description="Choose the LLM for a prompt with an exported router."
    )
    parser.add_argument("--artifact", required=True, metavar="DIR", help="the artifact's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object per prompt")
    parser.add_argument(
        "prompt", nargs="*", help="the prompts; without one, lines are read from standard input"
    )
    options = parser.parse_args(arguments)
    from router.artifact.runtime import load

    router = load(options.artifact)
    for prompt in options.prompt or (line.rstrip("\n") for line in sys.stdin):
        decision = router.route(prompt)
        if options.json:
            print(json.dumps({"prompt": prompt, **decision.to_dict()}, ensure_ascii=False))
            continue
        print(f"{decision.candidate}: {decision.reason}")
        for name in sorted(decision.quality, key=lambda n: -decision.quality[n]):
            mark = "*" if name == decision.candidate else " "
            cost = "" if decision.cost is None else f"  ${decision.cost[name]:.6f}"
            quality = f"{decision.quality[name]:.3f} ± {decision.quality_se[name]:.3f}"
            print(f"  {mark} {name:<40} {quality}{cost}")


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for noisy in ("httpx", "sentence_transformers", "matplotlib", "mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    print(f"router: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
