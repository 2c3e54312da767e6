"""`HandOver`: a callback that hands the agent's policy to the opponents `oracle` and `snapshots`."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from pg_envs.checks import check_number
from pg_envs.games.players import Snapshot


class HandOver(BaseCallback):
    """Hands the agent's policy to the opponents in its environments when a rollout starts.

    It works with the algorithms of SB3 and `pg_agents`, on any VecEnv of `RPSMatch`, also behind `VecNormalize`:

        PPO("MlpPolicy", "pg/RPSMatch-v0", ...).learn(100_000, callback=HandOver())

    The opponents of an evaluation environment need the policy as well: `HandOver(eval_env=...)`, or
    `env.unwrapped.hand_over(model)` for a Gymnasium environment. The oracle best-responds to the sampled policy; the
    most probable action alone may well beat it.

    Args:
        every: Number of rollouts between updates of the opponents.
        eval_env: A further VecEnv whose opponents get the policy.

    Raises:
        ValueError: `every` is less than 1, or, when training starts, an environment is not an `RPSMatch`.
    """

    def __init__(self, every: int = 1, eval_env: VecEnv | None = None) -> None:
        check_number("every", every, at_least=1, integer=True)
        super().__init__()
        self.every = every
        self.eval_env = eval_env
        self.n_rollouts = 0

    def _on_training_start(self) -> None:
        self._envs = [self.training_env, *([] if self.eval_env is None else [self.eval_env])]
        for env in self._envs:
            if not env.has_attr("hand_over"):
                raise ValueError(f"HandOver needs environments of pg/RPSMatch-v0, but is used with {env}.")

    def _on_rollout_start(self) -> None:
        if self.n_rollouts % self.every == 0:
            snapshot = Snapshot(self.model)
            for env in self._envs:
                env.env_method("hand_over", snapshot)
        self.n_rollouts += 1

    def next_look(self) -> int | None:
        """Never in the middle of a rollout, so compiled code may collect all of it in one call."""
        return None

    def _on_step(self) -> bool:
        return True
