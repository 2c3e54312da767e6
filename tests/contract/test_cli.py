"""`pg-zoo` as a user meets it: real short trainings, replays and mistakes."""

import errno
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pygame
import pytest
import stable_baselines3
import torch as th
import yaml
from fakes import RepeatEnv, TinyEnv
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from prose import says
from rl_zoo3.utils import get_saved_hyperparams, get_trained_models
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from warm import UNBUFFERED, wait_for

import pg_agents
from pg_agents.envs.processes import ProcessesVecEnv
from pg_zoo.cli import main

SMALL = ["--hyperparams", "n_envs:1", "n_steps:32", "batch_size:32", "n_epochs:1", "learning_rate:0.001"]
MY_ENVS = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Constant(gym.Env):
    '''Shows the same observation for five steps and rewards each with 2.'''

    action_space = spaces.Discrete(2)

    def __init__(self, observation_space, reward=2.0, nan_at=None):
        self.observation_space, self.reward, self.nan_at, self.total_steps = observation_space, reward, nan_at, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self):
        zeros = np.zeros_like(spaces.flatten(self.observation_space, self.observation_space.sample()))
        return spaces.unflatten(self.observation_space, zeros)

    def step(self, action):
        self.steps += 1
        self.total_steps += 1
        reward = float("nan") if self.total_steps == self.nan_at else self.reward
        return self.observe(), reward, self.steps == 5, False, {}


IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
for name, space in {"Image": IMAGE, "Vector": VECTOR, "Dict": spaces.Dict(image=IMAGE, vector=VECTOR)}.items():
    gym.register(f"My/{name}-v0", entry_point=Constant, kwargs={"observation_space": space})
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def my_envs(empty_folder, monkeypatch):
    (empty_folder / "my_envs.py").write_text(MY_ENVS)
    monkeypatch.syspath_prepend(empty_folder)
    return ["--gym-packages", "my_envs"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one run: PPO on CartPole for 3072 steps, with everything that can be written."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["-n", "3072", "--seed", "1", "--eval-freq", "1024", "--save-freq", "1024", "--verbose", "0"]
    options += ["--hyperparams", "n_envs:8", "n_steps:32", "batch_size:256", "learning_rate:lin_0.001"]
    assert main(["train", "-f", str(folder / "logs"), "-tb", str(folder / "tb"), *options]) == 0
    return folder


def parameters(model):
    return {name: value.numpy() for name, value in model.policy.state_dict().items()}


def only_error_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("pg-zoo: error: ")
    return lines[0]


def test_a_run_is_laid_out_as_rl_zoo3_lays_it_out(trained):
    run = trained / "logs/ppo/CartPole-v1_1"
    names = {"CartPole-v1.zip", "best_model.zip", "evaluations.npz", "rl_model_3072_steps.zip", "0.monitor.csv"}
    assert names <= {path.name for path in run.iterdir()}
    assert {path.name for path in (run / "CartPole-v1").iterdir()} == {"args.yml", "config.yml", "command.txt"}
    assert get_trained_models(str(trained / "logs")) == {"ppo-CartPole-v1": ("ppo", "CartPole-v1")}
    hyperparams, _ = get_saved_hyperparams(str(run / "CartPole-v1"))
    assert (hyperparams["n_envs"], hyperparams["learning_rate"]) == (8, "lin_0.001")


def test_a_second_run_gets_the_next_number_even_if_another_took_it_meanwhile(empty_folder, monkeypatch):
    monkeypatch.setattr("pg_zoo.runs.folder.get_latest_run_id", lambda *_: 0)
    for _ in range(2):
        assert main(["train", "-n", "32", "--eval-freq", "-1", *SMALL]) == 0
    assert {path.parent.name for path in empty_folder.rglob("CartPole-v1.zip")} == {"CartPole-v1_1", "CartPole-v1_2"}


def test_enjoy_prints_the_rewards_that_sb3_finds_for_the_same_agent(trained, capsys):
    assert main(["enjoy", "-f", str(trained / "logs"), "--no-render", "--seed", "3", "-n", "400"]) == 0
    out = capsys.readouterr().out
    printed = [float(reward) for reward in re.findall(r"^Episode \d+: reward ([\d.]+)", out, re.MULTILINE)]
    model = stable_baselines3.PPO.load(trained / "logs/ppo/CartPole-v1_1/CartPole-v1.zip")
    env = make_vec_env("CartPole-v1", seed=3)
    rewards, _ = evaluate_policy(model, env, len(printed), deterministic=True, return_episode_rewards=True)
    assert printed == rewards
    assert f"Mean reward: {np.mean(rewards):.2f} +/- {np.std(rewards):.2f}" in out


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ([], "CartPole-v1.zip"),
        (["--load-best"], "best_model.zip"),
        (["--load-checkpoint", "2048"], "rl_model_2048_steps.zip"),
        (["--load-last-checkpoint"], "rl_model_3072_steps.zip"),
    ],
)
def test_enjoy_loads_the_model_that_was_asked_for(trained, capsys, options, file):
    assert main(["enjoy", "-f", str(trained / "logs"), "--no-render", "-n", "1", "--exp-id", "1", *options]) == 0
    assert f"Loading {trained / 'logs/ppo/CartPole-v1_1' / file}\n" in capsys.readouterr().out


def test_enjoy_counts_the_episodes_of_all_environments(my_envs, capsys):
    main(["train", "-n", "32", "--env", "My/Vector-v0", "--env-kwargs", "reward:3.5", *my_envs, *SMALL])
    assert main(["enjoy", "--env", "My/Vector-v0", "--no-render", "--n-envs", "3", "-n", "11", *my_envs]) == 0
    # Two whole episodes in each, with the reward that the agent was trained with.
    assert "6 episodes\nMean reward: 17.50 +/- 0.00\nMean episode length: 5.00 +/- 0.00\n" in capsys.readouterr().out


def test_enjoy_shows_rewards_that_are_not_normalised(my_envs, capsys):
    main(["train", "-n", "64", "--env", "My/Vector-v0", "--verbose", "0", *my_envs, *SMALL, "normalize:true"])
    assert main(["enjoy", "--env", "My/Vector-v0", "--no-render", "-n", "10", *my_envs]) == 0
    assert "Mean reward: 10.00 +/- 0.00" in capsys.readouterr().out


def test_enjoy_without_a_model_says_what_there_is(trained, capsys):
    assert main(["enjoy", "-f", str(trained / "logs"), "--no-render", "--load-checkpoint", "7"]) == 2
    assert "ppo/CartPole-v1_1/rl_model_2048_steps.zip" in only_error_line(capsys)
    assert main(["enjoy", "-f", str(trained / "logs"), "--no-render", "--algo", "sb3/a2c"]) == 2
    facts = ["ppo/CartPole-v1_1", "pg-zoo train --algo sb3/a2c --env CartPole-v1", "pg-zoo list"]
    assert says(only_error_line(capsys), *facts)


def test_a_video_has_one_frame_for_each_step_and_one_for_the_start_and_no_progress_in_a_pipe(
    trained, empty_folder, capsys
):
    assert main(["enjoy", "-f", str(trained / "logs"), "--video", "videos", "-n", "20"]) == 0
    (video,) = (empty_folder / "videos").glob("*.mp4")
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert frames == 21
    out, err = capsys.readouterr()
    assert "MoviePy" not in out
    assert not err


def test_a_video_without_moviepy_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    assert main(["enjoy", "--video"]) == 2
    assert "pip install 'pg-agents[video]'" in only_error_line(capsys)


@pytest.fixture
def no_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_display_enjoy_shows_numbers_and_says_how_to_get_pictures(no_display, capsys):
    assert main(["enjoy", "-n", "500"]) == 0
    out = capsys.readouterr().out
    assert says(out, "no display", "--video")
    assert "1 episodes" in out


def test_without_a_display_and_moviepy_it_says_what_to_install(no_display, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    assert main(["enjoy", "-n", "20"]) == 0
    assert says(capsys.readouterr().out, "--video", "pip install 'pg-agents[video]'")


def test_without_pygame_enjoy_shows_numbers(monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert main(["enjoy", "-n", "20"]) == 0
    out = capsys.readouterr().out
    assert says(out, "pygame-ce", "pip install pygame-ce")


def test_a_window_that_was_asked_for_is_not_replaced_by_numbers(no_display, capsys):
    assert main(["enjoy", "--env-kwargs", "render_mode:human"]) == 2
    assert says(only_error_line(capsys), "no display", "--env-kwargs render_mode:human")


def test_with_a_display_every_step_is_shown(monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    frames, flip = [], pygame.display.flip
    monkeypatch.setattr(pygame.display, "flip", lambda: (frames.append(1), flip()))
    assert main(["enjoy", "-n", "20"]) == 0
    assert len(frames) == 21
    assert "numbers only" not in capsys.readouterr().out


def test_tensorboard_gets_sb3s_keys_up_to_the_last_step(trained):
    log = EventAccumulator(str(trained / "tb/CartPole-v1/PPO_1"))
    log.Reload()
    expected = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/loss", "eval/mean_reward"}
    assert expected <= set(log.Tags()["scalars"])
    assert log.Scalars("rollout/ep_rew_mean")[-1].step == 3072


def test_without_a_tensorboard_folder_only_the_run_is_written(empty_folder):
    assert main(["train", "-n", "32", *SMALL]) == 0
    assert [path.name for path in empty_folder.iterdir()] == ["logs"]
    assert not list(empty_folder.rglob("events.out*"))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "scheduler"])
def test_what_is_interrupted_saves_a_model_that_loads(empty_folder, end, warm):
    argv = ["train", "--algo", "a2c", "-n", "500000", "--log-interval", "1"]
    (empty_folder / "out.txt").touch()
    with warm.begun(*argv, before=UNBUFFERED) as command:
        out, err = empty_folder / "out.txt", empty_folder / "err.txt"
        wait_for(lambda: "total_timesteps" in out.read_text(), told=err.read_text)
        os.kill(command.id, end)
        status = command.wait()
    assert (status, err.read_text()) == (0, "")
    model = pg_agents.A2C.load("logs/a2c/CartPole-v1_1/CartPole-v1.zip")
    written = (empty_folder / "out.txt").read_text()
    assert says(written, "Stopped", model.num_timesteps, 500000)
    assert "Model: logs/a2c/CartPole-v1_1/CartPole-v1.zip\n" in written


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_an_interrupt_before_the_first_step_is_no_error_of_the_progress_bar(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pg_agents.PPO, "learn", interrupted)
    assert main(["train", "-P", "-n", "32", "--eval-freq", "-1", *SMALL]) == 0
    assert says(capsys.readouterr().out, "Stopped", 0, 32)


class Faulty(CartPoleEnv):
    def __init__(self, at=1, error=ValueError, **kwargs):
        super().__init__(**kwargs)
        self.left, self.error = at, error

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            raise self.error("out of order")
        return super().step(action)


def faulty(monkeypatch, **kwargs):
    """Options of an environment that fails."""
    spec = gym.envs.registration.EnvSpec("Faulty-v0", Faulty, kwargs=kwargs)
    monkeypatch.setitem(gym.registry, "Faulty-v0", spec)
    return ["train", "--env", "Faulty-v0", "--eval-freq", "-1"]


def error_after_traceback(capsys):
    """The traceback and the error line."""
    *trace, line = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback")
    assert line.startswith("pg-zoo: error: ")
    return "\n".join(trace), line


def test_what_fails_at_once_leaves_no_run(empty_folder, capsys, monkeypatch):
    assert main([*faulty(monkeypatch), *SMALL]) == 2
    assert "out of order" in error_after_traceback(capsys)[1]
    assert not list(empty_folder.rglob("Faulty*"))


@pytest.mark.parametrize("kind", [ValueError, ZeroDivisionError, FileNotFoundError])
@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_an_error_of_the_environments_own_shows_where_it_is_and_what_was_learnt_is_kept(
    kind, vec_env, capsys, monkeypatch
):
    if vec_env == "subproc":  # which begins in a second less so
        monkeypatch.setattr("pg_zoo.runs.recipe.ProcessesVecEnv", partial(ProcessesVecEnv, start_method="fork"))
    assert main([*faulty(monkeypatch, at=50, error=kind), "--vec-env", vec_env, *SMALL, "n_envs:2"]) == 2
    trace, line = error_after_traceback(capsys)
    assert says(line, kind.__name__, "out of order")
    assert 'raise self.error("out of order")' in trace
    assert ("in learn" in trace) is False  # what is before it is not the user's
    assert pg_agents.PPO.load("logs/ppo/Faulty-v0_1/Faulty-v0.zip").num_timesteps in (98, 100)
    assert vec_env == "dummy" or "Environment 0 raised" in line


def fill_the_disk(monkeypatch, from_step=0):
    """Let what is saved from that step on find no space."""
    save = pg_agents.PPO.save

    def save_half(self, path, *args, **kwargs):
        if self.num_timesteps < from_step:
            return save(self, path, *args, **kwargs)
        Path(path).with_suffix(".zip").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pg_agents.PPO, "save", save_half)


def test_a_full_disk_is_one_line_and_leaves_nothing_of_this_run(empty_folder, capsys, monkeypatch):
    older = empty_folder / "mine/ppo/CartPole-v1_1"
    older.mkdir(parents=True)
    fill_the_disk(monkeypatch)
    assert main(["train", "-n", "32", "-f", "mine", "--eval-freq", "-1", *SMALL]) == 2
    assert says(only_error_line(capsys), "mine", "No space left on device", "-f")
    assert list((empty_folder / "mine/ppo").iterdir()) == [older]


def test_a_disk_that_is_full_in_the_end_keeps_the_checkpoints(empty_folder, capsys, monkeypatch):
    fill_the_disk(monkeypatch, from_step=64)
    assert main(["train", "-n", "64", "--save-freq", "32", "--eval-freq", "-1", *SMALL]) == 2
    assert says(only_error_line(capsys), "No space left on device")
    run = empty_folder / "logs/ppo/CartPole-v1_1"
    assert pg_agents.PPO.load(run / "rl_model_32_steps.zip").num_timesteps == 32
    assert not (run / "CartPole-v1.zip").exists()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EROFS, "Free space or choose another -f."), (errno.EACCES, "Choose another -f.")],
)
def test_a_folder_that_cannot_be_made_is_named(number, remedy, capsys, monkeypatch):
    def mkdir(name, *args, **kwargs):
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr("os.mkdir", mkdir)
    assert main(["train", "-n", "32", "-f", "their/runs", *SMALL]) == 2
    assert says(only_error_line(capsys), "their/runs", os.strerror(number), remedy)


@pytest.mark.parametrize("path", ["/elsewhere/level.xml", None])
def test_what_the_environment_may_not_do_is_not_taken_for_the_run(path, capsys, monkeypatch):
    class Locked(CartPoleEnv):
        def step(self, action):
            raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setitem(gym.registry, "Locked-v0", gym.envs.registration.EnvSpec("Locked-v0", Locked))
    assert main(["train", "--env", "Locked-v0", "--eval-freq", "-1", *SMALL]) == 2
    _, line = error_after_traceback(capsys)
    assert "Operation not permitted" in line
    assert "-f" not in line


class BrokenStep(CartPoleEnv):
    def step(self, action):
        return self.measure(), 0.0, False, False, {}

    def measure(self):
        raise ValueError("out of order")


class BrokenReset(CartPoleEnv):
    def reset(self, *, seed=None, options=None):
        raise OSError("out of order")


class BrokenFromTheStart(CartPoleEnv):
    def __init__(self, **kwargs):
        raise KeyError("out of order")


@pytest.mark.parametrize(
    ("broken", "place"), [(BrokenStep, "measure"), (BrokenReset, "reset"), (BrokenFromTheStart, "__init__")]
)
def test_an_exception_of_an_environment_keeps_its_traceback(broken, place, capsys, monkeypatch):
    monkeypatch.setitem(gym.registry, "Broken-v0", gym.envs.registration.EnvSpec("Broken-v0", broken))
    assert main(["train", "--env", "Broken-v0", "--eval-freq", "-1", *SMALL]) == 2
    trace, line = error_after_traceback(capsys)
    assert f"in {place}\n" in trace
    assert "out of order" in line


class Repeats(RepeatEnv):
    def __init__(self, space=(3, 5), **kwargs):
        n, start = space
        super().__init__(spaces.Discrete(n, start=start))


def test_numbers_that_do_not_count_from_0_are_learnt_and_replayed(monkeypatch, capsys):
    monkeypatch.setitem(gym.registry, "Repeats-v0", gym.envs.registration.EnvSpec("Repeats-v0", Repeats))
    hyperparams = ["n_steps:64", "learning_rate:0.003", "gamma:0.0", "batch_size:64"]
    assert main(["train", "--env", "Repeats-v0", "-n", "4000", "--eval-freq", "2000", "--seed", "1",
                 "--hyperparams", *hyperparams]) == 0  # fmt: skip
    assert main(["enjoy", "--env", "Repeats-v0", "-f", "logs", "--no-render", "-n", "50"]) == 0
    assert "Mean reward: 1.00 +/- 0.00" in capsys.readouterr().out


class FarActions(TinyEnv):
    def __init__(self, **kwargs):
        super().__init__(spaces.Box(1, 10, (1,)))


@pytest.mark.filterwarnings("always:The actions of")
def test_a_warning_of_a_new_agent_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(gym.registry, "Far-v0", gym.envs.registration.EnvSpec("Far-v0", FarActions))
    assert main(["train", "--env", "Far-v0", "-n", "32", "--eval-freq", "-1", *SMALL]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "pg-zoo: warning: The actions of Box(1.0, 10.0", "RescaleAction")


@pytest.mark.parametrize("algo", ["ppo", "sb3/ppo"])
def test_a_text_is_no_truth_value_in_a_hyperparameter_file(algo, empty_folder, capsys):
    entry = {"n_timesteps": 32, "policy": "MlpPolicy", "normalize_advantage": "False"}
    (empty_folder / "mine.yml").write_text(yaml.safe_dump({"CartPole-v1": entry}))
    assert main(["train", "--algo", algo, "--conf-file", "mine.yml"]) == 2
    assert says(only_error_line(capsys), "`normalize_advantage` must be True or False", "the text 'False'")


class Lists(CartPoleEnv):
    def __init__(self, **kwargs):
        super().__init__()
        self.observation_space = spaces.Dict({"seen": spaces.Sequence(spaces.Discrete(3))})


def test_observations_that_no_policy_reads_are_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(gym.registry, "Lists-v0", gym.envs.registration.EnvSpec("Lists-v0", Lists))
    assert main(["train", "--env", "Lists-v0", *SMALL]) == 2
    assert says(only_error_line(capsys), "No policy reads the observation space Dict", "part Sequence")


def test_a_mistake_in_the_options_of_an_environment_is_one_line(capsys):
    """Gymnasium's `make` says what it is, and the environment has not begun."""
    assert main(["train", "--env-kwargs", "size:3", *SMALL]) == 2
    assert "size" in only_error_line(capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--algo", "reinforse"], "Did you mean 'reinforce'?"),
        (["enjoy", "--no-render", "--algo", "pp0"], "Did you mean 'ppo'?"),
        (["train", "--env", "CartPol-v1"], "Did you mean 'CartPole-v1'?"),
        (["enjoy", "--no-render", "--env", "Pendulm-v1"], "Did you mean 'Pendulum-v1'?"),
        (["train", "--hyperparams", "learnin_rate:0.1"], "Did you mean 'learning_rate'?"),
        (["train", "--algo", "sb3/ppo", "--hyperparams", "n_epoch:1"], "Did you mean 'n_epochs'?"),
        (["train", "--hyperparams", "n_env:2"], "Did you mean 'n_envs'?"),
        (["train", "--hyperparams", "seed:2"], "--seed"),
        (["train", "--hyperparams", "gamma=2"], "name:value"),
        (["train", "--hyperparams", "gamma:open('x')"], "neither a Python literal"),
        (["train", "--hyperparams", "gamma:2"], "`gamma` must be a number at least 0 and at most 1, but is 2."),
        (["train", "--hyperparams", "policy_kwargs:dict(activation_fn=nn.Tan)"], "torch.nn has no 'Tan'"),
        (["train", "--algo", "sb3/a2c", "--hyperparams", "ent_coef:lin_0.1"], "cannot be a schedule"),
        (
            ["train", "--hyperparams", "use_sde:'False'"],
            "`use_sde` must be True or False, but is the text 'False'",
        ),
        (["train", "--algo", "sb3/sac", "--hyperparams", "optimize_memory_usage:'False'"], "True or False"),
        (["train", "--algo", "grpo", "--hyperparams", "length_normalization:'off'"], "True or False"),
        (["train", "--env-kwargs", "gravitation:1"], "gravitation"),
        (["train", "-conf", "missing.yml"], "missing.yml"),
        (["train", "-i", "missing.zip"], "missing.zip"),
        (["train", "--gym-packages", "missing_module"], "missing_module"),
        (["train", "--n-timestep", "x"], "invalid int value: 'x'"),
        (["train", "--nonsense"], "--nonsense"),
        (["train", "--deterministic", "--stochastic"], "not allowed with argument --deterministic"),
        (["train", "--env", "pg/ShortCorridr-v0"], "Did you mean 'pg/ShortCorridor-v0'?"),
        (["train", "--env", "pg/RPSMatch-v0", "--env-kwargs", "opponent:patern"], "Did you mean 'pattern'?"),
        (["trian"], "'train'"),
    ],
)
def test_a_mistake_is_one_line_that_helps_and_leaves_no_run_behind(argv, said, capsys, empty_folder):
    assert main(argv) == 2
    assert said in only_error_line(capsys)
    assert not [path for path in empty_folder.rglob("*") if path.is_file()]


LIMITS = [("CartPole-v1", 4), ("Endless-v0", 7)]


@pytest.mark.parametrize(("env", "limit"), LIMITS)
def test_a_time_limit_of_a_hyperparameter_file_holds_in_training_evaluation_and_replay(
    env, limit, empty_folder, monkeypatch, capsys
):
    class Endless(CartPoleEnv):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            self.steps_beyond_terminated = None
            return np.zeros_like(observation), reward, False, False, {}

    monkeypatch.setitem(gym.registry, "Endless-v0", gym.envs.registration.EnvSpec("Endless-v0", Endless))
    entry = {"n_timesteps": 64, "n_steps": 32, "batch_size": 32, "n_epochs": 1, "policy": "MlpPolicy"}
    entry["env_wrapper"] = [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": limit}}]
    (empty_folder / "mine.yml").write_text(yaml.safe_dump({env: entry}))
    assert main(["train", "--env", env, "-conf", "mine.yml", "--eval-freq", "32"]) == 0
    said = capsys.readouterr()
    assert re.search(rf"ep_len_mean +\| {limit} ", said.out)
    assert said.err == ""
    (run,) = Path("logs/ppo").iterdir()
    assert (np.load(run / "evaluations.npz")["ep_lengths"] == limit).all()
    assert {line.split(",")[1] for line in (run / "0.monitor.csv").read_text().splitlines()[2:]} == {f"{limit}"}
    assert main(["enjoy", "--env", env, "--no-render", "-n", "30"]) == 0
    assert f"Mean episode length: {limit}.00 +/- 0.00" in capsys.readouterr().out


def test_a_hyperparameter_of_another_algorithm_is_not_taken_for_a_slip(capsys, empty_folder):
    (empty_folder / "ppo.yml").write_text(yaml.safe_dump({"default": {"n_steps": 8}}))
    for options in (["-conf", "ppo.yml"], ["--hyperparams", "n_steps:8"]):
        assert main(["train", "--algo", "reinforce", *options]) == 2
        line = only_error_line(capsys)
        assert says(line, "reinforce", "'n_steps'")
        assert "Did you mean" not in line


def test_a_training_that_fails_keeps_what_was_learnt_until_then(my_envs, capsys):
    argv = ["train", "-n", "500", "--env", "My/Vector-v0", "--env-kwargs", "nan_at:100", "--eval-freq", "-1", *my_envs]
    assert main([*argv, *SMALL]) == 2
    assert "reward of environment 0 is not finite, after 100 steps" in only_error_line(capsys)
    assert pg_agents.PPO.load("logs/ppo/My-Vector-v0_1/My-Vector-v0.zip").num_timesteps == 100


def test_hyperparameters_of_the_command_line_reach_the_model(capsys):
    values = ["gamma:0.5", "ent_coef:lin_0.2", "learning_rate:lin_0.01", "clip_range_vf:None"]
    kwargs = "policy_kwargs:dict(net_arch=dict(pi=[5], vf=[7]), activation_fn=nn.ReLU)"
    assert main(["train", "-n", "32", *SMALL[:-1], *values, kwargs]) == 0
    model = pg_agents.PPO.load("logs/ppo/CartPole-v1_1/CartPole-v1.zip")
    assert (model.gamma, model.n_steps, model.clip_range_vf) == (0.5, 32, None)
    assert (model.ent_coef(0.5), model.learning_rate(0.5)) == (0.1, 0.005)
    assert [type(layer) for layer in model.policy.mlp_extractor.policy_net] == [th.nn.Linear, th.nn.ReLU]
    assert model.policy.mlp_extractor.value_net[0].out_features == 7


def test_words_need_no_quotes():
    assert main(["train", "--algo", "reinforce", "-n", "1", "--hyperparams", "baseline:leave_one_out"]) == 0
    assert pg_agents.REINFORCE.load("logs/reinforce/CartPole-v1_1/CartPole-v1.zip").baseline == "leave_one_out"


def test_the_command_line_overrides_the_conf_file_which_overrides_what_is_installed(empty_folder):
    entry = {"n_timesteps": 48, "n_steps": 24, "batch_size": 24, "gamma": 0.25, "n_epochs": 3}
    entry["policy_kwargs"] = "dict(net_arch=[4], activation_fn=nn.Tanh)"
    (empty_folder / "mine.yml").write_text(yaml.safe_dump({"CartPole-v1": entry}))
    assert main(["train", "-conf", "mine.yml", "--hyperparams", "gamma:0.125"]) == 0
    model = pg_agents.PPO.load("logs/ppo/CartPole-v1_1/CartPole-v1.zip")
    assert (model.num_timesteps, model.gamma, model.n_epochs, model.gae_lambda) == (48, 0.125, 3, 0.95)
    assert model.policy.mlp_extractor.policy_net[0].out_features == 4


# Each algorithm with one kind of observations, and each kind with one algorithm of ours and one of others.
@pytest.mark.parametrize(
    ("algo", "env", "policy"),
    [
        ("reinforce", "Dict", "MultiInput"),
        ("reinforce_baseline", "Image", "Cnn"),
        ("a2c", "Vector", "Mlp"),
        ("ppo", "Image", "Cnn"),
        ("sb3/a2c", "Dict", "MultiInput"),
        ("sb3/ppo", "Image", "Cnn"),
        ("contrib/recurrentppo", "Vector", "Mlp"),
    ],
)
def test_any_algorithm_finds_the_policy_for_any_observations(my_envs, capsys, algo, env, policy):
    assert (
        main(["train", "-n", "8", "--algo", algo, "--env", f"My/{env}-v0", "--verbose", "0", *my_envs, *few(algo)]) == 0
    )
    (config,) = Path("logs").rglob("config.yml")
    assert dict(yaml.unsafe_load(config.read_text()))["policy"].startswith(policy)
    assert main(["enjoy", "-n", "5", "--algo", algo, "--env", f"My/{env}-v0", "--no-render", *my_envs]) == 0
    assert "Mean reward: 10.00 +/- 0.00" in capsys.readouterr().out


def few(algo):
    """Hyperparameters for a short run."""
    if algo.endswith("ppo"):
        return ["--hyperparams", "n_steps:8", "batch_size:8", "n_epochs:1"]
    return ["--hyperparams", "n_episodes:1"] if algo.startswith("reinforce") else []


def test_ppo_is_ours_and_sb3_ppo_the_reference_and_both_arrive_at_the_same_parameters(capsys):
    assert main(["train", "-n", "64", "--seed", "5", *SMALL, "engine:autograd"]) == 0
    assert "ppo (pg_agents.algorithms.ppo.PPO) on CartPole-v1, seed 5" in capsys.readouterr().out
    assert main(["train", "-n", "64", "--seed", "5", "--algo", "sb3/ppo", *SMALL]) == 0
    assert "sb3/ppo (stable_baselines3.ppo.ppo.PPO) on CartPole-v1, seed 5" in capsys.readouterr().out
    ours = pg_agents.PPO.load("logs/ppo/CartPole-v1_1/CartPole-v1.zip")
    reference = stable_baselines3.PPO.load("logs/sb3/ppo/CartPole-v1_1/CartPole-v1.zip")
    np.testing.assert_equal(parameters(ours), parameters(reference))


def test_a_trained_agent_is_trained_on(trained):
    before = trained / "logs/ppo/CartPole-v1_1/CartPole-v1.zip"
    assert main(["train", "-i", str(before), "-n", "32", *SMALL[:-1], "learning_rate:0.0"]) == 0
    after = pg_agents.PPO.load("logs/ppo/CartPole-v1_1/CartPole-v1.zip")
    # With a learning rate of zero, it is the same agent.
    np.testing.assert_equal(parameters(after), parameters(pg_agents.PPO.load(before)))


def test_list_shows_everything_with_the_distribution_that_it_came_from(capsys):
    assert main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    ours = f"pg-agents {pg_agents.__version__}".split()
    assert ["reinforce_baseline", "ReinforceBaseline", *ours] in rows
    assert ["sb3/ppo", "PPO", "stable_baselines3", stable_baselines3.__version__] in rows
    for algo in ("reinforce", "reinforce_baseline", "a2c", "ppo"):
        assert [algo, "default", "CartPole-v1"] in [[word.rstrip(",") for word in row[:3]] for row in rows]


def test_list_shows_what_there_is_of_one_algorithm_or_of_some_environments(capsys):
    assert main(["list", "--algo", "a2c"]) == 0
    out = capsys.readouterr().out
    assert [title in out for title in ("Algorithms", "Environments", "Hyperparameters", "Trained")] == [1, 0, 1, 1]
    assert "pg/TorqueLQR-v0" in out  # all of its entries, not only the first
    assert "ppo" not in out
    assert main(["list", "--env", "cartpole"]) == 0
    out = capsys.readouterr().out
    assert [title in out for title in ("Algorithms", "Environments", "Hyperparameters", "Trained")] == [0, 1, 1, 1]
    assert "CartPole-v0, CartPole-v1" in out
    assert "Acrobot" not in out
    assert main(["list", "--algo", "contrib/crossq", "--env", "cartpole"]) == 0
    assert says(capsys.readouterr().out, "no hyperparameters", "contrib/crossq", "'cartpole'")


@pytest.mark.parametrize(("option", "near"), [(["--algo", "pp"], "ppo"), (["--env", "Cartpol-v1"], "CartPole-v1")])
def test_list_says_when_there_is_no_such_name(option, near, capsys):
    assert main(["list", *option]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Did you mean '{near}'?" in line


@pytest.mark.parametrize(("options", "drawn"), [([], True), (["--deterministic"], False), (["--stochastic"], True)])
def test_evaluation_draws_actions_where_the_environment_asks_for_it_unless_the_user_says_otherwise(
    capsys, options, drawn
):
    corridor = ["--env", "pg/ShortCorridor-v0", "--seed", "0", *options]
    assert main(["train", "-n", "32", "--eval-freq", "32", "--eval-episodes", "2", *corridor, *SMALL]) == 0
    assert ("Evaluation draws actions" in capsys.readouterr().out) == drawn
    evaluations = np.load("logs/ppo/pg-ShortCorridor-v0_1/evaluations.npz")
    # Whoever always goes to the same side never arrives, up to the time limit.
    assert (evaluations["results"] > -1000).all() == drawn
    assert main(["enjoy", "--no-render", "-n", "100", *corridor]) == 0
    out = capsys.readouterr().out
    assert ("Evaluation draws actions" in out, "No episode ended" in out) == (drawn, not drawn)


def test_arguments_of_a_game_reach_it_from_the_command_line_and_from_the_run(capsys):
    match = ["--env", "pg/RPSMatch-v0"]
    argv = ["train", "-n", "64", "--eval-freq", "-1", *match, "--env-kwargs", "opponent:pattern", "n_rounds:7"]
    assert main([*argv, *SMALL]) == 0
    assert main(["enjoy", "--no-render", "-n", "21", *match]) == 0
    assert "Mean episode length: 7.00 +/- 0.00" in capsys.readouterr().out


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 0
    assert "usage: pg-zoo" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert (exit_.value.code, capsys.readouterr().out) == (0, f"pg-agents {pg_agents.__version__}\n")


@pytest.mark.parametrize("command", ["train", "enjoy", "benchmark", "report", "tune", "crosscheck"])
def test_help_tells_the_defaults_that_there_are(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = re.findall(r"\(default: ?(.*?)\)", " ".join(capsys.readouterr().out.split()))
    assert told
    assert not {"None", "False", "", "[]"} & {*told}
    assert command != "tune" or "0" in told  # --seed's: 0 is a default


@pytest.mark.parametrize(("argv", "unwanted"), [(["--help"], "torch"), (["list"], "rl_zoo3")])
def test_what_needs_no_heavy_module_imports_none(argv, unwanted):
    code = f"""
import sys
from pg_zoo.cli import main
try:
    main({argv})
finally:
    assert {unwanted!r} not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env={**os.environ})
