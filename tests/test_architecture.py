"""Floors: a file imports from its own room or from a lower floor; the runtime is small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import router

PACKAGE = Path(router.__file__).parent
# From the ground up; rooms of one floor do not know each other.
FLOORS: list[set[str]] = [
    {
        "errors",
        "prediction",
        "staging",
        "cache_folder",
        "json_record",
        "answer_features",
        "judge_input",
    },
    {"outcomes", "encoding"},
    {"estimators", "policies"},
    {"evaluation", "tracking"},
    {"off_policy", "routability", "drift"},
    {"artifact"},
    {"pipelines", "serving"},
    {"cli"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "conf" not in path.parts)
# What the runtime tier may not need: the rest of the house's dependencies.
FORBIDDEN = [
    "filelock", "huggingface_hub", "hydra", "joblib", "lightgbm", "matplotlib", "mlflow",
    "omegaconf", "onnx", "pandas", "pandera", "platformdirs", "pyarrow", "rich", "scipy",
    "sentence_transformers", "sklearn", "threadpoolctl", "torch", "tqdm", "transformers", "yaml",
]  # fmt: skip


def room_of(path: Path) -> str:
    """outcomes, for router/outcomes/table.py; cli, for router/cli.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that the file imports when it runs; not those that only the type checker reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checker = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = []
    for node in ast.walk(tree):
        if node in for_checker:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "router" and len(part) > 1}


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} - {"__init__", "__main__"} <= set(FLOOR_OF)


@pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(PACKAGE).as_posix() for path in FILES]
)
def test_a_file_imports_from_its_own_room_or_a_lower_floor(path: Path) -> None:
    here = room_of(path)
    if here == "__init__":  # the door: it offers the runtime's names
        assert imported_rooms(path) <= {"errors", "artifact"}
        return
    floor = FLOOR_OF[here]
    allowed = {here}.union(*FLOORS[: max(floor, 1)])  # on the ground, neighbours are one room
    assert imported_rooms(path) & set(FLOOR_OF) <= allowed


def test_the_rules_would_see_a_wrong_import(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "import router.cli\n"
        "if TYPE_CHECKING:\n    from router.policies import Policy\n"
        "def late():\n    from router.pipelines import train\n"
        "from router import artifact\n"
    )
    assert imported_rooms(file) == {"cli", "pipelines", "artifact"}


GUARD = f"""
import importlib.abc, sys
class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError("not in the runtime tier: " + name)
sys.meta_path.insert(0, Guard())
"""


def run_guarded(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_runtime_loads_and_routes_without_the_training_tier(artifact_copy: Path) -> None:
    code = """
import router
from router.cli import main
decision = router.load(sys.argv[1]).route("What is the capital of Peru?")
main(["route", "--artifact", sys.argv[1], "--json", "What is the capital of Peru?"])
main(["--help"])
known = set(sys.stdlib_module_names) | {"__main__", "router"}
foreign = {name.partition(".")[0] for name in sys.modules} - known
print(sorted(name for name in foreign if not name.startswith("_")))
"""
    done = run_guarded(code, artifact_copy)
    assert done.returncode == 0, done.stderr
    foreign = ast.literal_eval(done.stdout.splitlines()[-1])
    # onnxruntime is a house of several modules that it installs itself.
    assert set(foreign) <= {"numpy", "onnxruntime", "tokenizers", "cython_runtime", "site"}
    assert {"numpy", "onnxruntime", "tokenizers"} <= set(foreign)


def test_a_training_verb_without_the_training_tier_says_what_to_install() -> None:
    done = run_guarded(
        "from router.cli import main\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hydra':\n"
        "            raise ModuleNotFoundError(\"No module named 'hydra'\", name='hydra')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "main(['train'])\n"
    )
    assert done.returncode == 2
    expected = "router: router train needs the training tier: pip install 'query-router[train]'.\n"
    assert done.stderr == expected


def test_help_starts_without_heavy_imports() -> None:
    done = run_guarded(
        "from router.cli import main\n"
        "main(['--help'])\n"
        "print({'numpy', 'onnxruntime', 'tokenizers', 'argparse'} & set(sys.modules))\n"
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "{'argparse'}"
