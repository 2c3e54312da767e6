"""`pg-zoo train --track`, with a recorded wandb, and rl_zoo3's other options: each is taken or refused by name."""

import argparse
import sys
from types import ModuleType

import pytest
import rl_zoo3.train
from prose import says

from pg_agents import __version__
from pg_zoo.cli import main
from pg_zoo.options import arguments_of, command_parsers, make_parser

SMALL = ["--algo", "ppo", "--env", "CartPole-v1", "-n", "64", "--seed", "3", "--eval-freq", "-1", "--verbose", "0"]
SMALL += ["--hyperparams", "n_envs:1", "n_steps:32", "batch_size:32", "n_epochs:1"]


class Wandb(ModuleType):
    """The parts of the package that are used, as wandb 0.31's documentation has them; they keep what they are given."""

    def __init__(self, error=None):
        super().__init__("wandb")
        self.__spec__ = argparse  # `find_spec` only asks whether there is one
        self.error, self.given, self.ends = error, [], []

    def init(self, *, id, name, resume, project, entity, group, tags, config, sync_tensorboard):
        if self.error is not None:
            raise self.error
        self.given.append({key: value for key, value in locals().items() if key != "self"})
        return self

    def finish(self, exit_code=0):
        self.ends.append(exit_code)


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_tracked_run_has_its_options_hyperparameters_and_curves(wandb, tmp_path):
    options = ["--track", "--wandb-project-name", "arms", "--wandb-entity", "lab", "--wandb-group", "first"]
    assert main(["train", *SMALL, *options, "-tags", "short", "pr-1"]) == 0
    (given,) = wandb.given
    tags = ["short", "pr-1", f"pg-agents-{__version__}"]
    known = {"project": "arms", "entity": "lab", "group": "first", "tags": tags}
    known |= {"name": "CartPole-v1__ppo__3", "resume": "allow", "sync_tensorboard": True}
    assert {name: given[name] for name in known} == known
    assert (given["config"]["seed"], given["config"]["hyperparams"]["n_steps"]) == (3, 32)
    # wandb takes the curves from TensorBoard's log, which there is without -tb, too.
    assert [*tmp_path.glob("runs/CartPole-v1__ppo__3__*/CartPole-v1/PPO_1/events.out.tfevents.*")]
    assert wandb.ends == [0]


def test_rl_zoo3s_defaults_are_ours(wandb):
    assert main(["train", *SMALL, "--track", "-tb", "here"]) == 0
    (given,) = wandb.given
    assert (given["project"], given["entity"], given["group"]) == ("sb3", None, None)
    assert given["config"]["tensorboard_log"] == "here"


def test_a_run_that_goes_on_is_the_same_run(wandb, tmp_path):
    assert main(["train", *SMALL, "--track", "--checkpoint", "32"]) == 0
    (folder,) = tmp_path.glob("logs/ppo/CartPole-v1_*")
    assert main(["train", "--resume", str(folder), "-n", "128", "--verbose", "0"]) == 0
    assert main(["train", *SMALL, "--track"]) == 0
    first, again, another = (given["id"] for given in wandb.given)
    assert first == again != another


def test_an_older_run_that_names_a_project_goes_on_untracked(wandb, tmp_path):
    assert main(["train", *SMALL, "--checkpoint", "32"]) == 0
    (path,) = tmp_path.glob("logs/ppo/CartPole-v1_1/*/args.yml")
    path.write_text(path.read_text().replace("wandb_project_name\n    - null", "wandb_project_name\n    - sb3"))
    assert "- sb3\n" in path.read_text()
    assert main(["train", "--resume", "logs/ppo/CartPole-v1_1", "-n", "128", "--verbose", "0"]) == 0
    assert wandb.given == []


def test_a_run_that_fails_is_told_as_one(wandb, tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise ValueError("out of order")

    monkeypatch.setattr("pg_agents.PPO.learn", fail)
    assert main(["train", *SMALL, "--track"]) == 2
    assert wandb.ends == [1]


def test_a_mistake_begins_no_run(wandb, capsys):
    assert main(["train", *SMALL, "--track", "--hyperparams", "n_step:1"]) == 2
    assert wandb.given == []


def test_without_an_account_a_line_says_what_to_do(wandb, tmp_path, capsys):
    wandb.error = RuntimeError("api_key not configured (no-tty)")
    assert main(["train", *SMALL, "--track"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(
        line, "--track", "RuntimeError: api_key not configured (no-tty). ", "`wandb login`", "WANDB_MODE=offline"
    )
    assert not [*tmp_path.glob("logs/ppo/*")]


def test_without_the_package_a_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", *SMALL, "--track"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "--track", "wandb", "pip install 'pg-agents[wandb]'")


@pytest.mark.parametrize(
    "option", [["--wandb-entity", "lab"], ["--wandb-group", "x"], ["-tags", "x"], ["--wandb-project-name", "x"]]
)
def test_what_would_have_no_effect_is_refused(option, capsys):
    assert main(["train", *SMALL, *option]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "--wandb-", "needs --track")


# rl_zoo3's options


def options_of_rl_zoo3(monkeypatch):
    class SeenError(Exception):
        pass

    def see(parser, *_):
        raise SeenError(parser)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", see)
        with pytest.raises(SeenError) as seen:
            rl_zoo3.train.train()
    (parser,) = seen.value.args
    return [action for action in arguments_of(parser) if action.dest != "help"]


def test_every_option_of_rl_zoo3_is_taken_or_refused_with_its_equivalent(monkeypatch, capsys):
    train = command_parsers(make_parser())["train"]
    ours = {name: action for action in arguments_of(train) for name in action.option_strings}
    refused = []
    for action in options_of_rl_zoo3(monkeypatch):
        assert {*action.option_strings} <= ours.keys(), action.option_strings
        (own,) = {ours[name] for name in action.option_strings}
        if own.help is not argparse.SUPPRESS:
            if own.dest not in ("verbose", "gym_packages", "wandb_project_name"):
                assert own.default == action.default, own.dest
            continue
        refused += action.option_strings
        value = [] if action.nargs == 0 else ["1"]
        assert main(["train", action.option_strings[-1], *value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says(line, action.option_strings[-1], "rl_zoo3")
        assert says(line, "pg-zoo tune") or action.dest == "truncate_last_trajectory"
    assert {"-optimize", "--optimize-hyperparameters", "--n-trials", "--storage"} <= {*refused}


def test_the_replay_buffer_is_saved_and_trained_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dqn = ["--algo", "sb3/dqn", "--env", "CartPole-v1", "--eval-freq", "-1", "--verbose", "0", "--seed", "0"]
    dqn += ["--hyperparams", "learning_starts:10", "buffer_size:100", "-n", "40", "--save-freq", "30"]
    assert main(["train", *dqn, "--save-replay-buffer"]) == 0
    (folder,) = tmp_path.glob("logs/sb3/dqn/CartPole-v1_*")
    assert (folder / "replay_buffer.pkl").is_file()
    assert (folder / "rl_model_replay_buffer_30_steps.pkl").is_file()
    assert main(["train", *dqn]) == 0
    assert not (tmp_path / "logs/sb3/dqn/CartPole-v1_2/replay_buffer.pkl").exists()
