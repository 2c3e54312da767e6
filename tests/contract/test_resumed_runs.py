"""`pg-zoo train --checkpoint` that is killed and resumed leaves the files of a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pg_agents import PPO
from pg_zoo.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:The state of .* cannot be stored")

SMALL = ["n_envs:2", "n_steps:32", "batch_size:32", "n_epochs:1", "policy_kwargs:dict(net_arch=[8])"]
OPTIONS = ["--seed", "3", "--eval-episodes", "1", "--verbose", "0", "--checkpoint", "64"]
EVERYTHING = [
    *("-n", "1280", "--eval-freq", "192", "--save-freq", "256", "-tb", "tb", "--log-interval", "2"),
    *("--hyperparams", *SMALL, "normalize:True", "ent_coef:lin_0.01", "frame_stack:2"),
]
KINDS = {
    "everything": (EVERYTHING, 6),
    "native": (["-n", "640", "--vec-env", "native", "--eval-freq", "192", "--hyperparams", *SMALL], 2),
    "world": (["-n", "640", "--vec-env", "world", "--eval-freq", "192", "--hyperparams", *SMALL, "normalize:True"], 2),
    "subproc": (["-n", "384", "--vec-env", "subproc", "--eval-freq", "192", "--hyperparams", *SMALL], 1),
}
ENVS = {"native": "pg/TorqueBandit-v0"}
RUN = "logs/ppo/{}_1"


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


def in_a_child(seconds: float, arguments: list[str]) -> bool:
    """Run the command in a copy of this process, which is killed after some time; whether it has ended before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = main(arguments)
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"The command {arguments} ended with {status}.")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def play(folder: Path, kind: str) -> None:
    """Train once without a break, and once with kills."""
    (folder / "whole").mkdir()
    os.chdir(folder / "whole")
    main(command(kind))  # here, so that all children find the compiled engine loaded
    began = time.monotonic()
    shutil.rmtree("logs")
    shutil.rmtree("tb", ignore_errors=True)
    assert in_a_child(600, command(kind))
    whole = time.monotonic() - began
    (folder / "run").mkdir()
    os.chdir(folder / "run")
    rng, n_kills, wanted = random.Random(0), 0, KINDS[kind][1]
    while True:
        has_checkpoint = any(run_of(kind).glob("checkpoints/step_*"))
        if not has_checkpoint:
            shutil.rmtree("logs", ignore_errors=True)
            shutil.rmtree("tb", ignore_errors=True)
        arguments = ["train", "--resume", str(run_of(kind))] if has_checkpoint else command(kind)
        # Each is given the time for a part, and a command that makes no headway the time for more.
        if in_a_child(rng.uniform(0.3, 0.9) * whole if n_kills < wanted else 600, arguments):
            break
        n_kills += 1
    print(json.dumps({"kills": n_kills}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are copies of a process")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_and_resumed_leaves_the_files_of_one_left_alone(kind: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), kind], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] >= 1
    whole, run = content(tmp_path / "whole"), content(tmp_path / "run")
    np.testing.assert_equal(run, whole)
    assert {f"{run_of(kind)}/{name}" for name in ("best_model.zip", "evaluations.npz")} <= whole.keys()


if __name__ == "__main__":
    play(Path(sys.argv[1]), sys.argv[2])
