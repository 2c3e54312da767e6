"""EnvPool's environments as SB3's.

What EnvPool's own object does is the known answer, and Gymnasium's environment that of the physics. These tests need
`pip install 'pg-agents[envpool]'`. The others are about a small stand-in for EnvPool.
"""

import json
import sys
from collections import namedtuple

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.vec_env import DummyVecEnv

import pg_agents
from pg_agents import PPO, make_vec
from pg_agents.envs import EnvPoolVector, VectorEnvAdapter
from pg_zoo.cli import main
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import built, resolved, run_cell

# The stand-in

Config = namedtuple("Config", "num_envs batch_size max_num_players env_seed", defaults=(3, 0, 1, ()))
Spec = namedtuple("Spec", "config")


class Pool(VectorEnv):
    """Episodes of environment i last 2 + i steps; the observation is seed, number of the step, sum of actions."""

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}
    render_mode = "rgb_array"
    single_observation_space = observation_space = spaces.Box(
        np.array([np.finfo(np.float64).tiny, 0, -9]), np.array([np.finfo(np.float64).max, 9, 9]), (3,), np.float64
    )
    single_action_space = action_space = spaces.Box(-1, 1, (2,), np.float64)

    def __init__(self, spec):
        self.spec, self.config, self.num_envs = spec, spec.config._asdict(), spec.config.num_envs
        self.all_env_ids, self.asked = np.arange(self.num_envs, dtype=np.int32), []
        self.seeds, self.sums = np.array(spec.config.env_seed or [42] * self.num_envs), np.zeros(self.num_envs)
        self.steps, self.is_open = np.zeros(self.num_envs, dtype=int), True

    send = recv = None

    def reset(self, *, options=None):
        self.asked.append(options)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self.steps[mask] = self.sums[mask] = 0
        return self._observations()[mask], self._infos(mask)

    def step(self, actions):
        self.steps += 1
        self.sums += np.asarray(actions).sum(1)
        over = self.steps == 2 + self.all_env_ids
        cut = over & (self.all_env_ids > 0)
        everywhere = np.ones(self.num_envs, dtype=bool)
        return self._observations(), self.sums.astype(np.float32), over & ~cut, cut, self._infos(everywhere)

    def _observations(self):
        return np.stack([self.seeds, self.steps, self.sums], axis=1)

    def _infos(self, mask):
        ids = self.all_env_ids[mask]
        return {"env_id": ids, "players": {"env_id": ids}, "elapsed_step": self.steps[mask].copy()}

    def render(self, env_ids=None):
        return np.zeros((len(env_ids), 2, 2, 3), dtype=np.uint8)

    def close(self):
        self.is_open = False


def stand_in(**config):
    return Pool(Spec(Config(**config)))


def test_spaces_are_those_of_all_environments_in_gymnasiums_types():
    env = EnvPoolVector(stand_in())
    assert env.single_action_space == spaces.Box(-1, 1, (2,), np.float32)
    assert env.action_space == spaces.Box(-1, 1, (3, 2), np.float32)
    low, high = np.array([-np.inf, 0, -9]), np.array([np.inf, 9, 9])
    assert env.single_observation_space == spaces.Box(low, high, (3,), np.float64)
    assert env.observation_space.shape == (3, 3)


def test_a_reset_of_some_environments_gives_a_row_for_each():
    env = EnvPoolVector(stand_in(env_seed=(5, 6, 7)))
    env.reset()
    env.step(np.ones((3, 2)))
    observations, infos = env.reset(options={"reset_mask": np.array([True, False, True])})
    np.testing.assert_array_equal(observations, [[5, 0, 0], [0, 0, 0], [7, 0, 0]])
    assert infos.keys() == {"elapsed_step"}
    observations, *_, infos = env.step(np.zeros((3, 2)))
    np.testing.assert_array_equal(observations, [[5, 1, 0], [6, 2, 2], [7, 1, 0]])
    assert infos["elapsed_step"].tolist() == [1, 2, 1]


def test_no_step_is_spent_on_a_reset():
    env = VectorEnvAdapter(stand_in(num_envs=2))
    assert env.reset()[:, 1].tolist() == [0, 0]
    steps = [env.step(np.full((2, 2), 0.5)) for _ in range(6)]
    numbers = np.transpose([observations[:, 1] for observations, *_ in steps])
    np.testing.assert_array_equal(numbers, [[1, 0, 1, 0, 1, 0], [1, 2, 0, 1, 2, 0]])
    assert [dones.tolist() for _, _, dones, _ in steps] == [[step % 2 == 1, step % 3 == 2] for step in range(6)]
    terminated, truncated = steps[1][3][0], steps[2][3][1]
    assert terminated["TimeLimit.truncated"] is False
    assert truncated["TimeLimit.truncated"] is True
    assert (terminated["episode"]["r"], terminated["episode"]["l"]) == (1 + 2, 2)  # rewards are sums of actions
    assert (truncated["episode"]["r"], truncated["episode"]["l"]) == (1 + 2 + 3, 3)
    assert truncated["terminal_observation"].tolist() == [42, 3, 3]


def test_a_seed_makes_the_environments_anew_with_consecutive_seeds():
    pool = stand_in()
    env = EnvPoolVector(pool)
    assert env.reset()[0][:, 0].tolist() == [42, 42, 42]
    assert env.reset(seed=7)[0][:, 0].tolist() == [7, 8, 9]
    assert env.reset()[0][:, 0].tolist() == [7, 8, 9]
    assert env.reset(seed=[1, 5, 3])[0][:, 0].tolist() == [1, 5, 3]
    assert env.pool is not pool
    assert pool.seeds.tolist() == [42, 42, 42]


def test_seeds_of_32_bits_stay_different():
    seeds = EnvPoolVector(stand_in()).reset(seed=2**32 - 2)[0][:, 0]
    assert seeds.tolist() == [-2, -1, 0]
    assert EnvPoolVector(stand_in()).reset(seed=2**31 - 1)[0][:, 0].tolist() == [2**31 - 1, -(2**31), 1 - 2**31]


def test_it_renders_all_environments_and_closes():
    env = VectorEnvAdapter(stand_in())
    assert np.shape(env.get_images()) == (3, 2, 2, 3)
    env.close()
    assert not env.env.pool.is_open


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"batch_size": 2}, "`batch_size` of an EnvPool must be its `num_envs`, 3, .* but is 2"),
        ({"max_num_players": 2}, "`max_num_players` of an EnvPool must be 1, but is 2"),
    ],
)
def test_pools_that_do_not_step_all_environments_alike_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        VectorEnvAdapter(stand_in(**config))


def test_wrappers_go_around_the_interface_that_they_know():
    with pytest.raises(TypeError, match=r"RecordEpisodeStatistics around EnvPool's object.*EnvPoolVector between"):
        VectorEnvAdapter(RecordEpisodeStatistics(stand_in()))
    env = VectorEnvAdapter(RecordEpisodeStatistics(EnvPoolVector(stand_in())))
    assert env.autoreset_mode is AutoresetMode.DISABLED
    with pytest.raises(TypeError, match=r"`pool` must come from `envpool\.make\(.*, but is"):
        EnvPoolVector(gym.make_vec("CartPole-v1", 2))


def test_without_envpool_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ImportError, match=r"pip install 'pg-agents\[envpool\]'"):
        make_vec("CartPole-v1", 2, backend="envpool")


# EnvPool


ROUNDS_SPACES = pytest.mark.filterwarnings("ignore:.*Box (low|high)'s precision lowered")


@pytest.fixture
def envpool():
    return pytest.importorskip("envpool")


@pytest.fixture
def pool_of(envpool):
    """Makes EnvPool's object; `num_threads` is 1."""
    return lambda env_id, n_envs=2, **kwargs: envpool.make(
        env_id, env_type="gymnasium", num_envs=n_envs, num_threads=1, **kwargs
    )


@ROUNDS_SPACES
def test_envpool_spends_a_step_on_a_reset_and_has_one_flag_for_the_end(pool_of):
    """What the module's documentation says of EnvPool."""
    pool = pool_of("CartPole-v1", 1, seed=5, max_episode_steps=9)
    pool.reset()
    for _ in range(9):
        end = pool.step(np.array([1]))
    start = pool.step(np.array([1]))
    assert abs(end[0][0, 2]) > 0.2095  # beyond 12 degrees: it terminates in the last step that the time limit allows
    assert (end[1].tolist(), end[2].tolist(), end[3].tolist()) == ([1], [False], [True])
    assert (start[1].tolist(), start[2].tolist(), start[3].tolist()) == ([0], [False], [False])
    assert np.abs(start[0]).max() <= 0.05
    assert (pool.single_action_space, pool.metadata["autoreset_mode"]) == (pool.action_space, AutoresetMode.NEXT_STEP)


@ROUNDS_SPACES
@pytest.mark.parametrize("limit", [5, 500])
def test_episodes_are_envpools_without_the_steps_of_resets(pool_of, limit):
    """One environment each: where episodes end together, the streams can be compared step by step."""
    raw, env = (pool_of("CartPole-v1", 1, seed=5, max_episode_steps=limit) for _ in range(2))
    env = VectorEnvAdapter(env)
    np.testing.assert_array_equal(env.reset(), raw.reset()[0])
    ends, length = 0, 0
    for _ in range(40):
        observations, rewards, dones, (info,) = env.step(np.array([1]))
        given, given_rewards, terminated, truncated, _ = raw.step(np.array([1]))
        length += 1
        assert dones == terminated | truncated
        assert (rewards, given_rewards) == (1, 1)
        if dones[0]:
            np.testing.assert_array_equal(info["terminal_observation"], given[0])
            assert info["TimeLimit.truncated"] is (limit == 5)
            assert (info["episode"]["l"], info["episode"]["r"]) == (length, length)
            ends, length = ends + 1, 0
            given, *_ = raw.step(np.array([0]))
        np.testing.assert_array_equal(observations, given)
    assert ends > 2


@pytest.mark.parametrize("ppo", [pg_agents.PPO, stable_baselines3.PPO])
@pytest.mark.parametrize(("env_id", "is_death"), [("Pendulum-v1", False), ("CartPole-v1", True)])
def test_a_time_limit_is_not_death(envpool, ppo, env_id, is_death):
    """Where every state has the value 100, a time limit adds 0.9 x 100 to the reward, and death adds nothing."""
    limit = {} if is_death else {"max_episode_steps": 10}
    env = make_vec(env_id, 2, seed=0, backend="envpool", env_kwargs=limit)
    model = ppo("MlpPolicy", env, n_steps=64, batch_size=128, n_epochs=1, gamma=0.9, seed=0, device="cpu")
    with th.no_grad():
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(100)
    rewards, dones = [], []

    def watch(local, _):
        rewards.append(np.array(local["rewards"]))
        dones.append(np.array(local["dones"]))
        return True

    model.learn(128, callback=watch)
    added = model.rollout_buffer.rewards - np.array(rewards)
    assert np.sum(dones) > 2
    np.testing.assert_allclose(added, 0 if is_death else 90 * np.array(dones), rtol=1e-5)


def test_pendulum_is_gymnasiums(envpool):
    """EnvPool computes in float32: five steps amplify its rounding by less than 100."""
    env, single = make_vec("Pendulum-v1", 3, seed=1, backend="envpool"), gym.make("Pendulum-v1").unwrapped
    assert (env.observation_space, env.action_space) == (single.observation_space, single.action_space)
    observations, rng = env.reset(), np.random.default_rng(0)
    for _ in range(5):
        actions = rng.uniform(-2, 2, (3, 1)).astype(np.float32)
        expected = []
        for (cosine, sine, speed), action in zip(observations, actions, strict=True):
            single.state, single.last_u = np.array([np.arctan2(sine, cosine), speed]), None
            observation, reward, *_ = single.step(action)
            expected.append([*observation, reward])
        observations, rewards, _, _ = env.step(actions)
        np.testing.assert_allclose(np.c_[observations, rewards], expected, atol=1e-5 * 16)


def test_half_cheetah_is_gymnasiums(envpool):
    """Both run MuJoCo in float64; EnvPool rounds rewards to float32."""
    pytest.importorskip("mujoco")
    env, single = make_vec("HalfCheetah-v5", 3, seed=1, backend="envpool"), gym.make("HalfCheetah-v5").unwrapped
    assert (env.observation_space, env.action_space) == (single.observation_space, single.action_space)
    single.reset()
    observations, rng = env.reset(), np.random.default_rng(0)
    for _ in range(3):
        actions = rng.uniform(-1, 1, (3, 6)).astype(np.float32)
        before = observations
        observations, rewards, _, _ = env.step(actions)
        for i in range(3):
            single.set_state(np.r_[0, before[i, :8]], before[i, 8:])
            # The solver starts from the last accelerations, which an observation does not show: its tolerance is 1e-8.
            expected, reward, *_ = single.step(actions[i])
            np.testing.assert_allclose(observations[i], expected, atol=1e-5)
            np.testing.assert_allclose(rewards[i], reward, atol=1e-5)


def test_half_cheetah_has_gymnasiums_spaces_and_infos(envpool):
    env = make_vec("HalfCheetah-v5", 2, seed=0, backend="envpool")
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (17,), np.float64)
    assert env.action_space == spaces.Box(-1, 1, (6,), np.float32)
    assert env.reset().dtype == np.float64
    observations, rewards, dones, infos = env.step(np.zeros((2, 6), dtype=np.float32))
    assert (observations.dtype, rewards.dtype, dones.dtype) == (np.float64, np.float32, np.bool_)
    assert {"x_position", "x_velocity", "elapsed_step", "TimeLimit.truncated"} <= infos[0].keys()
    assert not {"env_id", "players"} & infos[0].keys()
    # Without torque the reward is the velocity along x.
    np.testing.assert_allclose(rewards, [info["x_velocity"] for info in infos], rtol=1e-5)


@ROUNDS_SPACES
def test_environment_i_has_the_seed_plus_i(pool_of):
    first = make_vec("CartPole-v1", 3, seed=7, backend="envpool").reset()
    np.testing.assert_array_equal(first, make_vec("CartPole-v1", 3, seed=7, backend="envpool").reset())
    np.testing.assert_array_equal(first, pool_of("CartPole-v1", 3, seed=7).reset()[0])
    np.testing.assert_array_equal(first[1:], make_vec("CartPole-v1", 2, seed=8, backend="envpool").reset())
    assert (first != make_vec("CartPole-v1", 3, backend="envpool").reset()).all()


@pytest.mark.parametrize("engine", ["mlp", "autograd"])
def test_agents_take_envpools_object_and_repeat_a_run(pool_of, engine):
    def parameters():
        env = pool_of("CartPole-v1", 2, seed=np.random.default_rng().integers(2**31))
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=3, engine=engine).learn(128)
        return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().numpy()

    np.testing.assert_array_equal(parameters(), parameters())


def test_evaluation_takes_envpools_object(pool_of):
    model = PPO("MlpPolicy", pool_of("CartPole-v1"), n_steps=32, batch_size=32)
    returns, lengths = pg_agents.evaluate_policy(
        model, pool_of("CartPole-v1"), n_eval_episodes=4, return_episode_rewards=True
    )
    assert returns == lengths
    assert len(lengths) == 4


def test_images_keep_their_arguments_in_environments_made_anew(envpool):
    env_kwargs = {"render_mode": "rgb_array", "render_width": 60, "render_height": 40}
    env = make_vec("CartPole-v1", 2, seed=0, backend="envpool", env_kwargs=env_kwargs)
    env.reset()
    assert np.shape(env.get_images()) == (2, 40, 60, 3)


@pytest.mark.parametrize(
    ("env_id", "arguments", "error", "message"),
    [
        ("Taxi-v4", {}, gym.error.VersionNotFound, r"EnvPool does not have 'Taxi-v4', but has Taxi-v3\."),
        ("CartPol-v1", {}, gym.error.NameNotFound, "EnvPool does not have 'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("CartPole-v1", {"env_kwargs": {"num_thread": 1}}, TypeError, "'num_thread', .* Did you mean 'num_threads'"),
        ("CartPole-v1", {"backend": "envpol"}, ValueError, "`backend` must be one of 'envpool', but is 'envpol'"),
        ("CartPole-v1", {"monitor_dir": "logs"}, ValueError, "`monitor_dir` cannot be combined with `backend`"),
        ("CartPole-v1", {"vectorization_mode": "sync"}, ValueError, "`vectorization_mode` cannot be combined with"),
        (gym.Env, {}, ValueError, "`env_id` .* which is not an id, cannot be combined with `backend` 'envpool'"),
    ],
)
def test_errors_say_what_envpool_has(envpool, env_id, arguments, error, message):
    with pytest.raises(error, match=message):
        make_vec(env_id, 2, **{"backend": "envpool", **arguments})


def test_the_command_line_trains_on_it(envpool, tmp_path, capsys):
    arguments = ["--algo", "ppo", "--env", "Pendulum-v1", "--seed", "1", "-n", "256", "--eval-freq", "200"]
    arguments += ["--eval-episodes", "1", "--hyperparams", "n_envs:2", "n_steps:64", "batch_size:64"]
    logs = [tmp_path / name for name in "ab"]
    for folder in logs:
        assert main(["train", *arguments, "--vec-env", "envpool", "-f", str(folder), "--verbose", "0"]) == 0
    policies = [PPO.load(next(folder.rglob("Pendulum-v1.zip"))).policy for folder in logs]
    a, b = (th.nn.utils.parameters_to_vector(policy.parameters()) for policy in policies)
    assert th.equal(a, b)
    assert main(["train", *arguments[:2], "--env", "Taxi-v4", "--vec-env", "envpool", "-f", str(tmp_path)]) != 0
    assert "EnvPool does not have 'Taxi-v4', but has Taxi-v3" in capsys.readouterr().err


def test_a_benchmarks_cell_trains_on_it_and_is_scored_in_gymnasiums_environment(envpool, tmp_path):
    entry = {"n_timesteps": 128, "n_envs": 2, "n_steps": 32, "batch_size": 32, "normalize": True}
    cell = resolved(Cell("ppo", "Pendulum-v1", 0, entry, eval_points=0, final_episodes=2, vec_env="envpool"))
    with built(cell) as training:
        pool = training.model.get_env().venv.env
        assert isinstance(pool, EnvPoolVector)
        assert pool.pool.config["num_threads"] == 1  # other cells train beside this one
        assert isinstance(training.eval_envs.venv, DummyVecEnv)
    run_cell(cell, tmp_path / "cell")
    assert json.loads((tmp_path / "cell/cell.json").read_text())["vec_env"] == "envpool"
