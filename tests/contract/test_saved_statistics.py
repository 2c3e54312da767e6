"""The statistics of a normalisation are saved beside each model, as they were at its moment, and used with it."""

import re
import shutil
from pathlib import Path

import pytest
import stable_baselines3
import yaml
from fakes import Spy, TinyEnv
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import A2C, CheckpointCallback, EvalCallback, load_normalization
from pg_agents.files.saving import statistics_beside
from pg_zoo.cli import main

SMALL = ["n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1", "learning_rate:0.01"]
SHORT = ["-n", "320", "--seed", "1", "--verbose", "0", "--hyperparams", *SMALL]
RUN = Path("logs/ppo/CartPole-v1_1")


def normalised(n_envs=1):
    return VecNormalize(make_vec_env(TinyEnv, n_envs, seed=0))


def agent():
    return A2C("MlpPolicy", normalised(), n_steps=8, seed=0, device="cpu", engine="autograd")


def mean(path):
    return load_normalization(path, make_vec_env(TinyEnv)).obs_rms.mean.tolist()


def test_the_file_has_the_name_that_sb3_gives_it(tmp_path):
    callback = callbacks.CheckpointCallback(8, str(tmp_path), "my_2_model", save_vecnormalize=True)
    agent().learn(16, callback=callback)
    models = sorted(tmp_path.glob("*.zip"))
    assert [model.name for model in models] == ["my_2_model_16_steps.zip", "my_2_model_8_steps.zip"]
    assert sorted(map(statistics_beside, models)) == sorted(tmp_path.glob("*.pkl"))
    assert statistics_beside("runs/best_model.zip") == Path("runs/best_model_vecnormalize.pkl")


def test_each_checkpoint_has_those_of_its_moment(tmp_path):
    spy = Spy(step=lambda spy: spy.training_env.obs_rms.mean.tolist())
    agent().learn(16, callback=[CheckpointCallback(8, str(tmp_path)), spy])
    found = [mean(tmp_path / f"rl_model_vecnormalize_{steps}_steps.pkl") for steps in (8, 16)]
    assert found == [spy.seen[7], spy.seen[15]]
    assert found[0] != found[1]


def test_checkpoints_without_statistics_can_be_had(tmp_path):
    agent().learn(8, callback=CheckpointCallback(8, str(tmp_path), save_vecnormalize=False))
    assert [path.name for path in tmp_path.iterdir()] == ["rl_model_8_steps.zip"]


def test_the_best_model_has_those_of_its_moment(tmp_path):
    best = Spy(step=lambda spy: spy.training_env.obs_rms.mean.tolist())
    callback = EvalCallback(
        normalised(), best, eval_freq=4, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0
    )
    trained = agent().learn(64, callback=callback)
    assert mean(tmp_path / "best_model_vecnormalize.pkl") == best.seen[-1]
    assert best.seen[-1] != trained.get_env().obs_rms.mean.tolist()


def test_a_model_that_sees_all_as_it_is_has_none(tmp_path):
    plain = A2C("MlpPolicy", TinyEnv(), n_steps=8, device="cpu", engine="autograd")
    evaluation = EvalCallback(make_vec_env(TinyEnv), eval_freq=8, best_model_save_path=str(tmp_path), verbose=0)
    plain.learn(8, callback=[CheckpointCallback(8, str(tmp_path)), evaluation])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_model.zip", "rl_model_8_steps.zip"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with normalised observations."""
    folder, before = tmp_path_factory.mktemp("finished"), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ["--eval-freq", "64", "--save-freq", "64"]
        assert main(["train", *options, *SHORT, "normalize:True"]) == 0
    assert Path.cwd() == before
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "logs", tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    return RUN


def rewards_by_sb3(model, statistics, n_episodes):
    env = VecNormalize.load(statistics, make_vec_env("CartPole-v1", seed=0))
    env.training = env.norm_reward = False
    found, _ = evaluate_policy(stable_baselines3.PPO.load(model), env, n_episodes, return_episode_rewards=True)
    return found


def rewards_of_enjoy(capsys, *options):
    capsys.readouterr()
    assert main(["enjoy", "--no-render", "-n", "500", *options]) == 0
    out = capsys.readouterr().out
    return [float(reward) for reward in re.findall(r"^Episode \d+: reward ([\d.]+)", out, re.MULTILINE)]


@pytest.mark.parametrize(
    ("options", "model", "statistics"),
    [
        ([], "CartPole-v1.zip", "CartPole-v1/vecnormalize.pkl"),
        (["--load-best"], "best_model.zip", "best_model_vecnormalize.pkl"),
        (["--load-checkpoint", "64"], "rl_model_64_steps.zip", "rl_model_vecnormalize_64_steps.pkl"),
        (["--load-last-checkpoint"], "rl_model_320_steps.zip", "rl_model_vecnormalize_320_steps.pkl"),
    ],
)
def test_enjoy_replays_each_model_with_its_own(run, capsys, options, model, statistics):
    # With those of another moment, or of none, it would act otherwise.
    found = rewards_of_enjoy(capsys, *options)
    assert found == rewards_by_sb3(run / model, run / statistics, len(found)) != []


def test_of_an_older_run_those_of_its_end_are_used_with_a_warning(run, capsys):
    (run / "best_model_vecnormalize.pkl").unlink()
    assert main(["enjoy", "--no-render", "-n", "1", "--load-best"]) == 0
    said = capsys.readouterr()
    assert f"Loading {run / 'CartPole-v1/vecnormalize.pkl'}\n" in said.out
    assert "no statistics saved with best_model.zip; those from the end of its run are used" in said.err


def test_what_is_trained_on_keeps_and_saves_its_statistics_though_nobody_has_said_normalize(run, capsys):
    assert main(["train", "-i", str(run / "CartPole-v1.zip"), "--eval-freq", "-1", *SHORT]) == 0
    further = run.with_name("CartPole-v1_2")
    files = [folder / "CartPole-v1/vecnormalize.pkl" for folder in (run, further)]
    before, after = [VecNormalize.load(file, make_vec_env("CartPole-v1")).obs_rms for file in files]
    # 320 steps and two resets, each time.
    assert after.count - before.count == pytest.approx(322)
    found = rewards_of_enjoy(capsys)
    assert found == rewards_by_sb3(further / "CartPole-v1.zip", files[1], len(found)) != []
    # rl_zoo3 asks this file.
    assert dict(yaml.unsafe_load((further / "CartPole-v1/config.yml").read_text()))["normalize"] is True


def test_whoever_says_that_nothing_is_normalised_is_obeyed_with_a_warning(run, capsys):
    assert main(["train", "-i", str(run / "CartPole-v1.zip"), "--eval-freq", "-1", *SHORT, "normalize:False"]) == 0
    assert "was trained with VecNormalize, but normalize is False" in capsys.readouterr().err
    assert not [*run.with_name("CartPole-v1_2").rglob("*.pkl")]


@pytest.mark.parametrize(
    ("model", "statistics"),
    [
        ("best_model.zip", "best_model_vecnormalize.pkl"),
        ("rl_model_64_steps.zip", "rl_model_vecnormalize_64_steps.pkl"),
    ],
)
def test_training_goes_on_with_the_statistics_of_the_model_that_it_begins_with(run, capsys, model, statistics):
    assert main(["train", "-i", str(run / model), "--eval-freq", "-1", "--save-freq", "320", *SHORT]) == 0
    assert f"Loading {run / statistics}\n" in capsys.readouterr().out


def test_an_off_policy_agent_goes_on_with_the_replay_buffer_of_its_moment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dqn = ["train", "--algo", "sb3/dqn", "--eval-freq", "-1", "--verbose", "0", "--seed", "1"]
    few = ["--hyperparams", "learning_starts:1000", "buffer_size:100", "train_freq:10"]
    assert main([*dqn, "-n", "60", "--save-freq", "20", "--save-replay-buffer", *few]) == 0
    saved = Path("logs/sb3/dqn/CartPole-v1_1")
    # SB3 asks callbacks before it stores the step.
    for number, (model, position) in enumerate([("rl_model_40_steps", 39), ("CartPole-v1", 60)]):
        argv = ["-i", str(saved / f"{model}.zip"), "-n", "10", "--save-replay-buffer"]
        assert main([*dqn, *argv, *few]) == 0
        buffer = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", buffer_size=100)
        buffer.load_replay_buffer(saved.with_name(f"CartPole-v1_{number + 2}") / "replay_buffer.pkl")
        assert buffer.replay_buffer.pos == position + 10
    assert capsys.readouterr().err == ""
    (saved / "rl_model_replay_buffer_20_steps.pkl").unlink()
    (saved / "replay_buffer.pkl").unlink()
    assert main([*dqn, "-i", str(saved / "rl_model_20_steps.zip"), "-n", "10", *few]) == 0
    assert "rl_model_20_steps.zip has no replay buffer beside it" in capsys.readouterr().err


def test_an_agent_of_a_benchmark_has_its_statistics_in_its_folder(run, tmp_path, capsys):
    shutil.copy(run / "CartPole-v1.zip", tmp_path / "agent.zip")
    shutil.copy(run / "CartPole-v1/vecnormalize.pkl", tmp_path)
    assert main(["train", "-i", "agent.zip", "--eval-freq", "-1", *SHORT]) == 0
    assert "Loading vecnormalize.pkl\n" in capsys.readouterr().out


def test_a_normalised_agent_without_its_statistics_is_warned_of(run, tmp_path, capsys):
    shutil.copy(run / "CartPole-v1.zip", tmp_path / "alone.zip")
    assert main(["train", "-i", "alone.zip", "--eval-freq", "-1", *SHORT]) == 0
    assert "alone.zip was trained with VecNormalize, but there are no statistics beside it" in capsys.readouterr().err


def test_an_agent_that_knows_nothing_of_a_normalisation_is_warned_of(run, tmp_path, capsys):
    model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").learn(8)
    model.save("plain")
    assert main(["train", "-i", "plain.zip", "--eval-freq", "-1", *SHORT, "normalize:True"]) == 0
    assert "plain.zip has no statistics of a normalisation beside it" in capsys.readouterr().err
    assert main(["train", "-i", "plain.zip", "--eval-freq", "-1", *SHORT]) == 0
    assert capsys.readouterr().err == ""
