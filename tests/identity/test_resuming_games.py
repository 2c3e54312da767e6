"""A training in games that is interrupted and resumed equals one that is not, bit for bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from test_resuming import SMALL, Kill, KilledError, assert_equal, compare, scramble

from pg_agents import A2C, Checkpoint, make_vec
from pg_envs import RPS, ExploitabilityCallback, HandOver, SelfPlayVecEnv, SnapshotCallback, win_rates


def self_play(game: Any = None, **arguments: Any) -> SelfPlayVecEnv:
    game = RPS(observation="last", max_cycles=7) if game is None else game
    return SelfPlayVecEnv(game, 3, **{"seat": 0, "opponent": "snapshots", **arguments})


def a2c(env: Any, **arguments: Any) -> A2C:
    return A2C(
        "MlpPolicy", env, **{"n_steps": 8, "seed": 0, "policy_kwargs": SMALL, "learning_rate": 0.02, **arguments}
    )


def snapshots(env: Any) -> list[Any]:
    return [(one.num_timesteps, one.checkpoint_state()) for one in env.unwrapped.snapshots]


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_self_play_with_snapshots_goes_on_bit_for_bit(engine: str, tmp_path: Path) -> None:
    found: list[Any] = []
    callbacks = lambda: [SnapshotCallback(every=40, keep=2), ExploitabilityCallback(RPS(observation="last"))]  # noqa: E731

    def make() -> A2C:
        found.append(a2c(self_play(), engine=engine))
        return found[-1]

    resumed = compare(make, tmp_path, total=320, every=72, kill_at=200, callbacks=callbacks, env=self_play)
    assert len(snapshots(resumed.env)) == 2
    assert_equal(snapshots(resumed.env), snapshots(found[0].env))
    rates = [
        win_rates(one, one.env.unwrapped.snapshots, RPS(observation="last", max_cycles=7), 50)
        for one in (resumed, found[0])
    ]
    assert rates[0] == rates[1]


class Larger(RPS):
    """Both name a number; the larger one wins."""

    def __init__(self) -> None:
        super().__init__(observation="last", max_cycles=3)
        self._action_spaces = {seat: spaces.Box(-1.0, 1.0, (1,)) for seat in self.possible_agents}

    def step(self, actions: Any) -> Any:
        first, second = (float(actions[seat][0]) for seat in self.possible_agents)
        moves = int(first > second), int(second > first)
        return super().step(dict(zip(self.possible_agents, moves, strict=True)))

    def _move(self, seat: str, action: Any) -> int:
        return int(action)


VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "normalised": (lambda: VecNormalize(self_play()), {}),
    "gSDE": (lambda: self_play(Larger), {"use_sde": True}),
    "both seats": (lambda: self_play(seat=None, opponent=None), {}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_self_play_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    env, arguments = VARIANTS[name]
    callbacks = lambda: [SnapshotCallback(every=40, keep=2)]  # noqa: E731
    compare(
        lambda: a2c(env(), engine="autograd", **arguments),
        tmp_path,
        total=300,
        every=72,
        kill_at=200,
        callbacks=callbacks,
        env=env,
    )


class Hidden(RPS):
    """A game that plays for one of two numbers of rounds, which is kept where nobody looks."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._coin = (bit for bit in itertools.cycle([seed % 2, 1, 0]))
        self.max_cycles = 2 + next(self._coin)
        return super().reset(seed, options)


@pytest.mark.filterwarnings("ignore:The state of")
def test_games_whose_state_is_hidden_are_cut_and_snapshots_go_on(tmp_path: Path) -> None:
    env = lambda: self_play(lambda: Hidden(observation="last"))  # noqa: E731
    compare(
        lambda: a2c(env(), engine="autograd"),
        tmp_path,
        total=300,
        every=72,
        kill_at=200,
        callbacks=lambda: [SnapshotCallback(every=40, keep=2)],
        cuts=True,
        env=env,
    )


@pytest.mark.parametrize(
    ("kind", "observation"), [("single environments", "last"), ("a world", "none"), ("a world", "last")]
)
@pytest.mark.parametrize("opponent", ["oracle", "snapshots"])
def test_what_was_handed_over_goes_on_bit_for_bit(kind: str, opponent: str, observation: str, tmp_path: Path) -> None:
    arguments = {"opponent": opponent, "observation": observation, "n_rounds": 7}

    def env() -> Any:
        if kind == "a world":
            return make_vec("pg/RPSMatch-v0", 2, env_kwargs=arguments)
        return make_vec_env("pg/RPSMatch-v0", 2, env_kwargs=arguments)

    engine = "mlp" if kind == "a world" else "autograd"
    compare(
        lambda: a2c(env(), engine=engine),
        tmp_path,
        total=240,
        every=60,
        kill_at=150,
        callbacks=lambda: [HandOver(every=3)],
    )


def test_a_built_in_opponent_goes_on_bit_for_bit(tmp_path: Path) -> None:
    arguments = {"opponent": "pattern", "observation": "last"}
    make = lambda: a2c(make_vec("pg/RPSMatch-v0", 2, env_kwargs=arguments), engine="mlp")  # noqa: E731
    compare(make, tmp_path, total=240, every=60, kill_at=150)


def test_the_learner_of_a_resumed_run_does_not_change_the_snapshots(tmp_path: Path) -> None:
    callbacks = lambda: [SnapshotCallback(every=40)]  # noqa: E731
    with pytest.raises(KilledError):
        a2c(self_play()).learn(300, callback=[*callbacks(), Checkpoint(tmp_path, 72), Kill(200)])
    agent = A2C.resume(tmp_path, env=self_play())
    before = snapshots(agent.env)
    scramble()
    agent.learn_on(callback=[*callbacks(), Kill(10**9)])
    after = snapshots(agent.env)
    assert len(after) > len(before) > 2
    assert_equal(after[: len(before)], before)
