"""`stepper` does what `DummyVecEnv.step` does: the same results, and the same state left behind."""

from copy import deepcopy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from pg_agents import A2C
from pg_agents.envs.stepping import TimeLimit, stepper  # rl_zoo3 replaces Gymnasium's when it is imported

# `Chatty` does so on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*share an object:UserWarning")

OBSERVATION_SPACES = {
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "Box of float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "Discrete": spaces.Discrete(5),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
    "Tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3))),
}
every_space = pytest.mark.parametrize("space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES)


class Chatty(gym.Env):
    """Random episodes that end in any of three ways; its infos are large, nested, and change after they were given."""

    def __init__(self, space=OBSERVATION_SPACES["Box"], lengths=(1, 4)):
        self.observation_space, self.action_space = deepcopy(space), spaces.Box(-1, 1, (2,))
        self.lengths, self.inventory, self.state = lengths, [], np.zeros(2)
        self.info = {"inventory": self.inventory, "nested": {"state": self.state}}
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = int(self.np_random.integers(*self.lengths, endpoint=True))
        return self.observation_space.sample(), {"length": self.left, "options": options}

    def step(self, action):
        self.left -= 1
        self.inventory.append(self.left)
        self.state += action
        ways = [(False, False)] if self.left else [(True, False), (False, True), (True, True)]
        terminated, truncated = ways[self.np_random.integers(len(ways))]
        kinds = [
            {},
            {"text": "hello", "number": 1.5, "small": np.float32(2), "nothing": None},
            {"inventory": self.inventory, "array": self.state},
            {"nested": {"deep": [self.inventory], "state": (self.state,)}},
            self.info,
        ]
        info = kinds[self.np_random.integers(len(kinds))]
        return self.observation_space.sample(), float(action.sum()), bool(terminated), truncated, info


def pair(*args, n_envs=3, wrap=lambda env: env, vec_env=DummyVecEnv, **kwargs):
    """Two of the same, at the beginning of their first episodes."""
    both = []
    for _ in range(2):
        env = vec_env([lambda: wrap(Chatty(*args, **kwargs)) for _ in range(n_envs)])
        env.seed(7)
        env.reset()
        both.append(env)
    return both


def steps(step, n_steps=80, n_envs=3):
    """What the steps return, as it is at the time, and as it is at the end."""
    generator = np.random.default_rng(0)
    returned, at_the_time = [], []
    for _ in range(n_steps):
        result = step(generator.normal(size=(n_envs, 2)).astype(np.float32))
        returned.append(result)
        at_the_time.append(deepcopy(result))
    return returned, at_the_time


def assert_same(given, wanted):
    """Equal in value, type, dtype and order, all the way down."""
    assert type(given) is type(wanted)
    if isinstance(wanted, dict):
        assert list(given) == list(wanted)
        for key in wanted:
            assert_same(given[key], wanted[key])
    elif isinstance(wanted, (list, tuple)):
        assert len(given) == len(wanted)
        for one, other in zip(given, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, np.ndarray):
        assert given.dtype == wanted.dtype
        np.testing.assert_array_equal(given, wanted)
    else:
        assert given == wanted


@every_space
def test_it_returns_what_step_returns(space):
    env, other = pair(space)
    given, _ = steps(stepper(env))
    wanted, _ = steps(other.step)
    assert_same(given, wanted)
    dones = np.stack([dones for _, _, dones, _ in wanted])
    cut = [info["TimeLimit.truncated"] for _, _, _, infos in wanted for info in infos]
    # All of it has happened: ends of both kinds, and several of them in one step.
    assert dones.sum(axis=1).max() > 1
    assert 0 < sum(cut) < dones.sum()


@every_space
def test_it_leaves_the_environment_as_step_leaves_it(space):
    env, other = pair(space)
    for _ in range(3):
        steps(stepper(env), 7)
        steps(other.step, 7)
        assert_same(env.reset_infos, other.reset_infos)
        assert_same(env.buf_infos, other.buf_infos)
        assert_same(env.buf_rews, other.buf_rews)
        assert_same(env.buf_dones, other.buf_dones)
        assert_same(dict(env.buf_obs), dict(other.buf_obs))
        assert_same(env.actions, other.actions)
        assert [single.seeds for single in env.envs] == [single.seeds for single in other.envs]
    # They may take turns.
    assert_same(steps(env.step, 9)[0], steps(stepper(other), 9)[0])
    env.seed(3)
    other.seed(3)
    assert_same(env.reset(), other.reset())


@every_space
def test_what_it_returned_never_changes_afterwards(space):
    env, _ = pair(space)
    returned, at_the_time = steps(stepper(env))
    assert_same(returned, at_the_time)


def parts(observations):
    if isinstance(observations, dict):
        return observations.values()
    return observations if isinstance(observations, tuple) else [observations]


@every_space
def test_whoever_changes_what_it_returned_does_not_change_the_environment(space):
    env, other = pair(space)
    step = stepper(env)

    def vandal(actions):
        observations, rewards, dones, infos = step(actions)
        result = deepcopy((observations, rewards, dones, infos))
        for array in parts(observations):
            array[...] = 0
        rewards[:], dones[:] = np.nan, True
        for info in infos:
            for value in (info.get("inventory"), info.get("nested", {}).get("deep")):
                if value is not None:
                    value.clear()
            info.clear()
        return result

    given, wanted = steps(vandal)[0], steps(other.step)[0]
    assert_same(given, wanted)


def test_it_works_through_monitor():
    env, other = pair(wrap=Monitor)
    given, wanted = steps(stepper(env))[0], steps(other.step)[0]
    for result in (given, wanted):
        for _, _, _, infos in result:
            for info in infos:
                if "episode" in info:
                    assert info["episode"].pop("t") >= 0
    assert_same(given, wanted)
    assert any("episode" in info for _, _, _, infos in given for info in infos)


def usual_wrappers(env, max_episode_steps=3):
    """Those of `gymnasium.make` and SB3's `make_vec_env`."""
    return Monitor(TimeLimit(OrderEnforcing(PassiveEnvChecker(env)), max_episode_steps))


def layers(env):
    """An environment and all below it."""
    return [env, *layers(env.env)] if isinstance(env, gym.Wrapper) else [env]


def without_times(results):
    for _, _, _, infos in results:
        for info in infos:
            if "episode" in info:
                assert info["episode"].pop("t") >= 0
    return results


@pytest.mark.parametrize("checked", [False, True], ids=["from the first step", "after the wrappers' checks"])
def test_the_usual_wrappers_give_and_remember_the_same(checked):
    env, other = pair(wrap=usual_wrappers)
    if checked:
        assert_same(without_times(steps(env.step, 4)[0]), without_times(steps(other.step, 4)[0]))
    given, wanted = (without_times(steps(step)[0]) for step in (stepper(env), other.step))
    assert_same(given, wanted)
    assert any(info["TimeLimit.truncated"] for _, _, _, infos in wanted for info in infos)
    for single, its_twin in zip(env.envs, other.envs, strict=True):
        for layer, twin in zip(layers(single), layers(its_twin), strict=True):
            for name in ("rewards", "total_steps", "needs_reset", "episode_returns", "episode_lengths"):
                assert_same(getattr(layer, name, None), getattr(twin, name, None))
            for name in ("_elapsed_steps", "_has_reset", "checked_step", "checked_data_reuse", "left"):
                assert_same(getattr(layer, name, None), getattr(twin, name, None))


def test_the_usual_wrappers_are_left_out():
    env, _ = pair(wrap=usual_wrappers, n_envs=1)
    step = stepper(env)
    steps(step, 4, 1)

    def refuse(action):
        raise AssertionError("a wrapper was called")

    step = stepper(env)
    env.envs[0].env.step = refuse  # after the stepper was made
    step(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("depth", range(5))
def test_a_step_that_was_replaced_in_a_wrapper_or_below_is_called(depth):
    env, _ = pair(wrap=usual_wrappers, n_envs=1)
    steps(env.step, 4, 1)
    layer, calls = layers(env.envs[0])[depth], []
    original = layer.step
    layer.step = lambda action: calls.append(action) or original(action)
    steps(stepper(env), 5, 1)
    assert len(calls) == 5


@pytest.mark.parametrize("wrapper", [Monitor, TimeLimit, OrderEnforcing, PassiveEnvChecker])
def test_a_step_that_was_replaced_in_a_wrappers_class_is_called(wrapper, monkeypatch):
    env, _ = pair(wrap=usual_wrappers, n_envs=1)
    steps(env.step, 4, 1)
    original, calls = wrapper.step, []
    monkeypatch.setattr(wrapper, "step", lambda self, action: calls.append(action) or original(self, action))
    steps(stepper(env), 5, 1)
    assert len(calls) == 5


def test_a_wrapper_that_nobody_knows_is_called():
    class Doubling(gym.RewardWrapper):
        def reward(self, reward):
            return 2 * reward

    env, other = pair(wrap=lambda env: Monitor(Doubling(TimeLimit(env, 3))))
    assert_same(without_times(steps(stepper(env))[0]), without_times(steps(other.step)[0]))


def test_monitors_file_is_written(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    for get_step, file in zip((stepper, lambda env: env.step), files, strict=True):
        env = DummyVecEnv([lambda file=file: Monitor(Chatty(), str(file))])
        env.seed(7)
        env.reset()
        steps(get_step(env), n_envs=1)
        env.close()
    one, other = (
        [line.split(",")[:2] for line in Path(f"{file}.monitor.csv").read_text().splitlines()[2:]] for file in files
    )
    assert one == other
    assert len(one) > 10


def test_monitor_refuses_a_step_after_the_end():
    env, _ = pair(wrap=usual_wrappers)
    env.envs[1].needs_reset = True
    with pytest.raises(RuntimeError, match="needs reset"):
        stepper(env)(np.zeros((3, 2), np.float32))


def test_a_plain_dummy_vec_env_of_arrays_is_stepped_without_its_own_step():
    """Or the tests above would test nothing."""
    env, _ = pair()
    assert stepper(env) != env.step


@pytest.mark.parametrize("space", [OBSERVATION_SPACES["Dict"], OBSERVATION_SPACES["Tuple"]], ids=["Dict", "Tuple"])
def test_observations_of_several_parts_are_left_to_its_own_step(space):
    env, _ = pair(space)
    assert stepper(env) == env.step


class Shouting(DummyVecEnv):
    """Does more in a step than its base class."""

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return observations, 2 * rewards, dones, infos


def test_a_class_derived_from_it_has_its_own_step():
    env, other = pair(vec_env=Shouting)
    assert_same(steps(stepper(env), 20), steps(other.step, 20))


@pytest.mark.parametrize("wrapper", [VecMonitor, VecNormalize, lambda env: VecFrameStack(env, 2)])
def test_wrappers_have_their_own_step(wrapper):
    env = wrapper(pair()[0])
    assert stepper(env) == env.step


@pytest.mark.parametrize("name", ["step", "step_wait", "step_async", "_obs_from_buf"])
def test_what_was_replaced_in_one_environment_is_called(name):
    env, _ = pair()
    original, calls = getattr(env, name), []

    def counted(*args):
        calls.append(args)
        return original(*args)

    setattr(env, name, counted)
    steps(stepper(env), 5)
    assert len(calls) == 5


def test_a_step_wait_that_was_replaced_in_sb3s_class_is_called(monkeypatch):
    original, calls = DummyVecEnv.step_wait, []
    monkeypatch.setattr(DummyVecEnv, "step_wait", lambda env: calls.append(env) or original(env))
    env, _ = pair()
    steps(stepper(env), 5)
    assert calls == [env] * 5


def test_what_was_replaced_is_called_in_training_too():
    env, _ = pair()
    original, calls = env.step_wait, []
    env.step_wait = lambda: calls.append(None) or original()
    A2C("MlpPolicy", env, n_steps=4, engine="autograd", device="cpu").learn(24)
    assert len(calls) == 8


def test_an_error_of_an_environment_comes_through():
    env, _ = pair()

    def fail(action):
        raise KeyError("broken")

    env.envs[1].step = fail
    with pytest.raises(KeyError, match="broken"):
        stepper(env)(np.zeros((3, 2), np.float32))


def test_an_observation_of_the_wrong_shape_raises_a_named_error_from_the_one_that_step_raises():
    errors = []
    for env, get_step in zip(pair(), (stepper, lambda env: env.step), strict=True):
        env.envs[1].observation_space = spaces.Box(-1, 1, (4,), np.float32)
        with pytest.raises(ValueError, match="shape") as error:
            get_step(env)(np.zeros((3, 2), np.float32))
        errors.append(error.value)
    assert "environment 1" in str(errors[0])
    assert str(errors[0].__cause__) == str(errors[1])
