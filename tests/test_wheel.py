"""The built wheel, installed away from the checkout: configuration and both install tiers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, make_table

RUNTIME_TIER = {"numpy", "onnxruntime", "tokenizers"}


def run(*command: object, folder: Path, **variables: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def make_environment(folder: Path) -> Path:
    """The bin folder of an empty virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, ROOT, folder=ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def trained_artifact(
    wheel: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artifact trained by the installed wheel, on a table of its own."""
    folder = tmp_path_factory.mktemp("installed")
    bin_folder = make_environment(folder / "env")
    run(bin_folder / "pip", "install", "-q", "--no-deps", wheel, folder=folder)
    # The training tier's gigabytes come from this environment; the package itself does not, as a
    # path file's folders are not searched for further path files (the checkout's own among them).
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "training-tier.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = "import router, pathlib; print(pathlib.Path(router.__file__).parent)"
    assert run(bin_folder / "python", "-c", where, folder=folder).strip() == str(site / "router")

    table, _ = make_table()
    table.to_csv(folder / "outcomes.csv", index=False)
    printed = run(
        bin_folder / "router",
        "train",
        "data=table",
        "data.path=outcomes.csv",
        "encoder=sentence_transformer",
        f"encoder.name={tiny_encoder}",
        "encoder.dtype=float32",
        "estimator=ridge",
        "hydra.run.dir=run",
        folder=folder,
    )
    assert "Verdict" in printed
    assert (folder / "run" / "metrics.json").is_file()
    return folder / "run" / "artifact"


def test_the_wheel_carries_the_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("router/conf/")}
    here = {f"router/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert packed == here


def test_the_runtime_tier_alone_routes(wheel: Path, trained_artifact: Path, tmp_path: Path) -> None:
    """A clean environment with the wheel and its three declared packages."""
    bin_folder = make_environment(tmp_path / "env")
    constraints = ROOT / "constraints.txt"
    run(bin_folder / "pip", "install", "-q", "-c", constraints, wheel, folder=tmp_path)
    listed = json.loads(run(bin_folder / "pip", "list", "--format=json", folder=tmp_path))
    installed = {package["name"].lower() for package in listed}
    assert installed >= RUNTIME_TIER
    assert not installed & {"torch", "scikit-learn", "pandas", "mlflow", "hydra-core", "onnx"}

    assert "usage: router <verb>" in run(bin_folder / "router", "--help", folder=tmp_path)
    answer = run(
        bin_folder / "router",
        "route",
        "--artifact",
        trained_artifact,
        "--json",
        "algebra question number 7",
        folder=tmp_path,
    )
    decision = json.loads(answer)
    assert decision["candidate"] in ("large", "medium", "small")
    assert set(decision["cost"]) == {"large", "medium", "small"}

    refused = subprocess.run(
        [str(bin_folder / "router"), "train"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "pip install 'query-router[train]'" in refused.stderr
