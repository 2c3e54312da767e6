"""Plugins in wheels of their own, installed beside our wheel in a fresh environment, need no change in our code."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from warm import Server

import pg_agents
from pg_zoo.cli import main

ROOT = Path(__file__).parents[2]

ALGORITHM = '''
"""Vanilla policy gradient: every step is weighted by its advantage."""

from pg_agents import PolicyGradient
from pg_agents.contract import Objective
from pg_agents.objectives import score_function, score_function_weight


class Vanilla(PolicyGradient):
    """One gradient step after every few steps of experience."""

    def __init__(self, policy, env, learning_rate=1e-3, n_steps=32, gamma=0.99, **common):
        super().__init__(policy, env, learning_rate=learning_rate, n_steps=n_steps, gamma=gamma, **common)

    def objective(self):
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)
'''
ENVIRONMENT = '''
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Corridor(gym.Env):
    """Four steps to the door, and 2.5 for each, whatever one does."""

    observation_space, action_space = spaces.Box(0, 4, (1,), np.float32), spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 1
        return np.full(1, self.place, np.float32), 2.5, self.place == 4, False, {}


def known_returns(wage=1.0):
    return {"optimum": 4 * wage, "random": 2 * wage}


class Work(Corridor):
    """The same, but the action 1 alone is paid."""

    metadata = {"render_modes": [], "reference_scores": known_returns}

    def __init__(self, wage=1.0):
        self.wage = wage

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self.wage * float(action), *rest


def register():
    gym.register("Acme/Corridor-v0", entry_point="acme_envs:Corridor")
    gym.register("Acme/Work-v0", entry_point="acme_envs:Work", kwargs={"wage": 3.0}, reward_threshold=11.0)
'''
WORLD = """
from gymnasium import spaces

from pg_envs.worlds import World, compiled, register_world, uniform


@compiled
def pay(wage, works):
    return wage if works else 0.0


def start(state, random):
    state[0] = uniform(random, 0.0, 1.0)


def step(state, action, random, constants):
    state[0] += 1.0
    return pay(constants[0], action[0] == 1), state[0] >= 5.0


def observe(state, observation):
    observation[0] = state[0]


def shift(wage=2.0):
    return World(start, step, observe, 1, spaces.Box(0.0, 6.0, (1,)), spaces.Discrete(2), constants=(wage,))


def register():
    register_world("Acme/Shift-v0", "acme_worlds:shift", max_episode_steps=4)
"""
USES_A_WORLD = """
import gymnasium as gym
import numpy as np

from pg_agents.registry import find_env

find_env("Acme/Shift-v0")
env, envs = gym.make("Acme/Shift-v0"), gym.make_vec("Acme/Shift-v0", 3, wage=0.5)
env.reset(seed=0), envs.reset(seed=0)
one = [env.step(1)[1:4] for _ in range(4)]
many = [[values.tolist() for values in envs.step(np.array([0, 1, 1]))[1:4]] for _ in range(4)]
print("SAID", one[-1], many[-1])
"""
HYPERPARAMETERS = {
    "vanilla.yml": {"Acme/Corridor-v0": {"n_timesteps": 96, "n_envs": 3, "n_steps": 16, "gamma": 0.5}},
    "ppo.yml": {"CartPole-v1": {"n_timesteps": 64, "n_steps": 32, "batch_size": 32, "gamma": 0.25}},
}
BROKEN = 'raise RuntimeError("acme has a bad day")'

# Distribution -> (files, entry points by group).
DISTRIBUTIONS = {
    "acme-algorithms": ({"acme_algorithms.py": ALGORITHM}, {"algorithms": {"vanilla": "acme_algorithms:Vanilla"}}),
    "acme-envs": ({"acme_envs.py": ENVIRONMENT}, {"envs": {"acme": "acme_envs:register"}}),
    "acme-worlds": ({"acme_worlds.py": WORLD}, {"envs": {"acme_worlds": "acme_worlds:register"}}),
    "acme-hyperparams": (
        {"__init__.py": "", **{name: yaml.safe_dump(entries) for name, entries in HYPERPARAMETERS.items()}},
        {"hyperparams": {"acme": "acme_hyperparams"}},
    ),
    "acme-broken": (
        {"acme_broken.py": BROKEN},
        {
            "algorithms": {"bad_algorithm": "acme_broken:Algorithm"},
            "envs": {"bad_envs": "acme_broken:register"},
            "hyperparams": {"bad_hyperparams": "acme_broken"},
        },
    ),
    "acme-twin": ({"acme_twin.py": ALGORITHM}, {"algorithms": {"ppo": "acme_twin:Vanilla"}}),
}


BUILD = """
import os, sys
from hatchling.build import build_wheel

for source in sys.argv[2:]:
    os.chdir(source)
    build_wheel(sys.argv[1])
"""


def write_distribution(folder, name, files, entry_points):
    module = name.replace("-", "_")
    package = folder / module if "__init__.py" in files else folder
    package.mkdir(parents=True)
    for file, text in files.items():
        (package / file).write_text(text)
    tables = "".join(
        f'\n[project.entry-points."pg_agents.{group}"]\n'
        + "".join(f'{key} = "{value}"\n' for key, value in table.items())
        for group, table in entry_points.items()
    )
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n{tables}\n'
        f'[tool.hatch.build.targets.wheel]\ninclude = ["{module}*"]\n'
    )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """All wheels, ours among them, by the name of the distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    sources = [tmp_path_factory.mktemp("sources") / name for name in DISTRIBUTIONS]
    for source, contents in zip(sources, DISTRIBUTIONS.values(), strict=True):
        write_distribution(source, source.name, *contents)
    subprocess.run([sys.executable, "-c", BUILD, folder, *sources], check=True, capture_output=True)
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


def site_of(environment):
    return Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory):
    """A fresh environment with our wheel. It is the same for all tests: kernels are compiled once for each place."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "--quiet", "install"]
    subprocess.run([*command, "--no-deps", "--no-index", wheels["pg-agents"]], check=True, capture_output=True)
    # Torch and the like come from where these tests run. They stand behind the environment's own packages on the path,
    # so that pg-agents there is found second, and the editable install's own .pth file is not read. While pip works
    # they are away: it would take what is there for installed.
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_of(folder) / "outer.pth").write_text("\n".join(outer))
    bring_compiled_kernels(site_of(folder))
    return folder


def bring_compiled_kernels(site):
    """Let files there have what Numba has compiled of the same files here: it would take half a minute."""
    for source in (ROOT / "pg_agents").rglob("*.py"):
        there = site / source.relative_to(ROOT)
        if kept := [*source.parent.glob(f"__pycache__/{source.stem}.*.nb[ic]")]:
            assert there.read_bytes() == source.read_bytes()
            shutil.copystat(source, there)
            (there.parent / "__pycache__").mkdir(exist_ok=True)
            for path in kept:
                shutil.copy2(path, there.parent / "__pycache__")


def variables():
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def warm(environment):
    """Processes of the fresh environment that have loaded our wheel, but know of no plugins yet."""
    with closing(Server(environment / "bin/python", variables())) as server:
        yield server


@pytest.fixture
def installed(wheels, environment, tmp_path):
    """A function that installs distributions beside ours for a test and returns how to run a command there."""
    for_this_test = []

    def installed(*names):
        for name in names:
            with zipfile.ZipFile(wheels[name]) as wheel:  # to unpack a wheel without scripts is to install it
                wheel.extractall(site_of(environment))
                for_this_test.extend({path.partition("/")[0] for path in wheel.namelist()})

        def run(command, *arguments):
            return subprocess.run(
                [environment / "bin" / command, *arguments],
                cwd=tmp_path,
                env=variables(),
                capture_output=True,
                text=True,
            )

        return run

    yield installed
    for name in for_this_test:
        path = site_of(environment) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def pg_zoo(installed, warm, tmp_path, monkeypatch):
    """As `installed`, for the command `pg-zoo` alone, which begins in a process that has loaded our wheel."""
    monkeypatch.chdir(tmp_path)

    def pg_zoo(*names):
        installed(*names)

        def run(*arguments):
            files = {name: str(tmp_path / f"{name}.txt") for name in ("out", "err")}
            finished = subprocess.CompletedProcess(arguments, *warm.run(*arguments, **files))
            for path in files.values():
                os.remove(path)
            return finished

        return run

    return pg_zoo


def rows(finished):
    return [line.split() for line in finished.stdout.splitlines()]


def config(folder):
    (path,) = folder.rglob("config.yml")
    return dict(yaml.unsafe_load(path.read_text()))


def test_the_wheel_alone_trains_and_is_what_runs(installed, environment, tmp_path):
    run = installed()
    where = run("python", "-c", "import pg_agents, pg_zoo; print(pg_agents.__file__, pg_zoo.__file__)").stdout.split()
    assert all(Path(path).is_relative_to(environment) for path in where)
    trained = run("pg-zoo", "train", "--algo", "a2c", "-n", "40")
    assert (trained.returncode, trained.stderr) == (0, "")
    ours = yaml.safe_load((ROOT / "zoo/pg_zoo/hyperparams/a2c.yml").read_text())
    assert config(tmp_path / "logs") == ours["CartPole-v1"]
    replayed = run("pg-zoo", "enjoy", "--algo", "ppo", "-n", "500", "--no-render")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert "this is the agent that comes with pg-agents" in replayed.stdout
    assert "1 episodes" in replayed.stdout


def test_an_algorithm_an_environment_and_hyperparameters_from_three_distributions_work_together(pg_zoo, tmp_path):
    run = pg_zoo("acme-algorithms", "acme-envs", "acme-hyperparams")
    trained = run("train", "--algo", "vanilla", "--env", "Acme/Corridor-v0", "--seed", "0")
    assert (trained.returncode, trained.stderr) == (0, "")
    assert "Hyperparameters: 'Acme/Corridor-v0' in vanilla.yml of acme-hyperparams 1.0\n" in trained.stdout
    assert "Model: logs/vanilla/Acme-Corridor-v0_1/Acme-Corridor-v0.zip\n" in trained.stdout
    entry = HYPERPARAMETERS["vanilla.yml"]["Acme/Corridor-v0"]
    assert config(tmp_path / "logs") == {**entry, "policy": "MlpPolicy"}

    replayed = run("enjoy", "--algo", "vanilla", "--env", "Acme/Corridor-v0", "--no-render", "-n", "8")
    assert "2 episodes\nMean reward: 10.00 +/- 0.00\n" in replayed.stdout

    listed = rows(run("list"))
    assert ["vanilla", "Vanilla", "acme-algorithms", "1.0"] in listed
    assert ["Acme/Corridor-v0,", "Acme/Work-v0", "acme-envs", "1.0", "(plugin", "acme)"] in listed
    assert ["vanilla", "Acme/Corridor-v0", "acme-hyperparams", "1.0"] in listed


def test_a_world_is_found_by_its_id_and_compiled_once_for_all_processes(installed, monkeypatch):
    monkeypatch.setenv("NUMBA_DEBUG_CACHE", "1")
    run = installed("acme-worlds")
    for does in ("saved to", "loaded from"):
        finished = run("python", "-c", USES_A_WORLD)
        assert (finished.returncode, finished.stderr) == (0, "")
        lines = finished.stdout.splitlines()
        assert "SAID (2.0, False, True) [[0.0, 0.5, 0.5], [False, False, False], [True, True, True]]" in lines
        cached = [line for line in lines if line.startswith("[cache] data") and "acme_worlds." in line]
        assert all(f"[cache] data {does} " in line for line in cached)
        functions = {
            function for line in cached for function in ("start", "step", "observe") if f".{function}-" in line
        }
        assert functions == {"start", "step", "observe"}


def test_an_algorithm_takes_part_in_a_benchmark_by_its_name_alone(pg_zoo, tmp_path):
    run = pg_zoo("acme-algorithms", "acme-envs", "acme-hyperparams")
    options = ["--algos", "vanilla", "sb3/a2c", "--envs", "Acme/Corridor-v0", "--seeds", "1", "-o", "results"]
    compared = run("benchmark", *options, "-n", "96", "--eval-points", "1", "--final-episodes", "2")
    assert (compared.returncode, compared.stderr) == (0, "")
    cells = {
        algo: tmp_path / f"results/cells/{algo}/Acme-Corridor-v0/seed_0" for algo in ("vanilla", "sb3-a2c", "random")
    }
    stored = {algo: json.loads((folder / "cell.json").read_text()) for algo, folder in cells.items()}
    assert [stored[algo]["score"] for algo in cells] == [10, 10, 10]
    entry = HYPERPARAMETERS["vanilla.yml"]["Acme/Corridor-v0"]
    assert stored["vanilla"]["hyperparams"] == {**entry, "policy": "MlpPolicy"}
    assert stored["vanilla"]["versions"].items() >= {"acme-algorithms": "1.0", "acme-envs": "1.0"}.items()


def test_the_optimum_that_an_environment_states_reaches_the_report(pg_zoo, tmp_path):
    run = pg_zoo("acme-envs")
    options = ["--envs", "Acme/Work-v0", "--seeds", "3", "-n", "96", "--eval-points", "1", "--final-episodes", "2"]
    compared = run("benchmark", "--algos", "a2c", *options, "-o", "results")
    assert (compared.returncode, compared.stderr) == (0, "")
    reported = run("report", "results")
    assert (reported.returncode, reported.stderr) == (0, "")
    page = (tmp_path / "results/report.md").read_text()
    assert "the exact optimum is 12; solved at 11; 1 after normalisation is the exact optimum." in page
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| optimal (known) |")]
    assert any("12" in row for row in rows)  # among the scores
    assert ["optimal (known)", "1", "1", "1", "0"] in [[cell.strip() for cell in row] for row in rows]  # normalised


def test_an_algorithm_without_a_hyperparameter_file_trains_with_its_own_defaults(pg_zoo, tmp_path):
    run = pg_zoo("acme-algorithms")
    trained = run("train", "--algo", "vanilla", "-n", "64")
    assert (trained.returncode, trained.stderr) == (0, "")
    assert config(tmp_path / "logs") == {"n_timesteps": 100_000, "policy": "MlpPolicy"}


def test_hyperparameters_of_a_plugin_override_ours_entry_by_entry(pg_zoo, tmp_path):
    run = pg_zoo("acme-hyperparams")
    trained = run("train")
    assert "Hyperparameters: 'CartPole-v1' in ppo.yml of acme-hyperparams 1.0\n" in trained.stdout
    # The whole entry: nothing of our own values for CartPole is mixed in.
    assert config(tmp_path / "logs") == {**HYPERPARAMETERS["ppo.yml"]["CartPole-v1"], "policy": "MlpPolicy"}
    assert "'Pendulum-v1' in ppo.yml of pg-agents" in run("train", "--env", "Pendulum-v1", "-n", "1").stdout


def test_a_plugin_that_cannot_be_imported_is_named_and_all_else_works(pg_zoo):
    run = pg_zoo("acme-broken", "acme-envs")
    listed = run("list")
    assert listed.returncode == 0
    warnings = listed.stderr.splitlines()
    for name in ("bad_algorithm", "bad_envs", "bad_hyperparams"):
        (warning,) = [line for line in warnings if f"'{name}'" in line]
        assert warning.startswith("pg-zoo: warning: ")
        assert "acme-broken 1.0" in warning
        assert "acme has a bad day" in warning
    assert len(warnings) == 3
    assert ["Acme/Corridor-v0,", "Acme/Work-v0", "acme-envs", "1.0", "(plugin", "acme)"] in rows(listed)

    assert run("train", "--env", "Acme/Corridor-v0", "-n", "1").returncode == 0

    refused = run("train", "--algo", "bad_algorithm")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("pg-zoo: error: ")
    assert "acme-broken 1.0" in line


def test_two_plugins_of_one_name_are_one_line_that_names_both_distributions(pg_zoo):
    run = pg_zoo("acme-twin")
    for command in (["list"], ["train"], ["enjoy", "--no-render"]):
        refused = run(*command)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert line.startswith("pg-zoo: error: ")
        assert "acme-twin 1.0" in line
        assert f"pg-agents {pg_agents.__version__}" in line


def test_the_wheel_requires_what_shows_agents_on_the_screen(wheels):
    with zipfile.ZipFile(wheels["pg-agents"]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        assert "Requires-Dist: pygame-ce>=2.4" in wheel.read(metadata).decode().splitlines()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"CartPole-v1:\n  gamma: [1\n", ": line 3: expected ',' or ']', but got '<stream end>'."),
        (b"- CartPole-v1\n", " must hold a mapping of environment ids to mappings of hyperparameters."),
        ("# für\n".encode("latin-1"), ": 'utf-8' codec can't decode byte 0xfc"),
    ],
)
def test_hyperparameters_that_cannot_be_read_stop_their_algorithm_and_no_other(
    content, problem, tmp_path, monkeypatch, capsys
):
    info = tmp_path / "acme_values-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-values\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[pg_agents.hyperparams]\nacme = acme_values\n")
    (tmp_path / "acme_values").mkdir()
    (tmp_path / "acme_values/__init__.py").touch()
    (tmp_path / "acme_values/ppo.yml").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_values", raising=False)
    monkeypatch.chdir(tmp_path)

    assert main(["train", "-n", "8", "--hyperparams", "n_steps:8", "batch_size:8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pg-zoo: error: Hyperparameters cannot be read: ppo.yml of acme-values 1.5{problem}")
    assert f"Mend the file ({tmp_path / 'acme_values/ppo.yml'}), uninstall acme-values, or" in line
    assert line.endswith("pg-zoo train --conf-file.")
    assert not Path("logs/ppo").exists()

    assert main(["train", "--algo", "a2c", "-n", "8"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["list", "--algo", "ppo"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pg-zoo: warning: Hyperparameters are left out: ppo.yml of acme-values 1.5{problem}")
