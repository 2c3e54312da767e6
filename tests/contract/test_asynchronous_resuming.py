"""Checkpoints of trainings with several workers, and of stale gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th
from fakes import TinyEnv, same, weights
from stable_baselines3.common.callbacks import BaseCallback

from pg_agents import A3C, Checkpoint

SMALL = {"net_arch": [4]}


class KilledError(Exception):
    """Stands for the end of a process."""


class Watch(BaseCallback):
    """Notes the agent at each boundary, and ends the training after some steps."""

    def __init__(self, kill_at: int = 10**9) -> None:
        super().__init__()
        self.kill_at = kill_at
        self.seen: dict[int, Any] = {}

    def checkpoint_state(self) -> None:
        """Nothing goes on."""

    def restore_checkpoint_state(self, state: None) -> None:
        """As above."""

    def next_look(self) -> int | None:
        return None

    def _on_step(self) -> bool:
        return True

    def on_boundary(self) -> None:
        steps, updates = self.model.num_timesteps, self.model._n_updates
        self.seen[steps] = updates, weights(self.model), squares(self.model), len(self.model.ep_info_buffer)
        if steps >= self.kill_at:
            raise KilledError


def squares(agent: A3C) -> list[th.Tensor]:
    state = agent.policy.optimizer.state
    return [state[one]["square_avg"].clone() for one in agent.policy.parameters() if one in state]


def a3c(backend: str, **arguments: Any) -> A3C:
    env = TinyEnv if backend == "processes" else "pg/CartPole-v1"
    engine = "mlp" if backend == "threads" else "autograd"
    standard = {"engine": engine, "n_workers": 2, "n_steps": 4, "seed": 0, "policy_kwargs": SMALL, "device": "cpu"}
    return A3C("MlpPolicy", env, backend=backend, **{**standard, **arguments})


@pytest.mark.filterwarnings("ignore:Checkpoints keep parameters")
@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_workers_go_on_with_parameters_and_counts_of_the_checkpoint(backend: str, tmp_path: Path) -> None:
    total = 400 if backend == "processes" else 4000
    watch = Watch(kill_at=total // 2)
    with pytest.raises(KilledError):
        a3c(backend).learn(total, callback=[watch, Checkpoint(tmp_path, total // 10)])
    resumed = A3C.resume(tmp_path, env=TinyEnv if backend == "processes" else None, device="cpu")
    assert total // 10 <= resumed.num_timesteps < total
    n_updates, parameters, its_squares, n_episodes = watch.seen[resumed.num_timesteps]
    assert resumed._n_updates == n_updates == resumed.num_timesteps / 4
    assert len(resumed.ep_info_buffer) == n_episodes
    assert same(weights(resumed), parameters)
    assert all(map(th.equal, squares(resumed), its_squares))
    resumed.learn_on(callback=[Watch()])
    assert resumed.num_timesteps == total
    assert resumed._n_updates == total / 4
    assert not same(weights(resumed), parameters)
    assert (tmp_path / f"step_{total:09d}").is_dir()


def test_a_line_says_that_workers_begin_new_episodes(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="neither the workers' environments nor the order of their updates"):
        a3c("threads").learn(40, callback=Checkpoint(tmp_path, 1000))


def test_stale_gradients_go_on_bit_for_bit(tmp_path: Path) -> None:
    def make() -> A3C:
        return a3c("auto", n_workers=1, delay=3, engine="autograd")

    whole = make().learn(120)
    with pytest.raises(KilledError):
        make().learn(120, callback=[Checkpoint(tmp_path, 24), Watch(kill_at=60)])
    th.manual_seed(9)
    resumed = A3C.resume(tmp_path).learn_on(callback=[Watch()])
    assert same(weights(resumed), weights(whole))
    assert all(map(th.equal, squares(resumed), squares(whole)))
