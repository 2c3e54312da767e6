"""A benchmark's cell that is stopped in the middle and started again gives the results of one that was left alone."""

from __future__ import annotations

import csv
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pg_agents import PPO
from pg_zoo.results.storage import is_left_over, partial_folder
from pg_zoo.runs import partial
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import run_cell

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "n_envs": 2, "n_timesteps": 256, "policy": "MlpPolicy"}
FEW = {"eval_points": 4, "eval_episodes": 2, "final_episodes": 3}


COUNTS: list[int] = []


def simulator() -> Callable[[bool], int]:
    """Counts steps where nobody sees it."""
    number = len(COUNTS)
    COUNTS.append(0)

    def step(begins: bool) -> int:
        COUNTS[number] = 0 if begins else COUNTS[number] + 1
        return COUNTS[number]

    return step


class Outside(gym.Env):
    """Has a state that cannot be read, or not even seen, as that of a simulator written in C."""

    seen = True

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def __init__(self) -> None:
        self.simulate = simulator()
        self.process = threading.Thread() if self.seen else None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.simulate(True)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        t = self.simulate(False)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(t + action), t == 7, False, {}


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gym.envs.registration.EnvSpec("Outside-v0", entry_point=Outside)
    monkeypatch.setitem(gym.registry, "Outside-v0", spec)


@pytest.fixture
def at_each_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "INTERVAL", 0.0)


def cell_of(env: str = "CartPole-v1", hyperparams: dict[str, Any] = SMALL, **options: Any) -> Cell:
    return Cell("ppo", env, 3, hyperparams, "a test", **{**FEW, **options})


def stopping_at(number: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[[int, float], None]:
    """Stops the training at an evaluation, as a signal does."""
    told: list[int] = []

    def on_evaluation(timesteps: int, mean_return: float) -> None:
        told.append(timesteps)
        if len(told) == number:
            raise error("stop")

    return on_evaluation


def stop(cell: Cell, folder: Path, number: int = 3, error: type[BaseException] = KeyboardInterrupt) -> None:
    with pytest.raises(error):
        run_cell(cell, folder, stopping_at(number, error))
    assert not folder.exists()


def results(folder: Path) -> dict[str, Any]:
    """All results, without times."""
    with (folder / "curve.csv").open(newline="") as file:
        found: dict[str, Any] = {"curve": [(row["timesteps"], row["mean_return"]) for row in csv.DictReader(file)]}
    found["evaluation"] = (folder / "evaluation.csv").read_text()
    found["score"] = json.loads((folder / "cell.json").read_text())["score"]
    if (folder / "agent.zip").exists():
        found["policy"] = {
            name: value.numpy() for name, value in PPO.load(folder / "agent.zip").policy.state_dict().items()
        }
    if (folder / "vecnormalize.pkl").exists():
        with (folder / "vecnormalize.pkl").open("rb") as file:
            found["statistics"] = vars(pickle.load(file).obs_rms)
    if (folder / "tensorboard").exists():
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time")]
        found["log"] = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    return found


@pytest.mark.usefixtures("at_each_update")
def test_a_cell_that_is_stopped_inside_and_goes_on_equals_one_that_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(hyperparams={**SMALL, "normalize": True}, tensorboard=True, keep_agent=True)
    with monkeypatch.context() as patch:
        patch.setattr(partial, "INTERVAL", 600.0)
        run_cell(cell, tmp_path / "whole")
    collected: list[int] = []
    collect = PPO.collect_rollouts

    def counting(self: PPO, *args: Any, **kwargs: Any) -> bool:
        collected.append(self.num_timesteps)
        return collect(self, *args, **kwargs)

    monkeypatch.setattr(PPO, "collect_rollouts", counting)
    for number in (2, 3):
        stop(cell, tmp_path / "cell", number)
    assert partial_folder(tmp_path / "cell").is_dir()
    told: list[tuple[int, float]] = []
    run_cell(cell, tmp_path / "cell", lambda *evaluation: told.append(evaluation))
    assert collected.count(0) == 1
    assert len(collected) < 12  # of 8 rollouts, those are repeated in which it was stopped
    np.testing.assert_equal(results(tmp_path / "cell"), results(tmp_path / "whole"))
    assert [(str(steps), str(value)) for steps, value in told] == results(tmp_path / "cell")["curve"]
    assert {path.name for path in tmp_path.iterdir()} == {"cell", "whole"}
    times = [float(line.split(",")[1]) for line in (tmp_path / "cell/curve.csv").read_text().splitlines()[1:]]
    assert times == sorted(times)
    assert times[0] > 0


@pytest.mark.usefixtures("at_each_update")
@pytest.mark.parametrize("seen", [True, False])
def test_where_environments_cannot_be_stored_a_cell_begins_anew_with_the_same_results(
    seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outside, "seen", seen)
    cell = cell_of("Outside-v0", keep_agent=True)
    stop(cell, tmp_path / "cell")
    assert not list(tmp_path.iterdir())
    run_cell(cell, tmp_path / "cell")
    monkeypatch.setattr(partial, "INTERVAL", 600.0)
    run_cell(cell, tmp_path / "whole")
    np.testing.assert_equal(results(tmp_path / "cell"), results(tmp_path / "whole"))


@pytest.mark.usefixtures("at_each_update")
@pytest.mark.parametrize("change", ["other cell", "other code", "damaged", "other environment"])
def test_checkpoints_of_another_training_are_not_used(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(keep_agent=True)
    stop(cell, tmp_path / "cell")
    left = partial_folder(tmp_path / "cell")
    if change == "other cell":
        cell = cell_of(hyperparams={**SMALL, "gamma": 0.5}, keep_agent=True)
    elif change == "other code":
        (left / "cell.json").write_text((left / "cell.json").read_text().replace('"torch": "', '"torch": "0'))
    elif change == "damaged":
        for checkpoint in left.glob("step_*/manifest.json"):
            checkpoint.write_text("{}")
    else:
        step = gym.envs.classic_control.CartPoleEnv.step
        monkeypatch.setattr(gym.envs.classic_control.CartPoleEnv, "step", lambda self, action: step(self, 1 - action))
    told: list[int] = []
    with pytest.warns(UserWarning, match="is damaged") if change == "damaged" else monkeypatch.context():
        run_cell(cell, tmp_path / "cell", lambda steps, _: told.append(steps))
    assert len(told) == 4
    run_cell(cell, tmp_path / "whole")
    np.testing.assert_equal(results(tmp_path / "cell"), results(tmp_path / "whole"))
    assert not left.exists()


@pytest.mark.usefixtures("at_each_update")
def test_a_cell_that_fails_or_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    stop(cell_of(), tmp_path / "cell", error=ArithmeticError)
    assert not list(tmp_path.iterdir())


def test_a_cell_of_less_than_ten_minutes_takes_no_checkpoint(tmp_path: Path) -> None:
    stop(cell_of(), tmp_path / "cell")
    assert not list(tmp_path.iterdir())


def test_only_checkpoints_of_unfinished_trainings_are_of_use(tmp_path: Path) -> None:
    (tmp_path / "seed_1").mkdir()
    found = {
        name: is_left_over(tmp_path / name) for name in (".seed_0.checkpoints", ".seed_1.checkpoints", ".seed_0.x")
    }
    assert found == {".seed_0.checkpoints": False, ".seed_1.checkpoints": True, ".seed_0.x": True}
