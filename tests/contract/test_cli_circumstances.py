"""`pg-zoo` where something is missing or in the way: one line and an exit status, and nothing that runs on."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prose import says
from synthetic import write_results
from warm import UNBUFFERED, wait_for

import pg_agents
from pg_zoo.cli import main
from pg_zoo.errors import one_line_of
from pg_zoo.recipes import limits

PROGRAM = [sys.executable, "-c", "import sys; from pg_zoo.cli import main; sys.exit(main())"]
SHORT = ["train", "-n", "64", "--eval-freq", "-1", "--hyperparams", "n_envs:1", "n_steps:32", "batch_size:32"]
LONG = ["-n", "10000000"]
CROSSCHECK = ["crosscheck", "--algos", "ppo", "-o", "out"]
BELOW_A_FILE = "file/below"  # which not even root can make


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return tmp_path


def pg_zoo(*argv, shell='exec "$@"', **changes):
    """Status, stdout and stderr of a command in a new process; `shell` says what stands around it."""
    env = {name: value for name, value in (os.environ | changes).items() if value is not None}
    command = ["bash", "-c", shell, "bash", *PROGRAM, *argv]
    done = subprocess.run(command, env=env, capture_output=True, timeout=300)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def model(folder="logs"):
    return pg_agents.PPO.load(Path(folder, "ppo/CartPole-v1_1/CartPole-v1.zip"))


# Output


def test_a_disk_that_takes_no_output_is_one_line(warm):
    status, _, errors = warm.run("list", out="/dev/full")
    assert status == 2
    assert errors == "pg-zoo: error: The output cannot be written: No space left on device.\n"


def test_what_was_learnt_is_kept_when_nobody_reads_on(warm):
    os.mkfifo("pipe")
    with warm.begun(*SHORT, *LONG, "--log-interval", "1", out="pipe") as command:
        with open("pipe") as pipe:
            assert any("total_timesteps" in line for line in pipe)
        assert command.wait() == 2
    assert Path("err.txt").read_text() == "pg-zoo: error: The output cannot be written: Broken pipe.\n"
    assert model().num_timesteps >= 32


def test_with_all_streams_closed_and_no_folder_for_home_and_temporary_files_it_trains():
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), BELOW_A_FILE)
    assert pg_zoo(*SHORT, "engine:autograd", shell='"$@" <&- >&- 2>&-', **folders) == (0, "", "")
    assert model().num_timesteps == 64


def test_closed_streams_keep_the_status_of_an_error():
    assert pg_zoo("list", "--algorithm", shell='"$@" >&- 2>&-') == (2, "", "")


def test_a_folder_s_name_may_be_no_text_where_stdout_shows_ascii_and_no_home_is_named(warm):
    name = os.fsdecode("naïve/日本".encode() + b"\xff")
    before = "import os, sys; sys.stdout.reconfigure(encoding='ascii', errors='strict'); os.environ.pop('HOME', None)"
    status, out, errors = warm.run(*SHORT, "-f", name, before=before)
    assert (status, errors) == (0, "")
    assert r"na\xefve/\u65e5\u672c\udcff" in out
    assert model(name).num_timesteps == 64


def test_a_message_has_neither_control_characters_nor_pages_of_text(capsys):
    assert main(["train", "--env", "\x1b[2J\n" + "x" * 100_000]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"pg-zoo: error: Unknown environment '\x1b[2J")
    assert line.endswith("installed?")
    assert len(line) < 2000
    assert one_line_of("a\x07\u202eb\ud800") == r"a\x07\u202eb\ud800"


# Folders and files


def test_a_limit_on_files_names_the_folder(warm):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))"
    status, _, errors = warm.run(*SHORT, out=os.devnull, before=limit)
    assert status == 2
    assert errors == (
        "pg-zoo: error: The run cannot be written into the folder logs: File too large. "
        "Free space or choose another -f.\n"
    )


@pytest.mark.parametrize("folder", [BELOW_A_FILE, "/proc/nowhere", "x" * 300, "file"])
@pytest.mark.parametrize(
    ("argv", "option"),
    [
        ([*SHORT, "-f"], "-f"),
        (["benchmark", "--algos", "ppo", "--envs", "CartPole-v1", "-o"], "-o/--output"),
        (["tune", "-n", "64", "-o"], "-o/--output"),
        (["crosscheck", "--algos", "a2c", "--envs", "CartPole-v1", "-o"], "-o/--output"),
    ],
    ids=["train", "benchmark", "tune", "crosscheck"],
)
def test_a_folder_that_cannot_be_made_is_named_with_its_option(argv, option, folder, capsys):
    assert main([*argv, folder]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option in line
    assert folder[:50] in line


def test_a_folder_that_is_gone_is_one_line():
    Path("gone").mkdir()
    status, out, errors = pg_zoo(*SHORT, shell='cd gone; rmdir ../gone; exec "$@"')
    assert (status, out) == (2, "")
    assert errors == "pg-zoo: error: The current folder is gone: change to one that is there.\n"


@pytest.mark.parametrize("command", ["list", "train"])
def test_a_terminal_of_one_column_is_enough(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1")
    monkeypatch.setenv("LINES", "1")
    with contextlib.suppress(SystemExit):
        assert main([command, "--help"] if command == "train" else [command, "--env", "CartPole"]) == 0
    assert capsys.readouterr().err == ""


def test_streams_and_devices_are_written_to_and_not_replaced(here, warm):
    (here / "zoo").mkdir()
    (here / "zoo/ppo.yml").write_text("CartPole-v1:\n  n_timesteps: 64\n")
    table = ["evidence", "--zoo", "zoo", "-o"]
    (here / "out.txt").touch()
    before = (here / "out.txt").stat().st_ino
    status, out, errors = warm.run(*table, "/dev/stdout")
    assert (status, errors) == (0, "")
    assert "|" in out
    assert (here / "out.txt").stat().st_ino == before
    status, out, errors = warm.run(*table, "/dev/full", out="out")
    assert (status, out) == (2, "")
    assert says(errors, "-o/--output", "/dev/full")
    assert Path("/dev/full").is_char_device()


# Files of others


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "line 5: more than 100,000 values, aliases included"),
        ("default: " + "[" * 100_000, "line 1: more than 50 lists and mappings within each other"),
        ("default: " + "{a: " * 100_000, "line 1: more than 50 lists and mappings within each other"),
        ("default: &a [*a]", "line 1: a list or mapping that is part of itself"),
        ("default: {n_envs: " + "9" * 5000 + "}", "is not YAML"),
        ("default: {n_envs: 2001-99-99}", "is not YAML"),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
        ("default: {n_envs: 10000000}", "`n_envs` must be an integer at least 1 and at most 100000, but is 10000000."),
        (
            "default: {n_timesteps: .inf}",
            "`n_timesteps` must be a number at least 1 and at most 1000000000000000, but is inf.",
        ),
        ("default: {n_timesteps: 1" + "0" * 400 + "}", "n_timesteps"),
    ],
    ids=["laughs", "lists", "mappings", "itself", "digits", "date", "size", "environments", "infinity", "steps"],
)
def test_a_hyperparameter_file_that_is_too_much_is_one_line(text, said, here, capsys):
    (here / "much.yml").write_text(text)
    assert main(["train", "-conf", "much.yml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (here / "logs").exists()


def test_aliases_and_merges_mean_what_they_do_in_yaml():
    text = "a: &a {x: 1, y: [2]}\nb: {<<: *a, z: *a}\nc: [*a, *a]"
    assert limits.load(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "entry",
    [
        {"callback": {"stable_baselines3.common.callbacks.CheckpointCallback": {"save_freq": 8, "save_path": "out"}}},
        {"callback": [{"stable_baselines3.common.callbacks.CheckpointCallback": {"save_freq": 8, "save_path": "/x"}}]},
        {"env_wrapper": {"gymnasium.wrappers.RecordVideo": {"video_folder": "out"}}},
        {"env_wrapper": ["gymnasium.wrappers.OrderEnforcing", {"gymnasium.wrappers.RecordVideo": {"a": ["../out"]}}]},
        {"vec_env_wrapper": {"stable_baselines3.common.vec_env.VecMonitor": {"filename": "out"}}},
    ],
    ids=str,
)
def test_wrappers_and_callbacks_get_no_paths_without_trust(entry, here, capsys):
    small = {"n_steps": 8, "batch_size": 8, "n_timesteps": 8}
    (here / "entry.yml").write_text(yaml.safe_dump({"default": {**small, **entry}}))
    assert main(["train", "-conf", "entry.yml", "--eval-freq", "-1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, *entry, "path", "--trust")
    assert sorted(path.name for path in here.iterdir()) == ["entry.yml", "file"]


def test_with_trust_they_get_them(here):
    callback = {"stable_baselines3.common.callbacks.CheckpointCallback": {"save_freq": 8, "save_path": "out"}}
    entry = {"n_steps": 8, "batch_size": 8, "n_timesteps": 8, "engine": "autograd", "callback": callback}
    (here / "entry.yml").write_text(yaml.safe_dump({"default": entry}))
    assert main(["train", "-conf", "entry.yml", "--eval-freq", "-1", "--trust"]) == 0
    assert [path.name for path in (here / "out").iterdir()] == ["rl_model_8_steps.zip"]


def test_a_report_shows_names_as_they_are(here, capsys):
    names = [r"$\frac$", "$x^$", "<b>&", "{x}", "%d"]
    scores = {name: {name: [1.0, 2.0] for name in names} for name in ["ppo", *names]}
    write_results(here / "results", scores, random=dict.fromkeys(names, 0.0))
    assert main(["report", "results"]) == 0
    assert capsys.readouterr().err == ""


# Modules that register environments

MY_ENVS = """
import os
from pathlib import Path
import gymnasium as gym
gym.register("My/Pole-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)
Path(f"imported by {os.getpid()}").touch()
"""
ONE = ["-n", "64", "--seeds", "1", "--eval-points", "1", "--eval-episodes", "1", "--final-episodes", "1", "--jobs", "1"]


@pytest.mark.parametrize(
    ("argv", "n_processes"),  # at least
    [
        (["train", "--env", "My/Pole-v0", "--gym-packages", "my_envs", *SHORT[1:]], 1),
        (["benchmark", "--algos", "ppo", "--envs", "my_envs:My/Pole-v0", "CartPole-v1", *ONE, "-o", "out"], 3),
        (["tune", "--env", "my_envs:My/Pole-v0", *LONG, "--jobs", "1", "-o", "out"], 2),
        ([*CROSSCHECK, "--envs", "CartPole-v1", "--gym-packages", "my_envs", "--updates", "1", "--seeds", "0"], 2),
    ],
    ids=["train", "benchmark", "tune", "crosscheck"],
)
def test_each_process_of_a_command_imports_the_modules_of_its_environments(argv, n_processes, here, warm):
    (here / "my_envs.py").write_text(MY_ENVS)
    # The others are forked from a process that knows no such modules.
    before = "import sys; sys.path.insert(0, '.'); from pg_zoo.runs.processes import prepare; prepare()"
    with warm.begun(*argv, before=before) as command:
        if argv[0] == "tune":  # which takes longer
            wait_for(lambda: len(list(here.glob("imported by *"))) >= n_processes, 300)
        else:
            assert command.wait() == 0
    assert len(list(here.glob("imported by *"))) >= n_processes
    assert Path("err.txt").read_text() == ""
    if argv[0] == "train":
        replay = warm.run("enjoy", "--env", "my_envs:My/Pole-v0", "--no-render", "-n", "30", before=before)
        assert replay[::2] == (0, "")


# Signals

SUBPROC = ["--vec-env", "subproc"]
# What is endless, what it has printed when it has begun, and the processes that it has then: with the trackers and
# servers of multiprocessing.
ENDLESS = {
    "train": ([*SHORT, *LONG, "--log-interval", "1"], "total_timesteps", 1),
    "train, subproc": ([*SHORT, *LONG, "--log-interval", "1", *SUBPROC], "total_timesteps", 4),
    "enjoy": (["enjoy", "--no-render", "-n", "1000000000"], "Episode 1:", 1),
    "benchmark": (["benchmark", "--algos", "ppo", "--envs", "CartPole-v1", *LONG, "-o", "out"], "cells", 4),
    "tune": (["tune", *LONG, "--jobs", "1", "-o", "out"], "0 of", 4),
    "crosscheck": (
        [*CROSSCHECK, "--envs", "CartPole-v1", "Acrobot-v1", "--updates", "1000000", "--jobs", "2"],
        "Parameters",
        5,
    ),
}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("name", "end", "to_all"),  # Ctrl-C and many schedulers' signals come to all processes
    # Each command with one signal, each signal with one command, and what ends nobody's cleaning up with all that start
    # processes.
    [
        ("train", signal.SIGHUP, False),
        ("train, subproc", signal.SIGTERM, False),
        ("train, subproc", signal.SIGKILL, False),
        ("enjoy", signal.SIGHUP, False),
        ("benchmark", signal.SIGINT, False),
        ("benchmark", signal.SIGKILL, False),
        ("tune", signal.SIGHUP, False),
        ("tune", signal.SIGKILL, False),
        ("crosscheck", signal.SIGINT, True),
        ("crosscheck", signal.SIGTERM, True),
        ("crosscheck", signal.SIGKILL, False),
    ],
)
def test_no_process_outlives_a_signal(name, end, to_all, warm):
    argv, begun, n_processes = ENDLESS[name]
    Path("out.txt").touch()
    with warm.begun(*argv, before=UNBUFFERED) as command:
        wait_for(lambda: begun in Path("out.txt").read_text() and len(command.processes()) >= n_processes, 300)
        (os.killpg if to_all else os.kill)(command.id, end)
        status = command.wait()
        wait_for(lambda: not command.processes(), 300)
    errors = Path("err.txt").read_text()
    if end == signal.SIGKILL:
        assert status == -signal.SIGKILL
    elif name.startswith(("train", "enjoy")):
        assert (status, errors) == (0, "")
    else:
        assert (status, errors) == (130, "pg-zoo: interrupted\n")


INTERRUPTED = """
import os
from stable_baselines3.common.vec_env import SubprocVecEnv

def step_wait(envs):
    envs.remotes[0].recv()
    os.read(envs.remotes[1].fileno(), 3)
    raise KeyboardInterrupt

SubprocVecEnv.step_wait = step_wait
"""


def test_an_interrupt_between_and_within_answers_of_environments_ends_them(warm):
    status, _, errors = warm.run(*SHORT, "n_envs:2", *SUBPROC, before=INTERRUPTED)
    assert (status, errors) == (0, "")
