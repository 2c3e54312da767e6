"""What an algorithm of one's own is given in the slots that it fills."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from pg_agents import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.buffers import RolloutBuffer
from pg_agents.contract import Objective
from pg_agents.objectives import score_function


class Counting(gym.Env):
    """Observes the number of steps so far; episode ends by termination after 2, then by a time limit after 3 steps."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.total, self.episode = 0, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.float32([self.total]), {}

    def step(self, action):
        self.total, self.t = self.total + 1, self.t + 1
        terminated = self.episode % 2 == 0 and self.t == 2
        return np.float32([self.total]), 1.0, terminated, not terminated and self.t == 3, {}


class ValueIsObservation(ActorCriticPolicy):
    """V(s) = s, so that each value says which state it is of."""

    def forward(self, obs, deterministic=False):
        actions, _, log_prob = super().forward(obs, deterministic)
        return actions, obs, log_prob

    def predict_values(self, obs):
        return obs


class Recording(PolicyGradient):
    """Keeps what its slots are given."""

    def __init__(self, policy, env, n_steps=6, n_episodes=None, **kwargs):
        super().__init__(policy, env, learning_rate=1e-3, n_steps=n_steps, n_episodes=n_episodes, gamma=0.5, **kwargs)

    def estimate(self, rollout):
        self.seen = rollout
        return super().estimate(rollout)

    def objective(self):
        def value(batch):
            self.batch = batch
            return score_function(batch.log_prob, batch.advantages)

        return Objective(value)


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def test_a_rollout_knows_terminations_and_time_limits_apart():
    rollout = Recording(ValueIsObservation, Counting()).learn(6).seen
    # Steps 0 1 | 2 3 4 | 5: a termination after step 1, a time limit after step 4, and step 5 goes on.
    np.testing.assert_array_equal(rollout.terminated, column(0, 1, 0, 0, 0, 0))
    np.testing.assert_array_equal(rollout.truncated, column(0, 0, 0, 0, 1, 0))
    np.testing.assert_array_equal(rollout.ends, column(0, 1, 0, 0, 1, 0))
    np.testing.assert_array_equal(rollout.rewards, column(1, 1, 1, 1, 1, 1))
    np.testing.assert_array_equal(rollout.values, column(0, 1, 2, 3, 4, 5))
    # V of the state that each step led to; the one after the termination is not used.
    np.testing.assert_array_equal(rollout.next_values[[0, 2, 3, 4, 5]], column(1, 3, 4, 5, 6))
    np.testing.assert_array_equal(rollout.bootstrapped_rewards, column(1, 1, 1, 1, 1 + 0.5 * 5, 1))
    np.testing.assert_array_equal(rollout.td_errors(0.5), column(1.5, 0, 0.5, 0, -0.5, -1))
    assert rollout.trained_on.all()


class DefaultSteps(PolicyGradient):
    """Whole episodes with nothing else said."""

    def __init__(self, policy, env, **kwargs):
        super().__init__(policy, env, learning_rate=1e-3, gamma=0.5, n_episodes=1, **kwargs)

    def objective(self):
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages))


def test_whole_episodes_need_no_number_of_steps():
    assert DefaultSteps("MlpPolicy", Counting()).learn(1).num_timesteps == 2


def test_whole_episodes_know_the_value_of_the_state_that_a_time_limit_cut():
    rollout = Recording(ValueIsObservation, Counting(), n_episodes=2).learn(1).seen
    np.testing.assert_array_equal(rollout.td_errors(0.5), column(1.5, 0, 0.5, 0, -0.5))


def test_an_objective_is_given_tensors_of_one_entry_for_each_sample():
    agent = Recording("MlpPolicy", DummyVecEnv([Counting, Counting])).learn(12)
    batch = agent.batch
    for tensor in (batch.log_prob, batch.old_log_prob, batch.advantages, batch.values, batch.old_values, batch.returns,
                   batch.entropy, batch.ratio, batch.log_ratio):  # fmt: skip
        assert tensor.shape == (12,)
    # A single pass over the rollout: the policy is still the one that collected it.
    assert batch.ratio.tolist() == pytest.approx([1.0] * 12)
    th.testing.assert_close(batch.values.detach(), batch.old_values)


class Halved(SB3RolloutBuffer):
    """A buffer with an estimate of its own."""


def test_a_buffer_that_would_ignore_an_algorithms_estimate_is_refused():
    with pytest.raises(ValueError, match=r"`rollout_buffer_class` is Halved, but .* Recording has its own way"):
        Recording("MlpPolicy", Counting(), rollout_buffer_class=Halved)


@pytest.mark.parametrize(
    ("estimates", "returned"),
    [
        (lambda rollout: rollout.rewards, r"one array of shape \(6, 1\)"),
        (lambda rollout: (rollout.rewards.sum(0),) * 2, r"a tuple of shapes \[\(1,\), \(1,\)\]"),
        (lambda rollout: (rollout.rewards,), r"a tuple of shapes \[\(6, 1\)\]"),
        (lambda rollout: None, "a NoneType"),
    ],
    ids=["one array", "one entry for each environment", "returns missing", "nothing"],
)
def test_an_estimate_of_the_wrong_shape_says_what_is_expected(estimates, returned):
    class Wrong(Recording):
        def estimate(self, rollout):
            return estimates(rollout)

    expected = r"`estimate` must return advantages and returns as two arrays of the rollout's shape \(6, 1\)"
    with pytest.raises(ValueError, match=rf"{expected}, but returned {returned}\.$"):
        Wrong("MlpPolicy", Counting()).learn(6)


class Larger(RolloutBuffer):
    """A buffer that carries an algorithm's estimate."""


@pytest.mark.parametrize("buffer", [None, SB3RolloutBuffer, RolloutBuffer, Larger])
def test_an_algorithms_estimate_is_used_with_any_buffer_that_carries_it(buffer):
    agent = Recording("MlpPolicy", Counting(), rollout_buffer_class=buffer).learn(6)
    assert len(agent.seen.rewards) == 6
    assert isinstance(agent.rollout_buffer, buffer or SB3RolloutBuffer)


class WithoutObjective(PolicyGradient):
    pass


def test_an_algorithm_without_an_objective_says_what_is_missing():
    agent = WithoutObjective("MlpPolicy", Counting(), learning_rate=1e-3, n_steps=4, gamma=0.9)
    with pytest.raises(NotImplementedError, match=r"WithoutObjective does not say what it maximises"):
        agent.learn(4)


class TakesABatch(PolicyGradient):
    def objective(self, batch):
        return batch.log_prob


def test_an_objective_that_takes_a_batch_is_told_the_contract():
    with pytest.raises(TypeError, match=r"`objective` of TakesABatch must .* return an Objective\(value, weight\)"):
        TakesABatch("MlpPolicy", Counting(), learning_rate=1e-3, gamma=0.9)


# Constructors


class Listed(PolicyGradient):
    """A policy gradient with arguments of its own."""

    learning_rate: float = 1e-3
    gamma: float = 0.5
    n_steps: int = 4
    power: float = argument(default=1.0, at_least=0)

    def objective(self):
        return Objective(lambda batch: batch.advantages * batch.log_prob)


class SetsItsOwn(Listed):
    coef: float = 0.1

    def __init__(self, *args, coef=0.5, **kwargs):
        self.coef = coef
        super().__init__(*args, **kwargs)


class Mixin:
    def __init__(self, *args, **kwargs):
        self.mixed = True
        super().__init__(*args, **kwargs)


class MixedIn(Mixin, Listed):
    gamma: float = 0.9


class WithDefaultPolicy(Listed):
    policy: str = "MlpPolicy"


def test_fields_make_a_constructor_with_ranges_and_suggestions():
    assert Listed("MlpPolicy", Counting(), 1e-2, power=2.0, seed=0).power == 2.0
    with pytest.raises(ValueError, match="`power` must be a number at least 0, but is -1"):
        Listed("MlpPolicy", Counting(), power=-1)
    with pytest.raises(ValueError, match="`n_steps` must be an integer at least 1, but is 0"):
        Listed("MlpPolicy", Counting(), n_steps=0)
    with pytest.raises(
        TypeError, match=r"Listed\(\) got an unexpected keyword argument 'powr'. Did you mean 'power'\?"
    ):
        Listed("MlpPolicy", Counting(), powr=1)
    with pytest.raises(TypeError, match="n_epochs"):  # not listed, so not taken
        Listed("MlpPolicy", Counting(), n_epochs=2)


def test_constructors_of_subclasses_and_mixins_run_and_keep_what_they_set():
    assert SetsItsOwn("MlpPolicy", Counting()).coef == 0.5
    agent = MixedIn("MlpPolicy", Counting())
    assert agent.mixed
    assert WithDefaultPolicy(env=Counting()).policy_class is ActorCriticPolicy


class KeepsTheConstructor(PolicyGradient, init=False):
    n_steps: int = 4


def test_a_class_with_init_false_takes_what_its_parent_takes():
    assert KeepsTheConstructor.__init__ is PolicyGradient.__init__
    agent = KeepsTheConstructor("MlpPolicy", Counting(), learning_rate=1e-2, gamma=0.5, n_epochs=2)
    assert (agent.n_steps, agent.n_epochs) == (4, 2)


class Decaying(PolicyGradient):
    learning_rate: float = 1e-2
    gamma: float = 0.9
    n_steps: int = 8
    decay: float = argument(default=0.5, at_least=0, at_most=1)


class Both(Listed, Decaying):
    pass


class BothAndMore(Listed, Decaying):
    bias: float = 0.0


@pytest.mark.parametrize("algorithm", [Both, BothAndMore])
def test_fields_of_a_second_parent_are_arguments_too(algorithm):
    agent = algorithm("MlpPolicy", Counting(), decay=0.25)
    assert (agent.decay, agent.power, agent.n_steps, agent.gamma) == (0.25, 1.0, 4, 0.5)  # the first parent's first
    with pytest.raises(ValueError, match="`decay` must be a number at least 0 and at most 1, but is 2"):
        algorithm("MlpPolicy", Counting(), decay=2)


def test_a_class_attribute_that_would_become_an_argument_is_refused():
    with pytest.raises(TypeError, match=r"`has_critic` is a class attribute .* annotate .* with ClassVar"):

        class NoCritic(Listed):
            has_critic: bool = False

    with pytest.raises(TypeError, match=r"default \[64\] of the argument `layers` would be shared"):

        class WithLayers(Listed):
            layers: list = [64]

    class WithTable(Listed):
        table: ClassVar[dict] = {"a": 1}

    assert WithTable("MlpPolicy", Counting()).table == {"a": 1}
    with pytest.raises(TypeError, match="table"):
        WithTable("MlpPolicy", Counting(), table={})


def test_a_hook_that_is_no_longer_called_is_told():
    with pytest.warns(UserWarning, match=r"`update_settings` of Former is no longer called: give `settings`"):

        class Former(Listed):
            def update_settings(self):
                return {}

    class Weighted(Listed):
        weight: float = 2.0  # an argument, not the hook

    assert Weighted("MlpPolicy", Counting(), weight=3.0).weight == 3.0
