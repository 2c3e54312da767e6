"""Checkpoints of other people: they write no files of their choice, and lead callbacks nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from checkpoints import altered
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import PPO, Checkpoint
from pg_agents.resuming.state import NotFittingError

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "policy_kwargs": {"net_arch": [4]}}


def run(folder: Path, callbacks: list[BaseCallback] | None = None, env: Any = "CartPole-v1", **kwargs: Any) -> PPO:
    return PPO("MlpPolicy", env, **SMALL, **kwargs).learn(32, callback=[Checkpoint(folder, 16), *(callbacks or [])])


def test_a_callback_is_not_led_to_another_folder(tmp_path: Path) -> None:
    def saving() -> BaseCallback:
        return CheckpointCallback(8, str(tmp_path / "here"))

    run(tmp_path / "run", [saving()])

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        state["callbacks"][0]["attributes"] |= {"save_path": str(tmp_path / "evil"), "name_prefix": "evil"}

    altered(tmp_path / "run", change)
    PPO.resume(tmp_path / "run").learn_on(64, callback=[saving()])
    assert not (tmp_path / "evil").exists()
    assert not list(tmp_path.rglob("evil*"))
    assert (tmp_path / "here" / "rl_model_64_steps.zip").exists()


class Stages(BaseCallback):
    """Has a text that changes, a path made from its folder, and a number that comes later."""

    def __init__(self, folder: str = "a/b") -> None:
        super().__init__()
        self.path = f"{folder}/file"
        self.stage = "first"
        self.functions = [print]

    def _on_step(self) -> bool:
        self.stage, self.later = "second", np.arange(3)
        return True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "evil"),
        ("path", "/evil"),
        ("stage", "/evil"),
        ("new", "evil"),
        ("new", {"kind": "sequence", "type": "list", "maxlen": None, "items": ["evil"]}),
        ("new", {"kind": "mapping", "items": [["evil", 1]]}),
        ("new", {"kind": "array", "array": np.array(["evil"]), "strides": None}),
        ("folder", "evil"),
    ],
)
def test_texts_that_are_paths_stay_and_none_are_made(name: str, value: Any, tmp_path: Path) -> None:
    run(tmp_path, [Stages()])
    altered(tmp_path, lambda made, state: state["callbacks"][0]["attributes"].update({name: value}))
    stages = Stages()
    PPO.resume(tmp_path).learn_on(callback=[stages])
    assert stages.path == "a/b/file"
    assert not hasattr(stages, "new")
    assert not hasattr(stages, "folder")
    assert stages.stage in ("first", "second")
    assert stages.later.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["model", "functions", "_on_step", "__class__", "parent", "logger"])
def test_a_callback_keeps_its_functions_and_objects(name: str, tmp_path: Path) -> None:
    run(tmp_path, [Stages()])
    altered(tmp_path, lambda made, state: state["callbacks"][0]["attributes"].update({name: 1}))
    with pytest.raises(NotFittingError, match=f"Stages.{name} is no number"):
        PPO.resume(tmp_path).learn_on(callback=[Stages()])


def test_a_file_does_not_say_that_a_callback_tells_its_own_state(tmp_path: Path) -> None:
    run(tmp_path, [Stages()])
    own = {"kind": "object", "class": f"{__name__}.Stages", "attributes": {"path": "evil"}}
    altered(tmp_path, lambda made, state: state["callbacks"].__setitem__(0, {"own": own}))
    stages = Stages()
    PPO.resume(tmp_path).learn_on(callback=[stages])
    assert stages.path == "a/b/file"


def test_a_file_does_not_ask_for_wrappers_that_write(tmp_path: Path) -> None:
    run(tmp_path / "run")

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        single = made["environment"]["envs"][0]
        single["arguments"] = {"render_mode": "rgb_array"}
        video = {"name": "RecordVideo", "arguments": {"video_folder": str(tmp_path / "evil")}}
        single["outer"] = [video, *single["outer"]]
        single["layers"] = ["gymnasium.wrappers.rendering.RecordVideo", *single["layers"]]

    altered(tmp_path / "run", change)
    with pytest.raises(ValueError, match=r"cannot ask for the wrapper 'RecordVideo'.*env="):
        PPO.resume(tmp_path / "run")
    assert not (tmp_path / "evil").exists()


@pytest.mark.filterwarnings("ignore:.*MoviePy")
def test_an_environment_that_records_is_given_again(tmp_path: Path) -> None:
    wrapper = {"wrapper_class": gym.wrappers.RenderCollection, "env_kwargs": {"render_mode": "rgb_array"}}
    run(tmp_path, env=make_vec_env("CartPole-v1", 1, **wrapper))
    with pytest.raises(ValueError, match=r"the wrapper 'RenderCollection'.*env="):
        PPO.resume(tmp_path)


@pytest.mark.parametrize("content", [None, "something else"])
def test_monitors_write_only_where_they_have_written(content: str | None, tmp_path: Path) -> None:
    run(tmp_path / "run")
    evil = tmp_path / "evil.monitor.csv"
    if content is not None:
        evil.write_text(content)

    def change(made: dict[str, Any], state: dict[str, Any]) -> None:
        made["environment"]["envs"][0]["outer"][0]["file"] = str(evil)
        state["files"] = [(str(evil), 3)]

    altered(tmp_path / "run", change)
    with pytest.raises(ValueError, match=r"evil.monitor.csv' as the file of a Monitor.*env="):
        PPO.resume(tmp_path / "run")
    assert (evil.read_text() if evil.exists() else None) == content


@pytest.mark.parametrize("exists", [False, True])
def test_tensorboard_logs_only_where_it_has_logged(exists: bool, tmp_path: Path) -> None:
    run(tmp_path / "run")
    evil = tmp_path / "evil"
    if exists:
        evil.mkdir()
        (evil / "file").touch()
    altered(tmp_path / "run", lambda made, state: state["log"].update(folder=str(evil)))
    with pytest.raises(ValueError, match=r"evil' as the folder of TensorBoard.*tensorboard_log="):
        PPO.resume(tmp_path / "run").learn_on(64)
    assert [path.name for path in evil.iterdir()] == ["file"] if exists else not evil.exists()
    PPO.resume(tmp_path / "run", tensorboard_log=None).learn_on(64)
    agent = PPO.resume(tmp_path / "run", tensorboard_log=str(tmp_path / "log"))
    assert agent.learn_on(80).tensorboard_log == str(tmp_path / "log")
    assert list((tmp_path / "log" / "PPO_1").iterdir())
