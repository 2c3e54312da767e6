"""Pictures of worlds, drawn by the Gymnasium environments that the worlds equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from gymnasium.envs.registration import load_env_creator

from pg_envs.rendering import Canvas


@dataclass(frozen=True)
class Picture:
    """`World.draw`, as a call of Gymnasium's renderer.

    Attributes:
        entry_point: Gymnasium's environment, as `"module:class"`.
        show: `show(env, state)` puts a world's state, `(n_state,)`, into such an environment.
        arguments: Its arguments, as pairs of name and value.
    """

    entry_point: str
    show: Callable[[Any, np.ndarray], None]
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, state: np.ndarray, canvas: Canvas) -> None:
        """Draw a state."""
        env = _env(self.entry_point, self.arguments)
        self.show(env, state)
        canvas.paste(env.render())


@cache
def _env(entry_point: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    return load_env_creator(entry_point)(render_mode="rgb_array", **dict(arguments))
