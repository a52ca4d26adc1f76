"""What is in service and how it changes: reload, shadow, canary, kill switch, pacer, prices."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import Decision, DecisionLog, RouterError, load
from router.cli import main
from router.serving.kill_switch import KillSwitch
from router.serving.live import Live
from router.serving.live_settings import KillSwitchSettings, LiveSettings
from tests.conftest import PRICES, TrainedRun, make_table

PROMPTS = [f"{topic} question number {n}" for n in range(6) for topic in ("poetry", "algebra")]
PATIENCE = 20.0


@dataclass(frozen=True)
class Artifacts:
    """Three artifacts of one run: `good` asks for quality alone, `cheap` for cost alone, and
    `drawn` explores."""

    good: Path
    cheap: Path
    drawn: Path


@pytest.fixture(scope="session")
def artifacts(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("artifacts")
    policies = {
        "good": ["policy=utility"],
        "cheap": ["policy=utility", "policy.cost_weight=1e9"],
        "drawn": ["policy=epsilon_greedy", "policy.epsilon=0.6"],
    }
    for name, policy in policies.items():
        main(["export", f"run={trained_run.folder}", f"out={folder / name}", *policy])
    return Artifacts(*(folder / name for name in policies))


@contextmanager
def started(artifact: Path | str, **settings: Any) -> Iterator[Live]:
    """A Live that looks for changes only when told to, unless the settings say otherwise."""
    live = Live(LiveSettings(**{"artifact": str(artifact), "poll_seconds": 3600, **settings}))
    live.start()
    try:
        yield live
    finally:
        live.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def hash_of(artifact: Path) -> str:
    return str(load(artifact).manifest["sha256"])


# ---- Reload --------------------------------------------------------------------------------------


def test_threads_decide_while_a_link_moves_and_no_answer_is_mixed(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    expected = {}
    for place in (artifacts.good, artifacts.cheap):
        router = load(place)
        expected[router.manifest["sha256"]] = {prompt: router.route(prompt) for prompt in PROMPTS}
    link = tmp_path / "current"
    link.symlink_to(artifacts.good)
    found: list[tuple[str, Decision]] = []
    faults: list[Exception] = []
    enough = threading.Event()

    def ask() -> None:
        try:
            while not enough.is_set():
                found.extend((prompt, live.decide(prompt)) for prompt in PROMPTS)
                found.extend(zip(PROMPTS, live.decide_batch(PROMPTS), strict=True))
        except Exception as error:
            faults.append(error)

    with started(link, poll_seconds=0.01) as live:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            moved = tmp_path / f"link{turn}"
            moved.symlink_to((artifacts.cheap, artifacts.good)[turn % 2])
            os.replace(moved, link)
            wait_for(lambda turn=turn: live.describe()["artifact"]["changes"] > turn)  # type: ignore[misc]
        enough.set()
        for thread in threads:
            thread.join()
        assert live.describe()["artifact"]["failures"] == 0
    assert faults == []
    assert {decision.artifact for _, decision in found} == set(expected)
    for prompt, decision in found:
        assert decision == expected[decision.artifact][prompt]


def test_a_folder_that_is_renamed_into_place_is_taken(artifacts: Artifacts, tmp_path: Path) -> None:
    place = shutil.copytree(artifacts.good, tmp_path / "artifact")
    aside = shutil.copytree(artifacts.cheap, tmp_path / "aside")
    with started(place) as live:
        os.replace(place, tmp_path / "older")
        os.replace(aside, place)
        live.reload()
        assert live.router.manifest["sha256"] == hash_of(artifacts.cheap)


def test_a_damaged_artifact_leaves_the_old_one_until_it_is_mended(
    artifacts: Artifacts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Path(shutil.copytree(artifacts.good, tmp_path / "artifact"))
    with started(place, poll_seconds=0.01) as live:
        before = live.decide(PROMPTS[0])
        tokenizer = (place / "tokenizer.json").read_bytes()
        (place / "tokenizer.json").unlink()
        (place / "tokenizer.json").write_bytes(b"{}")
        wait_for(lambda: live.describe()["artifact"]["failures"] > 0)
        live.reload()
        live.reload()
        told = live.describe()["artifact"]
        assert "tokenizer.json" in told["problem"]
        assert told["failures"] >= 3
        assert live.decide(PROMPTS[0]) == before
        assert len({record.getMessage() for record in caplog.records}) == len(caplog.records)
        (place / "tokenizer.json").write_bytes(tokenizer)
        wait_for(lambda: live.describe()["artifact"]["problem"] is None)
        assert live.decide(PROMPTS[0]) == before


def test_a_missing_artifact_leaves_the_old_one(artifacts: Artifacts, tmp_path: Path) -> None:
    place = Path(shutil.copytree(artifacts.good, tmp_path / "artifact"))
    with started(place) as live:
        shutil.rmtree(place)
        live.reload()
        assert "artifact" in live.describe()["artifact"]["problem"]
        assert live.decide(PROMPTS[0]).artifact == hash_of(artifacts.good)


def test_pinned_candidates_refuse_an_artifact_with_others(
    artifacts: Artifacts, other_candidates: Path, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(artifacts.good)
    for pinned in (True, False):
        link.unlink()
        link.symlink_to(artifacts.good)
        with started(link, pin_candidates=pinned) as live:
            link.unlink()
            link.symlink_to(other_candidates)
            live.reload()
            problem = live.describe()["artifact"]["problem"]
            if pinned:
                assert "pin_candidates" in problem
                assert live.router.candidates == ("large", "medium", "small")
            else:
                assert problem is None
                assert live.router.candidates == ("large", "medium")


@pytest.fixture(scope="session")
def other_candidates(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of two candidates, of a log with tokens and prices."""
    folder = tmp_path_factory.mktemp("others")
    return trained_on_tokens(folder, tiny_encoder, "data.candidates=[large,medium]")


def trained_on_tokens(folder: Path, encoder: Path, *more: str) -> Path:
    table, _ = make_table(60, costs="tokens")
    table.to_csv(folder / "table.csv", index=False)
    (folder / "prices.yaml").write_text(price_table(1.0))
    main(
        [
            "train",
            "data=table",
            f"data.path={folder / 'table.csv'}",
            f"data.prices={folder / 'prices.yaml'}",
            "encoder=sentence_transformer",
            f"encoder.name={encoder}",
            "encoder.dtype=float32",
            "estimator=ridge",
            "policy=utility",
            "policy.cost_weight=1",
            "tracking=none",
            "latest=null",
            "evaluation.resamples=20",
            "examples=[]",
            f"hydra.run.dir={folder / 'run'}",
            *more,
        ]
    )
    return folder / "run" / "artifact"


def price_table(factor: float) -> str:
    """YAML of the tests' prices, times a factor."""
    entries = (
        f"  {name}: {{input: {price.input * factor}, output: {price.output * factor}, "
        f"date: {price.date}}}\n"
        for name, price in PRICES.prices.items()
    )
    return "models:\n" + "".join(entries)


def test_the_first_artifact_must_be_sound(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="no artifact here"), started(tmp_path / "nowhere"):
        pass
    with pytest.raises(RouterError, match="models:/NAME@ALIAS"), started("models:/name/3"):
        pass


def test_an_alias_of_a_registry_is_followed(artifacts: Artifacts, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'registry.db'}"
    client = MlflowClient(uri, uri)
    client.create_registered_model("router")
    for place in (artifacts.good, artifacts.cheap):
        client.create_model_version("router", place.as_uri())
    client.set_registered_model_alias("router", "champion", "1")
    with started("models:/router@champion", tracking_uri=uri, poll_seconds=0.05) as live:
        assert live.router.manifest["sha256"] == hash_of(artifacts.good)
        client.set_registered_model_alias("router", "champion", "2")
        wait_for(lambda: live.router.manifest["sha256"] == hash_of(artifacts.cheap))
        client.delete_registered_model_alias("router", "champion")
        wait_for(lambda: live.describe()["artifact"]["failures"] > 0)
        assert "models:/router@champion" in live.describe()["artifact"]["problem"]
        assert live.decide(PROMPTS[0]).artifact == hash_of(artifacts.cheap)


def test_an_artifact_without_the_owners_signature_is_refused(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from router.artifact.signature import sign

    pem, raw = serialization.Encoding.PEM, serialization.NoEncryption()
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, raw))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, info))
    place = Path(shutil.copytree(artifacts.good, tmp_path / "artifact"))
    with pytest.raises(RouterError, match="not signed"), started(place, public_key=public):
        pass
    sign(place, private)
    aside = Path(shutil.copytree(artifacts.cheap, tmp_path / "aside"))
    with started(place, public_key=public) as live:
        os.replace(place, tmp_path / "older")
        os.replace(aside, place)
        live.reload()
        assert "not signed" in live.describe()["artifact"]["problem"]
        assert live.decide(PROMPTS[0]).artifact == hash_of(artifacts.good)
        sign(place, private)
        live.reload()
        assert live.decide(PROMPTS[0]).artifact == hash_of(artifacts.cheap)


# ---- Prices --------------------------------------------------------------------------------------


def test_new_prices_are_taken_and_bad_ones_are_not(tiny_encoder: Path, tmp_path: Path) -> None:
    artifact = trained_on_tokens(tmp_path, tiny_encoder)
    prices = tmp_path / "now.yaml"
    prices.write_text(price_table(1.0))
    with started(artifact, prices=prices) as live:
        before = live.decide(PROMPTS[0])
        prices.write_text(price_table(3.0))
        live.reload()
        after = live.decide(PROMPTS[0])
        assert before.cost is not None
        assert after.cost == pytest.approx({name: 3 * usd for name, usd in before.cost.items()})
        assert after.price_version != before.price_version
        prices.write_text("models:\n  large: {input: 1, output: 2, date: 2026-01-01}\n")
        live.reload()
        assert "medium" in live.describe()["prices"]["problem"]
        assert live.decide(PROMPTS[0]) == after


# ---- Shadow --------------------------------------------------------------------------------------


def test_the_shadow_is_counted_and_never_answers(artifacts: Artifacts) -> None:
    with started(artifacts.good, shadow={"artifact": str(artifacts.cheap)}) as live:
        decisions = [live.decide(prompt) for prompt in PROMPTS]
        wait_for(lambda: live.describe()["shadow"]["compared"] == len(PROMPTS))
        told = live.describe()["shadow"]
    shadow = [load(artifacts.cheap).route(prompt) for prompt in PROMPTS]
    assert {decision.artifact for decision in decisions} == {hash_of(artifacts.good)}
    pairs = list(zip(shadow, decisions, strict=True))
    agreed = [one.candidate == other.candidate for one, other in pairs]
    assert told["agreement"] == pytest.approx(np.mean(agreed)) != 1
    assert sum(told["choices"].values()) == len(PROMPTS)
    saved = [one.cost[one.candidate] - other.cost[other.candidate] for one, other in pairs]  # type: ignore[index]
    assert told["predicted_cost"] == pytest.approx(np.mean(saved))
    lost = [one.quality[one.candidate] - other.quality[other.candidate] for one, other in pairs]
    assert told["predicted_quality"] == pytest.approx(np.mean(lost))


def test_what_the_shadow_has_no_room_for_is_dropped_and_counted(artifacts: Artifacts) -> None:
    shadow = {"artifact": str(artifacts.cheap), "queue": 1}
    with started(artifacts.good, shadow=shadow) as live:
        many = PROMPTS * 20
        live.decide_batch(many)

        def accounted() -> bool:
            told = live.describe()["shadow"]
            return told["compared"] + told["dropped"] == len(many)

        wait_for(accounted)
        assert live.describe()["shadow"]["dropped"] > 0


# ---- Canary --------------------------------------------------------------------------------------


def test_the_canarys_share_and_propensities_are_those_of_the_whole_system(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    """Weighed by the logged propensities, outcomes have the mean that any policy would get."""
    share, n = 0.3, 1500
    canary = {"artifact": str(artifacts.drawn), "share": share}
    prompt = PROMPTS[0]
    ours, theirs = load(artifacts.cheap).route(prompt), load(artifacts.drawn).route(prompt)
    with started(artifacts.cheap, canary=canary) as live, DecisionLog(tmp_path) as log:
        decisions = [live.decide(prompt, seed=f"request {number}") for number in range(n)]
        log.decision(decisions[0], prompt)  # the log's own check
    of_canary = np.mean([decision.artifact == theirs.artifact for decision in decisions])
    assert of_canary == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))
    worth = {"large": 1.0, "medium": 0.6, "small": 0.1}
    for decision in decisions[:20]:
        expected = {
            name: share * theirs.probabilities[name] + (1 - share) * ours.probabilities[name]
            for name in worth
        }
        assert decision.probabilities == pytest.approx(expected)
        assert decision.probability == decision.probabilities[decision.candidate]
        assert decision.artifact in (ours.artifact, theirs.artifact)
    for name, value in worth.items():  # the value of always asking `name`, from the log alone
        terms = [value * (d.candidate == name) / d.probability for d in decisions]
        assert np.mean(terms) == pytest.approx(value, abs=4 * np.std(terms) / np.sqrt(n))


def test_a_session_stays_on_its_side_with_that_sides_propensity(artifacts: Artifacts) -> None:
    share = 0.4
    routers = {hash_of(place): load(place) for place in (artifacts.cheap, artifacts.drawn)}
    canary = {"artifact": str(artifacts.drawn), "share": share}
    of_canary = hash_of(artifacts.drawn)
    sides = []
    with started(artifacts.cheap, canary=canary) as live:
        for number in range(100):
            session = f"conversation {number}"
            talk = [live.decide(p, seed=str(number), session=session) for p in PROMPTS[:2]]
            assert len({decision.artifact for decision in talk}) == 1
            sides.append(talk[0].artifact == of_canary)
            alone = routers[talk[0].artifact]
            for prompt, decision in zip(PROMPTS[:2], talk, strict=True):
                assert decision == alone.route(prompt, seed=str(number), session=session)
    assert np.mean(sides) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 100))


def test_a_canary_with_other_candidates_leaves_what_it_cannot_decide_to_the_live_side(
    artifacts: Artifacts, other_candidates: Path
) -> None:
    canary = {"artifact": str(other_candidates), "share": 0.5}
    with started(artifacts.good, canary=canary) as live:
        decision = live.decide(PROMPTS[0], candidates=["small"])
        assert (decision.candidate, decision.probability) == ("small", 1.0)
        assert decision.artifact == hash_of(artifacts.good)
        mixed = live.decide(PROMPTS[0], candidates=["small", "medium"])
        assert sum(mixed.probabilities.values()) == pytest.approx(1)
        assert mixed.probabilities["medium"] >= 0.5
        with pytest.raises(RouterError, match="unheard"):
            live.decide(PROMPTS[0], candidates=["unheard of"])
        with pytest.raises(RouterError, match="empty"):
            live.decide("  ")


# ---- Kill switch ---------------------------------------------------------------------------------


def test_the_kill_switch_sends_everything_to_the_incumbent(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    file = tmp_path / "KILL"
    with started(artifacts.cheap, kill_switch={"file": file}) as live, DecisionLog(tmp_path) as log:
        assert {live.decide(prompt).candidate for prompt in PROMPTS} == {"small"}
        file.touch()
        wait_for(lambda: live.decide(PROMPTS[0]).policy == "KillSwitch")
        incumbent = load(artifacts.cheap).manifest["baselines"]["best_single"]
        decisions = [*live.decide_batch(PROMPTS), live.decide(PROMPTS[0], budget=1e-9)]
        for decision in decisions:
            assert (decision.candidate, decision.probability) == (incumbent, 1.0)
            assert decision.ask == {incumbent: 1.0}
            log.decision(decision, PROMPTS[0])
        with pytest.raises(RouterError, match="kill switch"):
            live.decide(PROMPTS[0], candidates=["small"])
        assert live.describe()["kill_switch"] == {"on": True, "incumbent": incumbent}
        file.unlink()
        wait_for(lambda: live.decide(PROMPTS[0]).candidate == "small")


def test_the_kill_switch_names_a_candidate_of_the_artifact(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    (tmp_path / "KILL").touch()
    switch = {"file": tmp_path / "KILL", "candidate": "medium"}
    with started(artifacts.good, kill_switch=switch) as live:
        assert live.decide(PROMPTS[0]).candidate == "medium"
    switch["candidate"] = "unheard of"
    with (
        pytest.raises(RouterError, match=r"kill_switch\.candidate: 'unheard of'"),
        started(artifacts.good, kill_switch=switch),
    ):
        pass


def test_the_kill_switch_looks_once_a_second_and_whenever_the_clock_goes_back(
    tmp_path: Path,
) -> None:
    now = [100.0]
    switch = KillSwitch(KillSwitchSettings(file=tmp_path / "KILL"), clock=lambda: now[0])
    assert not switch.on
    (tmp_path / "KILL").touch()
    now[0] = 100.9
    assert not switch.on
    now[0] = 50.0
    assert switch.on
    (tmp_path / "KILL").unlink()
    now[0] = 51.1
    assert not switch.on


# ---- Pacer ---------------------------------------------------------------------------------------


def test_the_pacer_moves_the_choices_and_believes_what_was_paid(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    free = [load(artifacts.good).route(prompt) for prompt in PROMPTS]
    mean = np.mean([decision.cost[decision.candidate] for decision in free])  # type: ignore[index]
    pacer = {"budget": float(mean) / 4, "state": tmp_path / "pacer.db", "rate": 0.05, "window": 10}
    with started(artifacts.good, pacer=pacer) as live:
        first = live.decide(PROMPTS[0])
        assert first.candidate == free[0].candidate
        spent = [
            decision.cost[decision.candidate]  # type: ignore[index]
            for _ in range(100)
            for decision in live.decide_batch(PROMPTS)
        ]
        assert np.mean(spent[-600:]) == pytest.approx(pacer["budget"], rel=0.15)
        before = live.describe()["pacer"]
        last = live.decide(PROMPTS[0])
        live.paid(last.request_id, 1.0)
        live.paid("unknown", 1.0)
        after = live.describe()["pacer"]
        assert after["decided"] == before["decided"] + 1
        assert after["mean_cost"] > before["mean_cost"]


def test_a_policy_that_heeds_no_cost_is_held_by_eligibility(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    deaf = tmp_path / "deaf"
    out = f"out={deaf}"
    main(["export", f"run={trained_run.folder}", out, "policy=guarded", "policy.incumbent=large"])
    free = load(deaf).route(PROMPTS[0])
    assert free.cost is not None
    assert free.candidate == "large"
    budget = free.cost["large"] / 3
    pacer = {"budget": budget, "state": tmp_path / "pacer.db", "rate": 0.2, "window": 5}
    with started(deaf, pacer=pacer) as live:
        decisions = [live.decide(prompt) for _ in range(40) for prompt in PROMPTS]
    spent = [decision.cost[decision.candidate] for decision in decisions]  # type: ignore[index]
    assert decisions[0].candidate == "large"
    assert np.mean(spent[-240:]) == pytest.approx(budget, rel=0.15)
    for decision in decisions:
        assert decision.probabilities[decision.candidate] == decision.probability == 1


def test_an_unknown_setting_and_one_out_of_bounds_are_refused() -> None:
    from pydantic import ValidationError

    for wrong in (
        {"canary": {"share": 1.5}},
        {"poll_seconds": 0},
        {"pacer": {"budget": float("inf")}},
        {"shadows": {}},
    ):
        with pytest.raises(ValidationError):
            LiveSettings.model_validate({"artifact": "folder", **wrong})
