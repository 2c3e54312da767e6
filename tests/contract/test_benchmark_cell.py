"""One training of a benchmark: what it stores, and that evaluating it along the way changes nothing."""

import copy
import csv
import json
import random
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

import pg_agents
from pg_envs.references import reference_scores
from pg_zoo.cli import main
from pg_zoo.errors import UserError
from pg_zoo.results.storage import COMMIT, RANDOM
from pg_zoo.runs import evaluating, provenance, training
from pg_zoo.runs.cell import Cell, defaults
from pg_zoo.runs.evaluating import evaluation_seed
from pg_zoo.runs.training import resolved, run_cell

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "n_timesteps": 64, "policy": "MlpPolicy"}
FEW = {"eval_points": 2, "eval_episodes": 2, "final_episodes": 4}


class Constant(gym.Env):
    """Five steps that earn 2 each, whatever one does."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)
    seeds, steps, fails_at, finite, mebibytes, said = [], 0, None, True, 0, None

    def __init__(self):
        # Training must not depend on who else draws from the global generators, here or in the steps.
        self.task = (random.random() + np.random.random()) / 3  # noqa: NPY002

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        np.ones(self.mebibytes << 20, np.uint8)
        if seed is not None:
            Constant.seeds.append(seed)
        return self.seen(self.np_random.uniform(-1, 1, 2).astype(np.float32)), {}

    def seen(self, numbers):
        return {"mission": self.said} if self.said else numbers

    def step(self, action):
        self.t += 1
        Constant.steps += 1
        if Constant.steps == Constant.fails_at:
            raise RuntimeError("out of order")
        noise = np.float32([random.random(), self.task + np.random.random() / 3])  # noqa: NPY002
        return self.seen(noise), 2.0 if Constant.finite else np.nan, self.t == 5, False, {}


@pytest.fixture(autouse=True)
def constant(monkeypatch):
    monkeypatch.setitem(gym.registry, "Constant-v0", gym.envs.registration.EnvSpec("Constant-v0", entry_point=Constant))
    for name, value in {"seeds": [], "steps": 0, "fails_at": None, "finite": True, "mebibytes": 0}.items():
        monkeypatch.setattr(Constant, name, value)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def record(folder):
    return json.loads((folder / "cell.json").read_text())


def run(folder, algo="ppo", env="Constant-v0", seed=0, hyperparams=SMALL, **options):
    cell = Cell(algo, env, seed, hyperparams, "a test", **{**FEW, **options})
    run_cell(cell, folder / cell.path)
    return folder / cell.path


def same_policy(algo, *paths):
    one, other = (pg_agents.registry.algorithm(algo).load(path).policy.state_dict() for path in paths)
    return all(th.equal(one[name], other[name]) for name in one)


def test_what_is_stored_is_what_is_known_of_a_constant_reward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path, seed=7)
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert folder == tmp_path / "cells/ppo/Constant-v0/seed_7"
    assert {path.name for path in folder.iterdir()} == {
        "cell.json",
        "hyperparameters.yml",
        "curve.csv",
        "evaluation.csv",
    }
    stored = record(folder)
    known = {"format": 1, "algo": "ppo", "env": "Constant-v0", "seed": 7, "hyperparams": SMALL, "origin": "a test"}
    known |= {"n_timesteps": 64, "engine": "mlp", "device": "cpu", "deterministic": True, "score": 10.0, "options": FEW}
    assert {key: stored[key] for key in known} == known
    assert stored["steps_per_second"] == pytest.approx(64 / stored["wall_time"])
    assert stored["versions"]["pg-agents"] == pg_agents.__version__
    assert stored["versions"]["torch"] == th.__version__
    assert 0 <= stored["peak_memory_mib"] < 10_000  # 0 where memory of the libraries is free again
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", stored["date"])
    assert rows(folder / "evaluation.csv") == [
        {"episode": str(number), "return": "10.0", "length": "5"} for number in range(4)
    ]
    assert [(row["timesteps"], row["mean_return"]) for row in rows(folder / "curve.csv")] == [
        ("32", "10.0"),
        ("64", "10.0"),
    ]
    assert yaml.safe_load((folder / "hyperparameters.yml").read_text()) == {"Constant-v0": SMALL}


def test_what_the_hyperparameters_leave_to_the_algorithm_is_stored_too(tmp_path):
    hyperparams = {"n_timesteps": 10, "policy": "MlpPolicy", "gamma": 0.9}
    # Stable-Baselines3's A2C, as its documentation has it.
    known = {"learning_rate": 0.0007, "n_steps": 5, "gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 0.5}
    known |= {"max_grad_norm": 0.5, "rms_prop_eps": 1e-05, "use_rms_prop": True, "use_sde": False}
    known |= {"sde_sample_freq": -1, "rollout_buffer_class": None, "rollout_buffer_kwargs": None}
    known |= {"normalize_advantage": False, "policy_kwargs": None}
    assert record(run(tmp_path, "sb3/a2c", hyperparams=hyperparams))["defaults"] == known
    ours = {"engine": "auto", "prior": None, "prior_kl_coef": 0.1, "prior_kl_estimator": "exact"}
    assert record(run(tmp_path, "a2c", hyperparams=hyperparams))["defaults"] == known | ours
    # What REINFORCE hands on to the base of all algorithms is named there.
    assert record(run(tmp_path, "reinforce", hyperparams=hyperparams))["defaults"]["sde_sample_freq"] == -1
    assert record(run(tmp_path, RANDOM, hyperparams={}))["defaults"] == {}


def test_defaults_are_not_told_in_part_where_keyword_arguments_hide_the_others(monkeypatch):
    class Mine(stable_baselines3.PPO):
        def __init__(self, *args, bonus=1, **kwargs):
            super().__init__(*args, **kwargs)

    class Yours(stable_baselines3.PPO):
        def __init__(self, policy, env, shape=same_policy, rule=Constant):
            super().__init__(policy, env)

    for cls, known in ((Mine, {}), (Yours, {"rule": "Constant", "shape": "same_policy"})):
        monkeypatch.setattr("pg_zoo.runs.cell.find_algorithm", lambda name, cls=cls: cls)
        assert defaults(Cell("x", "Constant-v0", 0, {})) == known


def test_returns_are_raw_where_training_sees_them_normalised_and_stacked(tmp_path):
    hyperparams = {**SMALL, "gamma": 0.9, "normalize": {"norm_obs": True}, "frame_stack": 2, "n_envs": 2}
    given = copy.deepcopy(hyperparams)
    folder = run(tmp_path, hyperparams=hyperparams)
    assert record(folder)["score"] == 10
    assert record(folder)["hyperparams"] == given  # rl_zoo3 adds to what it is given


@pytest.mark.parametrize(
    ("algo", "hyperparams"),
    [
        ("ppo", {**SMALL, "normalize": True, "n_envs": 2}),
        ("ppo", {**SMALL, "engine": "autograd"}),
        ("a2c", {"n_timesteps": 60, "use_sde": False}),
        ("reinforce", {"n_timesteps": 60, "n_episodes": 2}),
        ("reinforce_baseline", {"n_timesteps": 60, "n_episodes": 2}),
        ("sb3/ppo", SMALL),
        ("sb3/dqn", {"n_timesteps": 60, "learning_starts": 10, "exploration_fraction": 0.9}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_agent_is_the_one_that_train_makes_of_the_stored_hyperparameters(tmp_path, algo, hyperparams):
    cell = resolved(Cell(algo, "Constant-v0", 3, hyperparams, keep_agent=True, eval_points=7, eval_episodes=3))
    run_cell(cell, tmp_path / "cell")
    options = ["--conf-file", str(tmp_path / "cell/hyperparameters.yml"), "--seed", "3", "--device", "cpu"]
    options += ["--eval-freq", "-1", "-f", str(tmp_path / "logs"), "--verbose", "0"]
    assert main(["train", "--algo", algo, "--env", "Constant-v0", *options]) == 0
    (trained,) = (tmp_path / "logs").rglob("Constant-v0.zip")
    assert same_policy(algo, tmp_path / "cell/agent.zip", trained)


@pytest.mark.parametrize("algo", ["ppo", "sb3/a2c"])
def test_environments_that_step_all_at_once_do_so_as_in_train(tmp_path, algo):
    env = "pg/TorquePendulum-v0"
    cell = resolved(Cell(algo, env, 2, {"n_timesteps": 64, "n_envs": 2, "n_steps": 32}, keep_agent=True, **FEW))
    run_cell(cell, tmp_path / "cell")
    assert record(tmp_path / "cell")["vec_env"] == "native"
    options = ["--conf-file", str(tmp_path / "cell/hyperparameters.yml"), "--seed", "2", "--vec-env", "native"]
    options += ["--device", "cpu", "--eval-freq", "-1", "-f", str(tmp_path / "logs"), "--verbose", "0"]
    assert main(["train", "--algo", algo, "--env", env, *options]) == 0
    (trained,) = (tmp_path / "logs").rglob("pg-TorquePendulum-v0.zip")
    assert same_policy(algo, tmp_path / "cell/agent.zip", trained)


@pytest.mark.parametrize("algo", ["ppo", "sb3/a2c"])
def test_a_world_is_trained_in_as_in_train(tmp_path, algo):
    cell = resolved(
        Cell(
            algo,
            "CartPole-v1",
            2,
            {"n_timesteps": 64, "n_envs": 2, "n_steps": 32},
            keep_agent=True,
            vec_env="auto",
            **FEW,
        )
    )
    run_cell(cell, tmp_path / "cell")
    assert record(tmp_path / "cell")["vec_env"] == "world"
    options = ["--conf-file", str(tmp_path / "cell/hyperparameters.yml"), "--seed", "2", "--vec-env", "world"]
    options += ["--device", "cpu", "--eval-freq", "-1", "-f", str(tmp_path / "logs"), "--verbose", "0"]
    assert main(["train", "--algo", algo, "--env", "CartPole-v1", *options]) == 0
    (trained,) = (tmp_path / "logs").rglob("CartPole-v1.zip")
    assert same_policy(algo, tmp_path / "cell/agent.zip", trained)


def test_random_actions_start_where_the_agents_in_a_world_do(tmp_path):
    """CartPole's first states differ between Gymnasium and its world, and so do the lengths of episodes."""
    lengths = {}
    for vec_env in ("world", "own"):
        folder = run(tmp_path / vec_env, RANDOM, "CartPole-v1", hyperparams={}, vec_env=vec_env, final_episodes=10)
        assert record(folder)["vec_env"] == ("world" if vec_env == "world" else "dummy")
        lengths[vec_env] = [row["length"] for row in rows(folder / "evaluation.csv")]
    assert lengths["world"] != lengths["own"]


@pytest.mark.parametrize(
    ("env", "hyperparams", "kind"),
    [
        ("CartPole-v1", {}, "world"),
        ("CartPole-v1", {"env_kwargs": {"sutton_barto_reward": True}}, "world"),
        ("CartPole-v1", {"monitor_kwargs": {"allow_early_resets": True}}, "dummy"),
        ("CartPole-v1", {"env_kwargs": {"max_episode_steps": 7, "render_mode": "ansi"}}, "dummy"),
        ("Constant-v0", {}, "dummy"),
    ],
)
def test_a_world_is_taken_where_there_is_one_that_fits(env, hyperparams, kind):
    assert training._vec_env(Cell("ppo", env, 0, hyperparams, vec_env="auto")) == kind


def test_the_final_evaluation_is_sb3s_with_the_statistics_of_training(tmp_path):
    hyperparams = {**SMALL, "normalize": True, "n_timesteps": 256}
    folder = run(tmp_path, env="Pendulum-v1", seed=1, hyperparams=hyperparams, keep_agent=True)
    env = VecNormalize.load(folder / "vecnormalize.pkl", make_vec_env("Pendulum-v1", 4))
    env.training = env.norm_reward = False
    env.seed(evaluation_seed(1, 0))
    agent = stable_baselines3.PPO.load(folder / "agent.zip")
    returns, lengths = evaluate_policy(agent, env, 4, return_episode_rewards=True)
    stored = rows(folder / "evaluation.csv")
    assert [float(row["return"]) for row in stored] == pytest.approx(returns, rel=1e-6)  # its predictions are float32
    assert [int(row["length"]) for row in stored] == lengths == [200] * 4


def test_evaluations_have_seeds_that_training_never_uses(tmp_path):
    run(tmp_path, seed=3, hyperparams={**SMALL, "n_envs": 2})
    training = [seed for seed in Constant.seeds if seed < 2**30]
    assert sorted(training) == [3, 4]
    others = set(Constant.seeds) - set(training)
    assert others == {evaluation_seed(3, number) + env for number in range(3) for env in range(4)}
    assert max(others) < 2**31


def test_the_last_evaluation_sees_the_last_update_and_early_ones_the_steps_asked_for(tmp_path):
    seen = []
    cell = Cell("ppo", "Constant-v0", 0, {**SMALL, "n_timesteps": 50}, eval_points=5, eval_episodes=1)
    run_cell(cell, tmp_path / "cell", lambda timesteps, mean_return: seen.append((timesteps, mean_return)))
    assert seen == [(10, 10), (20, 10), (30, 10), (40, 10), (64, 10)]  # rollouts of 16 steps are completed
    assert record(tmp_path / "cell")["n_timesteps"] == 64


def test_the_time_of_evaluations_does_not_count(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    evaluate = evaluating.evaluate_policy

    def slow(*args, **kwargs):
        [next(clock) for _ in range(1000)]
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(evaluating, "evaluate_policy", slow)
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    folder = run(tmp_path, hyperparams=SMALL)
    # Whoever else reads this clock in training does so a few times each step.
    assert record(folder)["wall_time"] < 1000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone forgets an earlier peak")
def test_the_memory_is_what_this_training_has_added_and_not_what_the_process_had_before(tmp_path, monkeypatch):
    def peak(name, mebibytes):
        monkeypatch.setattr(Constant, "mebibytes", mebibytes)
        return record(run(tmp_path / name))["peak_memory_mib"]

    peak("first", 0)  # loads what is still missing
    large, small, again = peak("large", 200), peak("small", 0), peak("again", 200)
    assert 180 < large < 250  # a little may go where something has been freed
    assert 0 <= small < 50
    assert 180 < again < 250


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with a package, and a function that runs git in it."""

    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "zoo/pg_zoo").mkdir(parents=True)
    (tmp_path / "zoo/pg_zoo/cell.py").touch()
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    return SimpleNamespace(folder=tmp_path, git=git, file=tmp_path / "zoo/pg_zoo/cell.py")


def test_the_commit_of_a_checkout_is_told_with_its_changes(checkout):
    first = checkout.git("rev-parse", "HEAD")[:12]
    assert provenance.commit(checkout.folder) == first
    checkout.file.write_text("x = 1\n")
    assert provenance.commit(checkout.folder) == f"{first}+changes"
    checkout.git("commit", "-am", "second")
    second = checkout.git("rev-parse", "HEAD")[:12]
    assert provenance.commit(checkout.folder) == second != first
    checkout.file.with_name("new.py").touch()
    assert provenance.commit(checkout.folder) == f"{second}+changes"


def test_changes_of_other_files_than_the_packages_are_none(checkout):
    (checkout.folder / "README.md").touch()
    (checkout.folder / "zoo/pg_zoo/evidence.json").touch()
    assert provenance.commit(checkout.folder) == checkout.git("rev-parse", "HEAD")[:12]


def test_without_a_checkout_or_git_no_commit_is_told(checkout, monkeypatch):
    # An environment for packages may lie in a checkout of something else.
    assert provenance.commit(checkout.folder / "zoo") is None
    monkeypatch.setenv("PATH", "")
    assert provenance.commit(checkout.folder) is None


@pytest.mark.parametrize("commit", ["0123456789ab+changes", None])
def test_a_cell_says_of_which_commit_it_is(tmp_path, monkeypatch, commit):
    monkeypatch.setattr(provenance, "_LOADED", commit)
    assert record(run(tmp_path, RANDOM, hyperparams={}))["versions"].get(COMMIT) == commit


def test_what_a_callback_raises_ends_the_training_and_leaves_nothing(tmp_path):
    class PrunedError(Exception):
        pass

    def prune(timesteps, mean_return):
        raise PrunedError(timesteps)

    with pytest.raises(PrunedError, match="32"):
        run_cell(Cell("ppo", "Constant-v0", 0, SMALL, **FEW), tmp_path / "cells/cell", prune)
    assert list((tmp_path / "cells").iterdir()) == []
    assert Constant.steps < 64 + 2 * 5 * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_stops_halfway_is_no_result(tmp_path, monkeypatch, error):
    monkeypatch.setattr(Constant, "fails_at", 40)
    monkeypatch.setattr("builtins.RuntimeError", error)
    with pytest.raises(error):
        run(tmp_path, tensorboard=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
def test_returns_that_are_not_finite_are_no_score(tmp_path, monkeypatch):
    monkeypatch.setattr(Constant, "finite", False)
    with pytest.raises(FloatingPointError, match="random Constant-v0 seed 0"):
        run(tmp_path, RANDOM, hyperparams={})
    assert not list(tmp_path.rglob("cell.json"))


def test_random_actions_score_what_random_actions_score(tmp_path):
    folder = run(tmp_path, RANDOM, "pg/ShortCorridor-v0", hyperparams={}, final_episodes=1000)
    returns = [float(row["return"]) for row in rows(folder / "evaluation.csv")]
    known = reference_scores("pg/ShortCorridor-v0")["random"]
    assert np.mean(returns) == pytest.approx(known, abs=4 * np.std(returns) / np.sqrt(1000))
    stored = record(folder)
    assert (stored["n_timesteps"], stored["wall_time"], stored["steps_per_second"]) == (0, 0, None)
    assert (stored["engine"], stored["deterministic"]) == ("none", False)
    assert rows(folder / "curve.csv") == []


def test_random_actions_need_no_observations_that_a_vector_environment_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(Constant, "observation_space", spaces.Dict({"mission": spaces.Text(8)}))
    monkeypatch.setattr(Constant, "said", "go")
    folder = run(tmp_path, RANDOM, hyperparams={})
    assert [row["return"] for row in rows(folder / "evaluation.csv")] == ["10.0"] * 4


def test_the_same_seed_gives_the_same_episodes_and_another_one_others(tmp_path):
    def episodes(folder, algo, seed):
        hyperparams = {} if algo == RANDOM else SMALL
        return (run(tmp_path / folder, algo, "Pendulum-v1", seed, hyperparams) / "evaluation.csv").read_text()

    for algo in ("ppo", RANDOM):
        assert episodes("a", algo, 0) == episodes("b", algo, 0) != episodes("a", algo, 1)


def test_an_environment_that_asks_for_drawn_actions_gets_them(tmp_path):
    folder = run(tmp_path, env="pg/RPSMatch-v0")
    assert record(folder)["deterministic"] is False
    # The most probable action alone loses all rounds of a match but the first.
    assert record(folder)["score"] > -40


def test_tensorboard_names_runs_as_the_cells_are_named(tmp_path):
    run(tmp_path, tensorboard=True)
    run(tmp_path, "sb3/a2c", seed=5, hyperparams={"n_timesteps": 600, "policy": "MlpPolicy"}, tensorboard=True)
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    names = [f"cells/{name}/tensorboard" for name in ("ppo/Constant-v0/seed_0", "sb3-a2c/Constant-v0/seed_5")]
    assert sorted(runs.Runs()) == names
    curve = runs.Scalars(names[0], "eval/mean_reward")
    assert [(event.step, event.value) for event in curve] == [(32, 10), (64, 10)]
    # An update is logged after the next rollout, or with an evaluation if that comes before.
    assert [event.step for event in runs.Scalars(names[0], "train/loss")] == [32, 48, 64, 64]


def test_resolving_names_the_policy_and_the_steps():
    cell = resolved(Cell("ppo", "Constant-v0", 0, {"policy": "auto", "learning_rate": "lin_0.1"}))
    assert cell.hyperparams == {"policy": "MlpPolicy", "learning_rate": "lin_0.1", "n_timesteps": 100_000}
    assert Constant.steps == 0


@pytest.mark.parametrize(
    ("algo", "env", "hyperparams", "message"),
    [
        ("ppo", "Constant-v0", {"n_step": 8}, "ppo .*Constant-v0.* 'n_step'.* 'n_steps'"),
        ("ppo", "Constant-v0", {"n_timesteps": 0}, "`n_timesteps` .*at least 1 .* is 0"),
        ("ppo", "Constant-v0", {"gamma": 2}, "`gamma` .*at most 1, .* 2"),
        ("ppo", "Constant-v0", {"policy_kwargs": "open('x')"}, "policy_kwargs .* code"),
        ("ppo", "CartPole", {}, "'CartPole'.* 'CartPole-v"),
        ("pp", "Constant-v0", {}, "'pp'.* 'ppo'"),
    ],
)
def test_what_cannot_be_trained_is_said_before(algo, env, hyperparams, message):
    with pytest.raises(UserError, match=message):
        resolved(Cell(algo, env, 0, hyperparams))


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", 2**30), ("eval_points", -1), ("final_episodes", 0)])
def test_a_number_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        Cell(**{"algo": "ppo", "env": "Constant-v0", "seed": 0, "hyperparams": {}, name: value})


def test_a_folder_that_exists_is_left_alone(tmp_path):
    folder = run(tmp_path)
    before = (folder / "cell.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        run(tmp_path)
    assert (folder / "cell.json").read_bytes() == before
