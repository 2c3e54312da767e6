"""`pg-zoo` and whatever can be typed after it: an exit status, at most one line of error, and nothing left behind.

The options come from the parsers themselves, so that new ones are tried too. All lines differ. `PG_ZOO_FUZZ=20000`
before pytest tries as many, other ones each time; 500 take half a minute of processor time.
"""

import contextlib
import copy
import functools
import importlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv
from synthetic import write_results

import pg_agents
from pg_agents.agent import PolicyGradient
from pg_agents.files.writing import UNFINISHED
from pg_zoo.cli import main
from pg_zoo.options import arguments_of, command_parsers, make_parser
from pg_zoo.recipes import limits
from pg_zoo.runs import backends
from pg_zoo.runs.processes import Died

N_LINES = int(os.environ.get("PG_ZOO_FUZZ", "100"))

# Grammar: commands, their options, and values of each


@dataclass(frozen=True)
class Option:
    """An option or, without flags, a positional argument."""

    flags: tuple[str, ...]
    name: str
    kind: str
    choices: tuple[str, ...]
    takes: str  # "none", "one", "some", "any" or "perhaps one"


def _commands():
    return {name: [*map(_option, arguments_of(parser))] for name, parser in command_parsers(make_parser()).items()}


def _option(action):
    takes = {0: "none", "?": "perhaps one", "+": "some", "*": "any", None: "one"}[action.nargs]
    pairs = type(action).__name__ == "_StoreDict"
    kind = "pairs" if pairs else action.type.__name__ if action.type in (int, float) else "text"
    return Option(tuple(action.option_strings), action.dest, kind, tuple(action.choices or ()), takes)


COMMANDS = _commands()
# Without what is required, nearly every line would end at that.
BEGINNINGS = {
    "list": [],
    "train": [],
    "enjoy": ["--no-render"],
    "benchmark": ["--algos", "ppo", "--envs", "CartPole-v1", "-o", "out"],
    "report": ["results"],
    "tune": ["-o", "out", "-n", "64"],
    "evidence": ["--zoo", "zoo"],
    "crosscheck": ["--algos", "a2c", "--envs", "CartPole-v1", "-o", "out"],
}
FOLDERS = {"log_folder", "tensorboard_log", "folder", "video", "output", "results", "zoo", "write"}
ALGOS = ["ppo", "a2c", "reinforce", "sb3/ppo", "sb3/dqn", "contrib/trpo", "random"]
ENVS = ["CartPole-v1", "Pendulum-v1", "pg/ShortCorridor-v0", "json:CartPole-v1"]
VALID = {
    **dict.fromkeys(("algo", "algos", "same_hyperparams", "baseline"), ALGOS),
    **dict.fromkeys(("env", "envs"), ENVS),
    **{name: ["out", "results", "made/for it", "../beside", "zoo", "a file"] for name in FOLDERS},
    "hyperparams": ["n_envs:2", "learning_rate:lin_0.01", "policy_kwargs:dict(net_arch=[8])", "normalize:true"],
    "env_kwargs": ["gravity:9.8", "render_mode:rgb_array"],
    "eval_env_kwargs": ["gravity:9.8"],
    "conf_file": ["entries.yml"],
    "trained_agent": ["logs/ppo/CartPole-v1_1/CartPole-v1.zip"],
    "gym_packages": ["json"],
    "device": ["cpu", "auto"],
    "ray_address": ["127.0.0.1:6379"],
}
# fmt: off
NUMBERS = ["1", "2", "7", "0", "-1", "100", " 3 ", "1_0", "+4"]
EDGES = [
    "-2", "2147483648", "4294967296", "9223372036854775808", "1" + "0" * 30, "9" * 5000, "-" + "9" * 40, "1.5", "1e3",
    "1e999", "nan", "inf", "-inf", "-0.0", "0x10", "٣", "True", "None",
]
TEXTS = [
    "", " ", "\0", "a\0b", "\n", "\x1b[31mred", "\r\t\x07", "é", "日本語", "\u202eabc", "\ud800", "💥", r"$\frac$",
    "$x", "..", "../..", "/dev/null/x", "/proc/x", "~", "a/b/../../c", "CON", "x" * 300, "x/" * 3000, "long" * 20_000,
    "-", "--", "---", "-x", "--=", "=", ":", "@x", "*", "[", "<b>&amp;", "%s %(x)d {x}", "'", '"', "\\", "null", "- 1",
    "{a: [1, 2", "&a [*a]", "!!python/object/apply:os.system [x]", '{"a": 1}', "[" * 2000, "lin_", "module:CartPole-v1",
    "CartPole", "ppo ", "PPO", "sb3/", "/ppo", "a file", "empty", "loop",
]
PAIRS = [
    "n_envs:0", "n_envs:-1", "n_envs:10000000", "n_envs:1e3", "n_envs:nan", "n_envs:None", "n_envs:[1]", "n_envs:true",
    "n_timesteps:nan", "n_timesteps:inf", "n_timesteps:0", "n_timesteps:1" + "0" * 400, "n_steps:0", "n_steps:1.5",
    "n_envs:0x10", "gamma:nan", "gamma:inf", "gamma:2", "learning_rate:lin_", "learning_rate:lin_nan",
    "learning_rate:lin_1e", "learning_rate:inf", "batch_size:0", "batch_size:-5", "batch_size:3", "n_epochs:0",
    "clip_range:-1", "ent_coef:x", "noise_type:x", "policy:", "policy:3", "policy:os.system", "policy:..",
    "policy_kwargs:3", "policy_kwargs:dict(net_arch=0)", "policy_kwargs:dict(x=1)", "policy_kwargs:dict(net_arch=[-1])",
    "policy_kwargs:dict(activation_fn=nn.Tan)", "policy_kwargs:dict(net_arch=dict(pi=3))", "normalize:3",
    "normalize:dict(x=1)", "normalize:dict(clip_obs=nan)", "frame_stack:0", "frame_stack:1.5", "frame_stack:3",
    "frame_stack:x", "env_wrapper:os.system", "env_wrapper:3", "env_wrapper:", "env_wrapper:[1]", "env_wrapper:.",
    "env_wrapper:gymnasium.wrappers.TimeLimit", "env_wrapper:{'gymnasium.wrappers.TimeLimit':{'max_episode_steps':-3}}",
    "env_wrapper:{'gymnasium.wrappers.RecordVideo':{'video_folder':'../videos'}}", "vec_env_wrapper:x", "callback:3",
    "vec_env_wrapper:{'stable_baselines3.common.vec_env.VecMonitor':{'filename':'../x'}}", "callback:[None]",
    "callback:rl_zoo3.callbacks.RawStatisticsCallback", "callback:{}", "callback:[[]]", "monitor_kwargs:3",
    "callback:{'stable_baselines3.common.callbacks.CheckpointCallback':{'save_freq':1,'save_path':'../x'}}",
    "monitor_kwargs:dict(info_keywords=3)", "monitor_kwargs:dict(filename='../x')", "tensorboard_log:../x",
    "env_kwargs:3", "env_kwargs:dict(x=1)", "seed:1", "device:cpu", "verbose:1", "x", "", ":", "::", "a:", ":b",
    "render_mode:human", "render_mode:x", "gravity:x", "gravity:[1]", "id:x", "n_envs:" + "(" * 3000, "a:1j", "a:...",
    "a:" + "[" * 90_000, "a:" + "-" * 50_000 + "1", "a:{1:2}", "a:{[]:1}", "a:dict(a=1,a=2)", "a:b'x'", "a:{1,2}",
    "a:é", "a:\0",
]
# fmt: on
FIGURES = NUMBERS + EDGES + TEXTS[:14]
POOLS = {"int": FIGURES, "float": FIGURES, "text": TEXTS + EDGES, "pairs": PAIRS}


def _value(option):
    valid = VALID.get(option.name) or option.choices or NUMBERS[:3]
    strange = POOLS[option.kind]
    if option.name in FOLDERS:  # as root, one may write into many
        strange = [text for text in strange if not text.startswith(("..", "/", "~", "a/b/..", "x/"))] + ["/proc/x"]
    typed = st.text(max_size=8).filter(lambda text: "/" not in text and not text.startswith("."))
    return st.one_of(*map(st.sampled_from, (valid, valid, strange, strange)), typed)


_rarely = st.sampled_from([False] * 19 + [True])


@st.composite
def _written(draw, option):
    """An option and its values as somebody might write them."""
    flag = draw(st.sampled_from(option.flags)) if option.flags else None
    if flag and flag.startswith("--") and draw(_rarely):
        flag = flag[: draw(st.integers(3, len(flag)))]
    few = {"none": (0, 0), "perhaps one": (0, 1), "some": (1, 3), "any": (0, 3), "one": (1, 1)}[option.takes]
    if draw(_rarely):
        few = (0, 2)
    values = draw(st.lists(_value(option), min_size=few[0], max_size=few[1]))
    if flag is None:
        return values
    if flag.startswith("--") and len(values) == 1 and draw(st.booleans()):
        return [f"{flag}={values[0]}"]
    return [flag, *values]


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from(["train"] * 5 + ["enjoy"] * 3 + ["benchmark", "tune"] * 2 + sorted(COMMANDS)))
    line = [] if draw(_rarely) else BEGINNINGS[command]
    options = [option for option in COMMANDS[command] if option.name != "help" or draw(_rarely)]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 5]))):
        line = [*line, *draw(_written(draw(st.sampled_from(options))))]
    if draw(_rarely):
        line = [*line, draw(st.sampled_from(TEXTS))]
    return line if draw(_rarely) else [command, *line]


# What a command may do


class _Watch:
    """Notes what is written, and where, while it is on; audit hooks cannot be taken off again."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if not self.on:
            return
        changes = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree")
        opens = event == "open" and isinstance(args[0], str | bytes) and _writes(*args[1:])
        if opens or (event in changes and args[-1] in (-1, None)):  # others are relative to a folder that was seen
            self.seen.append(args[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.seen.extend(args[:2])
        elif event in ("os.system", "subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn", "socket.connect"):
            self.seen.append(f"{event}{args}")


def _writes(mode, flags):
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else "r" not in (mode or "r")


@pytest.fixture(scope="module")
def watch():
    return _Watch()


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """What each command line finds in its folder: results, a run, entries, and files that are none of these."""
    folder = tmp_path_factory.mktemp("pattern")
    write_results(folder / "results", {"ppo": {"CartPole-v1": [9.0, 8.0]}, "sb3/ppo": {"CartPole-v1": [7.0, 8.0]}})
    (folder / "zoo").mkdir()
    (folder / "empty").mkdir()
    (folder / "zoo/ppo.yml").write_text("CartPole-v1:\n  n_timesteps: 64\n")
    (folder / "entries.yml").write_text("default:\n  n_steps: 8\n  batch_size: 8\n")
    (folder / "a file").write_bytes(b"\xff\0")
    (folder / "loop").symlink_to("loop")
    run = folder / "logs/ppo/CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    pg_agents.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}).save(run / "CartPole-v1.zip")
    (run / "CartPole-v1/config.yml").write_text("n_envs: 1\n")
    return folder


@pytest.fixture(scope="module")
def short():
    """Commands that do all but train: the work is replaced where others may put another, too."""

    def learn(run):
        run.model.num_timesteps = 1  # so that it is saved

    def not_run(cells, folder, jobs):
        yield from ((cell, "no training in this test") for cell in cells)

    def predict(self, *args, **kwargs):
        raise KeyboardInterrupt  # which ends a replay

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pg_zoo.runs.folder.Run.learn", learn)
        patch.setattr("pg_zoo.runs.recipe.ProcessesVecEnv", DummyVecEnv)
        patch.setattr("pg_zoo.tuning.search.Search.run", lambda search, *_: None)
        patch.setattr("pg_zoo.runs.processes.prepare", lambda: None)
        patch.setattr("pg_zoo.commands.benchmark.connected_to_ray", lambda address: contextlib.nullcontext())
        for name in backends.BACKENDS:
            patch.setitem(backends.BACKENDS, name, not_run)
        patch.setattr("pg_zoo.commands.crosscheck.in_order", lambda function, tasks, jobs: (Died(1) for _ in tasks))
        for algorithm in (BaseAlgorithm, PolicyGradient):
            patch.setattr(algorithm, "predict", predict)
        load = functools.cache(limits.load)  # most files are those of packages
        patch.setattr(limits, "load", lambda stream: copy.deepcopy(load(stream)))
        importlib.import_module("matplotlib.font_manager")  # makes its folder in the user's home
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        yield


@pytest.fixture(scope="module")
def tried():
    return set()


@contextlib.contextmanager
def _no_longer_than(seconds):
    def hung(*_):
        raise AssertionError(f"nothing after {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(argv, pattern, watch):
    """Status, stdout, stderr, and what was written outside the folders that the command line names."""
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as place:
        here = Path(place, "a", "b")
        shutil.copytree(pattern, here, symlinks=True)
        os.chdir(here)
        watch.seen, watch.on = [], True
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with _no_longer_than(60):
                    status = main(argv)
        except SystemExit as end:  # --help, --version
            status = end.code
        finally:
            watch.on = False
            os.chdir(before)
        outside = [str(path) for path in watch.seen if not _is_allowed(path, here, argv)]
    return status, out.getvalue(), err.getvalue(), outside


def _is_allowed(path, here, argv):
    if isinstance(path, int):
        return True
    if str(path).startswith("subprocess.Popen"):
        return "('ff" in str(path) or "ffmpeg" in str(path)  # of a video
    found = Path(os.path.normpath(here / os.fsdecode(path)))
    beside = re.fullmatch(r"\.(.+)\.\w{32}" + UNFINISHED, found.name)
    place = here.parents[1]
    if not found.is_relative_to(place):  # caches, and what libraries have in the temporary folder
        return found == Path(os.devnull) or found.is_relative_to(place.parent) or "__pycache__" in found.parts
    given = [text.partition("=")[2] if text.startswith("--") else text for text in argv]
    named = [Path(os.path.normpath(here / text)) for text in (*given, "logs", "runs") if text]
    if beside:  # to be renamed; its name is shortened
        named += [one.with_name(one.name[: len(beside[1])]) for one in named if one.name]
        found = found.with_name(beside[1])
    return found.is_relative_to(here.parent) and any(
        found.is_relative_to(one) or one.is_relative_to(found) for one in named
    )


def check(argv, pattern, watch):
    try:
        status, out, err, outside = run(argv, pattern, watch)
    except Exception:
        if not any(text.startswith("--v") for text in argv):  # --verbose 2 asks for tracebacks
            raise
        return
    if status == 0:
        err = re.sub(r"[^\n]*\r[^\n]*\n?", "", err)  # the progress bar of a video
    lines = err.splitlines()
    assert not outside, outside
    assert not multiprocessing.active_children()
    assert not re.search(r"[^\n -~\xa0-\U0010ffff]", err), "control characters"
    if status == 2:
        assert lines, "no message"
        assert lines[-1].startswith("pg-zoo: error: ")
        assert len(lines[-1]) < 2000, "too long"
        assert all(line.startswith("pg-zoo: warning: ") for line in lines[:-1])
    elif status == 130:
        assert lines[-1] == "pg-zoo: interrupted"
    else:
        assert status in (0, 1)
        assert out or "--verbose" in " ".join(argv) or status == 0
        assert all(line.startswith(("pg-zoo: warning: ", "pg-zoo: failed: ")) for line in lines)


@settings(
    max_examples=N_LINES,
    derandomize="PG_ZOO_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # a line is short enough as it is
    suppress_health_check=list(HealthCheck),
)
@given(argv=command_lines())
def test_whatever_is_typed_ends_with_a_status_and_one_line(argv, pattern, watch, short, tried):
    assume(tuple(argv) not in tried)  # hypothesis likes to come back to one
    tried.add(tuple(argv))
    check(argv, pattern, watch)


WRONG = {
    "int": ["x", "1.5", "", "nan", "9" * 5000],
    "float": ["x", "", "1,5"],
    "pairs": ["x", "n_envs:f(x)", "a:["],
    "text": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_of_the_wrong_kind_is_told_with_its_option(command, capsys):
    for option in COMMANDS[command]:
        for flag in option.flags:
            for value in (["x"] if option.choices else WRONG[option.kind]) * (option.takes != "none"):
                assert main([command, *BEGINNINGS[command], flag, value]) == 2
                (line,) = capsys.readouterr().err.splitlines()
                assert line.startswith("pg-zoo: error: ")
                assert flag in line
                assert value.rpartition(":")[2][:20] in line


LIMITS = {
    "train": [("--n-timesteps", "0"), ("--seed", "-2"), ("--seed", "4294967296"), ("--n-eval-envs", "0")],
    "enjoy": [
        ("--n-envs", "0"),
        ("--n-envs", "10000000"),
        ("--n-timesteps", "0"),
        ("--seed", "-1"),
        ("--exp-id", "-2"),
    ],
    "benchmark": [("--seeds", "1000000000"), ("--eval-points", "1000000000"), ("--first-seed", "-1"), ("--jobs", "0")],
    "tune": [("--trials", "0"), ("--seeds", "501"), ("--eval-points", "1000000000"), ("--seed", "-1")],
    "crosscheck": [("--seeds", "1"), ("--seeds", "1000000000"), ("--margin", "nan"), ("--updates", "0")],
}
LIMITS["train"] += [("--n-eval-envs", "10000000"), ("--eval-episodes", "0"), ("--log-interval", "0")]
LIMITS["train"] += [("--num-threads", "2147483648"), ("--device", "x"), ("--device", "cpu:x")]


@pytest.mark.parametrize(
    ("command", "flag", "value"), [(command, *limit) for command, limits in LIMITS.items() for limit in limits]
)
def test_a_number_out_of_range_is_told_with_its_option(command, flag, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, *BEGINNINGS[command], flag, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flag in line
    assert value in line
    assert not list(tmp_path.iterdir())
