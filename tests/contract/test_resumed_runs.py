"""`pg-zoo train --checkpoint` that is killed and resumed leaves the files of a run that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from breaking import in_a_child, in_a_process_of_its_own
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from warm import Server

from pg_agents import PPO
from pg_zoo.cli import main
from pg_zoo.runs.settings import read_settings

pytestmark = pytest.mark.filterwarnings("ignore:The state of .* cannot be stored")

SMALL = ["n_envs:2", "n_steps:32", "batch_size:32", "n_epochs:1", "policy_kwargs:dict(net_arch=[8])"]
OPTIONS = ["--seed", "3", "--eval-episodes", "1", "--verbose", "0", "--checkpoint", "64"]
EVERYTHING = [
    *("-n", "1280", "--eval-freq", "192", "--save-freq", "256", "-tb", "logs/tb", "--log-interval", "2"),
    *("--hyperparams", *SMALL, "normalize:True", "ent_coef:lin_0.01", "frame_stack:2"),
]
EVALUATED = ["--eval-freq", "192", "--hyperparams", *SMALL]
KINDS = {
    "everything": (EVERYTHING, [0, 0, 192, 448, 768, 1024]),  # options, and checkpoints after which it is killed
    "native": (["-n", "640", "--vec-env", "native", *EVALUATED], [64, 320]),
    "world": (["-n", "640", "--vec-env", "world", *EVALUATED, "normalize:True"], [64, 320]),
    "subproc": (["-n", "384", "--vec-env", "subproc", *EVALUATED], [128]),
}
ENVS = {"native": "pg/TorqueBandit-v0"}


def command(kind: str) -> list[str]:
    return ["train", "--env", env(kind), *OPTIONS, *KINDS[kind][0]]


def env(kind: str) -> str:
    return ENVS.get(kind, "CartPole-v1")


def run_of(kind: str) -> Path:
    return Path("logs/ppo", env(kind).replace("/", "-") + "_1")


def numbers(path: Path) -> dict[str, Any]:
    """The parameters and counters of a saved model."""
    model = PPO.load(path, device="cpu")
    return {"steps": model.num_timesteps} | {name: value.numpy() for name, value in model.policy.state_dict().items()}


def statistics(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        import pickle

        found: VecNormalize = pickle.load(file)
    return {
        "mean": found.obs_rms.mean,
        "var": found.obs_rms.var,
        "count": found.obs_rms.count,
        "ret": found.ret_rms.var,
    }


def scalars(folder: Path) -> dict[str, Any]:
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def content(folder: Path) -> dict[str, Any]:
    """All that a run has written, without times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".zip":
            found[name] = numbers(path)
        elif path.name == "evaluations.npz":
            found[name] = dict(np.load(path))
        elif path.suffix == ".csv":
            found[name] = [line.split(",")[:2] for line in path.read_text().splitlines()[1:]]
        elif path.suffix == ".pkl":
            found[name] = statistics(path)
        elif path.name.startswith("events.out"):
            found[path.parent.name] = scalars(path.parent)
        elif path.is_dir() and path.name.startswith("step_"):
            found[name] = None
    return found


def play(folder: Path, kind: str) -> None:
    """Train once without a break, and once with kills soon after certain checkpoints."""
    (folder / "whole").mkdir(parents=True)
    os.chdir(folder / "whole")
    # Here, so that all children find the compiled engine loaded. No processes: a copy cannot use the server of another.
    main([*command(kind), "-f", "other", "-n", "64", *(["--vec-env", "dummy"] if kind == "subproc" else [])])
    shutil.rmtree("logs", ignore_errors=True)
    in_a_child(partial(main, command(kind)), lambda: False)
    (folder / "run").mkdir()
    os.chdir(folder / "run")
    rng, n_kills, arguments = random.Random(0), 0, command(kind)
    for steps in KINDS[kind][1]:
        delay = rng.uniform(0, 0.03)

        def until(steps: int = steps, delay: float = delay) -> bool:
            newest = max(run_of(kind).glob("checkpoints/step_*"), default=None)
            if newest is None or int(newest.name.removeprefix("step_")) < steps:
                return False
            time.sleep(delay)
            return True

        n_kills += not in_a_child(partial(main, arguments), until)
        arguments = ["train", "--resume", str(run_of(kind))]
    in_a_child(partial(main, arguments), lambda: False)
    assert n_kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are copies of a process")
def test_runs_that_are_killed_and_resumed_leave_the_files_of_those_left_alone(tmp_path: Path, warm: Server) -> None:
    status, out, errors = in_a_process_of_its_own(warm, __file__, tmp_path)
    assert status == 0, out + errors
    for kind in KINDS:
        whole, run = content(tmp_path / kind / "whole/logs"), content(tmp_path / kind / "run/logs")
        np.testing.assert_equal(run, whole)
        folder = run_of(kind).relative_to("logs").as_posix()
        assert {f"{folder}/best_model.zip", f"{folder}/evaluations.npz"} <= whole.keys()


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that Ctrl-C has stopped."""
    monkeypatch.chdir(tmp_path)

    learn_once = PPO.train

    def train(self: PPO) -> None:
        learn_once(self)
        if self.num_timesteps >= 192:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "train", train)
        assert main(["train", *OPTIONS, "-n", "256", "--eval-freq", "-1", "--hyperparams", *SMALL]) == 0
    return Path("logs/ppo/CartPole-v1_1")


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(["train", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("pg-zoo: error: ")


def test_ctrl_c_tells_the_command_that_goes_on_and_a_finished_run_says_so(
    capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    assert f"To go on: pg-zoo train --resume {interrupted}\n" in capsys.readouterr().out
    again = ["train", "--resume", str(interrupted)]
    assert main(again) == 0
    assert "Going on after 128 of 256 steps" in capsys.readouterr().out
    assert main(again) == 0
    assert capsys.readouterr().out == f"The run in {interrupted} has finished after 256 steps; -n extends it.\n"
    assert main([*again, "-n", "320", "--algo", "ppo", "--seed", "3"]) == 0  # what the run has may be said again
    assert PPO.load(interrupted / "CartPole-v1.zip").num_timesteps == 320
    capsys.readouterr()
    assert main(again) == 0
    assert "finished after 320 steps" in capsys.readouterr().out


def test_what_only_shows_something_is_no_part_of_a_checkpoint(interrupted: Path) -> None:
    path = interrupted / "CartPole-v1/args.yml"
    path.write_text(yaml.safe_dump({**read_settings(path, trust=False), "log_interval": 1}))  # as of older runs
    assert main(["train", "--resume", str(interrupted)]) == 0


def test_what_fails_before_callbacks_have_begun_is_said_alone(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("out of order")

    monkeypatch.setattr(PPO, "learn_on", fail)
    capsys.readouterr()
    assert main(["train", "--resume", str(interrupted)]) == 2
    said = capsys.readouterr().err
    assert said.endswith("out of order\n")
    assert said.count("Traceback") == 1  # that of `fail`


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--algo", "a2c"], "--algo a2c contradicts the run in {}, which has ppo"),
        (["--env", "Acrobot-v1"], "--env Acrobot-v1 contradicts the run in {}, which has CartPole-v1"),
        (["--seed", "4"], "--seed 4 contradicts the run in {}, which has 3"),
        (["-params", "n_steps:64"], "--hyperparams {{'n_steps': 64}} contradicts the run in {}"),
        (["--checkpoint", "32"], "--checkpoint 32 contradicts the run in {}, which has 64"),
        (["-f", "elsewhere"], "--log-folder elsewhere contradicts the run in {}, which has logs"),
        (["-n", "255"], "--n-timesteps 255 is less than the 256 steps of the run in {}"),
        (["-n", "0"], "--n-timesteps 0 is less than"),
    ],
)
def test_options_that_contradict_the_run_are_refused_by_name(
    interrupted: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_line(capsys, ["--resume", str(interrupted), *options]).startswith(said.format(interrupted))


def test_what_cannot_be_resumed_is_said_in_one_line(
    interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "must be the folder of a run" in error_line(capsys, ["--resume", "nowhere"])
    assert "--resume: must not be empty" in error_line(capsys, ["--resume", ""])
    assert "is not the folder of a run" in error_line(capsys, ["--resume", "logs"])
    assert "File name too long" in error_line(capsys, ["--resume", "x" * 3000])
    shutil.copytree(interrupted, "other")
    shutil.rmtree("other/checkpoints")
    assert "other has no checkpoints" in error_line(capsys, ["--resume", "other"])
    for manifest in interrupted.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["train", "--resume", str(interrupted)]) == 2
    *damaged, line = capsys.readouterr().err.splitlines()
    assert ["is damaged and skipped" in one for one in damaged] == [True, True]  # each of them once
    assert "There is no whole checkpoint" in line
    assert "only trainings of a pg_agents.PolicyGradient" in error_line(
        capsys, ["--algo", "sb3/ppo", "--checkpoint", "9"]
    )
    assert "`--checkpoint` must be an integer at least 1" in error_line(capsys, ["--checkpoint", "0"])
    assert "invalid int value" in error_line(capsys, ["--checkpoint", "often"])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("args.yml", {"n_eval_envs": "two"}, "args.yml is damaged: n_eval_envs cannot be 'two'"),
        ("args.yml", {"vec_env": "magic"}, "args.yml is damaged: vec_env cannot be 'magic'"),
        ("args.yml", {"gym_packages": ["evil"]}, "gym_packages is ['evil'], modules that would be imported"),
        ("args.yml", {"env": "No-v0"}, "Unknown environment 'No-v0'"),
        ("config.yml", {"policy": None}, "config.yml is damaged: it must say n_timesteps and policy"),
        ("config.yml", {"policy_kwargs": "print('evil')"}, "policy_kwargs is \"print('evil')\", which is code"),
        ("config.yml", {"n_envs": 3}, "n_envs=2"),
    ],
)
def test_settings_are_data_that_is_checked(
    interrupted: Path, name: str, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted / "CartPole-v1" / name
    path.write_text(yaml.safe_dump({**read_settings(path, trust=False), **change}))
    assert said in error_line(capsys, ["--resume", str(interrupted)])


def test_code_in_settings_does_not_run(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted / "CartPole-v1/args.yml"
    path.write_text("uuid: !!python/object/apply:os.mkdir [evil]\n")
    assert "could run code" in error_line(capsys, ["--resume", str(interrupted)])
    assert not Path("evil").exists()


def test_a_run_that_is_still_going_is_left_alone(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open(interrupted / "checkpoints", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert "Another process trains" in error_line(capsys, ["--resume", str(interrupted)])
    os.close(descriptor)


if __name__ == "__main__":
    for name in KINDS:
        play(Path(sys.argv[1], name), name)
