"""Small environments and agents, and one callback that records what it sees: a claim is checked in a moment."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from pg_agents import A2C, NPG, PPO, REINFORCE, TRPO, ActorCritic, ReinforceBaseline

REFERENCES = {PPO: stable_baselines3.PPO, A2C: stable_baselines3.A2C, TRPO: sb3_contrib.TRPO}
SB3S = list(REFERENCES)  # those that SB3 or sb3-contrib has too
FIRST_ORDER = [PPO, A2C, REINFORCE, ReinforceBaseline, ActorCritic]  # an optimiser moves all that they learn
NATURAL = [TRPO, NPG]
ALL = [*FIRST_ORDER, *NATURAL]
SHORT = {
    "PPO": {"n_steps": 8, "batch_size": 8, "n_epochs": 2},
    "A2C": {"n_steps": 8},
    "TRPO": {"n_steps": 8, "batch_size": 8, "n_critic_updates": 2},
    "NPG": {"n_steps": 8, "batch_size": 8, "n_critic_updates": 2},
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


class FaultyEnv(TinyEnv):
    """A `TinyEnv` with one fault.

    Args:
        at: The faulty step, counted over all episodes; 0 is every reset.
        observation: The observation of that step; None for the usual one.
        reward: The reward of that step; None for the usual one.
        error: An exception that the step raises, or None.
    """

    def __init__(self, action_space=None, observation_space=None, *, at=18, observation=None, reward=None, error=None,
                 **kwargs):  # fmt: skip
        super().__init__(action_space, observation_space, **kwargs)
        self.at, self.observation, self.reward, self.error = at, observation, reward, error

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return self._told(self.observation, observation, self.at == 0), info

    def step(self, action):
        observation, reward, *ends, info = super().step(action)
        now = len(self.actions) == self.at
        if now and self.error is not None:
            raise self.error
        return self._told(self.observation, observation, now), self._told(self.reward, reward, now), *ends, info

    def _told(self, told, usual, now):
        return told if now and told is not None else usual


class ScriptedEnv(gym.Env):
    """Step t of episode k is observed as (k, t) and pays t.

    Args:
        lengths: Numbers of steps of the first episodes; later ones repeat them.
        time_limit: Whether a time limit ends each episode; None alternates, beginning with a termination.
    """

    observation_space = spaces.Box(-1, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, *lengths, time_limit=False):
        self.lengths, self.time_limit, self.episode = lengths, time_limit, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.lengths[self.episode % len(self.lengths)]
        cut = self.episode % 2 == 1 if self.time_limit is None else self.time_limit
        return self.observe(), self.reward(), over and not cut, over and cut, {}

    def observe(self):
        return np.array([self.episode, self.t], dtype=np.float32)

    def reward(self):
        return float(self.t)


class Spy(BaseCallback):
    """Records all events in `events`, and in `seen` what the functions given for some of them return.

    Args:
        answer: Function of the spy that gives the return value of `on_step`.
        **at: Functions of the spy by event: `training_start`, `rollout_start`, `step`, `rollout_end`, `training_end`.
    """

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


class RepeatEnv(gym.Env):
    """Episodes of one step, which pay for the components of the action that repeat the observation: 1 for all.

    Args:
        space: Of observations; of a Dict, the part `"a"` is repeated.
        action_space: By default that of observations, or of the part.

    Attributes:
        outside: Actions that are not in the action space.
    """

    def __init__(self, space, action_space=None):
        repeated = space["a"] if isinstance(space, spaces.Dict) else space
        self.observation_space, self.action_space = deepcopy(space), deepcopy(action_space or repeated)
        self.outside = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        if not self.action_space.contains(np.asarray(action)):
            self.outside.append(action)
        shown = self.shown["a"] if isinstance(self.shown, dict) else self.shown
        return self.shown, float(np.mean(np.equal(action, shown))), True, False, {}
