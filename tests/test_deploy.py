"""The files under deploy/ name only what exists, and the Envoy adapter answers as Envoy asks."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, TrainedRun
from hydra import compose, initialize_config_dir
from starlette.testclient import TestClient

import router
from router.serving.app import create_app
from router.serving.serve import settings_of
from router.serving.settings import ServeSettings

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
RESOURCES = {
    resource["kind"]: resource
    for resource in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
}
ENVOY = yaml.safe_load((DEPLOY / "envoy.yaml").read_text(encoding="utf-8"))


def values_of(tree: Any, key: str) -> Iterator[Any]:
    """Every value of this key anywhere in a tree of dictionaries and lists."""
    for inner in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    ):
        yield from values_of(inner, key)
    if isinstance(tree, dict) and key in tree:
        yield tree[key]


def test_the_container_copies_what_is_there() -> None:
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, flags=re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    assert 'constraints.txt ".[serve]"' in CONTAINERFILE
    assert "\nUSER 10001" in CONTAINERFILE


def test_the_pod_mounts_what_it_has_and_runs_as_the_containers_user() -> None:
    pod = RESOURCES["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsUser"] == 10001
    labels = RESOURCES["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert RESOURCES["Service"]["spec"]["selector"] == labels
    assert RESOURCES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def settings_with(overrides: list[str]) -> ServeSettings:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return settings_of(compose("serve", overrides))


def test_the_service_takes_the_settings_of_container_and_pod() -> None:
    pod = RESOURCES["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [exposed] = re.findall(r"^EXPOSE (\d+)$", CONTAINERFILE, flags=re.MULTILINE)
    [command] = re.findall(r"^CMD (\[.*\])$", CONTAINERFILE, flags=re.MULTILINE)
    for overrides in (json.loads(command), container["args"]):
        settings = settings_with(overrides)
        assert (settings.host, settings.port) == ("0.0.0.0", int(exposed))
        assert (settings.live.artifact, settings.log.folder) == ("/artifact", Path("/logs"))
        assert settings.access.tokens_file or settings.access.tokens_env == "ROUTER_TOKENS"
    assert f"http://127.0.0.1:{exposed}/healthz" in CONTAINERFILE
    assert container["ports"] == [{"name": "http", "containerPort": int(exposed)}]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/artifact", "/logs", str(settings.access.tokens_file.parent)} <= mounts
    assert pod["terminationGracePeriodSeconds"] > settings.shutdown_seconds


def test_the_probes_ask_what_the_service_answers(trained_run: TrainedRun) -> None:
    settings = settings_with([f"artifact={trained_run.artifact}", "log.folder=null"])
    with TestClient(create_app(settings)) as service:
        for path in set(values_of(RESOURCES["Deployment"], "path")):
            assert service.get(path).status_code == 200


def test_envoy_routes_to_clusters_that_it_has_on_the_header_that_the_adapter_sends() -> None:
    clusters = {cluster["name"] for cluster in ENVOY["static_resources"]["clusters"]}
    assert set(values_of(ENVOY, "cluster")) == clusters
    sent = {pattern["exact"] for patterns in values_of(ENVOY, "patterns") for pattern in patterns}
    assert sent == {"x-router-candidate", "x-router-request-id"}
    assert list(values_of(ENVOY, "remove")) == ["x-router-candidate"]
    [headers] = values_of(ENVOY, "headers")
    assert headers[0]["name"] == "x-router-candidate"


@pytest.fixture
def adapter(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setenv("ROUTER_ARTIFACT", str(trained_run.artifact))
    monkeypatch.setenv("ROUTER_LOG", str(tmp_path / "logs"))
    spec = importlib.util.spec_from_file_location("envoy_adapter", DEPLOY / "envoy_adapter.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client, module.log:
        yield client


def test_the_adapter_names_the_candidate(
    adapter: TestClient, trained_run: TrainedRun, tmp_path: Path
) -> None:
    body = {"model": "any", "messages": [{"role": "user", "content": "algebra question number 1"}]}
    answer = adapter.post("/v1/chat/completions", json=body)
    expected = router.load(trained_run.artifact).route("algebra question number 1")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-router-candidate"] == expected.candidate
    [file] = (tmp_path / "logs").iterdir()
    record = json.loads(file.read_text())
    assert record["request_id"] == answer.headers["x-router-request-id"]
    assert record["chosen"] == expected.candidate


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models", b""),
        ("/v1/chat/completions", b"no JSON"),
        ("/v1/chat/completions", b"\xff"),
        ("/v1/chat/completions", b'{"model": "m", "messages": []}'),
        ("/v1/chat/completions", b'{"model": "m", "messages": [{"role": "user"}]}'),
    ],
)
def test_what_cannot_be_routed_goes_on(adapter: TestClient, path: str, body: bytes) -> None:
    answer = adapter.post(path, content=body)
    assert answer.status_code == 200
    assert "x-router-candidate" not in answer.headers
