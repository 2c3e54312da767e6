"""`pg-zoo` where something is missing or in the way: one line and an exit status, and nothing that runs on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from prose import says
from synthetic import write_results

import pg_agents
from pg_zoo.cli import main
from pg_zoo.errors import one_line_of
from pg_zoo.recipes import limits

PROGRAM = [sys.executable, "-c", "import sys; from pg_zoo.cli import main; sys.exit(main())"]
SHORT = ["train", "-n", "64", "--eval-freq", "-1", "--hyperparams", "n_envs:1", "n_steps:32", "batch_size:32"]
BELOW_A_FILE = "file/below"  # which not even root can make


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return tmp_path


def pg_zoo(*argv, shell='exec "$@"', **changes):
    """Status, stdout and stderr of a command in a process of its own; `shell` says what stands around it."""
    env = {name: value for name, value in (os.environ | changes).items() if value is not None}
    command = ["bash", "-c", shell, "bash", *PROGRAM, *argv]
    done = subprocess.run(command, env=env, capture_output=True, timeout=300)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def model():
    return pg_agents.PPO.load("logs/ppo/CartPole-v1_1/CartPole-v1.zip")


# Output


def test_a_disk_that_takes_no_output_is_one_line():
    status, _, errors = pg_zoo("list", shell='"$@" > /dev/full')
    assert status == 2
    assert errors == "pg-zoo: error: The output cannot be written: No space left on device.\n"


def test_what_was_learnt_is_kept_when_nobody_reads_on():
    status, out, errors = pg_zoo(*SHORT, "--log-interval", "1", shell='"$@" | head -1; exit ${PIPESTATUS[0]}')
    assert (status, len(out.splitlines())) == (2, 1)
    assert errors == "pg-zoo: error: The output cannot be written: Broken pipe.\n"


def test_with_all_streams_closed_it_trains():
    assert pg_zoo(*SHORT, shell='"$@" <&- >&- 2>&-') == (0, "", "")
    assert model().num_timesteps == 64


def test_closed_streams_keep_the_status_of_an_error():
    assert pg_zoo("list", "--algo", "x", shell='"$@" >&- 2>&-') == (2, "", "")


def test_names_that_the_output_cannot_show_are_escaped():
    status, out, errors = pg_zoo(*SHORT, "-f", "naïve/日本", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (status, errors) == (0, "")
    assert r"na\xefve/\u65e5\u672c" in out
    assert Path("naïve/日本/ppo/CartPole-v1_1/CartPole-v1.zip").is_file()


def test_a_name_that_is_no_text_is_a_folder_all_the_same(here):
    status, _, errors = pg_zoo(*SHORT, "-f", b"bad\xff")
    assert (status, errors) == (0, "")
    assert b"bad\xff" in os.listdir(os.fsencode(here))


def test_a_message_has_neither_control_characters_nor_pages_of_text(capsys):
    assert main(["train", "--env", "\x1b[2J\n" + "x" * 100_000]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"pg-zoo: error: Unknown environment '\x1b[2J")
    assert line.endswith("installed?")
    assert len(line) < 2000
    assert one_line_of("a\x07\u202eb\ud800") == r"a\x07\u202eb\ud800"


# Folders and files


def test_a_limit_on_files_names_the_folder():
    status, _, errors = pg_zoo(*SHORT, shell='ulimit -f 2; exec "$@"')
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


def test_without_home_and_temporary_folder_it_trains():
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), BELOW_A_FILE)
    assert pg_zoo(*SHORT, **folders)[::2] == (0, "")
    assert model().num_timesteps == 64
    assert pg_zoo(*SHORT, HOME=None)[::2] == (0, "")


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
    entry = {"n_steps": 8, "batch_size": 8, "n_timesteps": 8, "callback": callback}
    (here / "entry.yml").write_text(yaml.safe_dump({"default": entry}))
    assert main(["train", "-conf", "entry.yml", "--eval-freq", "-1", "--trust"]) == 0
    assert [path.name for path in (here / "out").iterdir()] == ["rl_model_8_steps.zip"]


@pytest.mark.parametrize("name", [r"$\frac$", "$x^$", "<b>&", "{x}", "%d"])
def test_a_report_shows_names_as_they_are(name, here, capsys):
    write_results(here / "results", {"ppo": {name: [1.0, 2.0]}, name: {name: [2.0, 1.5]}}, random={name: 0.0})
    assert main(["report", "results"]) == 0
    assert capsys.readouterr().err == ""


# Signals

LISTENING = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
LISTENING += "from pg_zoo.cli import main; sys.exit(main(sys.argv[1:]))"
LONG = ["-n", "10000000"]
ENDLESS = {
    "train": ([*SHORT, *LONG, "--log-interval", "1"], "total_timesteps"),
    "train, subproc": ([*SHORT, *LONG, "--log-interval", "1", "--vec-env", "subproc"], "total_timesteps"),
    "enjoy": (["enjoy", "--no-render", "-n", "1000000000"], "Episode 1:"),
    "benchmark": (["benchmark", "--algos", "ppo", "--envs", "CartPole-v1", *LONG, "-o", "out"], "cells"),
    "tune": (["tune", *LONG, "-o", "out"], "0 of"),
}


def _marked(mark):
    """Processes that have the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes() and path.with_name("stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(path.parent.name))
    return found


def _until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("command", "end"),
    # Each command with one signal, each signal with one command, and what ends nobody's cleaning up with all that start
    # processes.
    [
        ("train", signal.SIGHUP),
        ("train, subproc", signal.SIGTERM),
        ("train, subproc", signal.SIGKILL),
        ("enjoy", signal.SIGHUP),
        ("benchmark", signal.SIGINT),
        ("benchmark", signal.SIGKILL),
        ("tune", signal.SIGHUP),
        ("tune", signal.SIGKILL),
    ],
)
def test_no_process_outlives_a_signal(command, end, here):
    argv, begun = ENDLESS[command]
    mark = f"PG_ZOO_TEST={here}".encode()
    env = {**os.environ, "PG_ZOO_TEST": str(here)}
    with (here / "out.txt").open("w") as out, (here / "err.txt").open("w") as err:
        parent = subprocess.Popen([sys.executable, "-uc", LISTENING, *argv], stdout=out, stderr=err, env=env)
    _until(lambda: begun in (here / "out.txt").read_text() or parent.poll() is not None)
    parent.send_signal(end)
    status = parent.wait(timeout=300)
    _until(lambda: not _marked(mark))
    errors = (here / "err.txt").read_text()
    if end == signal.SIGKILL:
        assert status == -signal.SIGKILL
    elif command.startswith(("train", "enjoy")):
        assert (status, errors) == (0, "")
    else:
        assert (status, errors) == (130, "pg-zoo: interrupted\n")
