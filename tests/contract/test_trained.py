"""The agents that come with the zoo score what is recorded, and new ones are taken from a benchmark's results."""

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from prose import says
from rl_zoo3.utils import get_saved_hyperparams, get_trained_models

import pg_agents
from pg_agents import registry
from pg_agents.envs.evaluation import evaluate_policy
from pg_zoo.cli import main
from pg_zoo.commands.enjoy import _find_model, _make_env
from pg_zoo.errors import UserError
from pg_zoo.evidence import agents as trained
from pg_zoo.lookup import find_env
from pg_zoo.options import parse
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.evaluating import takes_most_probable
from pg_zoo.runs.training import run_cell

N_EPISODES = 20
SHORT = {"n_timesteps": 64, "n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy": "MlpPolicy"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("agent", trained.agents(), ids=lambda agent: f"{agent.algo}-{agent.env}")
def test_an_agent_that_comes_with_the_zoo_scores_what_is_recorded(agent):
    find_env(agent.env)
    options = ["--algo", agent.algo, "--env", agent.env, "--no-render", "--seed", "7", "--n-envs", "10"]
    args = parse(["enjoy", *options])
    _, path, folder = _find_model(args)
    assert Path(path).is_relative_to(trained.AGENTS)
    model = registry.algorithm(agent.algo).load(path, device="cpu")
    with closing(_make_env(args, path, folder)) as env:
        assert takes_most_probable(args, env) == agent.deterministic
        score, _ = evaluate_policy(model, env, N_EPISODES, agent.deterministic)
    # Four standard errors of the difference between two means over so many episodes.
    tolerance = 4 * agent.std * (1 / N_EPISODES + 1 / agent.episodes) ** 0.5
    assert score == pytest.approx(agent.score, abs=tolerance + 1e-6)


def test_the_agents_that_come_with_the_zoo_are_small_and_every_folder_is_one():
    files = [path for path in trained.AGENTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    assert len(trained.agents()) == len([path for path in files if path.suffix == ".zip"]) > 0


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of a benchmark: short trainings whose scores are set to 30, 10 and 20."""
    folder = tmp_path_factory.mktemp("results")
    for seed, score in enumerate([30.0, 10.0, 20.0]):
        cell = Cell("ppo", "CartPole-v1", seed, SHORT, "here", 0, 1, 4, keep_agent=True)
        run_cell(cell, folder / cell.path)
        path = folder / cell.path / "cell.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "score": score}))
    normalised = {**SHORT, "normalize": "dict(norm_obs=True, norm_reward=False)"}
    cell = Cell("ppo", "Pendulum-v1", 5, normalised, "here", 0, 1, 2, keep_agent=True)
    run_cell(cell, folder / cell.path)
    return folder


def test_the_agent_with_the_median_score_is_taken(results, empty_folder):
    ((agent, folder),) = trained.ship(results, empty_folder, envs=["CartPole-v1"])
    assert (agent.seed, agent.score, agent.n_timesteps, agent.episodes) == (2, 20.0, 64, 4)
    returns = np.loadtxt(results / "cells/ppo/CartPole-v1/seed_2/evaluation.csv", delimiter=",", skiprows=1)[:, 1]
    assert agent.std == pytest.approx(np.sqrt(np.mean((returns - 20) ** 2)))
    assert folder == empty_folder / "ppo/CartPole-v1_1"
    assert trained.agents(empty_folder) == [agent]


def test_of_two_it_is_the_lower(results, empty_folder):
    few = empty_folder / "few"
    for seed in (0, 2):
        target = few / f"cells/ppo/CartPole-v1/seed_{seed}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(results / f"cells/ppo/CartPole-v1/seed_{seed}", target)
    ((agent, _),) = trained.ship(few, empty_folder / "agents")
    assert agent.score == 20


@pytest.mark.parametrize("module", [pg_agents, stable_baselines3])
def test_what_is_shipped_plays_like_the_original_and_learns_on(results, empty_folder, module):
    ((_, folder),) = trained.ship(results, empty_folder, envs=["CartPole-v1"])
    original, slim = results / "cells/ppo/CartPole-v1/seed_2/agent.zip", folder / "CartPole-v1.zip"
    assert slim.stat().st_size < original.stat().st_size / 3
    env = gym.make("CartPole-v1")
    before = stable_baselines3.PPO.load(original)
    after = module.PPO.load(slim, env=env)
    for name, value in before.policy.state_dict().items():
        assert th.equal(after.policy.state_dict()[name], value), name
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        before.predict(observations, deterministic=True)[0], after.predict(observations, deterministic=True)[0]
    )
    assert before.policy.optimizer.state
    assert not after.policy.optimizer.state
    after.learn(32)
    assert after.policy.optimizer.state


def test_a_shipped_run_is_one_of_rl_zoo3s_and_is_replayed_with_its_normalisation(results, empty_folder, capsys):
    ((_, folder),) = trained.ship(results, empty_folder / "agents", envs=["Pendulum-v1"])
    assert get_trained_models("agents") == {"ppo-Pendulum-v1": ("ppo", "Pendulum-v1")}
    hyperparams, _ = get_saved_hyperparams(str(folder / "Pendulum-v1"), test_mode=True)
    assert hyperparams["normalize_kwargs"] == {"norm_obs": True, "norm_reward": False}
    assert main(["enjoy", "-f", "agents", "--env", "Pendulum-v1", "--no-render", "-n", "200"]) == 0
    out = capsys.readouterr().out
    assert "Pendulum-v1/vecnormalize.pkl\n" in out
    assert "1 episodes" in out


def test_a_new_agent_takes_the_place_of_the_old_one(results, empty_folder):
    for _ in range(2):
        assert trained.main([str(results), "--envs", "CartPole-v1", "-o", "agents"]) == 0
    assert [path.name for path in Path("agents/ppo").iterdir()] == ["CartPole-v1_1"]


def test_results_without_agents_are_refused_and_nothing_is_written(results, empty_folder, capsys):
    bare = empty_folder / "bare/cells/ppo/CartPole-v1/seed_0"
    bare.mkdir(parents=True)
    (bare / "cell.json").write_text((results / "cells/ppo/CartPole-v1/seed_0/cell.json").read_text())
    assert trained.main(["bare", "-o", "agents"]) == 2
    assert "run pg-zoo benchmark with --keep-agents" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no results of a2c on any"):
        list(trained.ship(results, algos=["a2c"]))
    assert not Path("agents").exists()


ENJOY = ["enjoy", "--algo", "ppo", "--env", "CartPole-v1", "--no-render", "-n", "20"]


def test_enjoy_shows_the_shipped_agent_until_there_is_an_own_run(results, monkeypatch, capsys):
    ((_, folder),) = trained.ship(results, Path("agents").absolute(), envs=["CartPole-v1"])
    monkeypatch.setattr(trained, "AGENTS", folder.parents[1])
    assert main(ENJOY) == 0
    out = capsys.readouterr().out
    assert says(out, "logs", "ppo", "CartPole-v1", "comes with pg-agents", "20.00")
    assert "pg-zoo train --algo ppo --env CartPole-v1\n" in out
    assert f"Loading {folder / 'CartPole-v1.zip'}\n" in out
    params = ["--hyperparams", "n_envs:1", "n_steps:32", "batch_size:32", "n_epochs:1", "learning_rate:0.001"]
    assert main(["train", "-n", "32", "--eval-freq", "-1", "--verbose", "0", *params]) == 0
    assert main(ENJOY) == 0
    out = capsys.readouterr().out
    assert "comes with" not in out
    assert "Loading logs/ppo/CartPole-v1_1/CartPole-v1.zip\n" in out
    assert main([*ENJOY, "--shipped"]) == 0
    out = capsys.readouterr().out
    assert says(out, "comes with pg-agents", "20.00")
    assert f"Loading {folder / 'CartPole-v1.zip'}\n" in out


def test_a_run_without_a_model_is_no_run(results, monkeypatch, capsys):
    ((_, folder),) = trained.ship(results, Path("agents").absolute(), envs=["CartPole-v1"])
    monkeypatch.setattr(trained, "AGENTS", folder.parents[1])
    (Path("logs/ppo/CartPole-v1_7") / "CartPole-v1").mkdir(parents=True)
    assert main(ENJOY) == 0
    assert f"Loading {folder / 'CartPole-v1.zip'}\n" in capsys.readouterr().out
    shutil.copytree(folder, "logs/ppo/CartPole-v1_3")
    assert main(ENJOY) == 0
    assert "Loading logs/ppo/CartPole-v1_3/CartPole-v1.zip\n" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["-f", "nothing"], ["--load-best"], ["--exp-id", "3"], ["--load-checkpoint", "0"]])
def test_what_was_asked_for_and_is_not_there_is_not_replaced_by_a_shipped_one(options, capsys):
    assert main([*ENJOY, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "not found", "pg-zoo enjoy --algo ppo --env CartPole-v1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--exp-id", "3"], ["--folder", "--exp-id"]),
        (["-f", "logs"], ["--folder", "--exp-id"]),
        (["--load-best"], ["not allowed with argument"]),
        (["--env", "LunarLander-v3"], ["No agent", "ppo", "LunarLander-v3"]),
    ],
)
def test_a_shipped_agent_is_asked_for_in_one_way_and_only_where_there_is_one(options, said, capsys):
    assert main([*ENJOY, "--shipped", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, *said)


def test_where_there_is_no_agent_at_all_it_says_how_to_train_one(capsys):
    assert main(["enjoy", "--algo", "sb3/ppo", "--env", "CartPole-v1", "--no-render"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "comes with" not in line
    assert says(line, "pg-zoo train --algo sb3/ppo --env CartPole-v1", "pg-zoo list")


def test_videos_of_shipped_agents_do_not_go_into_the_package(capsys):
    assert main([*ENJOY[:-3], "-n", "5", "--video"]) == 0
    (video,) = Path("videos").glob("*.mp4")
    assert f"{video}" in capsys.readouterr().out


def test_list_shows_the_shipped_agents(capsys):
    assert main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    agent = trained.find("ppo", "CartPole-v1")
    assert ["ppo", "CartPole-v1", f"{agent.score:.2f}", "+/-", f"{agent.std:.2f}", f"{agent.n_timesteps:,}"] in rows
