"""What every environment of `pg_envs` keeps to, whatever it is about."""

import copy
import os
import pickle
import subprocess
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import pg_envs
from pg_agents import A2C, make_vec
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.evaluation import deterministic_evaluation
from pg_envs.worlds.faces import VectorFace

# In most of what follows there is no policy to tell it.
pytestmark = pytest.mark.filterwarnings("ignore:.*opponent 'oracle' has not been told")

MATCH, KICK, BANDIT = "pg/RPSMatch-v0", "pg/PenaltyKick-v0", "pg/TorqueBandit-v0"
CORRIDOR, GRIDWORLD = "pg/ShortCorridor-v0", "pg/AliasedGridworld-v0"
REVIEWS = "pg/Reviews-v0"
PENDULUM, LQR, ARM = "pg/TorquePendulum-v0", "pg/TorqueLQR-v0", "pg/TorqueArm-v0"


def beaten_by_habit(own, others, n):
    """An opponent of the user's own: whoever repeats a move loses to it."""
    return (int(others[-1]) + 1) % n if len(others) else np.full(n, 1 / n)


CASES = [
    (MATCH, {"payoff": "weighted", "n_rounds": 7}),
    (MATCH, {"opponent": "pattern", "n_rounds": 9, "observation": "history(2)"}),
    (MATCH, {"opponent": "oracle", "n_rounds": 4, "observation": "last"}),
    (MATCH, {"opponent": "snapshots", "payoff": "rpsls", "n_rounds": 4}),
    (MATCH, {"opponent": "fixed", "p": [0.5, 0.25, 0.25], "n_rounds": 4}),
    (MATCH, {"opponent": beaten_by_habit, "n_actions": 7, "n_rounds": 4}),
    (KICK, {"n_rounds": 8}),
    (BANDIT, {}),
    (BANDIT, {"kind": "unequal"}),
    (CORRIDOR, {}),
    (GRIDWORLD, {}),
    (REVIEWS, {"kl_coef": 1.0}),
    (PENDULUM, {}),
    (PENDULUM, {"preset": "gymnasium"}),
    (LQR, {}),
    (LQR, {"n_joints": 5}),
    (LQR, {"n_joints": 20}),
    (ARM, {"n_joints": 1}),
    (ARM, {"n_joints": 7}),
    (ARM, {"n_joints": 2, "dynamics": "chain"}),
    (ARM, {"n_joints": 7, "dynamics": "chain"}),
]
OWN = sorted({env_id for env_id, _ in CASES})
CLIFF = "pg/CliffWalking-v1"
CASES += [  # Gymnasium's, as worlds
    ("pg/CartPole-v1", {}),
    ("pg/Pendulum-v1", {}),
    ("pg/Acrobot-v1", {}),
    ("pg/MountainCar-v0", {}),
    ("pg/MountainCarContinuous-v0", {}),
    ("pg/FrozenLake-v1", {}),
    (CLIFF, {"max_episode_steps": 15}),
    ("pg/Taxi-v4", {"is_rainy": True, "fickle_passenger": True}),
]
WITHOUT_CHANCE = {CORRIDOR, BANDIT, CLIFF}
WITHOUT_DYNAMICS = {BANDIT}
STOCHASTIC_OPTIMUM = {MATCH, KICK, CORRIDOR, GRIDWORLD, REVIEWS}
MODES = list(AutoresetMode)
SHORT = 17  # a time limit within which a few episodes are soon over


def name(case):
    env_id, kwargs = case
    return "-".join([env_id[3:-3], *(str(getattr(value, "__name__", value)) for value in kwargs.values())])


# What the checkers say of the spaces of Gymnasium's own environments.
AS_IN_GYMNASIUM = {
    "pg/CartPole-v1": pytest.mark.filterwarnings("ignore:.*A Box observation space m..imum value is -?infinity"),
    "pg/Pendulum-v1": pytest.mark.filterwarnings("ignore:.*a symmetric and normalized"),
}
PARAMETERS = [pytest.param(case, id=name(case), marks=AS_IN_GYMNASIUM.get(case[0], ())) for case in CASES]
every_case = pytest.mark.parametrize("case", PARAMETERS)
every_id = pytest.mark.parametrize("env_id", sorted({env_id for env_id, _ in CASES}))
every_id_of_our_own = pytest.mark.parametrize("env_id", OWN)
every_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.value for mode in MODES])


def limit(env_id):
    """A shorter time limit for environments that have one."""
    return {} if gym.spec(env_id).max_episode_steps is None else {"max_episode_steps": SHORT}


def creator(env_id):
    """What makes an environment, and tells its metadata: a class, or for a world, a function."""
    entry_point = gym.spec(env_id).entry_point
    return gym.envs.registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


class Unpatched(gym.Wrapper):
    """Takes out what rl_zoo3, once it is imported, changes in Gymnasium's `TimeLimit`.

    That is an entry of the infos, and no truncation in a step that terminates.
    """

    def reset(self, **kwargs):
        self.n_steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self.n_steps += 1
        info.pop("TimeLimit.truncated", None)
        limit = self.spec.max_episode_steps
        return observation, reward, terminated, truncated or self.n_steps == limit, info


def single(case, **kwargs):
    env_id, own = case
    return Unpatched(gym.make(env_id, disable_env_checker=True, **{**limit(env_id), **own, **kwargs}))


def batch(case, n, **kwargs):
    env_id, own = case
    return gym.make_vec(env_id, n, **{**limit(env_id), **own, **kwargs})


def actions_for(space, shape, seed=0):
    """Random actions; some are outside a Box, by a tenth."""
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Box):
        return rng.uniform(1.1 * space.low, 1.1 * space.high, (*shape, *space.shape)).astype(space.dtype)
    return rng.integers(space.n, size=shape)


def trajectory(env, actions, seed):
    """All that a single environment says, with the episodes' first observations where they begin."""
    said = [env.reset(seed=seed)]
    for action in actions:
        said.append(env.step(action))
        if said[-1][2] or said[-1][3]:
            said.append(env.reset())
    return said


def same(one, other):
    """Whether two trajectories, or what two steps say, are equal; NaN equals NaN."""
    try:
        np.testing.assert_equal(plain(one), plain(other))
    except AssertionError:
        return False
    return True


def plain(said):
    """Arrays of arrays, which last observations are, as lists: NumPy cannot compare them."""
    if isinstance(said, dict):
        return {key: plain(value) for key, value in said.items()}
    if isinstance(said, (tuple, list)) or (isinstance(said, np.ndarray) and said.dtype.kind == "O"):
        return [plain(one) for one in said]
    return said


def row(i, infos):
    """The i-th copy's infos, of a vector environment's."""
    return {
        key: row(i, values) if isinstance(values, dict) else values[i]
        for key, values in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][i]
    }


def trajectories_of_batch(env, actions, seed, rows):
    """The same of some rows of a batch, in the mode SameStep."""
    observations, infos = env.reset(seed=seed)
    said = {i: [(observations[i], row(i, infos))] for i in rows}
    for action in actions:
        observations, rewards, terminated, truncated, infos = env.step(action)
        for i in rows:
            seen, info = observations[i], row(i, infos)
            if terminated[i] or truncated[i]:
                last, last_info = info.pop("final_obs"), info.pop("final_info")
                said[i].append((last, rewards[i], terminated[i], truncated[i], last_info))
                said[i].append((seen, info))
            else:
                said[i].append((seen, rewards[i], terminated[i], truncated[i], info))
    return said


def test_every_id_is_tested_here():
    assert {env_id for env_id in gym.registry if env_id.startswith("pg/")} == {env_id for env_id, _ in CASES}


@every_case
def test_gymnasium_finds_nothing_to_complain_about(case, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = single(case)
    # Rendering is checked once for each id: in the mode "human" it takes its time.
    check_env(env.unwrapped, skip_render_check=case != next(other for other in CASES if other[0] == case[0]))
    env.close()


@every_case
def test_sb3_finds_nothing_to_complain_about(case):
    sb3_check_env(single(case))


@every_case
@pytest.mark.parametrize("n", [1, 3, 257])
def test_each_row_of_a_batch_is_the_trajectory_of_a_single_environment_bit_for_bit(case, n):
    env, envs = single(case), batch(case, n)
    actions = actions_for(env.action_space, (40, n))
    rows = sorted({0, n // 2, n - 1})
    of_batch = trajectories_of_batch(envs, actions, 5, rows)
    n_ends = 0
    for i in rows:
        alone = trajectory(env, actions[:, i], 5 + i)
        n_ends += sum(len(said) == 2 for said in alone[1:])
        np.testing.assert_equal(of_batch[i], alone)
    assert n_ends >= len(rows)


@every_case
def test_the_same_seed_gives_the_same_trajectory_and_another_one_another(case):
    env = batch(case, 8)
    # The same actions for all, so that only chance tells the rows apart.
    actions = np.repeat(actions_for(env.single_action_space, (40, 1)), 8, axis=1)
    rows = range(8)
    first, again = (trajectories_of_batch(env, actions, 3, rows) for _ in range(2))
    np.testing.assert_equal(first, again)
    differ = not all(same(first[0], first[i]) for i in rows)
    assert differ == (case[0] not in WITHOUT_CHANCE)


@every_case
@every_mode
def test_autoreset_is_that_of_gymnasiums_own_vector_environment(case, mode):
    ours = batch(case, 3, autoreset_mode=mode)
    theirs = SyncVectorEnv([partial(single, case)] * 3, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is mode
    np.testing.assert_equal(ours.reset(seed=11), theirs.reset(seed=11))
    ended = np.zeros(3, dtype=np.bool_)
    n_ends = 0
    for t, action in enumerate(actions_for(ours.single_action_space, (45, 3))):
        if mode is AutoresetMode.DISABLED and ended.any():
            first, expected = (env.reset(options={"reset_mask": ended.copy()}) for env in (ours, theirs))
            np.testing.assert_equal(first[0], expected[0])
            compare_infos(first[1], expected[1], ended)
        got, expected = ours.step(action), theirs.step(action)
        np.testing.assert_equal(got[:4], expected[:4], err_msg=f"step {t}")
        compare_infos(got[4], expected[4])
        ended = got[2] | got[3]
        n_ends += ended.sum()
    assert n_ends >= 3


def compare_infos(got, expected, rows=slice(None)):
    """Infos of rows; what the other rows have is the vector environment's own business."""
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        if isinstance(values, dict):
            compare_infos(got[key], values, expected.get(f"_{key}", rows))
        else:
            assert same(got[key][rows], values[rows]), key


@every_id_of_our_own
def test_without_a_word_the_time_limit_is_the_specs_also_in_the_batch(env_id):
    limit = gym.spec(env_id).max_episode_steps
    env = gym.make_vec(env_id, 2)
    env.reset(seed=0)
    # To the left for ever, to the north for ever, or whatever.
    action = np.zeros(env.action_space.shape, env.action_space.dtype)
    n_steps, done = 0, np.zeros(2, dtype=np.bool_)
    while not done.any():
        _, _, terminated, truncated, _ = env.step(action)
        n_steps, done = n_steps + 1, terminated | truncated
    if limit is None:
        assert terminated.all()
        assert not truncated.any()
    else:
        assert (n_steps, truncated.all(), terminated.any()) == (limit, True, False)


@every_case
def test_agents_get_the_native_version_and_learn_in_it(case):
    env_id, kwargs = case
    env = make_vec(env_id, 3, seed=0, env_kwargs=kwargs)
    assert isinstance(env, VectorEnvAdapter)
    assert isinstance(env.env, VectorFace)
    model = A2C("MlpPolicy", env, seed=0, device="cpu", n_steps=8).learn(96)
    assert model.env.action_space.contains(model.predict(env.reset())[0][0])


@every_case
def test_a_copied_environment_goes_on_as_the_original(case):
    pickled = [] if any(map(callable, case[1].values())) else [lambda env: pickle.loads(pickle.dumps(env))]
    for copied in (copy.deepcopy, *pickled):
        env, envs = single(case), batch(case, 2)
        actions = actions_for(env.action_space, (25, 2))
        for one in (env, envs):
            one.reset(seed=1)
            one.step(actions[0] if one is envs else actions[0, 0])
        other, others = copied(env), copied(envs)
        for action in actions[1:]:
            assert same(envs.step(action), others.step(action))
        for action in actions[1:3, 0]:
            assert same(env.step(action), other.step(action))


@every_case
def test_an_action_outside_a_box_is_clipped_and_outside_a_discrete_space_refused(case):
    env = batch(case, 2)
    space = env.single_action_space
    env.reset(seed=0)
    if isinstance(space, spaces.Box):
        beyond = [env.reset(seed=0) and env.step(np.broadcast_to(high, (2, *space.shape))) for high in (space.high, 9)]
        np.testing.assert_equal(*beyond)
        wrong, words = np.zeros((2, *space.shape[:-1], space.shape[-1] + 1)), "shape"
    else:
        wrong, words = np.array([0, space.n]), rf"Discrete\({space.n}\)"
    with pytest.raises(ValueError, match=f"`action` must .*{words}"):
        env.step(wrong)
    alone = single(case)
    alone.reset(seed=0)
    with pytest.raises(ValueError, match=f"`action` must .*{words}"):
        alone.step(wrong[1])


@every_case
def test_rows_of_a_batch_look_like_single_environments(case):
    env, envs = single(case, render_mode="rgb_array"), batch(case, 2, render_mode="rgb_array")
    env.reset(seed=8)
    envs.reset(seed=7)
    for action in actions_for(env.action_space, (2, 2)):
        done = [any(env.step(action[1])[2:4]), envs.step(action)][0]
        if done:
            env.reset()
        np.testing.assert_array_equal(env.render(), envs.render()[1])


def test_pictures_need_no_display():
    code = f"""
import gymnasium as gym, numpy as np, pg_envs
for env_id in {sorted({env_id for env_id, _ in CASES})}:
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    image = env.render()
    assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 100, (env_id, image.shape)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 2, env_id
    env.close()
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment.pop("SDL_VIDEODRIVER", None)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


@every_id_of_our_own
def test_docstrings_say_what_gymnasiums_say(env_id):
    doc = creator(env_id).__doc__
    headings = [line.strip("# ").strip() for line in doc.splitlines() if line.strip().startswith("## ")]
    expected = ["Description", "Action space", "Observation space", "Dynamics", "Rewards", "Start and end"]
    expected += ["Evaluation", "Version history"]
    if env_id in WITHOUT_DYNAMICS:
        expected.remove("Dynamics")
    if env_id not in STOCHASTIC_OPTIMUM and "Evaluation" not in headings:
        expected.remove("Evaluation")
    assert headings == expected
    assert "Args:" in doc


@every_id
def test_the_environment_says_whether_its_optimum_is_stochastic(env_id):
    deterministic = env_id not in STOCHASTIC_OPTIMUM
    for env in (env_id, gym.spec(env_id), gym.make(env_id), gym.make_vec(env_id, 2), make_vec(env_id, 2)):
        assert deterministic_evaluation(env) is deterministic


@every_case
def test_the_environment_states_its_reference_scores(case):
    env_id, kwargs = case
    scores = pg_envs.reference_scores(env_id, **kwargs)
    single, batch = gym.make(env_id, **kwargs), gym.make_vec(env_id, 2, **kwargs)
    for env in (creator(env_id), single, batch, make_vec(env_id, 2, env_kwargs=kwargs)):
        stated = pickle.loads(pickle.dumps(env.metadata))["reference_scores"]
        assert stated(**kwargs, render_mode="rgb_array") == scores


def test_the_reference_scores_of_an_environment_in_another_process_can_be_read():
    env = SubprocVecEnv([pg_envs.AliasedGridworld] * 2, start_method="forkserver")
    stated = [metadata["reference_scores"] for metadata in env.get_attr("metadata")]
    env.close()
    assert [scores()["optimum"] for scores in stated] == pytest.approx([0.825, 0.825])


def test_the_game_for_two_states_its_value():
    assert pg_envs.RPS().metadata["reference_scores"] == {"value": pg_envs.nash(pg_envs.RPS()).value}


@every_case
def test_reference_scores_are_in_order(case):
    env_id, kwargs = case
    scores = pg_envs.reference_scores(env_id, n_episodes=200, **kwargs)
    box = isinstance(gym.make(env_id, **kwargs).action_space, spaces.Box)
    assert ("random" in scores, "zero" in scores) == (True, box)
    assert all(isinstance(score, float) and np.isfinite(score) for score in scores.values())
    if "optimum" in scores:
        for key, score in scores.items():
            error = 0.0
            if key in pg_envs.references.POLICIES:
                error = pg_envs.references.simulated_returns(env_id, key, n_episodes=200, **kwargs).std() / 200**0.5
            assert score <= scores["optimum"] + 4 * error + 1e-9, key


WRONG = [
    (MATCH, {"n_actions": 4}, "n_actions"),
    (MATCH, {"payoff": [[0, 1], [1, 0]]}, "payoff"),
    (MATCH, {"payoff": "standart"}, "Did you mean 'standard'"),
    (MATCH, {"n_rounds": 0}, "n_rounds"),
    (MATCH, {"opponent": "patern"}, "Did you mean 'pattern'"),
    (MATCH, {"opponent": "fixed", "p": [0.5, 0.6]}, "`p`"),
    (MATCH, {"observation": "history(0)"}, "observation"),
    (KICK, {"n_rounds": 1.5}, "n_rounds"),
    (BANDIT, {"kind": "narow"}, "Did you mean 'narrow'"),
    (PENDULUM, {"preset": "gymnasum"}, "Did you mean 'gymnasium'"),
    (LQR, {"n_joints": 0}, "n_joints"),
    (LQR, {"n_joints": 2.5}, "n_joints"),
    (REVIEWS, {"kl_coef": -1}, "kl_coef"),
    (ARM, {"n_joints": 0}, "n_joints"),
    (ARM, {"n_joints": True}, "n_joints"),
    (ARM, {"dynamics": "chian"}, "Did you mean 'chain'"),
    *[
        (env_id, {"render_mode": "rgb_aray"}, "Did you mean 'rgb_array'")
        for env_id in sorted({id_ for id_, _ in CASES})
    ],
]


@pytest.mark.parametrize(("env_id", "kwargs", "said"), WRONG, ids=[f"{e[3:-3]}-{k}" for e, k, _ in WRONG])
@pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning")  # Gymnasium's own word comes before the error
def test_a_wrong_argument_is_refused_at_once_by_its_name(env_id, kwargs, said):
    for make in (gym.make, partial(gym.make_vec, num_envs=2)):
        with pytest.raises(ValueError, match=said):
            make(env_id, **kwargs)


@every_id
def test_an_argument_that_does_not_exist_is_refused_by_its_name(env_id):
    for make in (gym.make, partial(gym.make_vec, num_envs=2)):
        with pytest.raises(TypeError, match="n_joint'"):
            make(env_id, n_joint=3)


@pytest.mark.parametrize("move", [3, -1, 0.5, [0.5, 0.6, 0.1], [1.0, 0.0], "rock"])
def test_an_opponent_that_plays_an_illegal_move_is_named(move):
    def cheat(own, others, n):
        return move

    for make in (gym.make, partial(gym.make_vec, num_envs=2)):
        with pytest.raises(ValueError, match="opponent"):
            # Some opponents are asked at the start already.
            play(make(MATCH, opponent=cheat))


def play(env):
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape, dtype=np.int64) if env.action_space.shape else 0)
