"""Many steps in one call: the tables of a compiled rollout, and the memory that their addresses point into."""

from __future__ import annotations

from operator import is_
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents.buffers import EpisodeMixin, EstimatorMixin
from pg_agents.engines.mlp.acting import MLPActor
from pg_agents.engines.mlp.arrays import row_of
from pg_agents.engines.mlp.memory import address
from pg_agents.engines.mlp.tables import Program
from pg_agents.envs.compiled import CompiledEnv
from pg_agents.observations import not_finite
from pg_agents.policies import explained


class Roll:
    """Compiled steps of one environment into one buffer.

    Args:
        program: The policy's tables.
        env: The environment's parts.
        buffer: The buffer.

    Attributes:
        terminated: `(N,)` bool of the last step.
        truncated: `(N,)` bool of the last step; it can be both.
        current: `(N, n)` float32: observations that follow the last step, as the policy reads them.
        last_observations: `(N, n)` float32: last observations of the episodes that ended in the last step.
    """

    _actor: MLPActor

    def __init__(self, program: Program, env: CompiledEnv, buffer: EstimatorMixin) -> None:
        from pg_agents.engines.mlp import rolling

        self._program, self._env, self._buffer, self._kernels = program, env, buffer, rolling
        n, size = buffer.n_envs, program.n_observation
        _check_env(env, program.policy, n)
        self.table = table = np.zeros(1, rolling.ROLLOUT)
        self._table = table["table"] = address(table)
        self.current, self.last_observations, self._cut_observations = (np.zeros((n, size), np.float32) for _ in "123")
        self._raw_rewards, self._n_finished = np.zeros(n), np.zeros(n, np.int64)
        self._rewards, self._cut_values = (np.zeros(n, np.float32) for _ in "12")
        self._starts = np.zeros(n, np.bool_)
        self._progress = np.zeros(3, np.int64)
        self._value_step = np.zeros(1, program.kernels.STEP)
        self._value_step["values_only"] = True
        self._value_step["observations"] = self._cut_observations.ctypes.data
        self._value_step["values"] = self._cut_values.ctypes.data
        table["n_envs"], table["n_observation"] = n, size
        table["action_bytes"] = program.n_actions * (8 if program.is_categorical else 4)
        table["act"] = program.kernels.act.address
        for name, array in (
            ("policies", program.policies),
            ("value_policies", program.policies),
            ("towers", program.towers),
            ("layers", program.layers),
            ("value_step", self._value_step),
            ("current", self.current),
            ("starts", self._starts),
            ("n_finished", self._n_finished),
            ("last", self.last_observations),
            ("cut_observations", self._cut_observations),
            ("cut_values", self._cut_values),
            ("raw_rewards", self._raw_rewards),
            ("step_rewards", self._rewards),
            ("progress", self._progress),
        ):
            table[name] = address(array)
        table["value_count"] = self._value_step["n_envs"].ctypes.data
        self._normalizer = None
        if env.normalizer is not None:
            self._normalizer = _Normalizer(env.normalizer, table)
            table["normalize"] = rolling.normalize_function().address
        self._bound: np.ndarray | None = None
        self._running: np.ndarray | None = None
        self._of_env: tuple[np.ndarray | None, ...] = (None,) * 7
        self._events, self._event_lengths = np.empty((0, rolling.EVENT)), np.empty(0, np.int64)

    def fits(self, env: CompiledEnv, buffer: EstimatorMixin) -> bool:
        """Whether environment and buffer are still those that the tables were made for."""
        mine = self._env
        same = env.adapter is mine.adapter and env.copies is mine.copies and env.normalizer is mine.normalizer
        return same and buffer is self._buffer

    def wait_after(self, n_episodes: np.ndarray) -> None:
        """Let each environment wait after a number of episodes, `(N,)`; 0 lets it wait from now on."""
        most = n_episodes.max()
        self._n_finished[:] = most - n_episodes
        self.table["n_episodes"] = most
        self._env.adapter.hold(n_episodes == 0)

    def begin(self, actor: MLPActor, running: np.ndarray, gamma: float, bootstraps: bool) -> None:
        """Bind an actor; the arguments are those of `MLPEngine.roll`."""
        self._actor = actor
        table = self.table
        if self._running is not running:
            _check_array("episode_statistics.running", running, np.float64, self._raw_rewards.shape)
            self._running, table["running"] = running, address(running)
        table["gamma"], table["bootstraps"] = gamma, bootstraps
        table["step"] = address(actor.step)
        copies, adapter = self._env.copies, self._env.adapter
        assert copies.table is not None, "copies that have an address have a table"
        self.terminated, self.truncated = copies.terminated, copies.truncated
        of_env = (
            *(copies.held, copies.observed, adapter.episode_returns, adapter.episode_lengths),
            *(self.terminated, self.truncated, copies.table),
        )
        if not all(map(is_, self._of_env, of_env)):
            rows, rows_of_numbers = self._rewards.shape, self.current.shape
            for (name, column, dtype), array in zip(_OF_ENV, of_env, strict=False):
                _check_array(name, array, dtype, rows_of_numbers if column == "raw" else rows)
                table[column] = address(array)
            table["copies"] = address(copies.table)
            self._of_env = of_env
        table["advance"] = copies.address
        self._bind()

    def _bind(self) -> None:
        buffer, table = self._buffer, self.table
        for name in ("rewards", "env_rewards", "episode_starts", "terminated", "truncated", "final_values"):
            table[name] = address(getattr(buffer, name))
        table["observations"], table["actions"] = address(self._actor.inputs), address(self._actor.env_inputs)
        self._make_room_for_events(buffer.values.size)
        if isinstance(buffer, EpisodeMixin):
            table["n_episodes"], table["n_finished"] = buffer.n_episodes, address(buffer.n_finished)
        self._bound = buffer.values

    def _make_room_for_events(self, size: int) -> None:
        if len(self._events) < size:
            self._events = np.empty((size, self._kernels.EVENT))
            self._event_lengths = np.empty(size, np.int64)
            self.table["events"], self.table["event_lengths"] = (
                self._events.ctypes.data,
                self._event_lengths.ctypes.data,
            )

    def prepare(self, observations: np.ndarray, starts: np.ndarray, n_steps: int) -> tuple[int, int]:
        """Be ready for `rolling.roll` to be called elsewhere, for rollouts one after the other.

        Args:
            observations: As for `run`.
            starts: As for `run`.
            n_steps: Number of steps of all rollouts together.

        Returns:
            Addresses of the events, whose steps are those of their rollout, and of the progress.
        """
        self._set(observations, starts, 0)
        self.table["stops_at_end"] = False
        self._make_room_for_events(n_steps * len(self._starts))
        self._code = self._kernels.DONE
        return int(self.table["events"][0]), int(self.table["progress"][0])

    def end(self, code: int) -> None:
        """Take the code with which `rolling.roll` has ended elsewhere."""
        self._code = code

    def _set(self, observations: np.ndarray, starts: np.ndarray, first: int) -> None:
        self.current[:] = observations.reshape(self.current.shape)
        self._starts[:] = starts
        self._progress[:] = first, 0, 0

    def run(self, observations: np.ndarray, starts: np.ndarray, n_steps: int, stops_at_end: bool) -> int:
        """See `pg_agents.contract.CompiledSteps`."""
        actor, buffer = self._actor, self._buffer
        actor.bind()
        if self._bound is not buffer.values:
            self._bind()
        first = row_of(buffer, len(buffer.values))
        self._set(observations, starts, first)
        self.table["stops_at_end"] = stops_at_end
        if self._normalizer is not None:
            self._normalizer.read(self.table)
        self._code = self._kernels.call_roll(self._table, first, min(first + n_steps, len(buffer.values)))
        if self._normalizer is not None:
            refused = self._code in (self._kernels.NOT_FINITE_OBSERVATION, self._kernels.NOT_FINITE_REWARD)
            self._normalizer.write(None if refused else (self._env.copies.observed, self._raw_rewards))
        after = int(self._progress[0])
        actor.complete(first, after)
        return after - first

    @property
    def n_transitions(self) -> int:
        """See `pg_agents.contract.CompiledSteps`."""
        return int(self._progress[2])

    @property
    def is_finite(self) -> bool:
        """See `pg_agents.contract.CompiledSteps`."""
        return self._code in (self._kernels.DONE, self._kernels.EPISODE_ENDED)

    def refusal(self, n_steps: int) -> str:
        """See `pg_agents.contract.CompiledSteps`."""
        numbers = {
            self._kernels.NOT_FINITE_OBSERVATION: ("observation", self._raw_observations()),
            self._kernels.NOT_FINITE_REWARD: ("reward", self._raw_rewards),
            self._kernels.NOT_FINITE_OUTPUT: ("observation", self.observations),
        }
        if self._code in numbers and (said := not_finite(*numbers[self._code])) is not None:
            return f"{said[0]}, after {n_steps} steps in all: {said[1]}."
        if self._code == self._kernels.NOT_FINITE_OUTPUT:
            return explained(self._actor.not_finite(int(self._progress[0])), self._program.policy, n_steps)
        cut = np.flatnonzero(self.truncated & ~self.terminated)
        values, last = self._cut_values[: len(cut)], self._as_given(self.last_observations)[cut]
        wrong = int(np.argmin(np.isfinite(values) & np.isfinite(last).reshape(len(cut), -1).all(axis=1)))
        return (
            f"The value of the last observation of environment {cut[wrong]} is {values[wrong]}, after {n_steps} steps "
            f"in all. The observation: {last[wrong]}"
        )

    @property
    def episodes(self) -> list[tuple[int, int, float, float, int]]:
        """See `pg_agents.contract.CompiledSteps`."""
        n_events = int(self._progress[1])
        rows = self._events[:n_events].tolist()
        lengths = self._event_lengths[:n_events].tolist()
        return [
            (int(t), int(i), true, stated, length) for (i, true, stated, t), length in zip(rows, lengths, strict=True)
        ]

    @property
    def observations(self) -> np.ndarray:
        """See `pg_agents.contract.CompiledSteps`."""
        return self._as_given(self.current)

    @property
    def starts(self) -> np.ndarray:
        """See `pg_agents.contract.CompiledSteps`."""
        starts: np.ndarray = self._starts.copy()
        return starts

    def _raw_observations(self) -> np.ndarray:
        """Those of the last step, as the environment gave them."""
        shape = self._env.adapter.observation_space.shape or ()
        observed: np.ndarray = self._env.copies.observed
        return observed.reshape(len(observed), *shape)

    def _as_given(self, flat: np.ndarray) -> np.ndarray:
        space = self._env.adapter.observation_space
        normalizer = self._env.normalizer
        dtype = np.float32 if normalizer is not None and normalizer.norm_obs else space.dtype
        given: np.ndarray = flat.reshape(len(flat), *(space.shape or ())).astype(dtype)
        return given


# Arrays of an environment that the kernels read and write: their names, columns of the table, and types.
_OF_ENV = (
    ("copies.held", "held", np.bool_),
    ("copies.observed", "raw", np.float32),
    ("episode_returns", "returns", np.float64),
    ("episode_lengths", "lengths", np.int64),
    ("copies.terminated", "ended", np.bool_),
    ("copies.truncated", "cut", np.bool_),
)


def _check_env(env: CompiledEnv, policy: ActorCriticPolicy, n_envs: int) -> None:
    """Refuse an environment for which policy and buffer were not made.

    Raises:
        ValueError: With the reason.
    """
    adapter = env.adapter
    if adapter.num_envs != n_envs or len(env.copies.held) != n_envs:
        raise ValueError(f"The environment has {len(env.copies.held)} copies, but was to have {n_envs}: see `set_env`.")
    given, known = adapter.action_space, policy.action_space
    if given != known:
        raise ValueError(f"The environment's actions are {given}, but the policy's are {known}: see `set_env`.")


def _check_array(name: str, array: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Refuse an array whose address compiled code must not be given.

    Raises:
        ValueError: With what is allowed.
    """
    plain = isinstance(array, np.ndarray) and array.dtype == dtype and array.flags.carray
    if not plain or array.shape != shape:
        given = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(
            f"`{name}` must be an array of {np.dtype(dtype)} with the shape {shape}, without gaps, but is {given}."
        )


class _Normalizer:
    """VecNormalize's statistics, in and out of the table."""

    def __init__(self, env: VecNormalize, table: np.ndarray) -> None:
        self._env = env
        shape = env.observation_space.shape or ()
        self._means, self._variances = np.zeros((2, int(np.prod(shape, dtype=int))))
        self._counts, self._moments, self._discounted = np.zeros(2), np.zeros(2), np.zeros(env.num_envs)
        for name, array in (
            ("observation_mean", self._means),
            ("observation_variance", self._variances),
            ("counts", self._counts),
            ("reward_moments", self._moments),
            ("discounted", self._discounted),
        ):
            table[name] = address(array)

    def read(self, table: np.ndarray) -> None:
        """Take over settings and statistics: a callback may have changed them."""
        env = self._env
        table["normalizes_observations"], table["normalizes_rewards"] = env.norm_obs, env.norm_reward
        table["updates_statistics"] = env.training
        table["clip_observation"], table["clip_reward"] = env.clip_obs, env.clip_reward
        table["epsilon"], table["discount"] = env.epsilon, env.gamma
        if env.norm_obs:
            assert isinstance(env.obs_rms, RunningMeanStd), "checked by `compiled_env`"
            self._means[:], self._variances[:] = env.obs_rms.mean.ravel(), env.obs_rms.var.ravel()
            self._counts[0] = env.obs_rms.count
        self._moments[:], self._counts[1] = (env.ret_rms.mean, env.ret_rms.var), env.ret_rms.count
        self._discounted[:] = env.returns

    def write(self, step: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Give back the statistics, with the last step's observations and rewards as the environment gave them.

        Args:
            step: These; None if they were refused.
        """
        env = self._env
        shape = env.observation_space.shape or ()
        if env.norm_obs:
            assert isinstance(env.obs_rms, RunningMeanStd), "checked by `compiled_env`"
            env.obs_rms.mean, env.obs_rms.var = self._means.reshape(shape).copy(), self._variances.reshape(shape).copy()
            env.obs_rms.count = float(self._counts[0])
        env.ret_rms.mean, env.ret_rms.var = np.array(self._moments[0]), np.array(self._moments[1])
        env.ret_rms.count = float(self._counts[1])
        env.returns = self._discounted.copy()
        if step is None:
            return
        observations, rewards = step
        env.old_obs = observations.reshape(env.num_envs, *shape).astype(env.venv.observation_space.dtype)
        env.old_reward = rewards.astype(np.float32)
