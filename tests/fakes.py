"""Agents and environments small enough that a contract can be checked in a moment."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from pg_agents import A2C, PPO, REINFORCE, ActorCritic, ReinforceBaseline

SB3S = [PPO, A2C]  # the two that SB3 has too
ALL = [PPO, A2C, REINFORCE, ReinforceBaseline, ActorCritic]
SHORT = {
    "PPO": {"n_steps": 8, "batch_size": 8, "n_epochs": 2},
    "A2C": {"n_steps": 8},
    "REINFORCE": {"n_episodes": 1},
    "ReinforceBaseline": {"n_episodes": 1},
    "ActorCritic": {"n_steps": 8, "value_learning_rate": None},  # one step size, as the others have
}
CLIPPING, SQUASHING = {}, {"use_sde": True, "policy_kwargs": {"squash_output": True}}


class TinyEnv(gym.Env):
    """Episodes of five steps with random observations; remembers what it was asked to do."""

    def __init__(self, action_space=None, observation_space=None, *, time_limit=False, length=5, success=None):
        self.action_space = action_space or spaces.Discrete(2)
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,), np.float32)
        self.time_limit, self.length, self.success = time_limit, length, success
        self.actions, self.n_resets = [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.n_resets += 1
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.actions.append(np.array(action))
        self.t += 1
        over = self.t >= self.length
        info = {} if self.success is None else {"is_success": self.success}
        reward = float(np.sum(action)) + self.t
        return self.observation_space.sample(), reward, over and not self.time_limit, over and self.time_limit, info


class Spy(BaseCallback):
    """Notes the events in order and what the functions given for them see; `answer` is what `on_step` returns."""

    def __init__(self, answer=lambda spy: True, **at):
        super().__init__()
        self.answer, self.at, self.events, self.seen = answer, at, [], []

    def _note(self, event):
        self.events.append(event)
        if event in self.at:
            self.seen.append(self.at[event](self))

    def _on_training_start(self):
        self._note("training_start")

    def _on_rollout_start(self):
        self._note("rollout_start")

    def _on_step(self):
        self._note("step")
        return self.answer(self)

    def _on_rollout_end(self):
        self._note("rollout_end")

    def _on_training_end(self):
        self._note("training_end")


def tiny_vec_env(n_envs=1, *args, **kwargs):
    return DummyVecEnv([lambda: TinyEnv(*args, **kwargs) for _ in range(n_envs)])


def short(cls, env=None, policy="MlpPolicy", **kwargs):
    """An agent, ours or SB3's, with short rollouts and a fixed seed."""
    env = TinyEnv() if env is None else env
    return cls(policy, env, device="cpu", **{**SHORT[cls.__name__], "seed": 0, **kwargs})


def weights(agent):
    """A copy of all parameters and buffers of the policy."""
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


def same(one, other):
    """Whether two dictionaries of tensors are equal to the last bit."""
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)
