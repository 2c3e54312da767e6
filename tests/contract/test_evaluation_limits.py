"""Evaluations end, and leave the training's environment and statistics as they are."""

import re
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from fakes import ScriptedEnv, Spy, TinyEnv, same, short, tiny_vec_env, weights
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from pg_agents import A2C, PPO, REINFORCE, EvalCallback, evaluate_policy
from pg_agents.collecting import EpisodeStatistics
from pg_agents.contract import EndlessEpisodeError
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_envs.worlds import World, WorldVector


class Endless(TinyEnv):
    def __init__(self):
        super().__init__(length=np.inf)


class Ones:
    """A model that takes the action 1."""

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        return np.ones(len(observations), dtype=int), None


FORMS = {
    "single": lambda: Endless(),
    "monitored": lambda: Monitor(Endless()),
    "two": lambda: make_vec_env(Endless, 2),
    "normalised": lambda: VecNormalize(make_vec_env(Endless, 2), training=False),
    "one of two": lambda: DummyVecEnv([lambda: Monitor(TinyEnv()), lambda: Monitor(Endless())]),
}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_an_episode_without_an_end_is_an_error_that_names_the_remedy(form, watched):
    index = int(form == "one of two")
    said = rf"environment {index} has not ended after 300 steps.*gymnasium\.wrappers\.TimeLimit.*`max_episode_steps`"
    callback = (lambda locals_, globals_: None) if watched else None
    with pytest.raises(EndlessEpisodeError, match=said):
        evaluate_policy(Ones(), FORMS[form](), 3, warn=False, callback=callback, max_episode_steps=300)


@pytest.mark.parametrize("watched", [False, True])
def test_ends_that_a_monitor_does_not_see_are_named(watched):
    """`TimeLimit(Monitor(env))` ends episodes, of which `Monitor` reports none: SB3's function goes on for ever."""
    callback = (lambda locals_, globals_: None) if watched else None
    with pytest.raises(EndlessEpisodeError, match=re.escape("Monitor(TimeLimit(env, ...))")):
        evaluate_policy(Ones(), TimeLimit(Monitor(Endless()), 7), 2, callback=callback, max_episode_steps=50)


@pytest.mark.parametrize("monitored", [False, True])
def test_episodes_of_exactly_the_limit_are_evaluated(monitored):
    env = Monitor(TinyEnv(length=9)) if monitored else TinyEnv(length=9)
    found = evaluate_policy(Ones(), env, 3, return_episode_rewards=True, warn=False, max_episode_steps=9)
    assert found[1] == [9, 9, 9]
    with pytest.raises(EndlessEpisodeError):
        evaluate_policy(Ones(), env, 3, warn=False, max_episode_steps=8)
    assert evaluate_policy(Ones(), env, 1, warn=False, max_episode_steps=None)[1] == 0
    with pytest.raises(ValueError, match="`max_episode_steps` must be a number of steps, at least 1, but is 0"):
        evaluate_policy(Ones(), env, 1, warn=False, max_episode_steps=0)


@pytest.mark.parametrize("n_episodes", [0, -1, None])
def test_no_episodes_have_no_mean(n_episodes):
    for evaluate in (
        lambda *args: evaluate_policy(Ones(), *args),
        lambda *args: EvalCallback(args[0], None, None, args[1]),
    ):
        with pytest.raises(ValueError, match="`n_eval_episodes` must be a number at least 1"):
            evaluate(Monitor(TinyEnv()), n_episodes)


def start(state, random):
    state[0] = 0.0


def step(state, action, random, constants):
    state[0] += 1.0
    return 1.0, state[0] >= constants[0]


def observe(state, observation, constants):
    observation[0] = 0.0


def copies(length):
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    world = World(start, step, observe, 1, box, gym.spaces.Discrete(2), (length,))
    return VectorEnvAdapter(WorldVector(world, 2, max_episode_steps=None))


def test_compiled_evaluations_end_at_the_same_limit():
    pytest.importorskip("numba")
    agent = A2C("MlpPolicy", copies(300.0), engine="mlp", device="cpu")
    assert agent.engine_in_use == "mlp"
    found = evaluate_policy(agent, copies(300.0), 3, return_episode_rewards=True, max_episode_steps=300)
    assert found == ([300.0] * 3, [300] * 3)
    for length, limit in ((300.0, 299), (1e9, 1000)):
        env = copies(length)
        with pytest.raises(EndlessEpisodeError, match=f"environment 0 has not ended after {limit:,} steps"):
            evaluate_policy(agent, env, 3, max_episode_steps=limit)
        assert not env.copies.held.any()


def test_ctrl_c_ends_a_compiled_evaluation_that_has_no_limit():
    pytest.importorskip("numba")
    agent = A2C("MlpPolicy", copies(1e9), engine="mlp", device="cpu")
    assert agent.engine_in_use == "mlp"
    timer = threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        evaluate_policy(agent, copies(1e9), 1, max_episode_steps=None)
    timer.join()


def test_a_training_goes_on_without_an_evaluation_that_does_not_end():
    evaluation = EvalCallback(
        Monitor(Endless()), eval_freq=8, n_eval_episodes=1, verbose=0, max_episode_steps=30
    )  # as a policy that stands still has it
    agent = short(PPO)
    said = r"There is no evaluation at 8 steps, nor later in this training\. The episode .* 30 steps.*TimeLimit"
    for _ in range(2):
        with pytest.warns(UserWarning, match=said) as told:
            agent.learn(24, callback=evaluation)
        assert len(told) == 1
    assert agent.num_timesteps == 24
    assert evaluation.best_mean_reward == -np.inf
    assert "eval/mean_reward" not in agent.logger.name_to_value


# Trainings without ends


@pytest.mark.parametrize(
    ("n_envs", "n_steps", "warns"),
    [(1, 99_000, False), (1, 100_000, True), (16, 120_000, False), (16, 160_000, True), (128, 1_000_000, False)],
)
def test_a_long_time_without_an_end_is_one_warning(n_envs, n_steps, warns, recwarn):
    """Of 128 environments with 1,000 steps per episode, the first end comes after 128,000 steps."""
    statistics = EpisodeStatistics(n_envs, 10)
    for now in (0, n_steps, n_steps + n_envs):
        statistics.check_ends(now)
    assert len(recwarn) == warns
    for warning in recwarn:
        assert "TimeLimit" in str(warning.message)
    statistics.finish(1.0)
    for later in (0, n_steps):
        statistics.check_ends(2 * n_steps + later)
    assert len(recwarn) == 2 * warns  # an end in between begins another count


def test_learn_says_that_no_episode_has_ended():
    pytest.importorskip("numba")
    agent = PPO("MlpPolicy", copies(1e9), n_steps=8192, batch_size=16384, n_epochs=1, policy_kwargs={"net_arch": []})
    with pytest.warns(UserWarning, match=r"No episode has ended in the last 1\d\d,\d\d\d steps.*ep_rew_mean") as told:
        agent.learn(100_000)
    assert len(told) == 1
    assert not agent.episode_statistics.finished


def test_learn_names_ends_that_monitor_does_not_see():
    agent = short(PPO, TimeLimit(Monitor(Endless()), 5))
    with pytest.warns(UserWarning, match=re.escape("Monitor(TimeLimit(env, ...))")) as told:
        agent.learn(128)
    assert len(told) == 1
    assert len(agent.ep_info_buffer) == 0
    short(PPO, Monitor(TimeLimit(Endless(), 5))).learn(128)  # says nothing


def test_environments_that_do_not_know_their_wrappers_are_trained_in():
    class Mute(DummyVecEnv):
        def env_is_wrapped(self, wrapper_class, indices=None):
            if not hasattr(self, "agent"):  # SB3's constructor asks, too
                return [False]
            raise NotImplementedError

    env = Mute([TinyEnv])
    env.agent = short(PPO, env)
    assert env.agent.learn(128).num_timesteps == 128


# The training's environment


def normalised(n_envs=2):
    return VecNormalize(make_vec_env(TinyEnv, n_envs))


def statistics(env):
    return [np.copy(one) for rms in (env.obs_rms, env.ret_rms) for one in (rms.mean, rms.var, rms.count)]


@pytest.mark.parametrize("given", ["the model's", "wrapped again"])
@pytest.mark.parametrize("cls", [PPO, stable_baselines3.PPO])
def test_an_evaluation_in_the_models_environment_leaves_the_statistics(cls, given):
    agent = short(cls, normalised())
    agent.learn(16)
    before = statistics(agent.get_env())
    env = agent.get_env() if given == "the model's" else VecFrameStack(agent.get_env(), 1)
    mean, _ = evaluate_policy(agent, env, 4)
    assert 15 <= mean <= 20  # the raw return: 15, and one for each action 1
    np.testing.assert_equal(statistics(agent.get_env()), before)
    assert agent.get_env().training


def test_no_evaluation_changes_statistics():
    """SB3's lets them drift in the evaluation's environment, from one episode to the next."""
    agent, env = short(PPO, normalised()), normalised(1)
    callback = EvalCallback(env, eval_freq=16, n_eval_episodes=3, verbose=0)
    agent.learn(16, callback=callback)
    np.testing.assert_equal(statistics(env), statistics(agent.get_env()))  # of the step of the evaluation, the last
    evaluate_policy(agent, env, 4)
    np.testing.assert_equal(statistics(env), statistics(agent.get_env()))
    assert env.training


@pytest.mark.parametrize("again", ["learn", "rollout"])
@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_after_an_evaluation_no_step_leads_from_one_episode_into_another(again, engine):
    """Observations are (number of the episode, step): a row is followed by the next step, or by a start."""
    agent = short(A2C, ScriptedEnv(7), engine=engine).learn(8)
    evaluate_policy(agent, agent.get_env(), 2)
    if again == "learn":
        agent.learn(8, reset_num_timesteps=False)
        assert agent.num_timesteps == 16
    else:
        agent.rollout()
    rows, starts = agent.rollout_buffer.observations.reshape(-1, 2), agent.rollout_buffer.episode_starts.ravel()
    assert starts[0]
    for before, row, start in zip(rows, rows[1:], starts[1:], strict=False):
        assert tuple(row) == ((before[0] + 1, 0) if start else (before[0], before[1] + 1))


def test_between_rollouts_a_callback_may_evaluate_there():
    """Where an environment can exist only once, this is the way; a compiled span of updates begins anew, too."""
    pytest.importorskip("numba")
    for env in (tiny_vec_env(2), copies(5.0)):
        agent = short(A2C, env)
        spy = Spy(rollout_end=lambda spy: evaluate_policy(spy.model, spy.training_env, 2, warn=False)[1])
        agent.learn(64, callback=spy)
        assert len(spy.seen) == 4
        assert agent.learn(64, reset_num_timesteps=False).num_timesteps == 128


def test_in_the_middle_of_a_rollout_it_is_refused_by_name():
    agent = short(PPO, tiny_vec_env(1))
    with pytest.raises(ValueError, match=r"in which this PPO is being trained.*make_vec_env.*_on_rollout_end"):
        agent.learn(8, callback=lambda locals_, globals_: evaluate_policy(agent, agent.get_env(), 1, warn=False))
    evaluate_policy(agent, agent.get_env(), 1, warn=False)  # the training is over


def shared_environments():
    single = TinyEnv()
    yield pytest.param(single, single, id="single")
    monitored = Monitor(TinyEnv())
    yield pytest.param(monitored, TimeLimit(monitored, 5), id="wrapped")
    vec_env = make_vec_env(TinyEnv, 2)
    yield pytest.param(vec_env, vec_env, id="vector")
    yield pytest.param(VecNormalize(vec_env), VecNormalize(vec_env, training=False), id="inside VecNormalize")


@pytest.mark.parametrize("kind", [EvalCallback, callbacks.EvalCallback])
@pytest.mark.parametrize(("training", "evaluated"), list(shared_environments()))
@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_an_eval_callback_in_the_trainings_environment_is_refused_when_learn_begins(kind, training, evaluated):
    agent = short(PPO, training)
    with pytest.raises(ValueError, match="`eval_env` of EvalCallback is the environment of the training"):
        agent.learn(8, callback=kind(evaluated, verbose=0))
    assert agent.num_timesteps == 0


@pytest.mark.parametrize("kind", [EvalCallback, callbacks.EvalCallback])
@pytest.mark.parametrize(
    ("training", "evaluated"),
    [
        (normalised, lambda: make_vec_env(TinyEnv, 1)),
        (lambda: make_vec_env(TinyEnv, 1), normalised),
        (lambda: VecFrameStack(make_vec_env(TinyEnv, 1), 3), lambda: make_vec_env(TinyEnv, 1)),
        (lambda: VecFrameStack(normalised(), 2), lambda: VecNormalize(VecFrameStack(make_vec_env(TinyEnv, 1), 2))),
    ],
    ids=["no VecNormalize", "VecNormalize", "no VecFrameStack", "another order"],
)
@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_an_evaluation_that_is_wrapped_differently_is_refused_when_learn_begins(kind, training, evaluated):
    agent = short(PPO, training())
    with pytest.raises(ValueError, match=r"not wrapped like the training's environment: .* not .*Wrap both"):
        agent.learn(8, callback=kind(evaluated(), verbose=0))
    assert agent.num_timesteps == 0


def images():
    box = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    return make_vec_env(lambda: TinyEnv(observation_space=box), 1)


@pytest.mark.parametrize(
    ("training", "evaluated"),
    [
        (normalised, lambda: VecNormalize(make_vec_env(TinyEnv, 1), training=False, norm_reward=False)),
        (lambda: make_vec_env(TinyEnv, 2), lambda: VecNormalize(make_vec_env(TinyEnv, 1), norm_obs=False)),
        (lambda: make_vec_env(TinyEnv, 2), lambda: Monitor(TinyEnv())),
        (images, images),
    ],
    ids=["VecNormalize", "rewards only", "single", "images, transposed by the agent"],
)
@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_an_evaluation_that_fits_takes_place(training, evaluated):
    callback = EvalCallback(evaluated(), eval_freq=8, n_eval_episodes=1, verbose=0)
    short(A2C, training()).learn(16, callback=callback)
    assert callback.last_mean_reward > 0


def test_whole_episodes_begin_anew_after_an_evaluation():
    agent = REINFORCE("MlpPolicy", ScriptedEnv(4), n_episodes=2, device="cpu").learn(1)
    before = weights(agent)
    evaluate_policy(agent, agent.get_env(), 1)
    agent.learn(8, reset_num_timesteps=False)
    assert agent.num_timesteps == 16
    assert not same(weights(agent), before)
