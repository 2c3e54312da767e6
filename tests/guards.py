"""Guard zones round the arrays whose addresses compiled code gets.

`Guards` replaces the functions by which those arrays are allocated: each array then lies between two zones of a known
pattern, which `check` compares. A write beyond an array, which NumPy's and Numba's checks of bounds do not see, is
found by the first check after it.
"""

import numpy as np
import stable_baselines3.common.buffers
import torch as th

import pg_agents.buffers
import pg_envs.worlds.copies
from pg_agents.engines.mlp import acting, engine, learning, natural, predicting, rolls, tables

ZONE = 512  # bytes on either side
PATTERN = np.uint8(0xA5)
MODULES = (
    *(acting, engine, learning, natural, predicting, rolls, tables),
    *(pg_agents.buffers, pg_envs.worlds.copies, stable_baselines3.common.buffers),
)


class OverrunError(AssertionError):
    """Something was written beyond an array."""


class Guards:
    """Arrays between guard zones.

    Args:
        monkeypatch: Pytest's, which takes the replacements back.
    """

    def __init__(self, monkeypatch):
        self._zones, self.n_checks = [], 0
        guarded = _Numpy(self)
        for module in MODULES:
            monkeypatch.setattr(module, "np", guarded)
        monkeypatch.setattr(tables.Program, "_zeros", lambda program, size: self._of_program(program, size))
        monkeypatch.setattr(tables, "initial_state", self._initial_state(tables.initial_state))

    def zeros(self, shape, dtype=float):
        """`numpy.zeros`, at the beginning of a cache line and with nothing between the array and its zones."""
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        n_bytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
        memory = np.full(n_bytes + 2 * ZONE + 64, PATTERN)
        first = ZONE + -(memory.ctypes.data + ZONE) % 64
        memory[first : first + n_bytes] = 0
        self._zones.append((memory, first, first + n_bytes))
        return memory[first : first + n_bytes].view(dtype).reshape(shape)

    def check(self):
        """Raise `OverrunError` if a zone has changed."""
        self.n_checks += 1
        for memory, first, after in self._zones:
            for name, zone in (("before", memory[:first]), ("after", memory[after:])):
                if (zone != PATTERN).any():
                    raise OverrunError(f"{(zone != PATTERN).sum()} bytes {name} an array of {after - first} bytes")

    def parameters(self, policy):
        """Put a policy's parameters between zones too."""
        for parameter in policy.parameters():
            array = self.zeros(tuple(parameter.shape), np.float32)
            array[...] = parameter.detach().numpy()
            parameter.data = th.from_numpy(array)

    def _of_program(self, program, size):
        return program._address(self.zeros(size, np.float32))

    def _initial_state(self, original):
        def initial_state(optimizer, parameter):
            state = original(optimizer, parameter)
            for name, value in state.items():
                if isinstance(value, th.Tensor):
                    array = self.zeros(tuple(value.shape), np.float32)
                    array[...] = value.numpy()
                    state[name] = th.from_numpy(array)
            return state

        return initial_state


class _Numpy:
    """NumPy, whose new arrays lie between guard zones."""

    def __init__(self, guards):
        self._guards = guards

    def __getattr__(self, name):
        return getattr(np, name)

    def zeros(self, shape, dtype=float):
        return self._guards.zeros(shape, dtype)

    def empty(self, shape, dtype=float):
        return self._guards.zeros(shape, dtype)

    def zeros_like(self, array):
        return self._guards.zeros(array.shape, array.dtype)
