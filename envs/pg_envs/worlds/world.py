"""`World`: an environment as three scalar functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.checks import check_number

METADATA: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 20}


@dataclass(frozen=True, eq=False)
class World:
    """An environment, written for one copy.

    The three functions read and write arrays of numbers, one copy's own:

        def start(state, random): ...                      # write the first state of an episode
        def step(state, action, random): ...               # move, return (reward, terminated)
        def observe(state, observation): ...               # write the observation

    `state` are `n_state` float64, `random` the copy's generator for `uniform`, `below` and `standard_normal`, `action`
    int64 for discrete actions and float32 for a Box, `observation` float32. Each function may have one more parameter,
    `constants`: the world's constants, float64, which no function may write.

    Numba compiles the functions. Arrays may be indexed by integers and no more (no slices, no `len`); modules' numbers
    and `math` are there; functions that are called need the decorator `compiled`. An index is not checked. Numbers have
    machine types: write `np.float64(action[0])` for arithmetic in float64 (Numba's `float` keeps float32).

    Attributes:
        start: Writes the first state of an episode.
        step: One step; returns the reward and whether the task ended. A time limit is not the world's business.
        observe: Writes the observation.
        n_state: Number of floats of a copy's state.
        observation_space: A Box of float32, Discrete from 0, or MultiDiscrete; discrete observations are written as
            numbers.
        action_space: A Box of float32, Discrete from 0, or MultiDiscrete. Actions outside a Box are clipped before
            `step`.
        constants: Numbers that the functions read, such as sizes.
        info: `info(states)` gives entries of the info dictionary, arrays with one row per copy, of `(copies, n_state)`.
        draw: `draw(state, canvas)` draws the state of one copy, `(n_state,)`.
        controller: `controller(states)` gives the actions of a reference controller, which knows the equations.
        optimum: Mean undiscounted episode return of the best policy, or a function that computes it; None if unknown.
        known_returns: Exact mean returns of further policies by name, or a function that computes them; `controller`,
            `random` and `zero` here need no simulation.
        image_size: Width and height of a picture, in pixels.
        metadata: Metadata of both faces, in addition to their own.

    Raises:
        ValueError: A space or a size is not allowed.
        TypeError: A function is not a plain function with these parameters.
    """

    start: Callable[..., None]
    step: Callable[..., tuple[float, bool]]
    observe: Callable[..., None]
    n_state: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    constants: np.ndarray | tuple[float, ...] = ()
    info: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    draw: Callable[[np.ndarray, Any], None] | None = None
    controller: Callable[[np.ndarray], np.ndarray] | None = None
    optimum: float | Callable[[], float | None] | None = None
    known_returns: Mapping[str, float] | Callable[[], Mapping[str, float]] = field(default_factory=dict)
    image_size: tuple[int, int] = (400, 400)
    metadata: Mapping[str, Any] = field(default_factory=lambda: METADATA)

    def __post_init__(self) -> None:
        check_number("n_state", self.n_state, at_least=1, integer=True)
        for name, space in (("observation_space", self.observation_space), ("action_space", self.action_space)):
            discrete = isinstance(space, spaces.Discrete) and space.start == 0
            discrete |= isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any()
            if not discrete and not (isinstance(space, spaces.Box) and space.dtype == np.float32):
                raise ValueError(
                    f"`{name}` of a World must be a Box of float32, a Discrete from 0 or a flat MultiDiscrete from 0, "
                    f"but is {space}."
                )
        object.__setattr__(self, "constants", np.ascontiguousarray(self.constants, dtype=np.float64))
        for name, n_parameters in (("start", 2), ("step", 3), ("observe", 2)):
            function = getattr(self, name)
            if not isinstance(function, FunctionType) or function.__closure__:
                raise TypeError(f"`{name}` of a World must be a plain function without a closure, but is {function!r}.")
            if function.__code__.co_argcount - n_parameters not in (0, 1):
                raise TypeError(
                    f"`{name}` of a World must have {n_parameters} parameters, and `constants` if it needs them, but "
                    f"{function.__qualname__} has {function.__code__.co_argcount}."
                )

    @property
    def discrete_actions(self) -> bool:
        """Actions are int64; else float32."""
        return not isinstance(self.action_space, spaces.Box)

    @property
    def n_action(self) -> int:
        """Numbers of an action."""
        return int(np.prod(self.action_space.shape or (1,), dtype=int))

    @property
    def n_observation(self) -> int:
        """Numbers of an observation as it is written."""
        return int(np.prod(self.observation_space.shape or (1,), dtype=int))
