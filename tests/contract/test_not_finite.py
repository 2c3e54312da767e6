"""A number that is not finite is named with its environment and its step, and spoils nothing that is kept."""

import io
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import TinyEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from pg_agents import A2C, A3C, GRPO, NPG, PPO, REINFORCE, TRPO, ReinforceBaseline
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.evaluation import evaluate_policy
from pg_agents.envs.make import make_vec
from pg_envs.worlds import World, WorldVector, below

STEPS = {
    PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 2},
    A2C: {"n_steps": 8},
    NPG: {"n_steps": 16, "batch_size": 16},
    TRPO: {"n_steps": 16, "batch_size": 16},
    A3C: {"n_steps": 8, "n_workers": 2, "backend": "threads"},
    REINFORCE: {"n_episodes": 2},
    ReinforceBaseline: {"n_episodes": 2},
    GRPO: {"n_groups": 1, "group_size": 2},
}


class Faulty(gym.Env):
    """Episodes of 5 steps; at one step, or the first observation of one episode, a number is not what it should be.

    Args:
        at: The step, counted over all episodes; negative: the episode, -1 the first.
        observation: The number in the observation; None for no fault there.
        reward: The reward; None for no fault there.
        dtype: Of observations.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, at=0, *, observation=None, reward=None, dtype=np.float32):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype)
        self.at, self.observation, self.reward = at, observation, reward
        self.n_steps = self.n_episodes = self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_episodes += 1
        self.t = 0
        return self.observe(self.n_episodes == -self.at), {}

    def step(self, action):
        self.n_steps += 1
        self.t += 1
        now = self.n_steps == self.at
        reward = 1.0 if self.reward is None or not now else self.reward
        return self.observe(now), reward, self.t == 5, False, {}

    def observe(self, now):
        observation = self.np_random.normal(size=3).astype(self.observation_space.dtype)
        if now and self.observation is not None:
            observation[1] = self.observation
        return observation


class Inside(gym.ObservationWrapper):
    """Puts the observation in a Dict, beside a number."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"a": env.observation_space, "b": spaces.Discrete(2)})

    def observation(self, observation):
        return {"a": observation, "b": 1}


class AsImage(gym.ObservationWrapper):
    """Fills an image."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def observation(self, observation):
        return np.broadcast_to(np.abs(observation).astype(np.uint8), (36, 36, 3))


def dummies(fault, wrap=lambda env: env):
    return DummyVecEnv([lambda: wrap(Faulty()), lambda: wrap(Faulty(**fault)), lambda: wrap(Faulty())])


def vectors(fault, mode):
    return VectorEnvAdapter(SyncVectorEnv([Faulty, lambda: Faulty(**fault), Faulty], autoreset_mode=mode))


# The world of the tests below


def start(state, random):
    """Count from a number of its own, which the observation shows."""
    state[0] = float(below(random, 10))


def step(state, action, random, constants):
    state[0] += 1.0
    return (constants[1] if state[0] == constants[0] else 1.0), state[0] == 25.0


def observe(state, observation, constants):
    observation[0] = state[0]
    observation[1] = constants[2] if state[0] == constants[0] else 0.5


def copies_of_a_world(reward=1.0, observation=0.5, at=20.0, actions=None, limit=None):
    """Three copies of a world that reaches its end at 25; one of them is the first to count to 20, where the fault is.

    Returns:
        The environments, the number of that copy, and the step in which it gets there.
    """
    box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    world = World(start, step, observe, 1, box, actions or spaces.Discrete(2), (at, reward, observation))
    env = VectorEnvAdapter(WorldVector(world, 3, max_episode_steps=limit))
    first = first_numbers(env)
    assert sum(first == first.max()) == 1
    return env, int(first.argmax()), 20 - int(first.max())


def first_numbers(env):
    """The number from which each copy counts after a reset with the seed 1."""
    env.seed(1)
    first = env.reset()[:, 0]
    env.seed(1)
    return first


NAN_OBSERVATION, NAN_REWARD = {"at": 4, "observation": np.nan}, {"at": 4, "reward": np.nan}
FAULTS = {
    "NaN observation": (NAN_OBSERVATION, r"observation.* of environment 1 is not finite, after 12 steps in all"),
    "infinite observation": (
        {"at": 4, "observation": np.inf},
        r"observation.* of environment 1 is not finite, after 12",
    ),
    "NaN at a reset": ({"at": -2, "observation": np.nan}, r"observation.* of environment 1 is not finite, after 15"),
    "NaN reward": (NAN_REWARD, r"reward of environment 1 is not finite, after 12 steps in all: nan"),
    "infinite reward": ({"at": 4, "reward": -np.inf}, r"reward of environment 1 is not finite, after 12 .*-inf"),
    "overflowing observation": ({"at": 4, "observation": 1e30}, "observation.* of environment 1 is too large for the"),
}
STACKS = {
    "VecNormalize": lambda fault: VecNormalize(dummies(fault)),
    "frames of it": lambda fault: VecFrameStack(VecNormalize(dummies(fault)), 2),
    "it of frames": lambda fault: VecNormalize(VecFrameStack(dummies(fault), 2)),
    "monitored": lambda fault: VecMonitor(VecNormalize(VecMonitor(dummies(fault)))),
    "rewards alone": lambda fault: VecNormalize(dummies(fault), norm_obs=False),
    "Dict": lambda fault: VecNormalize(dummies(fault, Inside), norm_obs_keys=["a"]),
    "same step": lambda fault: VecNormalize(vectors(fault, AutoresetMode.SAME_STEP)),
    "disabled": lambda fault: VecNormalize(vectors(fault, AutoresetMode.DISABLED)),
}


def normalizer_of(env):
    while not isinstance(env, VecNormalize):
        env = env.venv
    return env


def statistics(env):
    """All that VecNormalize remembers, as bytes."""
    layer = normalizer_of(env)
    kept = {name: vars(layer)[name] for name in ("ret_rms", "returns", "old_obs", "old_reward")}
    return pickle.dumps(kept | {"obs_rms": getattr(layer, "obs_rms", None)})


class Watcher(BaseCallback):
    """Keeps the statistics as they were in the last step that callbacks heard of."""

    def _on_training_start(self):
        self.seen = [statistics(self.training_env)]

    def _on_step(self):
        self.seen.append(statistics(self.training_env))
        return True


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stack", STACKS)
def test_vec_normalize_has_the_statistics_of_before_the_step(stack, fault):
    if stack == "rewards alone" and fault == "overflowing observation":
        pytest.skip("it enters no statistics")
    numbers, message = FAULTS[fault]
    env = STACKS[stack](numbers)
    policy = "MultiInputPolicy" if stack == "Dict" else "MlpPolicy"
    watcher = Watcher()
    agent = A2C(policy, env, n_steps=50, seed=0)
    before = [one.clone() for one in agent.policy.parameters()]
    with pytest.raises(ValueError, match=message):
        agent.learn(1000, callback=watcher)
    assert statistics(env) == watcher.seen[-1]
    assert all(th.equal(*pair) for pair in zip(before, agent.policy.parameters(), strict=True))
    layer = normalizer_of(env)
    assert np.isfinite(layer.ret_rms.var)
    assert np.isfinite(layer.returns).all()


@pytest.mark.parametrize("stack", STACKS)
def test_the_statistics_of_before_a_first_reset_are_kept(stack):
    env = STACKS[stack]({"at": -1, "observation": np.nan})
    policy = "MultiInputPolicy" if stack == "Dict" else "MlpPolicy"
    agent = A2C(policy, env, seed=0)
    with pytest.raises(ValueError, match=r"observation.* of environment 1 is not finite, after 0 steps in all"):
        agent.learn(1000)
    layer = normalizer_of(env)
    if layer.norm_obs:
        parts = layer.obs_rms.values() if isinstance(layer.obs_rms, dict) else [layer.obs_rms]
        assert all(part.count == 1e-4 and not part.mean.any() for part in parts)
    agent.learn(30)  # the fault was that of the first episode
    assert np.isfinite(layer.ret_rms.var)


@pytest.mark.parametrize(
    "stack",
    [
        lambda envs: VecTransposeImage(VecNormalize(envs, norm_obs=False)),
        lambda envs: VecNormalize(VecTransposeImage(envs), norm_obs=False),
        lambda envs: VecNormalize(VecTransposeImage(VecFrameStack(envs, 2))),
    ],
)
def test_rewards_beside_images_are_checked(stack):
    env, watcher = stack(dummies(NAN_REWARD, AsImage)), Watcher()
    agent = A2C("CnnPolicy", env, seed=0, policy_kwargs={"normalize_images": normalizer_of(env).norm_obs is False})
    with pytest.raises(ValueError, match=FAULTS["NaN reward"][1]):
        agent.learn(100, callback=watcher)
    assert statistics(env) == watcher.seen[-1]


@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline, GRPO, PPO, TRPO])
@pytest.mark.parametrize("fault", ["NaN observation", "NaN reward", "NaN at a reset"])
def test_every_way_to_collect_keeps_the_statistics(cls, fault):
    numbers, message = FAULTS[fault]
    if cls is GRPO:  # which resets the environments several times before
        numbers = {**numbers, "at": 7 if numbers["at"] > 0 else -8}
        message = r"of environment 1 is not finite, after \d+ steps in all"
    env, watcher = VecNormalize(dummies(numbers)), Watcher()
    with pytest.raises(ValueError, match=message):
        cls("MlpPolicy", env, seed=0, **STEPS[cls]).learn(1000, callback=watcher)
    found, last = pickle.loads(statistics(env)), pickle.loads(watcher.seen[-1])
    for name in ("obs_rms", "ret_rms"):
        assert np.array_equal(vars(found[name])["mean"], vars(last[name])["mean"])
        assert np.array_equal(vars(found[name])["var"], vars(last[name])["var"])


def test_finite_numbers_give_the_statistics_of_sb3():
    env, other = VecNormalize(dummies({})), VecNormalize(dummies({}))
    for one in (env, other):
        one.seed(3)
    A2C("MlpPolicy", env, seed=None, n_steps=8).learn(24)
    other.reset()
    for _ in range(8):
        other.step(np.zeros(3, int))
    assert statistics(env) == statistics(other)


def test_large_numbers_that_statistics_can_hold_are_no_fault():
    env = VecNormalize(DummyVecEnv([lambda: Faulty(4, observation=1e100, dtype=np.float64)]))
    A2C("MlpPolicy", env, seed=0).learn(20)
    assert env.obs_rms.mean[1] > 1e98


def test_an_evaluation_keeps_the_statistics_too():
    env = VecNormalize(VecMonitor(dummies(NAN_OBSERVATION)))
    agent = A2C("MlpPolicy", dummies({}), seed=0)
    with pytest.raises(ValueError, match="observation of environment 1 is not finite, after 12 steps"):
        evaluate_policy(agent, env, 9)
    assert np.isfinite(env.obs_rms.var).all()


# Compiled rollouts

FAULTS_OF_WORLDS = {
    "NaN observation": ({"observation": np.nan}, r"observation of environment {} is not finite, after {} steps in all"),
    "infinite observation": ({"observation": -np.inf}, r"observation of environment {} is not finite, after {} steps"),
    "NaN reward": ({"reward": np.nan}, r"reward of environment {} is not finite, after {} steps in all: nan"),
    "overflowing reward": ({"reward": 1e39}, r"reward of environment {} is not finite, after {} steps in all"),
}
WAYS = ["compiled", "step by step", "autograd"]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # NumPy's, of a step in Python
@pytest.mark.parametrize("normalises", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS_OF_WORLDS)
@pytest.mark.parametrize("cls", [A2C, REINFORCE])
def test_the_copy_and_the_step_are_named(cls, fault, way, normalises):
    numbers, message = FAULTS_OF_WORLDS[fault]
    env, copy, n_steps = copies_of_a_world(**numbers)
    if normalises:
        env = VecNormalize(env)
    agent = cls("MlpPolicy", env, engine="autograd" if way == "autograd" else "mlp", **STEPS[cls])
    before = [one.clone() for one in agent.policy.parameters()]
    watcher = Watcher() if normalises and way != "compiled" else (lambda *_: True) if way == "step by step" else None
    with pytest.raises(ValueError, match=message.format(copy, 3 * n_steps)):
        agent.learn(1000, callback=watcher)
    after = list(agent.policy.parameters())
    assert all(map(th.equal, before, after)) or agent.num_timesteps > STEPS[cls].get("n_steps", np.inf) * 3
    assert all(th.isfinite(one).all() for one in after)
    if normalises:
        assert env.obs_rms.count == pytest.approx(3 * n_steps + 1e-4)  # the reset counts, and not the last step
        assert env.ret_rms.count == pytest.approx(3 * (n_steps - 1) + 1e-4)
        assert np.isfinite([*env.obs_rms.mean, *env.obs_rms.var, env.ret_rms.var, *env.returns]).all()
        assert np.isfinite(env.old_obs).all()
        assert np.isfinite(env.old_reward).all()
        if isinstance(watcher, Watcher):
            assert statistics(env) == watcher.seen[-1]
        # SB3's own steps, to the last that was finite.
        other, _, _ = copies_of_a_world()
        other = VecNormalize(other)
        other.reset()
        for _ in range(n_steps - 1):
            other.step(np.zeros(3, int))
        np.testing.assert_allclose(env.obs_rms.mean, other.obs_rms.mean)
        np.testing.assert_allclose(env.obs_rms.var, other.obs_rms.var)
        np.testing.assert_allclose(env.ret_rms.var, other.ret_rms.var)
        np.testing.assert_allclose(env.returns, other.returns)


@pytest.mark.parametrize("fault", FAULTS_OF_WORLDS)
@pytest.mark.parametrize("cls", [PPO, NPG, TRPO, ReinforceBaseline, GRPO])
def test_every_compiled_way_to_collect_names_the_copy(cls, fault):
    numbers, message = FAULTS_OF_WORLDS[fault]
    env, copy, n_steps = copies_of_a_world(**numbers)
    agent = cls("MlpPolicy", VecNormalize(env), engine="mlp", **STEPS[cls])
    copy, steps = (r"\d", r"\d+") if cls is GRPO else (copy, 3 * n_steps)  # it seeds its episodes itself
    with pytest.raises(ValueError, match=message.format(copy, steps)):
        agent.learn(1000)
    assert np.isfinite([*agent.env.obs_rms.var, agent.env.ret_rms.var, *agent.env.returns]).all()
    agent.save(io.BytesIO())
    assert all(th.isfinite(one).all() for one in agent.policy.parameters())


@pytest.mark.parametrize("fault", FAULTS_OF_WORLDS)
@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_in_threads_name_the_copy(n_workers, fault):
    numbers, message = FAULTS_OF_WORLDS[fault]
    env, copy, n_steps = copies_of_a_world(**numbers)
    agent = A3C("MlpPolicy", env, n_steps=8, n_workers=n_workers, backend="threads")
    copy, steps = (copy, 3 * n_steps) if n_workers == 1 else (r"\d", r"\d+")  # the other may be first
    with pytest.raises(ValueError, match=r"^In worker \d: The " + message.format(copy, steps)):
        agent.learn(1000)
    assert all(th.isfinite(one).all() for one in agent.policy.parameters())


@pytest.mark.parametrize("fault", FAULTS_OF_WORLDS)
def test_an_evaluation_in_compiled_code_names_the_copy(fault):
    numbers, message = FAULTS_OF_WORLDS[fault]
    agent = A2C("MlpPolicy", copies_of_a_world()[0], engine="mlp", seed=0)
    env, copy, n_steps = copies_of_a_world(**numbers)
    with pytest.raises(FloatingPointError, match="In the evaluation: The " + message.format(copy, 3 * n_steps)):
        evaluate_policy(agent, VecNormalize(env, training=False), 3)


@pytest.mark.parametrize("normalises", [False, True])
def test_the_first_observation_of_a_copy_is_named(normalises):
    env, copy, n_steps = copies_of_a_world()
    fault = {"at": 20 - n_steps, "observation": np.nan}
    wrap = VecNormalize if normalises else (lambda env: env)
    agent = A2C("MlpPolicy", wrap(env), engine="mlp")
    with pytest.raises((ValueError, FloatingPointError), match=f"observation of environment {copy} is not finite, aft"):
        evaluate_policy(agent, wrap(copies_of_a_world(**fault)[0]), 3)
    env = wrap(copies_of_a_world(**fault)[0])
    with pytest.raises(ValueError, match=f"observation of environment {copy} is not finite, after 0 steps in all"):
        A2C("MlpPolicy", env, engine="mlp").learn(100)
    assert not normalises or not env.obs_rms.mean.any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("observation", [np.nan, np.inf])
def test_a_last_observation_that_a_layer_would_hide_is_named(observation, way):
    """tanh(inf) is 1."""
    _, copy, n_steps = copies_of_a_world()
    env, _, _ = copies_of_a_world(observation=observation, limit=n_steps)
    agent = A2C("MlpPolicy", env, n_steps=50, engine="autograd" if way == "autograd" else "mlp")
    said = f"last observation of environment {copy} is .*, after {3 * n_steps} steps in all. .*: .*{observation}"
    with pytest.raises(ValueError, match=said):
        agent.learn(1000, callback=(lambda *_: True) if way == "step by step" else None)


# Actions and parameters


class NotFinite(TinyEnv):
    """Refuses actions that are not finite."""

    def step(self, action):
        assert np.isfinite(action).all()
        return super().step(action)


BOX = spaces.Box(-1, 1, (2,), np.float32)


def overflow(agent):
    """Let the mean of the second action be infinite, though all parameters are finite."""
    with th.no_grad():
        agent.policy.action_net.bias[1] = 3e38
        agent.policy.action_net.weight[1] = 3e38
        agent.policy.mlp_extractor.policy_net[2].bias.fill_(100)  # tanh of it is 1


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("cls", [A2C, REINFORCE, NPG])
def test_an_infinite_action_is_named_before_the_environment_hears_of_it(cls, engine):
    env = DummyVecEnv([lambda: NotFinite(BOX), lambda: NotFinite(BOX)])
    agent = cls("MlpPolicy", env, engine=engine, seed=0, **STEPS[cls])
    agent.learn(30)
    overflow(agent)
    n_actions = [len(one.actions) for one in env.envs]
    with pytest.raises(ValueError, match=r"outputs are not finite.* The action of environment 0 is not finite: .*inf"):
        agent.learn(100, reset_num_timesteps=False)
    assert [len(one.actions) for one in env.envs] == n_actions


@pytest.mark.parametrize("way", WAYS)
def test_an_infinite_action_in_a_world_is_named(way):
    env, _, _ = copies_of_a_world(actions=BOX)
    agent = A2C("MlpPolicy", env, engine="autograd" if way == "autograd" else "mlp", seed=0)
    agent.learn(30)
    overflow(agent)
    lengths = env.episode_lengths.copy()
    with pytest.raises(
        ValueError, match=r"outputs are not finite after 30 steps.* The action of environment 0 is .*inf"
    ):
        agent.learn(100, reset_num_timesteps=False, callback=(lambda *_: True) if way == "step by step" else None)
    np.testing.assert_array_equal(env.episode_lengths, lengths)


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_an_algorithms_own_actions_are_checked(engine):
    class Divides(A2C):
        def environment_actions(self, actions):
            return super().environment_actions(actions) * np.float32(np.inf)

    with pytest.raises(ValueError, match=r"The action of environment 0 is not finite: .*inf"):
        Divides("MlpPolicy", NotFinite(BOX), engine=engine).learn(10)


def parameters(agent):
    return {name: one.detach().clone() for name, one in agent.policy.named_parameters()}


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("number", [np.inf, -np.inf])
@pytest.mark.parametrize("cls", [A2C, PPO, REINFORCE, NPG, TRPO])
def test_an_infinite_parameter_is_named_and_nothing_moves(cls, number, engine):
    """A layer of tanh hides it."""
    name = "mlp_extractor.policy_net.0.bias"
    agent = cls("MlpPolicy", TinyEnv(), engine=engine, seed=0, **STEPS[cls])
    agent.learn(64)
    with th.no_grad():
        agent.policy.get_parameter(name)[3] = number
    before = parameters(agent)
    with pytest.raises(FloatingPointError, match=f"The parameter '{name}' is {number} in the update after"):
        agent.learn(200, reset_num_timesteps=False)
    assert all(th.equal(value, parameters(agent)[key]) for key, value in before.items())


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_workers_name_an_infinite_parameter(backend):
    name = "mlp_extractor.policy_net.0.bias"
    agent = A3C("MlpPolicy", make_vec("CartPole-v1", 2, world=True), n_steps=8, n_workers=1, backend=backend, seed=0)
    with th.no_grad():
        agent.policy.get_parameter(name)[3] = np.inf
    before = parameters(agent)
    with pytest.raises(FloatingPointError, match=f"The parameter '{name}' is inf "):
        agent.learn(1000)
    assert all(th.equal(value, parameters(agent)[key]) for key, value in before.items())


class NoAdvantages(A2C):
    def estimate(self, rollout):
        advantages, returns = super().estimate(rollout)
        return advantages * np.nan, returns


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_what_an_algorithms_own_estimate_has_made_is_named(engine):
    agent = NoAdvantages("MlpPolicy", TinyEnv(), n_steps=8, engine=engine, device="cpu")
    with pytest.raises(FloatingPointError, match=r"`estimate` has made `advantages` that are not finite\. Rewards"):
        agent.learn(8)
