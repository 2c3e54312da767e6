"""A compiled rollout is the rollout of the same world step by step, bit for bit.

A function as callback must be asked in every step, so it makes the collector step.
"""

import copy
import signal
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import A2C, GRPO, PPO, REINFORCE, RLOO, ActorCritic, ReinforceBaseline
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.make import make_vec
from pg_envs.classic.cartpole import cartpole
from pg_envs.worlds import WorldVector

pytest.importorskip("numba")

WORLDS = ["pg/CartPole-v1", "pg/Pendulum-v1", "pg/FrozenLake-v1"]
STORED = ["observations", "actions", "rewards", "values", "log_probs", "episode_starts", "advantages", "returns"]
STORED += ["env_rewards", "terminated", "truncated", "final_values"]


def every_step(locals_, globals_):
    return True


def trained(algorithm, env, n_envs, timesteps, *, limit=None, normalize=None, callback=None, **arguments):
    env_kwargs = {} if limit is None else {"max_episode_steps": limit}
    envs = make_vec(env, n_envs, seed=1, world=True, env_kwargs=env_kwargs)
    if normalize is not None:
        envs = VecNormalize(envs, **normalize)
    agent = algorithm("MlpPolicy", envs, seed=0, **arguments)
    return agent.learn(timesteps, callback=callback)


def parameters(agent):
    return th.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()]).numpy()


def facts(agent):
    """All that a training leaves behind and that does not hold times."""
    buffer = agent.rollout_buffer
    return {
        "parameters": parameters(agent),
        "steps": agent.num_timesteps,
        "last observations": agent._last_obs,
        "last starts": np.asarray(agent._last_episode_starts, dtype=bool),
        "episodes": [(info["r"], info["l"]) for info in agent.ep_info_buffer],
        "own returns": list(agent.episode_statistics.finished),
        "running": agent.episode_statistics.running,
        **{name: getattr(buffer, name) for name in STORED},
    }


def assert_equal(one, other, **tolerance):
    for name, value in facts(one).items():
        expected = facts(other)[name]
        np.testing.assert_allclose(value, expected, **{"rtol": 0, "atol": 0, "err_msg": name, **tolerance})


CASES = {
    "PPO": (PPO, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
    "PPO with state-dependent σ": (
        PPO,
        {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"state_dependent_std": True}},
    ),
    "PPO with gSDE": (PPO, {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "use_sde": True, "sde_sample_freq": 5}),
    "A2C": (A2C, {}),
    "A2C with gSDE": (A2C, {"use_sde": True}),
    "ActorCritic": (ActorCritic, {}),
    "REINFORCE": (REINFORCE, {}),
    "REINFORCE with gSDE": (REINFORCE, {"use_sde": True, "sde_sample_freq": 7}),
    "ReinforceBaseline": (ReinforceBaseline, {}),
    "GRPO": (GRPO, {"group_size": 2, "n_groups": 2, "batch_size": 32, "n_epochs": 2, "kl_coef": 0.1}),
    "RLOO": (RLOO, {"group_size": 3}),
}


@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_rollout_is_the_rollout_step_by_step(case, env):
    algorithm, arguments = CASES[case]
    if arguments.keys() & {"policy_kwargs", "use_sde"} and env != "pg/Pendulum-v1":
        pytest.skip("σ belongs to continuous actions")
    one, other = (
        trained(algorithm, env, 3, 900, limit=50, callback=callback, **arguments) for callback in (None, every_step)
    )
    assert one.engine_in_use == "mlp"
    assert_equal(one, other)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(WORLDS),
    st.sampled_from([PPO, A2C, REINFORCE]),
    st.integers(1, 7),
    st.integers(2, 40),
    st.integers(1, 30),
    st.sampled_from([[], [8], [5, 3]]),
)
def test_any_size_and_time_limit(env, algorithm, n_envs, n_steps, limit, net_arch):
    arguments = {"n_episodes": 1 + n_steps % 3} if algorithm is REINFORCE else {"n_steps": n_steps}
    if algorithm is PPO:
        arguments |= {"batch_size": n_envs * n_steps, "n_epochs": 2}
    one, other = (
        trained(
            algorithm, env, n_envs, 5 * n_envs * n_steps, limit=limit, callback=callback,
            policy_kwargs={"net_arch": net_arch}, **arguments,
        )
        for callback in (None, every_step)
    )  # fmt: skip
    assert_equal(one, other)


@pytest.mark.parametrize(
    "normalize", [{}, {"norm_reward": False}, {"norm_obs": False}, {"training": False}, {"clip_obs": 0.3}]
)
@pytest.mark.parametrize("algorithm", [PPO, REINFORCE])
def test_normalisation_is_that_of_vecnormalize(algorithm, normalize):
    arguments = {"n_steps": 64, "batch_size": 64, "n_epochs": 2} if algorithm is PPO else {}
    one, other = (
        trained(algorithm, "pg/Pendulum-v1", 3, 600, limit=40, normalize=normalize, callback=callback, **arguments)
        for callback in (None, every_step)
    )
    # NumPy adds up float32 observations in float32: some 1e-7 of their size in each mean, and what follows from it.
    assert_equal(one, other, rtol=2e-4, atol=2e-4)
    for name in ("obs_rms", "ret_rms"):
        if hasattr(one.env, name):
            mine, theirs = getattr(one.env, name), getattr(other.env, name)
            np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(mine.var, theirs.var, rtol=1e-4)
            assert mine.count == pytest.approx(theirs.count)
    np.testing.assert_allclose(one.env.returns, other.env.returns, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.env.get_original_reward(), other.env.get_original_reward(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.env.get_original_obs(), other.env.get_original_obs(), rtol=1e-4, atol=1e-4)


SEEN = [
    "n_steps",
    "obs_tensor",
    "values",
    "log_probs",
    "actions",
    "clipped_actions",
    "new_obs",
    "rewards",
    "dones",
    "infos",
]


class Seen(BaseCallback):
    """What a child of another callback sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        found = copy.deepcopy({name: value for name, value in self.locals.items() if name in SEEN})
        self.seen.append(
            [self.n_calls, self.num_timesteps, self.model.num_timesteps, found["n_steps"], self.model._last_obs]
            + [found[name] for name in ("obs_tensor", "values", "log_probs", "actions", "clipped_actions")]
            + [found[name] for name in ("new_obs", "rewards", "dones")]
            + [[{k: v for k, v in info.items() if k != "episode"} for info in found["infos"]]]
            + [[(info["episode"]["r"], info["episode"]["l"]) for info in found["infos"] if "episode" in info]]
        )
        return True


def assert_same_sight(one, other):
    assert len(one.seen) == len(other.seen) > 0
    for mine, theirs in zip(one.seen, other.seen, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            if isinstance(a, (list, int)):
                assert str(a) == str(b)
            else:
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("frequency", [1, 7, 23, 64])
def test_a_callback_that_looks_now_and_then_sees_what_it_would_see_step_by_step(env, frequency):
    sights = []
    for also in ([], [every_step]):
        seen = Seen()
        callback = CallbackList([EveryNTimesteps(frequency, seen), *map(_as_callback, also)])
        trained(PPO, env, 3, 400, limit=20, callback=callback, n_steps=32, batch_size=32, n_epochs=1)
        sights.append(seen)
    assert_same_sight(*sights)


def _as_callback(function):
    from stable_baselines3.common.callbacks import ConvertCallback

    return ConvertCallback(function)


def test_evaluations_and_checkpoints_come_at_their_steps(tmp_path):
    results = []
    for name, also in (("rolled", []), ("stepped", [every_step])):
        evaluated = EvalCallback(
            make_vec("CartPole-v1", world=True, seed=5),
            n_eval_episodes=1,
            eval_freq=50,
            log_path=str(tmp_path / name),
            verbose=0,
            warn=False,
        )
        saved = CheckpointCallback(70, str(tmp_path / name), "at")
        agent = trained(
            PPO, "pg/CartPole-v1", 2, 300, callback=CallbackList([evaluated, saved, *map(_as_callback, also)]),
            n_steps=64, batch_size=32, n_epochs=1,
        )  # fmt: skip
        files = sorted(file.name for file in (tmp_path / name).glob("at*"))
        results.append((evaluated.evaluations_timesteps, evaluated.evaluations_results, files, parameters(agent)))
    (times, scores, files, one), (_, _, _, other) = results
    assert times == [100, 200, 300]
    assert files == ["at_140_steps.zip", "at_280_steps.zip"]
    assert (times, scores, files) == results[1][:3]
    np.testing.assert_array_equal(one, other)


def test_a_training_stops_after_the_episode_that_was_asked_for():
    agents = [
        trained(
            A2C, "pg/CartPole-v1", 2, 100_000,
            callback=CallbackList([StopTrainingOnMaxEpisodes(5), *map(_as_callback, also)]),
        )
        for also in ([], [every_step])
    ]  # fmt: skip
    assert agents[0].num_timesteps == agents[1].num_timesteps < 1000
    np.testing.assert_array_equal(parameters(agents[0]), parameters(agents[1]))
    np.testing.assert_array_equal(agents[0]._last_obs, agents[1]._last_obs)


def test_a_progress_bar_counts_every_step(monkeypatch):
    from stable_baselines3.common import callbacks

    class Bar:
        total = 0

        def __init__(self, total):
            pass

        def update(self, n):
            Bar.total += n

        def refresh(self):
            pass

        close = refresh

    monkeypatch.setattr(callbacks, "tqdm", Bar)
    agent = trained(PPO, "pg/CartPole-v1", 2, 300, callback=callbacks.ProgressBarCallback(), n_steps=64, batch_size=32)
    assert Bar.total == agent.num_timesteps == 384


@pytest.mark.parametrize("known", [True, False])
def test_a_subclass_that_looks_otherwise_is_asked_in_every_step(known):
    class Mine(EveryNTimesteps):
        calls = 0

        if known:

            def next_look(self):
                return 10 - self.n_calls % 10

        def _on_step(self):
            Mine.calls += 1
            return True

    trained(PPO, "pg/CartPole-v1", 1, 64, callback=Mine(5, Seen()), n_steps=64, batch_size=32, n_epochs=1)
    # At the steps 10, 20, ..., 60 of the rollout.
    assert Mine.calls == (6 if known else 64)


def test_whole_episodes_take_no_step_that_is_not_learnt_from():
    agent = trained(REINFORCE, "pg/CartPole-v1", 5, 1, n_episodes=1)
    buffer = agent.rollout_buffer
    lengths = [info["l"] for info in agent.ep_info_buffer]
    assert len(lengths) == 5
    assert len(set(lengths)) > 1, "copies of different lengths, for copies that wait"
    assert agent.num_timesteps == sum(lengths) == buffer.trained_on.sum()


def test_an_id_of_a_world_means_its_copies():
    agent = PPO("MlpPolicy", "pg/CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, seed=0).learn(64)
    envs = make_vec("CartPole-v1", 1, world=True)
    other = PPO("MlpPolicy", envs, n_steps=64, batch_size=32, n_epochs=1, seed=0).learn(64)
    np.testing.assert_array_equal(parameters(agent), parameters(other))


def test_an_environment_without_a_world_is_named():
    with pytest.raises(ValueError, match=r"no world for 'LunarLander-v3'.*pg/CartPole-v1"):
        make_vec("LunarLander-v3", 2, world=True)
    with pytest.raises(ValueError, match="`wrapper_class` cannot be combined with `world=True`"):
        make_vec("CartPole-v1", 2, world=True, wrapper_class=gym.wrappers.TimeLimit)


@pytest.mark.parametrize("frequency", [3, 7])
def test_callbacks_that_look_while_copies_wait_change_nothing(frequency, tmp_path):
    agents = [
        trained(
            REINFORCE, "pg/CartPole-v1", 4, 300, n_episodes=4,
            callback=CallbackList([CheckpointCallback(frequency, str(tmp_path)), *map(_as_callback, also)]),
        )
        for also in ([], [every_step])
    ]  # fmt: skip
    assert_equal(*agents)


def test_an_own_step_of_the_environment_is_not_passed_over():
    class Generous(WorldVector):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations, rewards + 4, *rest

    for envs in (Generous(cartpole(), 2), WorldVector(cartpole(), 2)):
        if not isinstance(envs, Generous):
            step = envs.step
            envs.step = lambda actions, step=step: (lambda o, r, *rest: (o, r + 4, *rest))(*step(actions))
        agent = A2C("MlpPolicy", VectorEnvAdapter(envs), seed=0).learn(10)
        assert (agent.rollout_buffer.env_rewards == 5).all()


def falls_to_the_right(states):
    return {"is_success": states[:, 2] > 0}


def test_successes_are_counted():
    world = replace(cartpole(), info=falls_to_the_right)
    agents = []
    for callback in (None, every_step):
        envs = VectorEnvAdapter(WorldVector(world, 2, 20))
        agent = PPO("MlpPolicy", envs, n_steps=100, batch_size=200, n_epochs=1, seed=0)
        agents.append(agent.learn(400, callback=callback))
    found, expected = (list(agent.ep_success_buffer) for agent in agents)
    assert set(expected) == {True, False}, "else the comparison shows nothing"
    assert found == expected
    assert_equal(*agents)


class StopsNormalising(BaseCallback):
    def _on_step(self):
        self.training_env.training = False
        return True


def test_a_normalisation_that_a_callback_stops_stops_at_once():
    counts = []
    for also in ([], [every_step]):
        callback = CallbackList([EveryNTimesteps(32, StopsNormalising()), *map(_as_callback, also)])
        agent = trained(
            PPO, "pg/CartPole-v1", 2, 120, normalize={}, callback=callback, n_steps=60, batch_size=60, n_epochs=1
        )
        counts.append(agent.env.obs_rms.count)
    assert counts[0] == pytest.approx(counts[1])
    assert counts[0] < 40


@pytest.mark.parametrize("method", ["on_step", "update_locals"])
def test_a_known_callback_with_a_method_of_its_own_is_asked_in_every_step(method, tmp_path):
    calls = []
    original = getattr(CheckpointCallback, method)
    own = {method: lambda self, *args: calls.append(method) or original(self, *args)}
    callback = type("Mine", (CheckpointCallback,), own)(1000, str(tmp_path))
    trained(PPO, "pg/CartPole-v1", 1, 64, callback=callback, n_steps=64, batch_size=32, n_epochs=1)
    assert len(calls) >= 64


def test_a_subclass_that_looks_more_often_than_it_inherits_is_asked_in_every_step():
    class Rare(BaseCallback):
        calls = 0

        def next_look(self):
            return None

        def _on_step(self):
            return True

    class Often(Rare):
        def _on_step(self):
            Often.calls += 1
            return True

    trained(PPO, "pg/CartPole-v1", 1, 64, callback=Often(), n_steps=64, batch_size=32, n_epochs=1)
    assert Often.calls == 64


def test_no_copy_goes_on_waiting_after_a_training_was_stopped():
    class Stops(BaseCallback):
        def _on_step(self):
            return not self.training_env.env.copies.held.any()

    agent = trained(REINFORCE, "pg/CartPole-v1", 4, 1000, n_episodes=1, callback=Stops())
    assert agent.num_timesteps < 1000
    assert not agent.env.env.copies.held.any()


def test_ctrl_c_in_the_middle_of_a_call_leaves_what_was_collected(monkeypatch):
    agent = trained(PPO, "pg/CartPole-v1", 2, 128, n_steps=64, batch_size=32, n_epochs=1)
    roll = agent._engine.roll

    def interrupted(*args, **kwargs):
        steps = roll(*args, **kwargs)
        run = steps.run
        monkeypatch.setattr(steps, "run", lambda *given: (run(*given), signal.raise_signal(signal.SIGINT))[0])
        return steps

    monkeypatch.setattr(agent._engine, "roll", interrupted)
    monkeypatch.setattr(agent, "_make_engine", lambda loss: agent._engine_in_use)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(128, reset_num_timesteps=False)
    assert agent.num_timesteps == 256
    expected = agent.env.env.copies.states.astype(np.float32)  # CartPole's observations
    np.testing.assert_array_equal(agent._last_obs, expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_episodes_without_a_limit_of_their_own_are_collected():
    agent = REINFORCE("MlpPolicy", make_vec("CartPole-v1", 2, world=True), seed=0)
    agent.max_episode_steps = np.inf
    assert agent.learn(100).num_timesteps >= 100
