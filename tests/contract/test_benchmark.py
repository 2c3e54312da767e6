"""`pg-zoo benchmark` as a user meets it: killed and started again, with cells that crash, on Ray, and mistaken."""

import csv
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from prose import says
from warm import wait_for

from pg_agents import registry
from pg_zoo import pages
from pg_zoo.cli import main
from pg_zoo.commands import benchmark
from pg_zoo.errors import UserError
from pg_zoo.results.storage import COMMIT
from pg_zoo.runs import processes
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.training import run_cell

GRID = ["--algos", "ppo", "--envs", "CartPole-v1", "--seeds", "2", "-n", "10000", "--first-seed", "5"]
GRID += ["--eval-points", "3", "--eval-episodes", "2", "--final-episodes", "10", "--jobs", "2"]
PLUGIN = '''
import os
import pathlib
import gymnasium as gym
import numpy as np
from gymnasium import spaces

CHEERFUL = pathlib.Path(__file__).with_name("cheerful")


class Moody(gym.Env):
    """Four steps of 2.5 each. Has a bad day with seed 1, and ends the process with seed 2, but on good days."""

    observation_space, action_space = spaces.Box(0, 4, (1,), np.float32), spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        if seed == 1 and not CHEERFUL.exists():
            raise RuntimeError("a bad day")
        if seed == 2 and not CHEERFUL.exists():
            os.kill(os.getpid(), 9)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 1
        return np.full(1, self.place, np.float32), 2.5, self.place == 4, False, {}


def register():
    gym.register("Acme/Moody-v0", entry_point="acme_moody:Moody")
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The folder of an installed plugin, on the path: a module and what says that it is one."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))  # which later tests should not know
    (site / "acme_moody.py").write_text(PLUGIN)
    info = site / "acme_moody-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-moody\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[pg_agents.envs]\nacme = acme_moody:register\n")
    return site


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "results"
    assert main(["benchmark", *GRID, "-o", str(folder)]) == 0
    return folder


def files(folder):
    return sorted(path.relative_to(folder) for path in Path(folder, "cells").rglob("*") if path.is_file())


def without_times(path):
    """A file's contents, but for times, dates, the command, the code's commit, and memory."""
    if path.name == "curve.csv":
        with open(path, newline="") as file:
            return [{**row, "wall_time": None} for row in csv.DictReader(file)]
    if path.name != "cell.json":
        return path.read_bytes()
    record = json.loads(path.read_text())
    # Ray's workers load the checkout that the tests run in, others what is installed: the same code, without a commit.
    record["versions"].pop(COMMIT, None)
    times = ["wall_time", "total_seconds", "steps_per_second"]
    return record | dict.fromkeys([*times, "peak_memory_mib", "command", "date"])


def assert_same(one, other, paths):
    assert paths
    for path in paths:
        assert without_times(Path(one, path)) == without_times(Path(other, path)), path


def test_a_grid_stores_each_cell_and_says_what_it_did(undisturbed):
    names = ["cell.json", "curve.csv", "evaluation.csv", "hyperparameters.yml"]
    cells = [f"{algo}/CartPole-v1/seed_{seed}" for algo in ("ppo", "random") for seed in (5, 6)]
    assert [path.as_posix() for path in files(undisturbed)] == [
        f"cells/{cell}/{name}" for cell in cells for name in names
    ]
    record = json.loads((undisturbed / "benchmark.json").read_text())
    assert record["cells"] == {algo: {"CartPole-v1": [5, 6]} for algo in ("ppo", "random")}
    cell = json.loads((undisturbed / "cells/ppo/CartPole-v1/seed_6/cell.json").read_text())
    assert cell["command"] == record["command"]
    assert cell["hyperparams"]["n_timesteps"] == 10_000
    assert "'CartPole-v1' in ppo.yml of pg-agents" in cell["origin"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_grid_that_was_killed_goes_on_to_the_same_result(undisturbed, tmp_path, kill, warm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    command = ["benchmark", *GRID, "-o", str(folder)]
    with warm.begun(*command) as process:
        wait_for(lambda: list(folder.glob("cells/ppo/*/.seed_*")))
        os.kill(process.id, kill)
        status = process.wait()
        wait_for(lambda: process.processes() == [])
    if kill is signal.SIGINT:
        assert status == 130
        # Random actions are there at once.
        _, begun, *between, stored = (tmp_path / "out.txt").read_text().splitlines()
        done = [line for line in between if line.endswith(" done")]  # and not how long it will take
        assert says(begun, 0, 4)
        assert says(stored, len(done), 4, folder, "same command")
        assert (tmp_path / "err.txt").read_text() == "pg-zoo: interrupted\n"
    assert not list(folder.glob("cells/ppo/*/seed_*"))
    assert main(command) == 0
    assert files(folder) == files(undisturbed)
    assert_same(folder, undisturbed, files(undisturbed))
    assert not list(folder.glob("cells/*/*/.*"))


def test_a_cell_has_the_same_result_without_the_grid(undisturbed, tmp_path):
    path = Path("cells/ppo/CartPole-v1/seed_5")
    stored = json.loads((undisturbed / path / "cell.json").read_text())
    names = ("algo", "env", "seed", "hyperparams", "origin", "device", "vec_env")
    run_cell(Cell(**{name: stored[name] for name in names}, **stored["options"]), tmp_path / path)
    assert_same(tmp_path, undisturbed, files(tmp_path))


def moody(*seeds):
    options = {"eval_points": 1, "eval_episodes": 1, "final_episodes": 2}
    return [Cell("a2c", "Acme/Moody-v0", seed, {"n_timesteps": 20, "policy": "MlpPolicy"}, **options) for seed in seeds]


def reports(folder):
    return [folder / f"failed/a2c-Acme-Moody-v0-seed_{seed}.txt" for seed in (1, 2)]


def test_cells_that_crash_are_reported_and_tried_again_and_the_others_are_stored(plugin, tmp_path, capsys):
    cells = moody(0, 1, 2)
    failed = run_grid(cells, tmp_path)
    assert sorted(cell.seed for cell in failed) == [1, 2]
    stored = json.loads((tmp_path / cells[0].path / "cell.json").read_text())
    assert (stored["score"], stored["versions"]["acme-moody"]) == (10, "1.5")
    texts = [path.read_text() for path in reports(tmp_path)]
    assert texts[0].startswith("Traceback (most recent call last):\n")
    assert says(texts[1], 9, "SIGKILL", "memory")

    assert benchmark._finish(cells, failed, tmp_path) == 1
    for line, seed, why in zip(sorted(capsys.readouterr().err.splitlines()), (1, 2), ("a bad day", 9), strict=True):
        assert says(line, "failed", "a2c", "Acme/Moody-v0", seed, why, reports(tmp_path)[seed - 1])

    (plugin / "cheerful").touch()
    assert run_grid(cells, tmp_path) == []
    already, done, *_ = capsys.readouterr().out.splitlines()
    assert says(already, 1, 3, tmp_path)
    assert says(done, 2, 3)
    assert len(list(tmp_path.glob("cells/a2c/*/seed_*"))) == 3
    assert not any(path.exists() for path in reports(tmp_path))


def test_a_grid_on_ray_has_the_same_results_and_goes_on_in_the_same_way(plugin, undisturbed, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    stored = json.loads((undisturbed / "cells/ppo/CartPole-v1/seed_5/cell.json").read_text())
    names = ("algo", "env", "seed", "hyperparams", "origin", "vec_env")
    same = Cell(**{name: stored[name] for name in names}, **stored["options"])
    raises, kills = moody(1, 2)
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns of its next version
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        failed = run_grid([raises, same, kills], tmp_path, backend="ray")
    finally:
        ray.shutdown()
    assert set(failed) == {raises, kills}
    assert {path.parent for path in files(tmp_path)} == {Path(same.path)}
    assert_same(tmp_path, undisturbed, files(tmp_path))
    texts = [path.read_text() for path in reports(tmp_path)]
    assert texts[0].endswith("RuntimeError: a bad day\n")
    assert texts[1].startswith("WorkerCrashedError: ")

    (plugin / "cheerful").touch()
    assert run_grid([raises, same, kills], tmp_path) == []
    assert not any(path.exists() for path in reports(tmp_path))


# Mistakes


def refused(capsys, tmp_path, *arguments):
    assert main(["benchmark", *arguments, "-o", str(tmp_path / "results")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not (tmp_path / "results").exists()
    return line.removeprefix("pg-zoo: error: ")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--algos", "ppo", "pppo"], ["'pppo'", "'ppo'"]),
        (["--envs", "CartPole-v1", "CartPol-v1"], ["'CartPol-v1'", "'CartPole-v1'"]),
        (["--same-hyperparams", "pp"], ["'pp'"]),
        (["--algos", "ppo", "a2c", "--same-hyperparams", "ppo"], ["--same-hyperparams", "ppo", "a2c", "CartPole-v1"]),
        (["--seeds", "0"], ["--seeds", "at least 1", 0]),
        (["--first-seed", "-1"], ["--first-seed", "at least 0", "-1"]),
        (["--first-seed", str(2**30)], ["seed", "at most 1073741823"]),
        (["--jobs", "0"], ["--jobs", "at least 1", 0]),
        (["-n", "-5"], ["--n-timesteps", "at least 1", "-5"]),
        (["--final-episodes", "0"], ["--final-episodes", "at least 1", 0]),
        (["--backend", "rai"], ["--backend", "'rai'"]),
        (["--ray-address", "auto"], ["--ray-address", "--backend ray"]),
        (["--device", "gpu"], ["cpu", "cuda"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_mistake_is_one_line_before_any_work(capsys, tmp_path, arguments, facts):
    assert says(refused(capsys, tmp_path, "--algos", "ppo", "--envs", "CartPole-v1", *arguments), *facts)


@pytest.mark.parametrize("command", [["benchmark", "--algos", "ppo", "--envs"], ["tune", "--algo", "ppo", "--env"]])
def test_a_device_that_is_not_there_is_named(capsys, tmp_path, monkeypatch, command):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([*command, "CartPole-v1", "--device", "cuda:1", "-o", str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "--device", "cuda:1", "no such device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "arguments", "remedy"),
    [
        ("Box2D", ["--envs", "CartPole-v1", "LunarLander-v3"], "ppo on LunarLander-v3: .*box2d"),
        ("mujoco", ["--envs", "CartPole-v1", "Hopper-v5"], "ppo on Hopper-v5: .*mujoco"),
        ("ray", ["--envs", "CartPole-v1", "--backend", "ray"], r"pip install 'pg-agents\[ray\]'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_remedy(capsys, tmp_path, monkeypatch, module, arguments, remedy):
    for name in [name for name in sys.modules if name.partition(".")[0] == module or "gymnasium.envs." in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    line = refused(capsys, tmp_path, "--algos", "ppo", *arguments)
    assert re.search(remedy, line, re.IGNORECASE), line


@pytest.mark.parametrize(
    ("error", "said"),
    [(None, "Invalid address format: nonsense"), (ConnectionError("timeout"), "timeout"), (SystemExit(15), "15")],
)
def test_a_ray_cluster_that_cannot_be_reached_is_one_line_and_leaves_no_folder(
    error, said, capsys, tmp_path, monkeypatch
):
    ray = pytest.importorskip("ray")
    if error is not None:  # those of an address without a cluster, which take minutes

        def init(*_, **__):
            raise error

        monkeypatch.setattr(ray, "init", init)
    arguments = ["--algos", "ppo", "--envs", "CartPole-v1", "--backend", "ray", "--ray-address", "nonsense"]
    line = refused(capsys, tmp_path, *arguments)
    assert says(line, "--ray-address", "nonsense", said)


# What a command would run


def grid_of(monkeypatch, *arguments):
    cells = []
    monkeypatch.setattr(benchmark, "run_grid", lambda grid, folder, **_: cells.extend(grid))
    monkeypatch.setattr(benchmark, "_finish", lambda *_: 0)
    assert main(["benchmark", "--envs", "CartPole-v1", "-o", "nowhere", *arguments]) == 0
    return cells


def test_the_grid_is_seed_by_seed_with_random_actions_added_once(monkeypatch):
    cells = grid_of(monkeypatch, "--algos", "ppo", "random", "ppo", "--seeds", "2", "--first-seed", "1000")
    assert [(cell.algo, cell.seed) for cell in cells] == [
        (algo, seed) for seed in (1000, 1001) for algo in ("ppo", "random")
    ]


def test_each_algorithm_has_its_own_values_or_all_have_the_same(monkeypatch):
    own = grid_of(monkeypatch, "--algos", "ppo", "sb3/ppo", "--seeds", "1")
    assert ["rl_zoo3" in cell.origin for cell in own] == [False, True, False]
    ours, theirs, _ = grid_of(monkeypatch, "--algos", "ppo", "sb3/ppo", "--seeds", "1", "--same-hyperparams", "sb3/ppo")
    assert ours.hyperparams == theirs.hyperparams == own[1].hyperparams
    assert ours.origin == theirs.origin == own[1].origin


@pytest.mark.parametrize(("backend", "first"), [("local", ["prepare"]), ("ray", [])])
def test_libraries_are_loaded_for_other_processes_before_anything_else_but_not_for_rays(
    monkeypatch, capsys, backend, first
):
    calls = []
    monkeypatch.setattr(processes, "prepare", lambda: calls.append("prepare"))
    monkeypatch.setattr(benchmark, "benchmark", lambda args: calls.append(f"benchmark after {capsys.readouterr().out}"))
    assert main(["benchmark", "--algos", "ppo", "--envs", "CartPole-v1", "-o", "x", "--backend", backend]) == 0
    assert calls == [*first, "benchmark after Loading ...\n"]


def test_options_reach_the_cells(monkeypatch):
    options = {"n_timesteps": 70, "eval_points": 3, "eval_episodes": 4, "final_episodes": 5}
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    (cell, chance) = grid_of(monkeypatch, "--algos", "ppo", "--seeds", "1", *given, "--tensorboard", "--keep-agents")
    assert {name: getattr(cell, name) for name in options} == options
    assert (cell.tensorboard, cell.keep_agent, cell.device) == (True, True, "cpu")
    assert cell.hyperparams["n_timesteps"] == 70
    assert chance.hyperparams == {}


def test_a_first_look_has_fewer_seeds_evaluations_and_steps(monkeypatch):
    cells = grid_of(monkeypatch, "--algos", "ppo", "a2c", "--quick")
    trained = [cell for cell in cells if cell.algo != "random"]
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert {cell.n_timesteps for cell in trained} == {10_000}
    full = {cell.algo: cell.n_timesteps for cell in grid_of(monkeypatch, "--algos", "ppo", "a2c", "--seeds", "1")}
    assert {cell.algo: cell.full_steps for cell in trained} == {"ppo": full["ppo"], "a2c": full["a2c"]}
    assert {tuple(cell.options.values()) for cell in cells} == {(10, 5, 20)}


def test_a_first_look_keeps_what_the_user_has_said_and_lengthens_nothing(monkeypatch):
    given = ["--seeds", "1", "--final-episodes", "7", "-n", "50000"]
    (cell, _) = grid_of(monkeypatch, "--algos", "ppo", "--quick", *given)
    assert (cell.n_timesteps, cell.full_steps, cell.final_episodes, cell.eval_points) == (50_000, None, 7, 10)
    few = {"ppo": {"n_timesteps": 3000}, "a2c": {"n_timesteps": 50_000}}
    monkeypatch.setattr(benchmark, "find_entry", lambda algo, env, **_: (dict(few[algo]), "here"))
    ppo, a2c, _ = grid_of(monkeypatch, "--algos", "ppo", "a2c", "--quick", "--seeds", "1")
    assert [(cell.n_timesteps, cell.full_steps) for cell in (ppo, a2c)] == [(3000, None), (3000, 50_000)]


@pytest.mark.parametrize("more", [["--jobs", "9"], ["--seeds", "1"], ["--jobs", "1", "--seeds", "4"]])
def test_a_first_look_can_go_on_with_other_jobs_and_seeds(monkeypatch, more):
    first, again = (grid_of(monkeypatch, "--algos", "ppo", "--quick", *options)[0] for options in ([], more))
    assert first == again


def test_all_algorithms_of_a_grid_have_the_same_environments(monkeypatch):
    cells = grid_of(monkeypatch, "--algos", "ppo", "sb3/ppo", "--seeds", "1")
    assert [cell.vec_env for cell in cells] == ["world"] * 3
    cells = grid_of(monkeypatch, "--algos", "ppo", "sb3/ppo", "--seeds", "1", "--vec-env", "dummy")
    assert [cell.vec_env for cell in cells] == ["dummy"] * 3


def test_where_one_algorithm_has_no_room_for_a_world_none_has_one(monkeypatch, capsys):
    wrapped = {"ppo": {"monitor_kwargs": {"allow_early_resets": True}}, "a2c": {}}
    monkeypatch.setattr(benchmark, "find_entry", lambda algo, env, **_: (dict(wrapped[algo]), "here"))
    cells = grid_of(monkeypatch, "--algos", "ppo", "a2c", "--seeds", "1")
    assert [cell.vec_env for cell in cells] == ["dummy"] * 3
    _, line = capsys.readouterr().out.splitlines()
    assert says(line, "CartPole-v1", "one by one", "world", "ppo has monitor_kwargs")
    grid_of(monkeypatch, "--algos", "ppo", "--seeds", "1", "--vec-env", "dummy")
    assert "one by one" not in capsys.readouterr().out


def test_the_exit_status_tells_of_failed_cells(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "run_grid", lambda cells, folder, **_: cells)
    monkeypatch.setattr(benchmark, "failure_report", lambda cell, folder: Path(__file__))
    assert main(["benchmark", "--algos", "ppo", "--envs", "CartPole-v1", "--seeds", "1", "-o", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_failed_cells_are_named_even_if_the_report_fails(monkeypatch, capsys, tmp_path):
    ok, failed = Cell("random", "CartPole-v1", 0, {}), Cell("ppo", "CartPole-v1", 0, {})
    report = benchmark.failure_report(failed, tmp_path)
    report.parent.mkdir()
    report.write_text("Traceback\nValueError: no\n")
    with pytest.raises(UserError, match="is not a results folder"):  # so there can be no report
        benchmark._finish([ok, failed], [failed], tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "failed", "ppo", "CartPole-v1", 0, "ValueError: no", report)


def entries(monkeypatch, **env_kwargs):
    """Hyperparameters with these arguments of the environment, by algorithm."""
    monkeypatch.setattr(benchmark, "find_entry", lambda algo, env, **_: ({"env_kwargs": env_kwargs[algo]}, "here"))


def test_random_actions_act_in_the_same_task(monkeypatch):
    entries(monkeypatch, ppo={"sutton_barto_reward": True}, a2c={"sutton_barto_reward": True})
    *_, chance = grid_of(monkeypatch, "--algos", "ppo", "a2c", "--seeds", "1")
    assert chance.hyperparams == {"env_kwargs": {"sutton_barto_reward": True}}


def test_algorithms_that_would_be_given_different_tasks_are_refused(monkeypatch, capsys, tmp_path):
    entries(monkeypatch, ppo={"sutton_barto_reward": True}, a2c={})
    line = refused(capsys, tmp_path, "--algos", "ppo", "a2c", "--envs", "CartPole-v1")
    assert says(line, "CartPole-v1", "ppo", "env_kwargs", "{'sutton_barto_reward': True}", "a2c", "{}")


def test_without_the_packages_of_the_report_a_line_says_so_before_any_training(monkeypatch, capsys, tmp_path):
    monkeypatch.delitem(sys.modules, "pg_zoo.pages.report", raising=False)
    monkeypatch.delattr(pages, "report", raising=False)
    monkeypatch.setitem(sys.modules, "rliable", None)
    said = []
    monkeypatch.setattr(benchmark, "run_grid", lambda cells, folder, **_: said.append(capsys.readouterr()) or [])
    assert main(["benchmark", "--algos", "random", "--envs", "CartPole-v1", "--seeds", "1", "-o", str(tmp_path)]) == 0
    (warning,) = said[0].err.splitlines()
    assert says(warning, "pg-zoo: warning: ", "rliable", "pip install 'pg-agents[report]'", "no report")
    (results,) = capsys.readouterr().out.splitlines()
    assert says(results, tmp_path, f"`pg-zoo report {tmp_path}`")
