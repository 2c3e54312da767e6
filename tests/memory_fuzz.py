"""Random cases against the compiled engine's memory, beside the autograd engine as the oracle.

A case is an agent, an environment, and something that is replaced by something else at some moment. Where autograd
raises an exception, the compiled engine has to; where autograd goes on, the compiled engine has to give its numbers, or
to refuse by name. The numbers are compared in two places: what a rollout stores, with the policy's own answers, and
what an update does, with autograd's on a copy.

    python tests/memory_fuzz.py --cases 1000 --output report.md

runs the cases in another process, so that a signal is found and counted.
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from pg_agents import A2C, PPO, REINFORCE, TRPO, ReinforceBaseline
from pg_agents.contract import Batches
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.envs.make import make_vec

OBSERVATIONS = {
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "Box of two dimensions": spaces.Box(-1, 1, (2, 2), np.float32),
    "Box of float64": spaces.Box(-1, 1, (2,), np.float64),
    "empty Box": spaces.Box(-1, 1, (0,), np.float32),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "Dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
}
ACTIONS = {
    "Discrete": spaces.Discrete(3),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
    "empty Box": spaces.Box(-1, 1, (0,), np.float32),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}
WORLDS = ("pg/CartPole-v1", "pg/Pendulum-v1", "pg/FrozenLake-v1")
ALGORITHMS = {
    PPO: {"n_steps": 6, "batch_size": 5, "n_epochs": 2},
    A2C: {"n_steps": 5},
    REINFORCE: {"n_episodes": None},
    ReinforceBaseline: {"n_episodes": None},
    TRPO: {"n_steps": 8, "batch_size": 8, "n_critic_updates": 2},
}
NETS = ([], [7], [6, 4], [0], [5, 0], {"pi": [3], "vf": [4]}, {"pi": [], "vf": [3]})
ARRAYS = ("observations", "actions", "rewards", "values", "log_probs", "episode_starts")
RESULTS = ("advantages", "returns")
OURS = ("env_rewards", "final_values", "terminated", "truncated")


class Sampling(gym.Env):
    """Observations are random, episodes have 4 steps; the rewards depend on nothing but the step."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = copy.deepcopy(observation_space), action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(self.t % 3) - 1, self.t >= 4, False, {}


# What can be replaced. Each gets the agent and a generator, and returns what it has done; None if it had nothing to do.


def _parameter(agent, rng):
    named = list(agent.policy.named_parameters())
    return named[rng.integers(len(named))]


def parameter_of_another_shape(agent, rng):
    name, one = _parameter(agent, rng)
    n = one.dim()
    shape = [(1,) * n, tuple(size + 1 for size in one.shape), (*one.shape, 1), (0,) * n][rng.integers(4)]
    one.data = th.zeros(shape)
    return f"{name} = zeros{shape}"


def parameter_is_a_part_of_itself(agent, rng):
    name, one = _parameter(agent, rng)
    one.data = one.data[:-1]
    return f"{name} = {name}[:-1]"


def parameter_transposed(agent, rng):
    name, one = _parameter(agent, rng)
    one.data = one.data.t() if one.dim() == 2 else one.data.flip(0)
    return f"{name} transposed"


def parameter_of_another_form(agent, rng):
    name, one = _parameter(agent, rng)
    one.data = one.data.reshape(one.shape[::-1])
    return f"{name} reshaped"


def parameter_with_gaps(agent, rng):
    name, one = _parameter(agent, rng)
    one.data = th.stack([one.data, one.data], dim=-1)[..., 0]
    return f"{name} with gaps"


def parameter_expanded(agent, rng):
    name, one = _parameter(agent, rng)
    one.data = one.data[:1].expand_as(one.data)
    return f"{name} expanded"


def parameter_of_another_type(agent, rng):
    name, one = _parameter(agent, rng)
    dtype = [th.float64, th.float16, th.bfloat16][rng.integers(3)]
    one.data = one.data.to(dtype)
    return f"{name} of {dtype}"


def parameter_elsewhere(agent, rng):
    name, one = _parameter(agent, rng)
    one.data = one.data.clone()
    return f"{name} elsewhere"


def parameter_in_larger_storage(agent, rng):
    name, one = _parameter(agent, rng)
    one.untyped_storage().resize_(one.untyped_storage().nbytes() + 4096)
    return f"storage of {name} resized"


def parameter_frozen(agent, rng):
    name, one = _parameter(agent, rng)
    one.requires_grad_(False)
    return f"{name} frozen"


def parameters_that_share_memory(agent, rng):
    name, one = _parameter(agent, rng)
    for other_name, other in agent.policy.named_parameters():
        if other is not one and other.shape == one.shape:
            other.data = one.data
            return f"{other_name} is {name}"
    return None


def layer_of_another_size(agent, rng):
    net = agent.policy.action_net
    more = int(rng.integers(-1, 3))
    agent.policy.action_net = nn.Linear(net.in_features, net.out_features + more)
    return f"action_net with {more} more outputs"


def layer_that_lies(agent, rng):
    agent.policy.action_net.in_features = 1000
    agent.policy.action_net.out_features = 1000
    return "fields of action_net"


def _changed(array, rng):
    """An array in the place of another, and what is different about it."""
    kinds = {
        "shorter": lambda a: a[:-1].copy(),
        "longer": lambda a: np.concatenate([a, a]),
        "narrower": lambda a: a[:, :0].copy(),
        "float64": lambda a: a.astype(np.float64),
        "int64": lambda a: a.astype(np.int64),
        "float16": lambda a: a.astype(np.float16),
        "of gaps": lambda a: np.repeat(a, 2, axis=0)[::2],
        "transposed": lambda a: a.swapaxes(0, 1),
        "in Fortran's order": np.asfortranarray,
        "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
        "read-only": _read_only,
        "flat": lambda a: a.reshape(-1),
        "a list": lambda a: a.tolist(),
        "None": lambda a: None,
        "complex": lambda a: a.astype(np.complex64),
        "a copy": lambda a: a.copy(),
        "zeros": np.zeros_like,
        "a masked array": np.ma.masked_array,
    }
    kind = list(kinds)[rng.integers(len(kinds))]
    return kinds[kind](array), kind


def _read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def array_of_the_buffer(agent, rng):
    buffer, names = agent.rollout_buffer, ARRAYS + RESULTS + OURS
    name = names[rng.integers(len(names))]
    before = getattr(buffer, name)
    if isinstance(before, dict):
        key = list(before)[rng.integers(len(before))]
        after, kind = _changed(before[key], rng)
        setattr(buffer, name, {**before, key: after})
        return f"{name}[{key}] {kind}"
    after, kind = _changed(before, rng)
    setattr(buffer, name, after)
    return f"{name} {kind}"


def parts_of_observations(agent, rng):
    stored = agent.rollout_buffer.observations
    if not isinstance(stored, dict):
        return None
    if rng.random() < 0.5:
        stored["c"] = np.zeros(3)
        return "another part of observations"
    del stored["a"]
    return "observations without a part"


def place_of_the_buffer(agent, rng):
    buffer = agent.rollout_buffer
    name, value = [
        *(("pos", -1), ("pos", 100), ("pos", 0), ("buffer_size", 2), ("buffer_size", 100)),
        *(("n_envs", 1), ("n_envs", 7), ("full", True), ("generator_ready", True)),
    ][rng.integers(9)]
    setattr(buffer, name, value)
    return f"buffer.{name} = {value}"


def another_buffer(agent, rng):
    old = agent.rollout_buffer
    size, n_envs = old.buffer_size + int(rng.integers(-1, 2)), old.n_envs + int(rng.integers(-1, 2))
    new = type(old)(max(size, 1), old.observation_space, old.action_space, n_envs=max(n_envs, 1))
    new.estimator, new.n_episodes = old.estimator, getattr(old, "n_episodes", 1)
    agent.rollout_buffer = new
    return f"another buffer of {size} x {n_envs}"


def method_of_the_buffer(agent, rng):
    buffer = agent.rollout_buffer
    buffer.get = lambda batch_size=None: type(buffer).get(buffer, batch_size)
    return "buffer.get"


def argument_of_the_agent(agent, rng):
    name, value = [
        *(("n_steps", 100), ("n_steps", 2), ("batch_size", 3), ("batch_size", 10**6), ("batch_size", 2.5)),
        *(("n_epochs", 3), ("n_envs", 1), ("n_envs", 100), ("gamma", 0.5), ("ent_coef", 0.1)),
    ][rng.integers(10)]
    if not hasattr(agent, name):
        return None
    setattr(agent, name, value)
    return f"{name} = {value}"


def last_observation(agent, rng):
    now = agent._last_obs
    if isinstance(now, dict):
        agent._last_obs = {key: part[..., :0] if key == "a" else part for key, part in now.items()}
        return "narrower last observation"
    after, kind = _changed(now, rng)
    agent._last_obs = after
    return f"last observation {kind}"


def categories_outside(agent, rng):
    if not isinstance(agent.observation_space, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    agent._last_obs = agent._last_obs + [10**6, -1][rng.integers(2)]
    return "a category outside its space"


def stored_category_outside(agent, rng):
    if not isinstance(agent.observation_space, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    buffer = agent.rollout_buffer
    if buffer.generator_ready or buffer.pos == 0:
        return None
    buffer.observations[: buffer.pos] += [10**6, -100][rng.integers(2)]
    return "stored categories outside their space"


def last_starts(agent, rng):
    now = np.asarray(agent._last_episode_starts)
    agent._last_episode_starts = [now[:-1], np.concatenate([now, now]), now.astype(float), None][rng.integers(4)]
    return "last episode starts"


def running_returns(agent, rng):
    statistics = agent.episode_statistics
    statistics.running = [np.zeros(1), np.zeros(100), statistics.running.astype(np.float32)][rng.integers(3)]
    return "running returns"


def state_of_the_optimiser(agent, rng):
    optimizer = agent.policy.optimizer
    states = [state for state in optimizer.state.values() if state]
    if not states:
        return None
    state = states[rng.integers(len(states))]
    name = list(state)[rng.integers(len(state))]
    now = state[name]
    choice = int(rng.integers(7))
    if choice == 0:
        del state[name]
    elif choice == 1:
        optimizer.state.clear()
    elif not isinstance(now, th.Tensor):
        state[name] = [th.tensor(1.0), 1.0, 3, "x", 2**40][choice - 2]
    else:
        state[name] = [
            lambda: now.double(),
            lambda: now.reshape(-1)[:1].clone(),
            lambda: th.stack([now, now], dim=-1)[..., 0],
            lambda: now.clone(),
            lambda: now.t() if now.dim() == 2 else now.expand(2, *now.shape),
        ][choice - 2]()
    return f"optimiser's {name}, {choice}"


def another_optimiser(agent, rng):
    policy = agent.policy
    policy.optimizer = [th.optim.SGD, th.optim.Adam, RMSpropTFLike][rng.integers(3)](policy.parameters(), lr=1e-3)
    return f"optimiser {type(policy.optimizer).__name__}"


def group_of_the_optimiser(agent, rng):
    group = agent.policy.optimizer.param_groups[0]
    if rng.random() < 0.5:
        group["params"] = group["params"][:-1]
        return "a parameter less in the optimiser"
    group["weight_decay"] = 0.1
    return "weight_decay"


def noise_of_gsde(agent, rng):
    noise = agent.policy.action_dist
    if not agent.policy.use_sde:
        return None
    name = ("exploration_mat", "exploration_matrices")[rng.integers(2)]
    now = getattr(noise, name).detach()
    kind = int(rng.integers(8))
    if kind == 0:
        now.resize_(0)
        return f"{name} resized"
    after = [
        lambda: now.clone(),
        lambda: now[..., :0],
        lambda: th.stack([now, now], dim=-1)[..., 0],
        lambda: now.transpose(-1, -2),
        lambda: now.double(),
        lambda: now[..., None],
        lambda: th.cat([now, now]),
    ][kind - 1]()
    setattr(noise, name, after)
    return f"{name}, {kind}"


def numbers_of_a_world(agent, rng):
    copies = _copies(agent)
    if copies is None:
        return None
    name = ("states", "observed", "held", "terminated", "truncated", "rewards", "n_steps", "randoms")[rng.integers(8)]
    after, kind = _changed(getattr(copies, name), rng)
    setattr(copies, name, after)
    return f"copies.{name} {kind}"


def statistics_of_the_adapter(agent, rng):
    if _copies(agent) is None:
        return None
    adapter = agent.env.unwrapped if not isinstance(agent.env, VecNormalize) else agent.env.venv
    name = ("episode_returns", "episode_lengths")[rng.integers(2)]
    setattr(adapter, name, [np.zeros(1), np.zeros(100), getattr(adapter, name).astype(np.float32)][rng.integers(3)])
    return f"adapter's {name}"


def statistics_of_the_normaliser(agent, rng):
    env = agent.env
    if not isinstance(env, VecNormalize):
        return None
    moments = (env.obs_rms, env.ret_rms)[rng.integers(2)]
    if rng.random() < 0.2:
        env.returns = [env.returns[:1], np.tile(env.returns, 3), env.returns[:, None]][rng.integers(3)]
        return "returns of VecNormalize"
    name = ("mean", "var")[rng.integers(2)]
    now = np.asarray(getattr(moments, name))
    choice = int(rng.integers(5))
    after = [now.reshape(-1)[:1], np.tile(now, 3), now.astype(np.float32), np.array(1.0), now[..., None]][choice]
    setattr(moments, name, after)
    return f"{name} of VecNormalize, {choice}"


def environment_of_another_size(agent, rng):
    env = agent.env
    if _copies(agent) is None or isinstance(env, VecNormalize):
        return None
    agent.env = make_vec("pg/CartPole-v1", env.num_envs + int(rng.integers(-1, 3)) or 1, world=True)
    agent.env.reset()
    return f"an environment of {agent.env.num_envs}"


def _copies(agent):
    env = agent.env.venv if isinstance(agent.env, VecNormalize) else agent.env
    return getattr(env, "copies", None)


MUTATIONS = [value for name, value in list(globals().items()) if callable(value) and value.__module__ == __name__]
MUTATIONS = [one for one in MUTATIONS if not one.__name__.startswith("_") and not isinstance(one, type)]
MOMENTS = ("before learn", "rollout start", "step", "rolled", "rollout end", "between learns")


class DifferenceError(AssertionError):
    """The compiled engine gave another number than autograd."""


class Watch(BaseCallback):
    """Does something to the agent at a moment of its second rollout, and looks at what each step shows."""

    def __init__(self, moment, at, act):
        super().__init__()
        self.moment, self.at, self.act, self.n_rollouts, self.done = moment, at, act, 0, None
        if moment == "rolled":
            self.next_look = lambda: self.at - self.n_calls % self.at  # compiled steps in between

    def _now(self, moment):
        if moment == self.moment and self.done is None and self.n_rollouts == 2:
            self.done = self.act(self.model) or "nothing"

    def _on_rollout_start(self):
        self.n_rollouts += 1
        self._now("rollout start")

    def _on_step(self):
        _check_step(self.model, self.locals)
        if self.n_calls % self.at == 0:
            self._now("rolled" if self.moment == "rolled" else "step")
        return True

    def _on_rollout_end(self):
        self._now("rollout end")


def _check_step(agent, shown):
    """What a step shows is what the policy says of it."""
    policy = agent.policy
    policy.set_training_mode(False)
    with th.no_grad():
        actions = th.as_tensor(np.array(shown["actions"]))
        observations = obs_as_tensor(agent._last_obs, "cpu")
        values, log_probs, _ = policy.evaluate_actions(observations, actions)
    for name, expected in (("values", values), ("log_probs", log_probs)):
        given = shown[name].flatten()
        if not th.allclose(given.double(), expected.flatten().double(), rtol=1e-3, atol=1e-4, equal_nan=True):
            raise DifferenceError(f"{name} of a step: {given.tolist()}, not {expected.flatten().tolist()}")


def _check_update(agent):
    """Have every update made by autograd too, on copies, and compare the parameters."""
    update = agent.update

    def checked(loss):
        if isinstance(agent, TRPO) or agent.engine_in_use == "autograd":
            return update(loss)
        buffer, state = agent.rollout_buffer, np.random.get_state()  # noqa: NPY002 - SB3 shuffles with it
        arrays = {name: copy.deepcopy(getattr(buffer, name, None)) for name in ARRAYS + RESULTS + OURS}
        twin = copy.copy(buffer)
        vars(twin).pop("get", None)
        vars(twin).update(arrays)
        policy = copy.deepcopy(agent.policy)
        said = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                batches = Batches(agent.n_epochs, agent.batch_size)
                AutogradEngine().update(policy, twin, loss, batches)
            except Exception as error:
                said = error
        np.random.set_state(state)  # noqa: NPY002
        summary = update(loss)
        if said is not None:
            raise DifferenceError(f"autograd's update raises {said!r}, this one does not")
        n_batches = batches.n_epochs * (-(-len(buffer.values) * buffer.n_envs // (batches.batch_size or 10**9)))
        rate = agent.policy.optimizer.param_groups[0]["lr"]
        for (name, mine), other in zip(agent.policy.named_parameters(), policy.parameters(), strict=True):
            difference = (mine - other).abs().max().item() if mine.numel() else 0.0
            size = other.abs().max().item() if mine.numel() else 0.0
            if not difference <= 0.2 * rate * n_batches + 1e-4 * size + 1e-6 and np.isfinite(size):
                raise DifferenceError(f"{name} after an update: {difference} apart")
        return summary

    agent.update = checked


def _environment(rng):
    if rng.random() < 0.4:
        name, n = WORLDS[rng.integers(3)], int(rng.integers(1, 4))
        env, described = make_vec(name, n, seed=1, world=True, env_kwargs={"max_episode_steps": 6}), f"{n} x {name}"
        if name != "pg/FrozenLake-v1" and rng.random() < 0.4:
            env, described = VecNormalize(env), f"VecNormalize of {described}"
        return env, described
    observed, acted = list(OBSERVATIONS)[rng.integers(len(OBSERVATIONS))], list(ACTIONS)[rng.integers(len(ACTIONS))]
    n = int(rng.integers(1, 3))
    env = DummyVecEnv([lambda: Sampling(OBSERVATIONS[observed], ACTIONS[acted])] * n)
    return env, f"{n} x {observed} -> {acted}"


def _agent(seed, engine):
    """The agent of a case, always the same, and the generator that goes on."""
    rng = np.random.default_rng([seed, 7])
    env, described = _environment(rng)
    cls = list(ALGORITHMS)[rng.integers(len(ALGORITHMS))]
    kwargs = {**ALGORITHMS[cls], "policy_kwargs": {}}
    if "n_episodes" in kwargs:
        kwargs["n_episodes"] = env.num_envs * int(rng.integers(1, 3))
    net, optimizer = NETS[rng.integers(len(NETS))], (th.optim.Adam, th.optim.RMSprop, RMSpropTFLike)[rng.integers(3)]
    deviation = rng.random() if isinstance(env.action_space, spaces.Box) else 1.0
    has_std_net, explores = deviation < 0.3, 0.3 <= deviation < 0.5
    kwargs["policy_kwargs"] |= {"net_arch": net, "optimizer_class": optimizer}
    if has_std_net:
        kwargs["policy_kwargs"]["state_dependent_std"] = True
    if explores:
        kwargs |= {"use_sde": True, "sde_sample_freq": (-1, 2)[rng.integers(2)]}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    of_noise = ", σ(s)" if has_std_net else ", gSDE" if explores else ""
    said = f"{cls.__name__}, {described}, {net}, {optimizer.__name__}{of_noise}"
    return cls(policy, env, seed=3, device="cpu", engine=engine, **kwargs), said, rng


def _outcome(seed, engine):
    """What becomes of a case: its description, an exception or None, and the engine in the end."""
    said, error, used = "", None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        th.set_default_dtype(th.float32)
        try:
            agent, said, rng = _agent(seed, engine)
            mutate, moment = MUTATIONS[rng.integers(len(MUTATIONS))], MOMENTS[rng.integers(len(MOMENTS))]
            at, chosen = int(rng.integers(1, 4)), rng.integers(2**31)
            said += f"; {moment}: {mutate.__name__}"
            watch = Watch(moment, at, lambda agent: mutate(agent, np.random.default_rng(chosen)))
            if engine != "autograd":
                _check_update(agent)
            n = 24 * agent.n_envs  # three or more rollouts
            if moment == "before learn":
                mutate(agent, np.random.default_rng(chosen))
            agent.learn(n, callback=watch)
            if moment == "between learns":
                mutate(agent, np.random.default_rng(chosen))
            agent.learn(n, callback=watch, reset_num_timesteps=False)
            _check_prediction(agent, rng)
            used = agent.engine_in_use
        except DifferenceError:
            raise
        except Exception as problem:
            error = problem
    return said, error, used


def _check_prediction(agent, rng):
    space = agent.observation_space
    if isinstance(space, spaces.Dict):
        return
    n = int(rng.integers(1, 80))
    one = np.stack([space.sample() for _ in range(n)])
    given = [one, one[0], one[:, None], one.astype(np.float64), one[..., :0], np.asfortranarray(one), one[::-1]][
        rng.integers(7)
    ]
    answers = []
    for predict in (agent.policy.predict, agent.predict):
        try:
            answers.append(predict(given, deterministic=True)[0])
        except Exception as error:
            answers.append(type(error))
    expected, found = answers
    if isinstance(expected, type) or isinstance(found, type):
        if expected is not found:
            raise DifferenceError(f"predict: {found}, not {expected}")
    elif expected.shape != found.shape or not np.allclose(expected, found, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise DifferenceError("predict gives other actions")


class EndlessError(Exception):
    """A case takes too long: something was replaced such that training never ends."""


@contextmanager
def _at_most(seconds):
    """Processor time."""

    def stop(number, frame):
        raise EndlessError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run_case(seed):
    """One case on both engines.

    Returns:
        `(verdict, said)`. The verdict is "same", "both raise", "refused by name", "raises" where autograd does not, or
        "different".
    """
    with _at_most(5):
        said, expected, _ = _outcome(seed, "autograd")
    try:
        with _at_most(30):
            _, found, used = _outcome(seed, "auto")
    except DifferenceError as difference:
        return "different", f"{said}: {difference}"
    if found is None and expected is None:
        return "same", f"{said} [{used}]"
    if found is not None and expected is not None:
        return "both raise", f"{said}: {type(expected).__name__}, {type(found).__name__}: {found}"
    if found is None:
        return "different", f"{said}: autograd raises {expected!r}, and this does not"
    named = isinstance(found, (ValueError, IndexError, AttributeError, RuntimeError)) and "`" in str(found)
    return "refused by name" if named else "raises", f"{said}: {type(found).__name__}: {found}"


def _children(first, after):
    """Run cases here, one line for each."""
    for seed in range(first, after):
        print(f"begin {seed}", flush=True)
        verdict, said = run_case(seed)
        print(f"end {seed}\t{verdict}\t{' '.join(said.split())[:400]}", flush=True)


def main():
    """Run the cases in another process, again after each signal, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--output", type=Path, help="where to write the report, in Markdown")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    first, after = options.first, options.first + options.cases
    if options.here:
        _children(first, after)
        return
    results = {}
    while first < after:
        of_cases = ["--here", "--first", str(first), "--cases", str(after - first)]
        command = [sys.executable, "-X", "faulthandler", __file__, *of_cases]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        seed = first
        for line in child.stdout:
            if line.startswith("begin"):
                seed = int(line.split()[1])
            elif line.startswith("end"):
                number, verdict, said = line[4:].rstrip("\n").split("\t")
                results[int(number)] = verdict, said
        child.wait()
        if child.returncode < 0:
            results[seed] = "signal", f"signal {-child.returncode}"
            first = seed + 1
        elif child.returncode:
            results[seed] = "different", "the runner itself failed"
            first = seed + 1
        else:
            first = after
    spent = sum(os.times()[:4])
    report = _report(results, spent, options)
    print(report if options.output is None else report.splitlines()[4])
    if options.output is not None:
        options.output.write_text(report)
    wrong = [one for one in results.values() if one[0] in ("signal", "different", "raises")]
    sys.exit(bool(wrong))


def _report(results, spent, options):
    counts = Counter(verdict for verdict, _ in results.values())
    lines = [
        "# Random cases against the compiled engine's memory",
        "",
        f"`python tests/memory_fuzz.py --cases {options.cases} --first {options.first}`: {spent:.0f} s of processor",
        "",
        ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) + ".",
        "",
        "Those that did not end as with autograd:",
        "",
        "| case | verdict | what |",
        "|---|---|---|",
    ]
    for seed, (verdict, said) in sorted(results.items()):
        if verdict not in ("same", "both raise"):
            lines.append(f"| {seed} | {verdict} | {said.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
