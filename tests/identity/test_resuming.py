"""A training that is interrupted and resumed equals one that is not, bit for bit."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from pg_agents import (
    A2C,
    GRPO,
    NPG,
    PPO,
    REINFORCE,
    RLOO,
    TRPO,
    ActorCritic,
    Checkpoint,
    EvalCallback,
    PolicyGradient,
    ReinforceBaseline,
    make_vec,
)
from pg_agents.resuming import agents
from pg_agents.resuming.state import capture

SMALL = {"net_arch": [4]}


class Killed(Exception):
    """Stands for the end of a process."""


class Kill(BaseCallback):
    """Ends a training in the middle of a rollout."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def next_look(self) -> int:
        return max(1, -(-(self.at - self.model.num_timesteps) // self.model.n_envs))

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.at:
            raise Killed
        return True


class Rows(KVWriter):
    """What was logged, but for times."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        kept = {name: value for name, value in key_values.items() if name not in ("time/fps", "time/time_elapsed")}
        self.rows.append({"step": step, **kept})

    def close(self) -> None:
        pass


def logged(agent: PolicyGradient) -> Rows:
    rows = Rows()
    agent.set_logger(Logger(None, [rows]))
    return rows


def everything(agent: PolicyGradient) -> Any:
    """Whatever a training leaves, but for times."""
    state = agents.state_of(agent)
    del state["elapsed"]
    for episode in agent.ep_info_buffer:
        episode["t"] = 0.0
    state["attributes"]["ep_info_buffer"] = [dict(episode) for episode in agent.ep_info_buffer]
    state["attributes"].pop("_num_timesteps_at_start")
    state["attributes"].pop("_custom_logger", None)
    return state


# Times; what is made when it is needed; generators of spaces, which draw nothing and which no seed determines.
UNDETERMINED = {"episode_times", "t_start", "_t_start", "_cached_spec"}
UNDETERMINED |= {"observation_space", "single_observation_space", "action_space", "single_action_space"}


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    assert type(one) is type(other), (place, one, other)
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            if key not in UNDETERMINED:
                assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for i, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{place}[{i}]")
    elif isinstance(one, (np.ndarray, th.Tensor)):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=place)
    else:
        assert one == other or one != one, (place, one, other)


def scramble() -> None:
    """Another process would have other global generators."""
    random.seed(9), np.random.seed(9), th.manual_seed(9)


def compare(
    make: Callable[[], PolicyGradient],
    folder: Path,
    *,
    total: int,
    every: int,
    kill_at: int,
    callbacks: Callable[[], list[BaseCallback]] = list,
    cuts: bool = False,
    **resume: Any,
) -> PolicyGradient:
    """Train in one go, and with an interruption; both end equal. The undisturbed one has checkpoints if these cut."""
    whole = make()
    rows = logged(whole)
    own = [Checkpoint(folder / "whole", every)] if cuts else []
    whole.learn(total, callback=[*callbacks(), *own, Kill(10**9)], log_interval=1)

    interrupted = make()
    first_rows = logged(interrupted)
    with pytest.raises(Killed):
        interrupted.learn(total, callback=[*callbacks(), Checkpoint(folder / "run", every), Kill(kill_at)], log_interval=1)
    interrupted.env.close()
    scramble()

    given = {name: value() if name == "env" else value for name, value in resume.items()}
    resumed = type(interrupted).resume(folder / "run", **given)
    assert 0 < resumed.num_timesteps < kill_at
    n_before = sum(row["step"] <= resumed.num_timesteps for row in first_rows.rows)
    last_rows = logged(resumed)
    scramble()
    resumed.learn_on(callback=[*callbacks(), Kill(10**9)])
    assert_equal(everything(resumed), everything(whole))
    if not cuts:
        assert_equal(capture(resumed.env), capture(whole.env))
    assert_equal(first_rows.rows[:n_before] + last_rows.rows, rows.rows)
    whole.env.close(), resumed.env.close()
    return resumed


def cartpole(n_envs: int = 2, **kwargs: Any) -> Any:
    return make_vec_env("CartPole-v1", n_envs, seed=5, **kwargs)


ALGORITHMS: dict[str, Callable[[Any, str], PolicyGradient]] = {
    "ppo": lambda env, engine: PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=2, seed=0, policy_kwargs=SMALL, engine=engine),
    "a2c": lambda env, engine: A2C("MlpPolicy", env, seed=0, n_steps=8, policy_kwargs=SMALL, engine=engine),
    "reinforce": lambda env, engine: REINFORCE("MlpPolicy", env, seed=0, policy_kwargs=SMALL, engine=engine),
    "baseline": lambda env, engine: ReinforceBaseline(
        "MlpPolicy", env, seed=0, n_episodes=1, value_learning_rate=0.01, policy_kwargs=SMALL, engine=engine
    ),
    "actor_critic": lambda env, engine: ActorCritic("MlpPolicy", env, seed=0, policy_kwargs=SMALL, engine=engine),
    "npg": lambda env, engine: NPG("MlpPolicy", env, n_steps=16, batch_size=16, seed=0, policy_kwargs=SMALL, engine=engine),
    "trpo": lambda env, engine: TRPO("MlpPolicy", env, n_steps=16, batch_size=16, seed=0, policy_kwargs=SMALL, engine=engine),
    "grpo": lambda env, engine: GRPO("MlpPolicy", env, group_size=2, kl_coef=0.1, seed=0, policy_kwargs=SMALL, engine=engine),
    "rloo": lambda env, engine: RLOO("MlpPolicy", env, group_size=2, seed=0, policy_kwargs=SMALL, engine=engine),
}


ENVIRONMENTS: dict[str, Callable[[Path], Any]] = {
    "sync, same step": lambda folder: make_vec("CartPole-v1", 3, seed=5, vectorization_mode="sync"),
    "sync, next step": lambda folder: gym.make_vec("CartPole-v1", 3, "sync"),
    "native": lambda folder: make_vec("CartPole-v1", 3, seed=5),
    "world": lambda folder: make_vec("CartPole-v1", 3, seed=5, world=True),
    "normalised world": lambda folder: VecNormalize(make_vec("CartPole-v1", 3, seed=5, world=True)),
    "normalised": lambda folder: VecNormalize(cartpole(), gamma=0.9),
    "stacked": lambda folder: VecFrameStack(cartpole(), 3),
    "monitored": lambda folder: VecMonitor(make_vec_env("CartPole-v1", 2, seed=5)),
    "wrapped": lambda folder: cartpole(wrapper_class=gym.wrappers.NormalizeObservation),
    "stacked and normalised": lambda folder: VecFrameStack(VecNormalize(cartpole()), 2),
    "taxi": lambda folder: make_vec_env("Taxi-v4", 2, seed=5),
    "lake": lambda folder: make_vec_env("FrozenLake-v1", 2, seed=5, env_kwargs={"is_slippery": True}),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_kind_of_environment_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    def make() -> PolicyGradient:
        return PPO("MlpPolicy", ENVIRONMENTS[name](tmp_path), n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs=SMALL)

    compare(make, tmp_path, total=400, every=100, kill_at=290)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_every_algorithm_on_both_engines_goes_on_bit_for_bit(name: str, engine: str, tmp_path: Path) -> None:
    compare(lambda: ALGORITHMS[name](cartpole(), engine), tmp_path, total=400, every=100, kill_at=290)
