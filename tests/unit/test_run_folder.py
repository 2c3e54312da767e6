"""A training as `pg-zoo train` sets it up: its folder, and its end, however that comes."""

from dataclasses import replace

import pytest
import stable_baselines3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pg_agents
from pg_zoo.options import parse
from pg_zoo.runs.folder import set_up
from pg_zoo.runs.log import log_interval
from pg_zoo.runs.recipe import resolve

ENTRY = {"n_timesteps": 40, "policy": "MlpPolicy", "n_steps": 8, "batch_size": 8, "n_epochs": 1, "n_envs": 2}


class Told(BaseCallback):
    """Counts the ends that it is told of, and raises an error in one of the steps."""

    def __init__(self, error=None):
        super().__init__()
        self.error, self.ends = error, 0

    def _on_step(self):
        if self.error is not None and self.n_calls == 4:
            raise self.error
        return True

    def _on_training_end(self):
        self.ends += 1


def training(folder, *options, callbacks=(), trained_agent="", n_timesteps=None):
    """A training of PPO on CartPole that is about to be set up."""
    argv = ["train", "--seed", "1", "--eval-freq", "-1", "--verbose", "0", "-f", str(folder), *options]
    recipe = resolve(
        "ppo", pg_agents.PPO, "CartPole-v1", ENTRY, "a test", trained_agent=trained_agent, n_timesteps=n_timesteps
    )
    return set_up(replace(recipe, callbacks=[*callbacks]), parse(argv))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError("out of order")])
def test_every_callback_is_told_once_of_the_end(tmp_path, error):
    callbacks = [Told(), Told(error)]
    with training(tmp_path, callbacks=callbacks) as run:
        if isinstance(error, ValueError):
            with pytest.raises(ValueError, match="out of order"):
                run.learn()
        else:
            run.learn()
        assert run.model.num_timesteps == (48 if error is None else 8)
    assert [one.ends for one in callbacks] == [1, 1]


@pytest.mark.parametrize(("interval", "lines"), [("-1", 3), ("3", 1), ("-2", 0)])
def test_the_log_is_written_as_often_as_was_asked_for(tmp_path, capsys, interval, lines):
    with training(tmp_path, "--log-interval", interval, "--verbose", "1") as run:
        run.learn()
    assert capsys.readouterr().out.count("total_timesteps") == lines


def test_a_long_training_prints_few_tables_and_tensorboard_gets_a_curve(tmp_path, capsys):
    argv = ["--verbose", "1", "-n", "6400", "-tb", str(tmp_path / "tb")]
    with training(tmp_path, *argv, n_timesteps=6400) as run:
        run.learn()
    assert capsys.readouterr().out.count("total_timesteps") in (20, 21)
    log = EventAccumulator(str(tmp_path / "tb/CartPole-v1/PPO_1"))
    log.Reload()
    points = [point.step for point in log.Scalars("rollout/ep_rew_mean")]
    assert len(points) == 200
    assert points[-1] == 6400


@pytest.mark.parametrize(
    ("cls", "n_updates", "curves", "interval"),
    [
        (pg_agents.PPO, 1000, False, 50),
        (pg_agents.PPO, 1000, True, 5),
        (pg_agents.PPO, 10, False, None),
        (stable_baselines3.PPO, 1000, False, 50),
        (stable_baselines3.A2C, 1000, False, None),  # SB3 logs in every hundredth update
        (pg_agents.REINFORCE, 1000, False, None),  # whole episodes, of unknown length
        (stable_baselines3.DQN, 1000, False, None),
    ],
)
def test_the_log_has_twenty_tables_or_two_hundred_points_unless_the_algorithm_has_fewer(
    cls, n_updates, curves, interval
):
    steps = {"n_steps": 8} if issubclass(cls, OnPolicyAlgorithm) and cls is not pg_agents.REINFORCE else {}
    model = cls(
        "MlpPolicy", "CartPole-v1", device="cpu", **steps, **({"batch_size": 8} if "PPO" in cls.__name__ else {})
    )
    assert log_interval(model, 8 * n_updates, curves=curves) == interval


def test_a_folder_stays_if_a_model_came_of_it(tmp_path):
    for saves, left in ((False, []), (True, ["CartPole-v1_1"]), (False, ["CartPole-v1_1"])):
        with training(tmp_path) as run:
            assert (run.folder / "CartPole-v1/config.yml").is_file()
            if saves:
                run.save()
        assert [path.name for path in (tmp_path / "ppo").iterdir()] == left


def test_checkpoints_and_evaluations_count_the_steps_of_all_environments(tmp_path):
    options = ["--save-freq", "16", "--eval-freq", "24", "--eval-episodes", "1"]
    with training(tmp_path, *options) as run:
        run.learn()
        run.save()
        steps = sorted(int(path.stem.split("_")[2]) for path in run.folder.glob("rl_model_*"))
    assert steps == [16, 32, 48]
    assert len(list(run.folder.glob("evaluations.npz"))) == 1


def test_environments_are_closed_at_the_end(tmp_path):
    with training(tmp_path) as run:
        (monitor, _) = run.model.get_env().envs
        assert not monitor.results_writer.file_handler.closed
    assert monitor.results_writer.file_handler.closed


def test_a_trained_agent_goes_on_in_a_folder_of_its_own(tmp_path):
    with training(tmp_path) as run:
        run.learn()
        run.save()
    with training(tmp_path, trained_agent=str(run.model_path)) as further:
        assert further.folder.name == "CartPole-v1_2"
        for name, value in further.model.policy.state_dict().items():
            assert value.equal(run.model.policy.state_dict()[name])
