"""Whatever a search space proposes, the algorithm accepts; and a search survives being killed."""

import os
import signal
import subprocess
import sys

import optuna
import pytest
import yaml
from gymnasium import spaces
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from stable_baselines3.common.env_util import make_vec_env
from warm import UNBUFFERED, wait_for

from pg_agents import registry
from pg_zoo.lookup import find_algorithm, plugin_warnings
from pg_zoo.recipes.files import FILES_OF_RL_ZOO3
from pg_zoo.recipes.writing import with_entry
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import resolved, run_cell
from pg_zoo.tuning.spaces import search_space

REGISTERED = registry.plugins(registry.ALGORITHMS)
# Those of language models, which act in texts alone, are in test_language_zoo.py.
OURS = sorted(algo for algo, plugin in REGISTERED.items() if not plugin.value.startswith("pg_agents.language:"))
REFERENCES = sorted(
    algo
    for algo in registry.reference_algorithms()
    if FILES_OF_RL_ZOO3.get(name := algo.rpartition("/")[2], name) in HYPERPARAMS_SAMPLER
)
ENVS = ["CartPole-v1", "Pendulum-v1"]  # Discrete and Box actions
ONLY_FOR = {"dqn": "CartPole-v1", "qrdqn": "CartPole-v1", **dict.fromkeys(("ddpg", "sac", "td3", "tqc"), "Pendulum-v1")}


def drawn(algo, env, n_trials):
    """Hyperparameters of random trials."""
    vec_env = make_vec_env(env)
    vec_env.close()
    space, _ = search_space(algo)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask(), vec_env.observation_space, vec_env.action_space) for _ in range(n_trials)]


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("algo", OURS)
def test_what_our_search_spaces_propose_is_accepted_and_survives_a_hyperparameter_file(algo, env, tmp_path):
    for hyperparams in drawn(algo, env, n_trials=10):
        assert not {"n_timesteps", "policy"} & {*hyperparams}
        assert ("use_sde" in hyperparams) <= (env == "Pendulum-v1")
        assert ("log_std_init" in hyperparams.get("policy_kwargs", "")) == (env == "Pendulum-v1")
        entry = yaml.safe_load(with_entry("", env, {"n_timesteps": 100, **hyperparams}, tmp_path))[env]
        assert entry == {"n_timesteps": 100, **hyperparams}
        # A warning, such as that minibatches do not divide the rollout, would be an error here.
        resolved(Cell(algo, env, 0, entry))


@pytest.mark.parametrize("algo", REFERENCES)
def test_rl_zoo3s_search_spaces_propose_what_the_references_accept(algo):
    env = ONLY_FOR.get(algo.rpartition("/")[2], "Pendulum-v1")
    for hyperparams in drawn(algo, env, n_trials=3):
        resolved(Cell(algo, env, 0, {"n_timesteps": 100, **hyperparams}))


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("algo", OURS)
def test_it_can_be_trained_with(algo, env, tmp_path):
    def size(hyperparams):
        n_episodes = hyperparams.get("n_episodes", hyperparams.get("group_size", 0))
        return hyperparams["n_envs"] * hyperparams.get("n_steps", n_episodes * 200)

    for number, hyperparams in enumerate(sorted(drawn(algo, env, n_trials=50), key=size)[:3]):
        values = {"n_timesteps": 2 * size(hyperparams), **hyperparams}
        run_cell(
            resolved(Cell(algo, env, 0, values, eval_points=1, eval_episodes=1, final_episodes=1)),
            tmp_path / str(number),
        )


@pytest.mark.parametrize("algo", OURS)
def test_images_are_not_normalised_nor_any_observations_but_vectors(algo):
    space, _ = search_space(algo)
    for observation_space in (spaces.Box(0, 255, (36, 36, 1), "uint8"), spaces.Discrete(3)):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        proposed = [space(study.ask(), observation_space, spaces.Discrete(2)) for _ in range(20)]
        assert all("normalize" not in hyperparams for hyperparams in proposed)


def test_no_algorithm_of_ours_imports_optuna():
    code = "import sys, pg_agents, pg_agents.tuning; pg_agents.PPO; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_algorithm_that_has_a_search_space_says_so_and_all_others_say_why_not():
    with plugin_warnings():
        for algo in registry.algorithms():
            assert (algo in [*REGISTERED, *REFERENCES]) or not hasattr(find_algorithm(algo), "search_space")


def test_a_search_that_was_killed_goes_on(tmp_path, monkeypatch, warm):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    argv = ["tune", "--algo", "a2c", "--env", "pg/TorqueBandit-v0", "-n", "2000", "--trials", "40", "--jobs", "1"]
    argv += ["--seeds", "1", "--eval-points", "2", "-o", str(folder)]
    (tmp_path / "out.txt").touch()
    with warm.begun(*argv, before=UNBUFFERED) as search:
        wait_for(lambda: "\n2 of 40" in (tmp_path / "out.txt").read_text(), told=(tmp_path / "err.txt").read_text)
        assert len(search.processes()) > 1
        os.kill(search.id, signal.SIGKILL)
        search.wait()
        wait_for(lambda: not search.processes(), 20)  # a training does not outlive its search
    study = optuna.load_study(
        study_name="a2c on pg/TorqueBandit-v0",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))),
    )
    n_ended = sum(trial.state.is_finished() for trial in study.trials)
    assert 2 <= n_ended < 40
    # The last trials: one is enough to see that those of before are kept and counted.
    from pg_zoo.tuning.search import Search, Task

    task = Task("a2c", "pg/TorqueBandit-v0", 2000, 1, 2, 5, 30, "cpu")
    again = Search(folder, task, lambda trial: {"n_timesteps": 100}, {}, seed=0)
    again.run(n_ended + 1, jobs=1)
    trials = again.study.get_trials()
    assert [trial.params for trial in trials][:n_ended] == [trial.params for trial in study.trials][:n_ended]
    assert not [trial for trial in trials if not trial.state.is_finished()]
