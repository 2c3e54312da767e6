"""Callbacks for games: `ExploitabilityCallback` measures a policy, and `SnapshotCallback` keeps copies of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat

from pg_envs.checks import check_choice, check_number
from pg_envs.games.payoffs import move_names
from pg_envs.games.players import Snapshot
from pg_envs.games.rps import RPS
from pg_envs.games.selfplay import SelfPlayVecEnv
from pg_envs.games.simplex import check_matplotlib, policy_figure
from pg_envs.games.solving import MatrixGame, exploitability, matrix_game, policy_table


class ExploitabilityCallback(BaseCallback):
    """Logs the policy's distance from an equilibrium, and its path, after each rollout and at the end of training.

    | key                           | value                                                                           |
    |-------------------------------|---------------------------------------------------------------------------------|
    | `game/exploitability`         | gain per round of a seat that knows the other's policy: see `solving`           |
    | `game/nash_conv`              | the sum of both seats' gains; not with `seat`                                   |
    | `game/average_exploitability` | exploitability of the mean of all policies so far; not in games with memory     |
    | `game/policy`                 | the path of the policy as a figure, for TensorBoard                             |

    With three actions the figure shows the simplex and the equilibrium, otherwise the probability of each action over
    time. In a game with memory it shows the policy in the first round.

    Args:
        game: A game with payoffs, or matrices: as for `exploitability`.
        every: Number of rollouts between measurements.
        figure: Whether to draw the figure, if there is a TensorBoard log.
        figure_every: Number of steps between figures. The last one is drawn at the end of training; None draws only
            that one.
        names: Names of the actions, for the figure.
        seat: The learner's seat, if it holds only one: see `exploitability`.

    Attributes:
        timesteps: Time steps of the measurements.
        policies: Action probabilities at these times (in the first round), of shape `(times, actions)`.
        exploitabilities: Exploitability of each of these policies.
        average_exploitabilities: Exploitability of the mean of the policies up to each time.

    Raises:
        ValueError: An argument is out of range, or the game cannot be solved.
        ImportError: When training starts, there is a figure to draw and matplotlib is not installed.
    """

    def __init__(
        self,
        game: Any,
        every: int = 1,
        *,
        figure: bool = True,
        figure_every: int | None = None,
        names: Sequence[str] | None = None,
        seat: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_number("every", every, at_least=1, integer=True)
        check_number("figure_every", figure_every, at_least=1, integer=True, optional=True)
        check_choice("seat", seat, (None, 0, 1))
        self.game: MatrixGame = matrix_game(game)
        shape = self.game.payoffs[0].shape
        if seat is None and shape[0] != shape[1]:
            raise ValueError(f"`seat` must be given if the seats have different numbers of actions, here {shape}.")
        self.n_actions = shape[seat or 0]
        if names is None:
            named = isinstance(getattr(game, "unwrapped", None), RPS)
            names = move_names(self.n_actions) if named else [f"action {i}" for i in range(self.n_actions)]
        if len(names) != self.n_actions:
            raise ValueError(f"`names` must have {self.n_actions} entries, one per action, but is {names!r}.")
        self.names = list(names)
        self.every = every
        self.figure = figure
        self.figure_every = figure_every
        self.seat = seat
        self.timesteps: list[int] = []
        self.policies: list[np.ndarray] = []
        self.exploitabilities: list[float] = []
        self.average_exploitabilities: list[float] = []
        self._n_rollouts = 0
        self._total = np.zeros(self.n_actions)
        self._drawn_at = 0
        self._draws = False

    def _on_training_start(self) -> None:
        formats = self.logger.output_formats
        self._draws = self.figure and any(isinstance(one, TensorBoardOutputFormat) for one in formats)
        if self._draws:
            check_matplotlib()

    def next_look(self) -> int | None:
        """Never in the middle of a rollout, so compiled code may collect all of it in one call."""
        return None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._n_rollouts += 1
        if self._n_rollouts % self.every == 0:
            self._measure()
            if self.figure_every is not None and self.num_timesteps - self._drawn_at >= self.figure_every:
                self._draw()

    def _on_training_end(self) -> None:
        logger = self.logger
        # SB3 leaves the metrics of the last update in the logger, where users look for them: they are put back below.
        stores: list[Any] = [logger.name_to_value, logger.name_to_count, logger.name_to_excluded]
        kept = [(store, dict(store)) for store in stores]
        for store, _ in kept:
            store.clear()
        self._measure()
        self._draw()
        logger.dump(self.num_timesteps)
        for store, before in kept:
            store.update(before)

    def _measure(self) -> None:
        table = policy_table(self.model, self.game, self.seat or 0)
        has_memory = len(table) > 1
        found = exploitability(self.model if has_memory else table[0], self.game, self.seat)
        self.timesteps.append(self.num_timesteps)
        self.policies.append(table[0])
        self.exploitabilities.append(found)
        logger = self.logger  # once: this property evaluates deferred metrics
        logger.record("game/exploitability", found)
        if self.seat is None:
            logger.record("game/nash_conv", 2 * found)
        if not has_memory:
            self._total += table[0]
            average = exploitability(self._total / len(self.policies), self.game, self.seat)
            self.average_exploitabilities.append(average)
            logger.record("game/average_exploitability", average)

    def _draw(self) -> None:
        if self._draws:
            self._drawn_at = self.num_timesteps
            goal = self.game.equilibrium[:2][self.seat or 0] if self.game.is_zero_sum else None
            figure = policy_figure(np.stack(self.policies), self.timesteps, self.names, goal)
            self.logger.record("game/policy", Figure(figure, close=True), exclude=("stdout", "log", "json", "csv"))


class SnapshotCallback(BaseCallback):
    """Keeps versions of the learner for a `SelfPlayVecEnv` whose opponent is `"snapshots"`.

    The first is taken when training starts. Each game draws one of them uniformly (fictitious play: Brown 1951; with
    networks: Heinrich & Silver 2016, arXiv:1603.01121).

    Args:
        every: Number of steps between versions.
        keep: Number of versions to keep; older ones are dropped. None keeps all.

    Raises:
        ValueError: An argument is out of range, or, when training starts, the environment is not a `SelfPlayVecEnv`.
    """

    def __init__(self, every: int = 10_000, keep: int | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_number("every", every, at_least=1, integer=True)
        check_number("keep", keep, at_least=1, integer=True, optional=True)
        self.every = every
        self.keep = keep

    def _on_training_start(self) -> None:
        env = self.training_env.unwrapped
        if not isinstance(env, SelfPlayVecEnv):
            raise ValueError(f"SnapshotCallback must train in a SelfPlayVecEnv, but the environment is {env}.")
        if self.model.observation_space != env.observation_space:
            raise ValueError(
                f"SnapshotCallback needs a model with the game's observation space, {env.observation_space}, but its "
                f"space is {self.model.observation_space}: leave out wrappers that change observations."
            )
        self._snapshots = env.snapshots
        self._before = list(env.snapshots)
        self._take()

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint of a training keeps; the environment keeps the versions."""
        return {"taken_at": self._taken_at}

    def restore_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Go on with the versions that the environment had, without the one that was taken just now."""
        self._taken_at, self._snapshots[:] = state["taken_at"], self._before

    def _on_step(self) -> bool:
        if self.num_timesteps - self._taken_at >= self.every:
            self._take()
        return True

    def _take(self) -> None:
        self._taken_at = self.num_timesteps
        self._snapshots.append(Snapshot(self.model))
        if self.keep is not None:
            del self._snapshots[: -self.keep]
