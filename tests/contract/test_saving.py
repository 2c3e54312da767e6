"""Whatever is saved is there whole, the old or the new, wherever the writing stops: a full disk, a kill, Ctrl-C."""

import io
import json
import signal
import sys
import warnings
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from breaking import room_for
from stable_baselines3.common.callbacks import EvalCallback as SB3EvalCallback
from stable_baselines3.common.callbacks import EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import pg_agents
from pg_agents.files.saving import CheckpointCallback, save_model, save_normalization
from pg_agents.looking import next_look
from pg_zoo.results.storage import new_folder, write_whole

resource = pytest.importorskip("resource")

N_STOPS = 100
NET = {"net_arch": [4]}


@pytest.fixture(scope="module")
def agent():
    envs = VecNormalize(make_vec_env("CartPole-v1", 2))
    return pg_agents.PPO("MlpPolicy", envs, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=NET, seed=0).learn(16)


@pytest.fixture(scope="module")
def theirs():
    return stable_baselines3.DQN("MlpPolicy", "CartPole-v1", buffer_size=8, policy_kwargs=NET, seed=0)


def evaluation(agent, **folders):
    callback = pg_agents.EvalCallback(
        VecNormalize(make_vec_env("CartPole-v1", 1)), n_eval_episodes=1, eval_freq=1, verbose=0, **folders
    )
    callback.init_callback(agent)

    def step():
        callback.best_mean_reward = -np.inf
        for rows in (callback.evaluations_results, callback.evaluations_timesteps, callback.evaluations_length):
            rows.clear()
        agent.num_timesteps = 16
        callback.on_step()

    return step


def checkpoint(model, folder, **kinds):
    callback = CheckpointCallback(1, str(folder), "at", **kinds)
    callback.init_callback(model)
    model.num_timesteps = max(model.num_timesteps, 1)  # as many as are between two files
    return callback.on_step


def results(folder):
    with new_folder(folder / "cell") as unfinished:
        (unfinished / "curve.csv").write_text("timesteps,mean_return\n")
        (unfinished / "cell.json").write_text("{}")


WRITERS = {
    "save": lambda agent, theirs, folder: lambda: agent.save(folder / "agent"),
    "save of SB3": lambda agent, theirs, folder: lambda: save_model(theirs, str(folder / "agent.zip")),
    "best model": lambda agent, theirs, folder: evaluation(agent, best_model_save_path=str(folder)),
    "evaluations": lambda agent, theirs, folder: evaluation(agent, log_path=str(folder)),
    "statistics": lambda agent, theirs, folder: lambda: save_normalization(agent.get_env(), folder / "vec.pkl"),
    "checkpoint": lambda agent, theirs, folder: checkpoint(agent, folder),
    "checkpoint of SB3": lambda agent, theirs, folder: checkpoint(theirs, folder, save_replay_buffer=True),
    "record": lambda agent, theirs, folder: lambda: write_whole(folder / "benchmark.json", "{}" * 100),
}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_cannot_be_written_further_leaves_the_old_one(agent, theirs, tmp_path, writer):
    write = WRITERS[writer](agent, theirs, tmp_path)
    write()
    old = contents(tmp_path)
    name, size = min(((name, len(data)) for name, data in old.items()), key=lambda found: found[1])
    assert size >= N_STOPS
    for stop in range(N_STOPS):
        with room_for(size * stop // N_STOPS), pytest.raises(OSError, match="too large") as caught:
            write()
        assert Path(caught.value.filename).name in old
        assert contents(tmp_path) == old
    write()
    assert contents(tmp_path).keys() == old.keys()
    assert len(contents(tmp_path)[name]) == size


def test_a_cell_that_cannot_be_written_further_leaves_nothing(tmp_path):
    for size in (0, 1, 10):
        with room_for(size), pytest.raises(OSError, match="too large"):
            results(tmp_path)
        assert contents(tmp_path) == {}
    results(tmp_path)
    assert [path.name for path in sorted((tmp_path / "cell").iterdir())] == ["cell.json", "curve.csv"]


KILLED = """
import json, os, random, resource, signal, sys, time, warnings, zipfile
from pathlib import Path

import pg_agents

warnings.simplefilter("ignore")
path = folder / "agent.zip"
agent = pg_agents.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]})
parameter = next(agent.policy.parameters()).data


def save(value):
    parameter.fill_(value)
    agent.save(path)


def stored():
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return archive.read("policy.pth")


def in_a_process_of_its_own(work):
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return process


def stopped_at(size):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills the process at this very byte
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save(2)

    return os.waitstatus_to_exitcode(os.waitpid(in_a_process_of_its_own(work), 0)[1])


def for_ever():
    while True:
        save(3)
        save(4)


save(2)
size = path.stat().st_size
save(1)
old = path.read_bytes()
statuses, changed, sizes = [], 0, []
for stop in range(n_stops):
    at = size * stop // n_stops
    statuses.append(stopped_at(at))
    changed += path.read_bytes() != old
    (left,) = (one for one in folder.iterdir() if one != path)
    sizes.append(left.stat().st_size == at)
    left.unlink()
statuses.append(stopped_at(size))
whole = {}
for value in (4, 3):
    save(value)
    whole[stored()] = value
seen = []
for _ in range(n_kills):
    process = in_a_process_of_its_own(for_ever)
    time.sleep(random.uniform(0.005, 0.1))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    seen.append(whole.get(stored()))
left = [one.name for one in folder.iterdir() if one != path]
print(json.dumps([statuses, changed, sizes, seen, left]))
sys.exit()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and is killed at a byte")
def test_a_process_that_is_killed_while_it_saves_leaves_the_old_file_or_the_new_one(tmp_path, warm):
    folder = tmp_path / "saved"
    folder.mkdir()
    code = f"import pathlib; folder, n_stops, n_kills = pathlib.Path({str(folder)!r}), {N_STOPS}, 20\n{KILLED}"
    status, output, errors = warm.run(before=code, out=str(tmp_path / "out.txt"), err=str(tmp_path / "err.txt"))
    assert status == 0, errors
    statuses, n_changed, sizes, seen, left = json.loads(output.splitlines()[-1])
    assert statuses == [-signal.SIGXFSZ] * N_STOPS + [0]
    assert n_changed == 0
    assert sizes == [True] * N_STOPS
    assert set(seen) <= {3, 4}
    assert all(name.startswith(".agent.zip.") and name.endswith(".unfinished") for name in left)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = pg_agents.PPO.load(folder / "agent")
    assert next(loaded.policy.parameters()).flatten()[0] in (3, 4)


def test_ctrl_c_twice_waits_for_the_model(agent, tmp_path, monkeypatch):
    dump = th.save

    def interrupted(*given, **options):
        signal.raise_signal(signal.SIGINT)
        dump(*given, **options)

    monkeypatch.setattr(th, "save", interrupted)  # called for each part: the policy, its optimiser, other variables
    with pytest.raises(KeyboardInterrupt):
        agent.save(tmp_path / "agent")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]
    assert pg_agents.PPO.load(tmp_path / "agent").num_timesteps == agent.num_timesteps


# As SB3 has it


def test_names_files_and_warnings_are_those_of_sb3(agent, theirs, tmp_path):
    sb3s = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs=NET)
    found = []
    for who, save in (("ours", agent.save), ("by name", lambda path: save_model(theirs, path)), ("sb3", sb3s.save)):
        folder = tmp_path / who
        (folder / "taken.zip").mkdir(parents=True)
        (folder / "taken.zip_2").mkdir(parents=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for name in ("plain", "with.zip", "with.suffix", "taken", "below/deeper/one"):
                save(folder / name)
            save(str(folder / "text"))
        assert all(warning.filename for warning in caught)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        found.append((files, [str(warning.message).replace(str(folder), "") for warning in caught]))
    assert found[0] == found[1] == found[2]


def test_an_open_file_is_written_where_it_stands(agent, tmp_path):
    with (tmp_path / "agent.zip").open("wb") as file:
        agent.save(file)
        assert not file.closed
    memory = io.BytesIO()
    agent.save(memory)
    memory.seek(0)
    for source in (tmp_path / "agent.zip", memory):
        assert pg_agents.PPO.load(source).num_timesteps == agent.num_timesteps
    with pytest.raises(TypeError, match="invalid type"):
        agent.save(7)
    with (tmp_path / "agent.zip").open("rb") as file, pytest.raises(ValueError, match="writable"):
        agent.save(file)


def test_attributes_can_be_left_out_and_taken_in(agent, tmp_path):
    agent.save(tmp_path / "agent", exclude=["gamma"], include=["verbose"])
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        data = json.loads(archive.read("data"))
    assert "gamma" not in data
    assert "verbose" in data


class Succeeding(gym.Wrapper):
    """Says at the end of an episode whether it was a long one."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self.length = getattr(self, "length", 0) + 1
        return observation, reward, terminated, truncated, {**info, "is_success": self.length > 100}


def evaluated(kind, folder, capsys):
    """What an evaluation leaves in files, log, output and other callbacks."""
    envs = make_vec_env("CartPole-v1", 1, seed=3, wrapper_class=Succeeding)
    asked = []

    def told(callback_locals, callback_globals):
        asked.append(sorted(path.name for path in folder.iterdir()))
        return True

    agent = pg_agents.PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    callback = kind(
        envs,
        n_eval_episodes=2,
        eval_freq=16,
        log_path=str(folder),
        best_model_save_path=str(folder),
        deterministic=True,
        callback_on_new_best=EveryNTimesteps(1, stable_baselines3.common.callbacks.ConvertCallback(told)),
        callback_after_eval=stable_baselines3.common.callbacks.ConvertCallback(told),
    )
    logged = []
    agent.learn(48, callback=callback, log_interval=None)
    logged.append(dict(agent.logger.name_to_value))
    with np.load(folder / "evaluations.npz") as file:
        columns = {name: file[name].tolist() for name in file.files}
    numbers = (callback.best_mean_reward, callback.last_mean_reward, callback.n_calls)
    return columns, numbers, asked, logged, capsys.readouterr().out, sorted(path.name for path in folder.iterdir())


def test_evaluations_are_those_of_sb3(tmp_path, capsys):
    found = []
    for kind in (pg_agents.EvalCallback, SB3EvalCallback):
        folder = tmp_path / kind.__module__
        folder.mkdir()
        found.append(evaluated(kind, folder, capsys))
    assert found[0] == found[1]
    assert found[0][0].keys() == {"timesteps", "results", "ep_lengths", "successes"}
    assert found[0][0]["timesteps"] == [16, 32, 48]


def test_compiled_code_runs_until_the_next_evaluation_or_checkpoint(tmp_path):
    agent = pg_agents.PPO("MlpPolicy", "CartPole-v1")
    agent.num_timesteps = 10
    for callback in (
        pg_agents.EvalCallback(make_vec_env("CartPole-v1", 1), eval_freq=7),
        CheckpointCallback(7, str(tmp_path)),
    ):
        callback.model = agent
        assert next_look(callback, 1).steps == 4
    assert next_look(pg_agents.EvalCallback(make_vec_env("CartPole-v1", 1), eval_freq=-1), 1).steps == float("inf")


def test_checkpoints_are_those_of_sb3(agent, theirs, tmp_path, capsys):
    said = []
    for name, kind in (("ours", CheckpointCallback), ("sb3", stable_baselines3.common.callbacks.CheckpointCallback)):
        for model in (agent, theirs):
            callback = kind(2, str(tmp_path / name), "at", save_replay_buffer=True, save_vecnormalize=True, verbose=2)
            callback.init_callback(model)
            for _ in range(4):
                model.num_timesteps = callback.n_calls + 1
                assert callback.on_step()
        said.append(capsys.readouterr().out.replace(str(tmp_path / name), "").splitlines())
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {path.name for path in (tmp_path / "sb3").iterdir()}
    assert said[0] == said[1]
    assert len(said[0]) == 8
