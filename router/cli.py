"""The one command: router <verb> [overrides]."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

from router.errors import RouterError

if TYPE_CHECKING:
    from router.artifact.runtime import Decision

HELP = """\
router: learn from logged outcomes which LLM to ask, before asking.

usage: router <verb> [key=value ...]

  diagnose          is there anything to route?          router diagnose data=table data.path=FILE
  train             train a router, judge it, export it  router train
  methods           published methods to train           router methods
  evaluate          judge an exported router on a table  router evaluate artifact=DIR data.path=FILE
  export            another budget for a finished run    router export run=DIR out=DIR policy=budget
  express           a finished run, made far faster      router express run=DIR
  add-candidate     a new LLM joins a finished run       router add-candidate run=DIR labels=FILE
  data              check and summarise a table          router data data=table data.path=FILE

  serve             the router as an HTTP service        router serve artifact=PATH port=8080
  route             choose the LLM for a prompt          router route --artifact DIR "prompt"
  inspect           what is an artifact?                 router inspect --artifact PATH
  sign              sign an artifact                     router sign --artifact PATH --key FILE
  outcome           log what came of a decision          router outcome --log DIR --request ID ...
  allocate          plan a batch within a total budget   router allocate artifact=DIR prompts=FILE

  ope               judge a router on a decision log     router ope artifact=DIR data.path=FOLDER
  gate              may a candidate replace another?     router gate candidate=DIR incumbent=DIR
  plan-exploration  how much exploring tells it?         router plan-exploration incumbent=MODEL
  drift             has anything moved since training?   router drift artifact=DIR data=decisions

Your own table:    router train data=table data.path=outcomes.parquet
A published one:   router train method=avengers-pro
Any composition:   router train estimator=ridge policy=cheapest_adequate
A sweep:           router train -m estimator=ridge,knn,partition
Every option:      router train --help        The composed configuration:  router train --cfg job

Exit codes: 0 done, 1 unexpected failure, 2 bad input (one sentence says what to mend), 130 Ctrl-C.
"""

# verb -> its function: imported when asked for, as training needs seconds to import.
HYDRA_VERBS = {
    "train": "router.pipelines.train.train",
    "evaluate": "router.pipelines.evaluate.evaluate_artifact",
    "ope": "router.pipelines.ope.ope",
    "export": "router.pipelines.export.export",
    "gate": "router.pipelines.gate.gate",
    "plan-exploration": "router.pipelines.plan_exploration.plan_exploration",
    "allocate": "router.pipelines.allocate.allocate",
    "data": "router.pipelines.data.describe_data",
    "diagnose": "router.pipelines.diagnose.diagnose_log",
    "drift": "router.pipelines.drift.drift",
    "add-candidate": "router.pipelines.add_candidate.add_candidate",
    "express": "router.pipelines.express.express",
    "serve": "router.serving.serve.serve",
}
BAD_INPUT = 2
ARTIFACT = "the artifact, a folder or a zip file"
INTERRUPTED = 130
READER_GONE = 141  # as a shell reports SIGPIPE


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `router`; ends with SystemExit unless all went well."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(HELP, end="", file=sys.stderr)
        raise SystemExit(BAD_INPUT)
    if arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    if arguments[0] == "--version":
        print(f"query-router {_version()}")
        return
    try:
        with _termination_as_interrupt():
            _run(*arguments)
    except RouterError as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written is left behind.", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has enough. The interpreter must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(READER_GONE) from None


def _run(verb: str, *rest: str) -> None:
    if verb == "route":
        return route(list(rest))
    if verb == "outcome":
        return outcome(list(rest))
    if verb == "inspect":
        return inspect(list(rest))
    if verb == "sign":
        return sign(list(rest))
    if verb != "methods" and verb not in HYDRA_VERBS:
        verbs = [*HYDRA_VERBS, "methods", "inspect", "outcome", "route", "sign"]
        alike = "".join(f" (did you mean {v}?)" for v in get_close_matches(verb, verbs, n=1))
        raise RouterError(f"'{verb}' is no verb of router; verbs are {', '.join(verbs)}{alike}.")
    tier = ("serve", "serving") if verb == "serve" else ("train", "training")
    try:
        from router.pipelines.launch import launch

        if verb == "methods":
            from router.pipelines.methods import show_methods
    except ModuleNotFoundError as error:
        if error.name != "hydra":
            raise
        raise RouterError(
            f"router {verb} needs the {tier[1]} tier: pip install 'query-router[{tier[0]}]'."
        ) from None
    if verb == "methods":
        return show_methods(list(rest))
    launch(verb, HYDRA_VERBS[verb], list(rest))
    return None


def route(arguments: list[str]) -> None:
    """`router route`: needs the runtime tier alone."""
    parser = argparse.ArgumentParser(
        prog="router route", description="Choose the LLM for a prompt with an exported router."
    )
    parser.add_argument("--artifact", required=True, metavar="PATH", help=ARTIFACT)
    parser.add_argument("--json", action="store_true", help="print one JSON object per prompt")
    parser.add_argument("--log", metavar="DIR", help="log each decision in files of this folder")
    parser.add_argument(
        "--keep",
        choices=("hash", "text"),
        default="hash",
        help="what the log holds of a prompt: its SHA-256, or the text too, to train on",
    )
    parser.add_argument(
        "--seed", default="", metavar="TEXT", help="draw anew where a policy explores or mixes"
    )
    parser.add_argument("--session", metavar="ID", help="the conversation, for the log")
    parser.add_argument(
        "prompt", nargs="*", help="the prompts; without one, lines are read from standard input"
    )
    options = parser.parse_args(arguments)
    from router.artifact.decision_log import DecisionLog
    from router.artifact.runtime import load

    router = load(options.artifact)
    log = DecisionLog(options.log, options.keep) if options.log is not None else None
    # A terminal that cannot show a character must not stop the answer. JSON is UTF-8, and what
    # UTF-8 cannot hold (half a surrogate pair) becomes JSON's own escape.
    if isinstance(sys.stdout, TextIOWrapper):
        encoding = "utf-8" if options.json else None
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    for place, prompt in _prompts(options.prompt):
        try:
            decision = router.route(prompt, seed=options.seed, session=options.session)
            if log is not None:
                log.decision(decision, prompt)
        except RouterError as error:
            raise RouterError(f"{place}: {error}") from None
        if options.json:
            line = {"prompt": prompt, **decision.to_dict()}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(_readable(decision), flush=True)
            if log is not None:
                print(f"  request {decision.request_id}", flush=True)
    if log is not None:
        log.close()


def outcome(arguments: list[str]) -> None:
    """`router outcome`: needs the runtime tier alone."""
    parser = argparse.ArgumentParser(
        prog="router outcome",
        description="Log what came of a decision: all at once, or in several calls.",
    )
    parser.add_argument("--log", required=True, metavar="DIR", help="the decision log's folder")
    parser.add_argument("--request", required=True, metavar="ID", help="the decision's request_id")
    parser.add_argument("--score", type=float, help="how good the answer was, 0 to 1")
    parser.add_argument("--cost-usd", type=float, help="US dollars that the answer cost")
    parser.add_argument("--input-tokens", type=int, help="tokens sent")
    parser.add_argument("--output-tokens", type=int, help="tokens received")
    parser.add_argument("--latency-s", type=float, help="seconds until the answer was complete")
    parser.add_argument("--retries", type=int, help="further tries that the answer needed")
    parser.add_argument("--task", help="kind of query")
    parser.add_argument("--source", help="who gave the score, such as user or judge")
    told = vars(parser.parse_args(arguments))
    from router.artifact.decision_log import DecisionLog

    with DecisionLog(told.pop("log")) as log:
        log.outcome(told.pop("request"), **told)


def inspect(arguments: list[str]) -> None:
    """`router inspect`: needs the runtime tier alone; a signature is checked by the serve tier."""
    parser = argparse.ArgumentParser(
        prog="router inspect",
        description="Say what an artifact is, and whether it is whole. The exit code is 2 where it "
        "is damaged, badly signed or not to be used on this machine.",
    )
    parser.add_argument("--artifact", required=True, metavar="PATH", help=ARTIFACT)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--public-key", metavar="FILE", help="require a signature by its owner")
    options = parser.parse_args(arguments)
    from router.artifact import inspection
    from router.json_record import text_of

    record = inspection.inspect(options.artifact, options.public_key)
    if isinstance(sys.stdout, TextIOWrapper):
        encoding = "utf-8" if options.json else None
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    print(
        text_of(record) if options.json else "\n".join(inspection.readable(record)) + "\n", end=""
    )
    if record["golden"] is not None:
        raise RouterError(record["golden"])


def sign(arguments: list[str]) -> None:
    """`router sign`: needs the serve tier."""
    parser = argparse.ArgumentParser(
        prog="router sign",
        description="Sign an artifact with an Ed25519 key; router.load(PATH, public_key=FILE) then "
        "refuses whatever its owner did not sign.",
        epilog="Make a key with: openssl genpkey -algorithm ed25519 -out private.pem; its public "
        "half with: openssl pkey -in private.pem -pubout -out public.pem. The passphrase of an "
        "encrypted key (openssl genpkey -aes256 ...) is read from the environment variable "
        "ROUTER_KEY_PASSPHRASE.",
    )
    parser.add_argument("--artifact", required=True, metavar="PATH", help=ARTIFACT)
    parser.add_argument("--key", required=True, metavar="FILE", help="the private key, PEM")
    options = parser.parse_args(arguments)
    from router.artifact import signature

    signature.sign(options.artifact, options.key)
    print(f"Signed     {options.artifact}")


def _prompts(given: list[str]) -> Iterator[tuple[str, str]]:
    """(where it stands, prompt), from the command line or line by line from standard input."""
    if given:
        for number, prompt in enumerate(given, 1):
            yield f"prompt {number}", prompt
        return
    if sys.stdin.isatty():
        print("Prompts, one a line; Ctrl-D ends.", file=sys.stderr)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    for number, line in enumerate(sys.stdin, 1):
        yield f"standard input, line {number}", line.rstrip("\n")


def _readable(decision: Decision) -> str:
    lines = [f"{decision.candidate}: {decision.reason}"]
    for name in sorted(decision.quality, key=lambda n: -decision.quality[n]):
        mark = "*" if name in decision.ask else " "
        cost = "" if decision.cost is None else f"  ${decision.cost[name]:.6f}"
        cost += "" if decision.latency is None else f"  {decision.latency[name]:.2f} s"
        quality = f"{decision.quality[name]:.3f} ± {decision.quality_se[name]:.3f}"
        lines.append(f"  {mark} {name:<40} {quality}{cost}")
    return "\n".join(lines)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, so that what it had begun to write is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def interrupt(signum: int, frame: Any) -> None:
        if os.getpid() != process:  # a forked worker has nothing to tidy up
            os._exit(128 + signum)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _version() -> str:
    from importlib import metadata  # the slowest import of this file, for one line

    try:
        return metadata.version("query-router")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _fail(message: str, code: int) -> NoReturn:
    print(f"router: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
