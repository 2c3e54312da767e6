"""`pg-zoo tune` with trainings whose outcome is a known function of the hyperparameters: nothing is really trained."""

import json
import re
import threading
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from types import SimpleNamespace

import optuna
import pytest
import yaml
from gymnasium import spaces
from optuna.trial import TrialState
from prose import saying, says

from pg_zoo.cli import main
from pg_zoo.commands import tune
from pg_zoo.errors import UserError
from pg_zoo.evidence import entries, scored
from pg_zoo.recipes.writing import with_entry
from pg_zoo.runs.grid import run_grid
from pg_zoo.tuning import search
from pg_zoo.tuning.search import Search, Task
from pg_zoo.tuning.spaces import as_text, search_space

BEST_GAMMA = 0.93
TASK = Task("ppo", "CartPole-v1", 100, seeds=2, eval_points=4, eval_episodes=1, final_episodes=1, device="cpu")
# A flow mapping, a comment and an order that a YAML writer would not keep.
ZOO = """\
# Mine.
default: {n_timesteps: !!float 1e6}

CartPole-v1:
  n_timesteps: 100
  gamma: 0.5  # far off

# Last.
"""


class Trainings:
    """Stands for `run_cell`: the score is highest where gamma is the best one, and a seed moves it by a little."""

    def __init__(self):
        self.begun, self.fail, self.interrupt_at = [], lambda cell: None, None

    def score(self, cell):
        return 100 - 100 * abs(cell.hyperparams.get("gamma", 0.99) - BEST_GAMMA) + cell.seed % 3 / 100

    def __call__(self, cell, folder, on_evaluation=None, *, command=None):
        self.begun.append(cell)
        self.fail(cell)
        points = range(1, cell.eval_points + 1)
        # As it would be for one that learns at a constant rate.
        rows = [(cell.n_timesteps * k // cell.eval_points, self.score(cell) * k / cell.eval_points) for k in points]
        for row in rows if on_evaluation else []:
            on_evaluation(*row)
        folder.mkdir(parents=True)
        lines = [f"{timesteps},0.0,{mean_return}" for timesteps, mean_return in rows]
        (folder / "curve.csv").write_text("\n".join(["timesteps,wall_time,mean_return", *lines]) + "\n")
        record = {"format": 1, "algo": cell.algo, "env": cell.env, "seed": cell.seed, "score": self.score(cell)}
        record |= {"hyperparams": cell.hyperparams, "options": cell.options, "device": "cpu", "deterministic": True}
        record |= {"n_timesteps": cell.n_timesteps, "steps_per_second": 1.0, "wall_time": 1.0, "versions": {}}
        record |= {"machine": {}, "date": "2026-01-01", "command": "pg-zoo tune"}
        (folder / "cell.json").write_text(json.dumps(record))


class ThreadWorker(search._Worker):
    """In this process instead of another."""

    def __post_init__(self):
        self.connection, theirs = Pipe()
        self.thread = threading.Thread(target=search.serve, args=(theirs,))
        self.thread.start()
        self.process = SimpleNamespace(is_alive=lambda: True)

    def kill(self):
        self.connection.close()
        self.thread.join()


@pytest.fixture
def trainings(monkeypatch):
    trainings = Trainings()

    def in_this_process(cells, folder, jobs):
        for cell in cells:
            trainings(cell, folder / cell.path)
            yield cell, None

    monkeypatch.setattr(search, "run_cell", trainings)
    monkeypatch.setattr(search, "_Worker", ThreadWorker)
    monkeypatch.setattr(tune, "run_grid", partial(run_grid, backend=in_this_process))
    return trainings


@pytest.fixture
def zoo(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "ppo.yml").write_text(ZOO)
    return folder


def gamma_space(trial):
    return {"n_timesteps": 100, "gamma": trial.suggest_float("gamma", 0.8, 1.0)}


def a_search(folder, space=gamma_space, baselines=None, seed=0):
    folder.mkdir(exist_ok=True)
    return Search(folder, TASK, space, baselines or {}, seed)


def values(study):
    return [(trial.params, trial.state, trial.value) for trial in study.trials]


def tuned(folder, *options, trials=14):
    argv = ["tune", "--env", "CartPole-v1", "-o", str(folder), "--trials", str(trials), "--score-seeds", "5"]
    return main([*argv, "-n", "100", "--eval-points", "4", *map(str, options)])


def test_the_search_finds_what_is_best(trainings, tmp_path, capsys):
    found = a_search(tmp_path)
    found.run(n_trials=30, jobs=2)
    best = found.ranked()[0]
    assert best.params["gamma"] == pytest.approx(BEST_GAMMA, abs=0.02)
    # 3/4 of the score, and 1/4 of the curve's mean, which is 5/8 of it, for seeds 0 and 1.
    scores = [100 - 100 * abs(best.params["gamma"] - BEST_GAMMA) + seed / 100 for seed in (0, 1)]
    assert best.value == pytest.approx(sum(scores) / 2 * (0.75 + 0.25 * 0.625))
    assert says(capsys.readouterr().out.splitlines()[-1], 30, 30, "trial")


def test_the_time_left_is_at_least_that_until_two_trials_of_each_job_have_ended(trainings, tmp_path, capsys):
    a_search(tmp_path).run(n_trials=3, jobs=1, n_afterwards=5)
    ended = [line for line in capsys.readouterr().out.splitlines() if ": trial" in line]
    words = [re.fullmatch(r"(at least|about) \d+ \w+ left in all", line.rpartition("; ")[2])[1] for line in ended]
    assert words == ["at least", "about", "about"]


def test_the_trainings_after_the_search_take_as_long_as_those_of_complete_trials(tmp_path):
    progress = search._Progress(a_search(tmp_path), n_trials=4, jobs=2, n_afterwards=10)
    progress.seconds, progress.of_complete = [30.0, 30.0, 6.0, 6.0], [30.0, 30.0]
    # Half of a trial's 30 s for each of ten trainings, by two at a time.
    assert progress._left(4, []) == "about 75 s left in all"
    # And the 18 s of a trial in the mean, of which 8 have passed.
    progress.n_trials = 5
    assert progress._left(4, [8.0]) == "about 85 s left in all"


def test_all_trials_train_with_the_same_seeds_which_evidence_never_has(trainings, tmp_path):
    a_search(tmp_path).run(n_trials=3, jobs=1)
    assert [cell.seed for cell in trainings.begun] == [0, 1] * 3


def test_no_two_trials_are_the_same_and_the_seed_decides_which_they_are(trainings, tmp_path):
    gammas = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        found = a_search(tmp_path / name, seed=seed)
        found.run(n_trials=6, jobs=1)
        gammas[name] = [trial.params["gamma"] for trial in found.study.trials]
    assert gammas["a"] == gammas["b"]
    assert len({*gammas["a"], *gammas["c"]}) == 12


def test_baselines_come_first_and_once(trainings, tmp_path):
    baselines = {"the entry": {"n_timesteps": 100, "gamma": 0.9}, "defaults": {"n_timesteps": 100}}
    for n_trials in (1, 4):
        a_search(tmp_path, baselines=baselines).run(n_trials, jobs=1)
    gammas = [cell.hyperparams.get("gamma") for cell in trainings.begun[::2]]
    assert gammas[:2] == [0.9, None]
    assert len(gammas) == 4
    assert 0.9 not in gammas[2:]


def test_trials_that_lag_behind_the_median_are_given_up(trainings, tmp_path):
    found = a_search(tmp_path)
    found.run(n_trials=30, jobs=1)
    pruned = found.study.get_trials(states=[TrialState.PRUNED])
    complete = found.ranked()
    assert pruned
    assert max(abs(trial.params["gamma"] - BEST_GAMMA) for trial in complete[: len(complete) // 2]) < min(
        abs(trial.params["gamma"] - BEST_GAMMA) for trial in pruned
    )
    # Before the end of their first training: nothing of it is stored.
    assert not (tmp_path / "trials" / str(pruned[-1].number) / "seed_0").exists()


@pytest.mark.parametrize("n_messages", [0, 5, 53, 58])
def test_a_search_that_was_interrupted_arrives_where_an_undisturbed_one_does(
    trainings, tmp_path, monkeypatch, n_messages
):
    undisturbed = a_search(tmp_path / "a")
    undisturbed.run(n_trials=14, jobs=1)
    hear, heard = Search._hear, []

    def stop(self, worker):
        if len(heard) == n_messages:
            raise KeyboardInterrupt
        heard.append(worker)
        return hear(self, worker)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_hear", stop)
        with pytest.raises(KeyboardInterrupt):
            a_search(tmp_path / "b").run(n_trials=14, jobs=1)
    again = a_search(tmp_path / "b")
    assert len(again.study.get_trials(states=[TrialState.RUNNING])) == 1
    again.run(n_trials=14, jobs=1)
    assert values(again.study) == values(undisturbed.study)


def test_a_search_that_is_done_trains_nothing_more(trainings, tmp_path):
    a_search(tmp_path).run(n_trials=3, jobs=1)
    trainings.begun.clear()
    a_search(tmp_path).run(n_trials=3, jobs=1)
    assert trainings.begun == []


def test_half_a_line_and_a_lock_that_a_killed_process_left_do_no_harm(trainings, tmp_path):
    a_search(tmp_path).run(n_trials=3, jobs=1)
    with (tmp_path / "study.log").open("a") as log:
        log.write('{"op_code": 4, "worker')
    (tmp_path / "study.log.lock").symlink_to(tmp_path / "study.log")
    again = a_search(tmp_path)
    again.run(n_trials=4, jobs=1)
    assert len(again.study.trials) == 4


def test_trials_that_fail_do_not_stop_the_search(trainings, tmp_path, capsys):
    def fail(cell):
        if cell.hyperparams["gamma"] > 0.9:
            raise FloatingPointError("loss is nan")

    trainings.fail = fail
    found = a_search(tmp_path)
    found.run(n_trials=12, jobs=2)
    failed = [trial for trial in found.study.trials if trial.params["gamma"] > 0.9]
    assert 0 < len(failed) < 12
    assert len(found.ranked()) <= 12 - len(failed)
    assert {path.name for path in (tmp_path / "failed").iterdir()} == {f"trial_{t.number}.txt" for t in failed}
    assert says(capsys.readouterr().out, "failed", "FloatingPointError: loss is nan")


def test_a_score_that_is_no_number_is_a_failure(trainings, tmp_path):
    trainings.score = lambda cell: float("nan")
    found = a_search(tmp_path)
    found.run(n_trials=2, jobs=1)
    assert found.ranked() == []
    assert says((tmp_path / "failed/trial_0.txt").read_text(), "must be finite", "nan")


def test_a_full_disk_ends_the_search_in_one_line(trainings, tmp_path, capsys):
    def fail(cell):
        raise OSError(28, "No space left on device")

    trainings.fail = fail
    assert tuned(tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


# The command


def test_the_winner_is_scored_on_seeds_that_did_not_choose_it(trainings, zoo, tmp_path, capsys):
    out = tmp_path / "out"
    assert tuned(out, "--write", zoo, "--top", 2) == 0
    by_stage = {seed: set() for seed in (0, 500, 750, 1000)}
    for cell in trainings.begun:
        by_stage[max(seed for seed in by_stage if seed <= cell.seed)].add((cell.seed, cell.hyperparams.get("gamma")))
    assert {seed for seed, _ in by_stage[0]} == {0, 1}
    assert {seed for seed, _ in by_stage[500]} == {500, 501, 502, 503, 504}
    assert len({gamma for _, gamma in by_stage[500]}) == 2
    winner = max({gamma for _, gamma in by_stage[500]}, key=lambda gamma: -abs(gamma - BEST_GAMMA))
    # The old entry has 0.5; random actions know no gamma.
    assert by_stage[750] == {(seed, gamma) for seed in range(750, 755) for gamma in (winner, 0.5)}
    assert by_stage[1000] == {(seed, gamma) for seed in range(1000, 1005) for gamma in (winner, None)}
    for folder in (out, zoo):
        entry = yaml.safe_load((folder / "ppo.yml").read_text())["CartPole-v1"]
        stored = scored.read(folder / "evidence/ppo/CartPole-v1.json")
        assert entry["gamma"] == winner
        assert (stored.hyperparams, stored.seeds) == (entry, [1000, 1001, 1002, 1003, 1004])
        assert stored.mean == pytest.approx(100 - 100 * abs(winner - BEST_GAMMA), abs=0.02)
    assert "better.\n" in capsys.readouterr().out


def put_evidence(zoo, *seeds):
    """Evidence of the entry that there is."""
    known = dict.fromkeys(["n_timesteps", "final_episodes", "deterministic", "steps_per_second", "wall_time"], 1)
    known |= {"versions": {}, "machine": {}, "date": "", "command": "", "mean": 0.0, "interval": [0.0, 0.0]}
    known |= {"hyperparams": {"n_timesteps": 100, "gamma": 0.5}, "seeds": [*seeds], "scores": [0.0] * len(seeds)}
    return scored.Evidence("ppo", "CartPole-v1", **known).write(zoo)


def test_the_winner_is_scored_on_seeds_above_those_of_the_evidence_that_there_was(trainings, zoo, tmp_path):
    path, out = put_evidence(zoo, *range(1000, 1010)), tmp_path / "out"
    assert tuned(out, "--write", zoo) == 0
    assert scored.read(path).seeds == [1010, 1011, 1012, 1013, 1014]
    assert min(cell.seed for cell in trainings.begun if cell.seed >= 1000) == 1010
    # The evidence that it has written itself does not move them.
    trainings.begun.clear()
    assert tuned(out, "--write", zoo) == 0
    assert trainings.begun == []


def test_a_damaged_record_of_the_search_is_one_line_with_the_remedy(trainings, zoo, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tune.json").write_text("{")
    assert tuned(tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "out/tune.json", "JSONDecodeError", "-o")


def test_other_entries_and_comments_of_the_file_stay_as_they_are(trainings, zoo, tmp_path):
    assert tuned(tmp_path / "out", "--write", zoo) == 0
    before, after = ZOO.split("CartPole-v1:")[0], "\n\n# Last.\n"
    text = (zoo / "ppo.yml").read_text()
    assert text.startswith(before + "CartPole-v1:\n  n_timesteps: 100\n  policy: MlpPolicy\n")
    assert text.endswith(after)


@pytest.mark.parametrize(("options", "replaced"), [([], False), (["--replace"], True)])
def test_an_entry_that_is_as_good_stays_unless_it_is_to_be_replaced(
    trainings, zoo, tmp_path, capsys, options, replaced
):
    (zoo / "ppo.yml").write_text(ZOO.replace("0.5", str(BEST_GAMMA)))
    assert tuned(tmp_path / "out", "--write", zoo, *options) == 0
    text = (zoo / "ppo.yml").read_text()
    assert (f"gamma: {BEST_GAMMA}" in text) != replaced
    assert (zoo / "evidence").exists() == replaced
    out = capsys.readouterr().out
    assert any(words in out for words in ("no difference shown.", "worse."))


# Student's t has 2.776 for five seeds: of the differences 4, 5, 6, 5, 5 the mean is 5 and its standard error 0.316; of
# -2, -2, 8, 8, 8 it is 4 and 2.449.
@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ((4, 5, 6, 5, 5), ["5.00 [4.12, 5.88]", "better"]),
        ((-2, -2, 8, 8, 8), ["4.0 [-2.8, 10.8]", "no difference shown"]),
        ((-4, -5, -6, -5, -5), ["-5.00 [-5.88, -4.12]", "worse"]),
        ((0, 0, 0, 0, 0), ["0 [0, 0]", "no difference shown"]),
    ],
)
def test_whether_it_is_better_is_decided_by_the_paired_difference_on_seeds_of_its_own(
    trainings, zoo, tmp_path, capsys, differences, said
):
    def score(cell):
        is_entry = cell.hyperparams.get("gamma") == 0.5
        # Of all other seeds, those of the evidence too, the entry is far behind.
        return 100.0 + (differences[cell.seed - 750] * (not is_entry) if 750 <= cell.seed < 755 else -50 * is_entry)

    trainings.score = score
    assert tuned(tmp_path / "out", "--write", zoo) == 0
    assert any(says(line, "difference", *said) for line in capsys.readouterr().out.splitlines())
    assert (zoo / "evidence").exists() == ("better" in said)
    assert ("gamma: 0.5 " in (zoo / "ppo.yml").read_text()) != ("better" in said)


def test_without_write_the_entry_is_not_touched_and_is_not_said_to_be(trainings, zoo, tmp_path, capsys, monkeypatch):
    entry = entries.Entry("ppo", "CartPole-v1", {"n_timesteps": 100, "gamma": BEST_GAMMA}, zoo)
    monkeypatch.setattr(tune, "entries", lambda zoo: [entry])
    assert tuned(tmp_path / "out") == 0
    assert (zoo / "ppo.yml").read_text() == ZOO
    out = capsys.readouterr().out
    assert says(out, "entry", "--write")
    assert "--replace" not in out


def test_run_again_it_compares_with_the_entry_of_the_start_and_trains_nothing_more(trainings, zoo, tmp_path, capsys):
    out = tmp_path / "out"
    assert tuned(out, "--write", zoo) == 0
    written, first = (zoo / "ppo.yml").read_text(), capsys.readouterr().out
    assert json.loads((out / "tune.json").read_text())["start"]["hyperparams"] == {"n_timesteps": 100, "gamma": 0.5}
    trainings.begun.clear()
    assert tuned(out, "--write", zoo) == 0
    assert trainings.begun == []
    assert (zoo / "ppo.yml").read_text() == written
    (said,) = (line for line in first.splitlines() if "difference is" in line)
    assert said in capsys.readouterr().out
    # And with more trials, it is still that entry that the winner has to beat.
    assert tuned(out, "--write", zoo, trials=30) == 0
    # If another one wins, it is scored with the seeds that the first one was scored with, which the evidence says.
    found = scored.read(zoo / "evidence/ppo/CartPole-v1.json")
    assert (zoo / "ppo.yml").read_text() != written
    assert not found.fresh
    assert found.seeds == [1000, 1001, 1002, 1003, 1004]


def test_run_again_where_there_was_no_entry_there_is_still_none_to_beat(trainings, tmp_path):
    zoo = tmp_path / "empty"
    zoo.mkdir()
    for _ in range(2):
        assert tuned(tmp_path / "out", "--write", zoo) == 0
    assert json.loads((tmp_path / "out/tune.json").read_text())["start"]["is_entry"] is False
    assert not any(750 <= cell.seed < 1000 for cell in trainings.begun)


def test_an_entry_that_someone_has_changed_meanwhile_is_not_overwritten(trainings, zoo, tmp_path, capsys):
    assert tuned(tmp_path / "out", "--write", zoo) == 0
    mine = ZOO.replace("0.5", "0.6")
    (zoo / "ppo.yml").write_text(mine)
    assert tuned(tmp_path / "out", "--write", zoo) == 2
    assert says(capsys.readouterr().err, "CartPole-v1")
    assert (zoo / "ppo.yml").read_text() == mine


def test_ended_between_entry_and_evidence_it_is_repaired_by_running_it_again(trainings, zoo, tmp_path, monkeypatch):
    def end(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scored.Evidence, "write", end)
        with suppress(KeyboardInterrupt):
            tuned(tmp_path / "out", "--write", zoo)
    (entry,) = entries.entries(zoo)
    assert entry.hyperparams["gamma"] != 0.5
    assert not entry.path.exists()
    assert tuned(tmp_path / "out", "--write", zoo) == 0
    assert [found.hyperparams for found in scored.collect(zoo)] == [entry.hyperparams]


def test_without_an_entry_a_new_one_is_written(trainings, tmp_path):
    zoo = tmp_path / "empty"
    zoo.mkdir()
    assert tuned(tmp_path / "out", "--write", zoo, "--env", "Acrobot-v1") == 0
    assert [*yaml.safe_load((zoo / "ppo.yml").read_text())] == ["Acrobot-v1"]


def test_a_folder_of_another_search_is_refused(trainings, tmp_path, capsys):
    assert tuned(tmp_path / "out") == 0
    assert tuned(tmp_path / "out", "--seeds", 3) == 2
    assert says(capsys.readouterr().err, "seeds", 2, 3, "-o")


def test_when_all_trials_fail_one_line_says_where_the_reasons_are(trainings, tmp_path, capsys):
    def fail(cell):
        raise ValueError("no way")

    trainings.fail = fail
    assert tuned(tmp_path / "out", trials=3) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No trial has succeeded" in line
    assert "failed" in line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--algo", "pp"], ["'pp'", "'ppo'"]),
        (["--env", "CartPol-v1"], ["'CartPol-v1'", "'CartPole-v1'"]),
        (["--trials", "0"], ["--trials", "at least 1", 0]),
        (["--score-seeds", "4"], ["--score-seeds", "at least 5", 4]),
        (["--seeds", "501"], ["--seeds", "at most 500", 501]),
        (["--score-seeds", "251"], ["--score-seeds", "at most 250", 251]),
        (["--replace"], ["--replace", "--write"]),
        (["-n", "0"], ["--n-timesteps", "at least 1", 0]),
        (["--write", "missing"], ["--write", "<algo>.yml", "missing"]),
        (["--algo", "sb3/ppo", "--write", "."], ["sb3/ppo", "rl_zoo3"]),
        (["--algo", "contrib/crossq"], ["rl_zoo3", "search space", "contrib/crossq"]),
        (["--algo", "sb3/dqn", "--env", "Pendulum-v1"], ["sb3/dqn", "Pendulum-v1"]),
    ],
)
def test_a_mistake_is_one_line_before_any_work(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "-o", "out", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, *said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("drawn", "said"),
    [(ValueError("high < low"), "ValueError: high < low"), (None, "TypeError"), ({"activation": tune}, "not JSON")],
    ids=["raises", "nothing", "no number"],
)
def test_a_search_space_that_fails_is_one_line_before_any_work(drawn, said, capsys, tmp_path, monkeypatch):
    def search_space(trial, observation_space, action_space):
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    monkeypatch.setattr(tune, "search_space", lambda algo: (search_space, ()))
    assert main(["tune", "--algo", "ppo", "--env", "CartPole-v1", "-n", "64", "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "search space", "ppo", said)
    assert not list(tmp_path.iterdir())


# The text of hyperparameter files


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "E-v1:\n  gamma: 0.9\n"),
        ("A-v1:\n  gamma: 0.1\n", "A-v1:\n  gamma: 0.1\n\nE-v1:\n  gamma: 0.9\n"),
        ("E-v1: {gamma: 0.1}\nA-v1: {}", "E-v1:\n  gamma: 0.9\nA-v1: {}\n"),
        ("'E-v1':\n\n  # own\n  gamma: 0.1\n\n# of A\nA-v1: {}\n", "E-v1:\n  gamma: 0.9\n\n# of A\nA-v1: {}\n"),
        ("E-v10:\n  gamma: 0.1\n", "E-v10:\n  gamma: 0.1\n\nE-v1:\n  gamma: 0.9\n"),
    ],
)
def test_one_entry_is_set_and_nothing_else_changes(old, new, tmp_path):
    assert with_entry(old, "E-v1", {"gamma": 0.9}, tmp_path) == new


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("E-v1: &e\n  gamma: 0.1\nA-v1: *e\n", "cannot be changed on its own"),
        ("{E-v1: {gamma: 0.1}}\n", "cannot be changed on its own"),
        ("- E-v1\n", "must hold a mapping"),
        ("E-v1: [\n", "is not YAML"),
    ],
)
def test_a_file_in_which_one_entry_cannot_be_set_alone_is_refused(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        with_entry(text, "E-v1", {"gamma": 0.9}, tmp_path / "ppo.yml")


# Search spaces


def test_a_plugins_algorithm_has_its_parents_space_or_its_own_and_any_other_is_told_how_to_get_one(monkeypatch):
    import stable_baselines3

    from pg_agents import PPO

    class Child(PPO):
        pass

    class Own(Child):
        @classmethod
        def search_space(cls, trial, observation_space, action_space):
            return {**super().search_space(trial, observation_space, action_space), "mine": 1}

    class Foreign(stable_baselines3.PPO):
        pass

    classes = {"child": Child, "own": Own, "foreign": Foreign}
    monkeypatch.setattr("pg_zoo.tuning.spaces.find_algorithm", classes.__getitem__)

    def drawn(algo):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
        return search_space(algo)[0](trial, spaces.Box(-1, 1, (3,)), spaces.Discrete(2))

    assert drawn("own") == {**drawn("child"), "mine": 1}
    with pytest.raises(UserError, match=saying("foreign", "search space", "docs/plugins.md")):
        search_space("foreign")


def test_policy_arguments_of_rl_zoo3_are_written_as_its_files_have_them():
    from torch import nn

    kwargs = {"net_arch": {"pi": [64], "vf": [64]}, "activation_fn": nn.ReLU}
    assert as_text(kwargs) == "dict(net_arch=dict(pi=[64], vf=[64]), activation_fn=nn.ReLU)"
