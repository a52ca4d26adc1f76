"""Every file of conf/ composes into a configuration whose parts can be built."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from router.errors import RouterError
from router.estimators import Estimator
from router.pipelines.options import config_folder
from router.pipelines.parts import build
from router.pipelines.train import Parts, Settings
from router.policies import Policy

CONF = config_folder()
OPTIONS = sorted((file.parent.name, file.stem) for file in CONF.glob("*/*.yaml"))
VERBS = sorted(file.stem for file in CONF.glob("*.yaml") if file.stem != "output")
# What has no default that would do for everyone.
NEEDED = {
    ("data", "battles"): ["data.path=battles.csv"],
    ("data", "decisions"): ["data.path=decisions"],
    ("data", "table"): ["data.path=outcomes.csv"],
    ("split", "leave_one_task_out"): ["split.task=algebra"],
    ("encoder", "sentence_transformer"): ["encoder.name=somewhere"],
    ("policy", "certified"): ["policy.quality=0.5"],
}


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_its_parts_are_built(group: str, option: str) -> None:
    config = compose("train", overrides=[f"{group}={option}", *NEEDED.get((group, option), [])])
    parts = Parts.of(config)
    assert isinstance(parts.head.quality, Estimator)
    assert isinstance(parts.head.cost, Estimator)
    assert isinstance(parts.policy, Policy)


@pytest.mark.parametrize(("group", "option"), sorted(NEEDED))
def test_a_value_that_must_be_given_is_asked_for(group: str, option: str) -> None:
    config = compose("train", overrides=[f"{group}={option}"])
    key = NEEDED[group, option][0].split("=")[0]
    with pytest.raises(RouterError, match=rf"^{group} needs a value: give {key}=\.\.\.$"):
        Parts.of(config)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_and_says_in_its_help_how_it_is_called(verb: str) -> None:
    config = compose(verb, return_hydra_config=True)
    assert config.hydra.help.header.startswith(f"router {verb}")
    assert config.hydra.job.name == verb


def test_the_default_settings_of_a_run_are_sound() -> None:
    settings = Settings.of(compose("train"))
    assert settings.folds >= 2
    assert all(prompt.strip() for prompt in settings.examples)


def test_every_group_belongs_to_a_verb() -> None:
    named = set()
    for verb in VERBS:
        for entry in OmegaConf.load(CONF / f"{verb}.yaml").defaults:
            named |= set(entry) if isinstance(entry, DictConfig) else set()
    assert {group for group, _ in OPTIONS} <= named


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_in_its_first_line_what_it_is(group: str, option: str) -> None:
    lines = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    comment = next(line for line in lines if not line.startswith("# @package"))
    assert comment.startswith("# ")
    assert len(comment) > 12


def test_an_experiment_overrides_several_parts_at_once() -> None:
    config = compose("train", overrides=["experiment=strong_weak"])
    assert config.policy._target_ == "router.policies.Threshold"
    assert config.estimator._target_ == "router.estimators.Ridge"
    assert config.data._target_ == compose("train").data._target_


@pytest.mark.parametrize("estimator", sorted(file.stem for file in CONF.glob("cost/*.yaml")))
def test_a_cost_option_is_the_estimator_of_the_same_name(estimator: str) -> None:
    config = compose("train", overrides=[f"cost={estimator}", f"estimator={estimator}"])
    assert config.cost == config.estimator


@pytest.mark.parametrize(
    ("overrides", "group", "sentence"),
    [
        (["policy.budget=much"], "policy", "policy.budget is 'much'; give a number or null."),
        (["policy.budget=true"], "policy", "policy.budget is True; give a number or null."),
        (["policy.budget=-1"], "policy", "policy.budget is -1; give USD per query above 0."),
        (
            ["estimator=ridge", "estimator.se_rank=1.5"],
            "estimator",
            "estimator.se_rank is 1.5; give a whole number.",
        ),
        (
            ["estimator.n_clusters=[4,x]"],
            "estimator",
            "estimator.n_clusters is [4, 'x']; give a whole number or a list, as in [one,two].",
        ),
        (
            ["estimator=average", "estimator.estimators.knn.n_neighbors=few"],
            "estimator",
            "estimator.estimators.knn.n_neighbors is 'few'; give a whole number or a list, as in "
            "[one,two].",
        ),
        (
            ["encoder=minilm", "encoder.dtype=float16"],
            "encoder",
            "encoder.dtype is 'float16'; give one of auto, float32, bfloat16.",
        ),
        (
            ["data.candidates=gpt"],
            "data",
            "data.candidates is 'gpt'; give a list, as in [one,two] or null.",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_by_its_key(
    overrides: list[str], group: str, sentence: str
) -> None:
    config = compose("train", overrides=overrides)
    with pytest.raises(RouterError) as told:
        build(config[group], group)
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    "target", ["no_such_package.Part", "router.policies.NoSuchPolicy", "not a name"]
)
def test_a_target_that_does_not_exist_is_told_by_its_group(target: str) -> None:
    config = compose("train", overrides=[f"policy._target_='{target}'"])
    with pytest.raises(RouterError, match=r"^policy: cannot make "):
        build(config.policy, "policy")


def test_a_parameter_that_the_part_does_not_take_is_told() -> None:
    config = compose("train", overrides=["estimator=ridge", "+estimator.depth=3"])
    with pytest.raises(RouterError, match=r"^estimator: cannot make .*'depth'"):
        build(config.estimator, "estimator")
