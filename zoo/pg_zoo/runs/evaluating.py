"""Evaluations: their seeds and random numbers, the agent that acts at random, and the choice of actions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.envs.evaluation import deterministic_evaluation, evaluate_policy
from pg_agents.envs.make import make_vec
from pg_zoo.options import EnjoyOptions, TrainOptions
from pg_zoo.runs.cell import MAX_SEED, Cell

N_EVAL_ENVS = 10  # environments of an evaluation, at most


class RandomAgent:
    """Draws actions with `sample` of the action space."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """An action for each environment, whatever the observation."""
        return np.array([self.env.action_space.sample() for _ in range(self.env.num_envs)]), state


class _Unseen(gym.ObservationWrapper[int, Any, Any]):
    """Without observations, some of which, such as texts, SB3's vector environments cannot hold."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space: spaces.Space[Any] = spaces.Discrete(1)

    def observation(self, observation: Any) -> int:
        return 0


def random_env(cell: Cell) -> VecEnv:
    """The environments for the evaluation of a cell's random actions."""
    n_envs, kwargs = min(N_EVAL_ENVS, cell.final_episodes), cell.hyperparams.get("env_kwargs")
    if cell.vec_env == "world":  # as those of the trained agents: a seed stands for the same episodes
        return make_vec(cell.env, n_envs, world=True, env_kwargs=kwargs)
    return make_vec_env(gym.spec(cell.env).make, n_envs, env_kwargs=kwargs, wrapper_class=_Unseen)


def run_evaluation(
    cell: Cell, agent: PolicyPredictor, env: VecEnv, number: int, n_episodes: int, deterministic: bool
) -> tuple[list[float], list[int]]:
    """Unnormalised returns, and lengths, of the episodes of an evaluation."""
    seed = evaluation_seed(cell.seed, number)
    with own_random_state(seed, getattr(agent, "device", None)):
        env.seed(seed)
        found = evaluate_policy(agent, env, n_episodes, deterministic, return_episode_rewards=True)
    returns, lengths = found
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    if not np.isfinite(returns).all():
        raise FloatingPointError(f"An evaluation of {cell} has returns that are not finite.")
    return [float(value) for value in returns], [int(length) for length in lengths]


def evaluation_seed(seed: int, number: int) -> int:
    """The seed of an evaluation's first environment: at least 2^30, so that training never uses it.

    Args:
        seed: The cell's seed.
        number: 0 for the evaluation after training; 1, 2, ... for those during training.
    """
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return MAX_SEED + drawn % (MAX_SEED - N_EVAL_ENVS)  # below 2^31: some environments take no larger ones


@contextmanager
def own_random_state(seed: int, device: th.device | None = None) -> Iterator[None]:
    """Seed the global generators, and restore their state at the end."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - environments may use it
    gpus = [device] if device is not None and device.type == "cuda" else []
    with th.random.fork_rng(gpus):
        try:
            set_random_seed(seed, using_cuda=bool(gpus))
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def takes_most_probable(args: TrainOptions | EnjoyOptions, env: VecEnv, default: bool = True) -> bool:
    """Whether an evaluation takes the most probable actions; if it draws them, it prints the reason.

    Args:
        args: The options; `--deterministic` and `--stochastic` take precedence.
        env: The environment, whose metadata may ask for drawn actions.
        default: The answer if neither decides.
    """
    if args.deterministic:
        return True
    if args.stochastic:
        reason = "--stochastic"
    elif not deterministic_evaluation(env):
        reason = "as the environment asks, whose best policy is stochastic; --deterministic takes the most probable"
    elif not default:
        reason = "as rl_zoo3 has it for this kind of environment; --deterministic takes the most probable"
    else:
        return True
    print(f"Evaluation draws actions from the policy ({reason}).")
    return False
