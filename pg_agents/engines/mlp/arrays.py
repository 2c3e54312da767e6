"""Which arrays of a rollout buffer the kernels may be given: they see an address, and neither size nor type."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape

from pg_agents.buffers import EpisodeMixin

# Methods of a buffer whose work the compiled engine does itself.
OF_A_BUFFER = ("get", "add", "_get_samples", "draw_order")

_FLOAT, _FLAG = np.dtype(np.float32), np.dtype(np.bool_)
_FLOATS = frozenset(map(np.dtype, ("f2", "f4", "f8")))
_NUMBERS = _FLOATS | frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")))
# Written by the kernels while a rollout is collected.
_WRITTEN = (
    *(("values", _FLOAT), ("log_probs", _FLOAT), ("rewards", _FLOAT), ("episode_starts", _FLOAT)),
    *(("env_rewards", _FLOAT), ("final_values", _FLOAT), ("terminated", _FLAG), ("truncated", _FLAG)),
)
# Read by an update, from arrays of any floating-point type.
_READ = ("values", "log_probs", "advantages", "returns")


# Of a buffer, to find out whether one was replaced.
_all = attrgetter("observations", "actions", *(name for name, _ in _WRITTEN))


def arrays_of(buffer: SB3RolloutBuffer) -> tuple[Any, ...]:
    """The arrays that the kernels write into; those of Dict observations come last."""
    found: tuple[Any, ...] = _all(buffer)
    return (*found, *found[0].values()) if isinstance(found[0], dict) else found


def row_of(buffer: SB3RolloutBuffer, size: int) -> int:
    """The row that comes next, of so many. As an index of NumPy's, a `pos` below 0 counts from the end.

    Raises:
        IndexError: There is no such row.
    """
    try:
        return range(size)[buffer.pos]
    except IndexError:
        raise IndexError(
            f"The rollout buffer has {size} rows, and its `pos` is {buffer.pos}: the buffer, or the agent's `n_steps`, "
            "has been changed."
        ) from None


class Arrays:
    """The arrays of a rollout buffer that belong to a policy.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        space = policy.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self._is_dict = isinstance(space, spaces.Dict)
        self._observations: dict[str, tuple[int, ...]] = {key: get_obs_shape(part) for key, part in parts.items()}  # type: ignore[misc] # parts are not nested
        self._action = (get_action_dim(policy.action_space),)

    def misfit(self, buffer: SB3RolloutBuffer) -> str | None:
        """Why the kernels may not be given a buffer's arrays; None if they may.

        While the buffer is being filled, they write into its arrays of shape `(T, N, ...)`. Once it is full they read,
        also arrays that its `get` has flattened.
        """
        if not vars(buffer).keys().isdisjoint(OF_A_BUFFER):
            return "a method of the buffer was replaced"
        size, n_envs = buffer.buffer_size, buffer.n_envs
        if not buffer.full or (isinstance(buffer, EpisodeMixin) and buffer.pos < size):
            return self._unwritable(buffer, (size, n_envs))
        if buffer.pos != size:
            return f"the full buffer has {buffer.pos} of {size} steps"
        return self._unreadable(buffer, (size * n_envs, 1) if buffer.generator_ready else (size, n_envs))

    def _unwritable(self, buffer: Any, rows: tuple[int, ...]) -> str | None:
        for name, dtype in _WRITTEN:
            array = getattr(buffer, name, None)
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != rows or not array.flags.carray:
                return _said(name, array, f"a plain array of {dtype} with the shape {rows}")
        if isinstance(buffer, EpisodeMixin):
            finished = buffer.n_finished
            if finished.dtype != np.int64 or finished.shape != rows[1:] or not finished.flags.carray:
                return _said("n_finished", finished, f"a plain array of int64 with the shape {rows[1:]}")
        for name, array, shape in self._with_numbers(buffer, rows):
            if type(array) is not np.ndarray or array.dtype not in _NUMBERS or array.shape != shape:
                return _said(name, array, f"an array of numbers with the shape {shape}")
            if not array.flags.carray:
                return _said(name, array, "a plain array that can be written")
        return None

    def _unreadable(self, buffer: Any, rows: tuple[int, ...]) -> str | None:
        for name in _READ:
            array = getattr(buffer, name, None)
            if not isinstance(array, np.ndarray) or array.dtype not in _FLOATS or array.shape != rows:
                return _said(name, array, f"an array of floating-point numbers with the shape {rows}")
        if buffer.generator_ready:
            rows = rows[:1]
        for name, array, shape in self._with_numbers(buffer, rows):
            if not isinstance(array, np.ndarray) or array.dtype not in _NUMBERS or array.shape != shape:
                return _said(name, array, f"an array of numbers with the shape {shape}")
        trained_on = buffer.trained_on
        if trained_on is not None and trained_on.shape != (buffer.buffer_size, buffer.n_envs):
            return _said("trained_on", trained_on, f"of the shape {(buffer.buffer_size, buffer.n_envs)}")
        return None

    def _with_numbers(self, buffer: Any, rows: tuple[int, ...]) -> list[tuple[str, Any, tuple[int, ...]]]:
        """Actions and observations, with the shapes that they must have."""
        observations = buffer.observations if self._is_dict else {"": buffer.observations}
        if not isinstance(observations, dict) or observations.keys() != self._observations.keys():
            return [("observations", observations, rows)]
        found = [("actions", buffer.actions, rows + self._action)]
        for key, shape in self._observations.items():
            found.append((f"observations[{key!r}]" if key else "observations", observations[key], rows + shape))
        return found


def _said(name: str, array: Any, allowed: str) -> str:
    if isinstance(array, np.ndarray):
        given = f"an array of {array.dtype} with the shape {array.shape}"
        given += "" if array.flags.c_contiguous else ", not contiguous" if array.flags.writeable else ", read-only"
    else:
        given = f"a {type(array).__name__}"
    return f"the buffer's `{name}` is {given}, but must be {allowed}"
