"""Problems small enough to be solved exactly, as environments and as formulas."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from pg_agents.policies import ActorPolicy


class Bandit(gym.Env):
    """Two arms, one step; the first pays 2, the second nothing."""

    observation_space = spaces.Discrete(1)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, 2.0 if action == 0 else 0.0, True, False, {}


class TwoStates(gym.Env):
    """Two states, two actions, at most four steps, of which the last is a time limit.

    Action 1 in state 1 ends the episode, so that the policy decides how long episodes are.
    """

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)
    horizon = 4
    # rewards[s, a], and the probability to be in state 1 next
    rewards = np.array([[1.0, -0.5], [0.5, 2.0]])
    to_state_1 = np.array([[0.2, 0.9], [0.6, 0.0]])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = 0, 0
        return self.state, {}

    def step(self, action):
        reward = self.rewards[self.state, action]
        terminated = bool(self.state == 1 and action == 1)
        self.state = int(self.np_random.random() < self.to_state_1[self.state, action])
        self.steps += 1
        return self.state, reward, terminated, not terminated and self.steps >= self.horizon, {}


def expected_return(logits, gamma):
    """J of `TwoStates` for a policy softmax(logits[s]), by dynamic programming from the last step back."""
    policy = th.softmax(logits, dim=1)
    rewards, to_state_1 = th.tensor(TwoStates.rewards), th.tensor(TwoStates.to_state_1)
    goes_on = th.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=th.float64)
    values = th.zeros(2, dtype=th.float64)
    for _ in range(TwoStates.horizon):
        following = to_state_1 * values[1] + (1 - to_state_1) * values[0]
        values = (policy * (rewards + gamma * goes_on * following)).sum(dim=1)
    return values[0]


class TabularPolicy(ActorPolicy):
    """softmax(θ[s]): a linear layer without bias on one-hot states."""

    def _rebuild(self):
        super()._rebuild()
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, self.action_space.n, bias=False)
        nn.init.zeros_(self.action_net.weight)

    @property
    def theta(self):
        """`(states, actions)`."""
        return self.action_net.weight.detach().T
