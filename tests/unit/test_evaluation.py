"""Evaluation does what the environment says: the most probable actions, or actions drawn from the policy."""

import inspect
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from fakes import TinyEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common import callbacks, evaluation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from pg_agents import A2C, EvalCallback, evaluate_policy
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.evaluation import deterministic_evaluation


class Stochastic(TinyEnv):
    metadata: ClassVar = {"render_modes": [], "deterministic_evaluation": False}


class NeverBuilt(Stochastic):
    def __init__(self):
        raise AssertionError("built")


class OldMetadata(TinyEnv):
    metadata = None


class Asked:
    """A model that does as it is told: 1 if asked for the most probable action, else 0."""

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        return np.full(len(observations), int(deterministic)), None


def sync(cls):
    return SyncVectorEnv([cls, cls], autoreset_mode=AutoresetMode.SAME_STEP)


FORMS = {
    "single": lambda cls: cls(),
    "wrapped": lambda cls: Monitor(gym.wrappers.TimeLimit(cls(), 10)),
    "vector": sync,
    "wrapped vector": lambda cls: gym.wrappers.vector.RecordEpisodeStatistics(sync(cls)),
    "adapter": lambda cls: VectorEnvAdapter(sync(cls)),
    "dummy": lambda cls: DummyVecEnv([cls, cls]),
    "subprocess": lambda cls: SubprocVecEnv([cls], start_method="fork"),
    "wrapped dummy": lambda cls: VecFrameStack(VecNormalize(DummyVecEnv([lambda: Monitor(cls())])), 2),
    "spec": lambda cls: gym.envs.registration.EnvSpec("Some-v0", entry_point=cls),
    "spec by name": lambda cls: gym.envs.registration.EnvSpec("Some-v0", entry_point=f"{__name__}:{cls.__name__}"),
    "spec of a vector environment": lambda cls: gym.envs.registration.EnvSpec("Some-v0", vector_entry_point=cls),
}


@pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_environment_says_how_to_evaluate_it(form):
    for cls, expected in ((Stochastic, False), (TinyEnv, True)):
        env = FORMS[form](cls)
        assert deterministic_evaluation(env) is expected
        getattr(env, "close", lambda: None)()


def test_an_id_says_it_without_building_the_environment(monkeypatch):
    monkeypatch.setitem(gym.registry, "Never-v0", gym.envs.registration.EnvSpec("Never-v0", entry_point=NeverBuilt))
    assert deterministic_evaluation("Never-v0") is False
    assert deterministic_evaluation("CartPole-v1") is True


def test_an_environment_that_says_nothing_is_evaluated_as_in_sb3():
    assert deterministic_evaluation(OldMetadata()) is True
    assert deterministic_evaluation(gym.envs.registration.EnvSpec("F-v0", entry_point=lambda: TinyEnv())) is True


@pytest.mark.parametrize("cls", [TinyEnv, Stochastic])
@pytest.mark.parametrize("deterministic", [None, True, False])
def test_an_explicit_choice_wins_over_the_environment(cls, deterministic):
    most_probable = cls is TinyEnv if deterministic is None else deterministic
    mean, _ = evaluate_policy(Asked(), Monitor(cls()), 4, deterministic)
    assert mean == 5 * most_probable + 1 + 2 + 3 + 4 + 5  # an episode's actions, and the numbers of its steps
    assert EvalCallback(Monitor(cls()), deterministic=deterministic).deterministic is most_probable


def test_vector_environments_are_evaluated_too():
    assert evaluate_policy(Asked(), sync(TinyEnv), 5, return_episode_rewards=True) == ([20.0] * 5, [5] * 5)
    assert isinstance(EvalCallback(sync(TinyEnv)).eval_env, VectorEnvAdapter)


@pytest.mark.parametrize(
    ("ours", "sb3s"),
    [(evaluate_policy, evaluation.evaluate_policy), (EvalCallback.__init__, callbacks.EvalCallback.__init__)],
)
def test_arguments_are_sb3s_by_position_and_default_but_for_deterministic_and_a_new_one(ours, sb3s):
    def arguments(function):
        return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]

    *known, new = arguments(ours)
    changed = [(one, other) for one, other in zip(known, arguments(sb3s), strict=True) if one != other]
    assert changed == [(("deterministic", None), ("deterministic", True))]
    assert new == ("max_episode_steps", 100_000)


class Lives(gym.Wrapper):
    """Says that it is done where a life is lost, as Atari's wrappers do; the episode goes on."""

    def reset(self, *, seed=None, options=None):
        if self.env.needs_reset:
            self.steps = 0
            return super().reset(seed=seed, options=options)
        return self.observation, {}

    def step(self, action):
        self.observation, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        return self.observation, reward, terminated or self.steps % 7 == 0, truncated, info


class Remembers:
    """A recurrent model, whose actions depend on all that it is given."""

    def __init__(self):
        self.seen = []

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        state = np.where(episode_start, 0, 0 if state is None else state) + observations.sum(axis=1)
        self.seen.append((observations.copy(), episode_start.copy(), deterministic))
        return (state > 0).astype(int), state


CART_POLES = {
    "single": lambda: Monitor(gym.make("CartPole-v1")),
    "dummy": lambda: make_vec_env("CartPole-v1", 3),
    "vector": lambda: gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"),
    "normalised": lambda: VecNormalize(make_vec_env("CartPole-v1", 3), training=False, norm_reward=False),
    "monitored outside": lambda: VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3)),
    "lives": lambda: DummyVecEnv([lambda: Lives(Monitor(gym.make("CartPole-v1")))] * 3),
    "not monitored": lambda: DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3),
}


@pytest.mark.parametrize("n_episodes", [2, 7])
@pytest.mark.parametrize("form", CART_POLES)
def test_episodes_and_what_the_model_is_given_are_sb3s(form, n_episodes):
    found = []
    for evaluate in (evaluate_policy, evaluation.evaluate_policy):
        env, model = CART_POLES[form](), Remembers()
        vec_env = VectorEnvAdapter(env) if isinstance(env, gym.vector.VectorEnv) else env
        vec_env.reset(seed=3) if isinstance(env, gym.Env) else vec_env.seed(3)
        episodes = evaluate(model, vec_env, n_episodes, False, return_episode_rewards=True, warn=False)
        found.append((episodes, model.seen))
    assert len(set(found[0][0][1])) > 1
    np.testing.assert_equal(*found)


def test_a_mean_below_the_threshold_is_an_error():
    env = make_vec_env(TinyEnv, 2)
    assert evaluate_policy(Asked(), env, 4, reward_threshold=19.9) == (20, 0)
    with pytest.raises(AssertionError, match=r"20\.00 < 20\.00"):
        evaluate_policy(Asked(), env, 4, reward_threshold=20)


def test_where_the_environment_says_nothing_results_and_log_are_sb3s(tmp_path):
    logs = {}
    for name, module in (("ours", EvalCallback), ("sb3s", callbacks.EvalCallback)):
        env = make_vec_env("CartPole-v1", 2, seed=1)
        callback = module(env, eval_freq=50, log_path=tmp_path / name, best_model_save_path=tmp_path / name, verbose=0)
        model = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(200, callback)
        logs[name] = dict(np.load(tmp_path / name / "evaluations.npz"))
        logs[name]["after"] = (evaluate_policy if name == "ours" else evaluation.evaluate_policy)(model, env, 7)
    assert len(logs["ours"]["timesteps"]) == 4
    np.testing.assert_equal(logs["ours"], logs["sb3s"])


class Learnt:
    """A model whose actions depend on the observations, and nothing else."""

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        return (np.asarray(observations).sum(axis=-1) > 0).astype(int), None


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vec_env("CartPole-v1", 3),
        lambda: DummyVecEnv([lambda: gym.make("CartPole-v1")]),
        lambda: Monitor(gym.make("CartPole-v1", max_episode_steps=9)),
        lambda: VecNormalize(make_vec_env("CartPole-v1", 2), training=False),
        lambda: VecFrameStack(make_vec_env("CartPole-v1", 2), 2),
    ],
    ids=["DummyVecEnv", "no Monitor", "single", "VecNormalize", "VecFrameStack"],
)
def test_returns_and_lengths_are_those_of_sb3s_function(make):
    found = []
    for evaluate in (evaluate_policy, evaluation.evaluate_policy):
        env = make()
        if isinstance(env, Monitor):
            env.reset(seed=3)
        else:
            env.seed(3)
        found += [evaluate(Learnt(), env, 7, return_episode_rewards=True, warn=False) for _ in range(2)]
    assert found[:2] == found[2:]
    assert len(found[0][0]) == 7


def test_a_callback_is_shown_the_environment_itself():
    env, seen = make_vec_env("CartPole-v1", 2), []
    evaluate_policy(Learnt(), env, 2, callback=lambda locals_, globals_: seen.append(locals_["env"]))
    assert all(shown is env for shown in seen)
    assert seen
