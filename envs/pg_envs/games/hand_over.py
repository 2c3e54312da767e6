"""`HandOver`: a callback that tells the opponents `oracle` and `snapshots` what the agent plays."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback

from pg_envs.checks import check_number
from pg_envs.games.players import Snapshot


class HandOver(BaseCallback):
    """Hands the agent's policy over to the opponents in its environments, when a rollout starts.

    For SB3's algorithms and those of `pg_agents`, on any VecEnv of `RPSMatch`, behind `VecNormalize` too:

        PPO("MlpPolicy", "pg/RPSMatch-v0", ...).learn(100_000, callback=HandOver())

    Args:
        every: Number of rollouts from one time to the next.

    Raises:
        ValueError: `every` is less than 1.
    """

    def __init__(self, every: int = 1) -> None:
        check_number("every", every, at_least=1, integer=True)
        super().__init__()
        self.every = every
        self.n_rollouts = 0

    def _on_rollout_start(self) -> None:
        if self.n_rollouts % self.every == 0:
            self.training_env.env_method("hand_over", Snapshot(self.model))
        self.n_rollouts += 1

    def _on_step(self) -> bool:
        return True
