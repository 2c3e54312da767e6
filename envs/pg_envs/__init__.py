"""Environments that show why policy gradients exist. Importing this module registers their ids.

Names that need Stable-Baselines3 are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pg_envs.batched import Batched, Dynamics, Single
from pg_envs.corridor import ShortCorridor
from pg_envs.discretizer import Discretizer, DiscretizerVector
from pg_envs.games.match import RPSMatch
from pg_envs.games.opponents import Opponent
from pg_envs.games.payoffs import payoff_matrix
from pg_envs.games.penalty_kick import PenaltyKick
from pg_envs.games.rps import RPS
from pg_envs.games.solving import best_response, exploitability, nash, nash_conv
from pg_envs.gridworld import AliasedGridworld
from pg_envs.references import normalised_score, reference_scores
from pg_envs.registration import register
from pg_envs.reviews.environment import Reviews
from pg_envs.torque.arm import TorqueArm
from pg_envs.torque.bandit import TorqueBandit
from pg_envs.torque.lqr import TorqueLQR
from pg_envs.torque.pendulum import TorquePendulum

if TYPE_CHECKING:
    from pg_envs.games.callbacks import ExploitabilityCallback, SnapshotCallback
    from pg_envs.games.hand_over import HandOver
    from pg_envs.games.selfplay import SelfPlayVecEnv, win_rates

__all__ = [
    "RPS",
    "AliasedGridworld",
    "Batched",
    "Discretizer",
    "DiscretizerVector",
    "Dynamics",
    "ExploitabilityCallback",
    "HandOver",
    "Opponent",
    "PenaltyKick",
    "RPSMatch",
    "Reviews",
    "SelfPlayVecEnv",
    "ShortCorridor",
    "Single",
    "SnapshotCallback",
    "TorqueArm",
    "TorqueBandit",
    "TorqueLQR",
    "TorquePendulum",
    "best_response",
    "exploitability",
    "nash",
    "nash_conv",
    "normalised_score",
    "payoff_matrix",
    "reference_scores",
    "register",
    "win_rates",
]

_WITH_SB3 = {
    "ExploitabilityCallback": "callbacks",
    "HandOver": "hand_over",
    "SelfPlayVecEnv": "selfplay",
    "SnapshotCallback": "callbacks",
    "win_rates": "selfplay",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_SB3:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.games.{_WITH_SB3[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
