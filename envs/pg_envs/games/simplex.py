"""Figures of mixed strategies: paths on the simplex of three actions, or probabilities of any actions over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CORNERS = np.array([[0.0, 0.0], [0.5, np.sqrt(0.75)], [1.0, 0.0]])
"""Places of the pure strategies of three actions, the second one on top."""


def policy_figure(
    policies: np.ndarray, timesteps: Sequence[int], names: Sequence[str], equilibrium: np.ndarray | None = None
) -> Any:
    """The path of a policy: on the simplex for three actions, otherwise each action's probability over time.

    Args:
        policies: Action probabilities, of shape `(times, actions)`.
        timesteps: Their times, of shape `(times,)`.
        names: Names of the actions.
        equilibrium: An equilibrium to compare with, of shape `(actions,)`.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _matplotlib()(figsize=(5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    policies = np.asarray(policies)
    if policies.shape[1] == 3:
        draw_simplex(axes, names, equilibrium)
        draw_path(axes, policies)
        axes.legend(loc="upper right", frameon=False)
        return figure
    lines = axes.plot(timesteps, policies)
    for line, name, goal in zip(lines, names, [None] * len(names) if equilibrium is None else equilibrium, strict=True):
        line.set_label(name)
        if goal is not None:
            axes.axhline(goal, color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(xlabel="steps", ylabel="probability", ylim=(0, 1))
    axes.legend(frameon=False)
    return figure


def draw_simplex(axes: Any, names: Sequence[str], equilibrium: np.ndarray | None = None) -> None:
    """The triangle of mixtures of three actions, with the names of its corners and a star at the equilibrium."""
    axes.plot(*on_simplex(np.eye(3)[[0, 1, 2, 0]]).T, color="0.3", linewidth=1, zorder=1)
    for middle in ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)):
        axes.plot(*on_simplex([middle, (1 / 3, 1 / 3, 1 / 3)]).T, color="0.85", linewidth=0.8, zorder=0)
    for corner, name, below in zip(CORNERS, names, (True, False, True), strict=True):
        shift, anchor = (-0.03, "top") if below else (0.02, "bottom")
        axes.text(corner[0], corner[1] + shift, name, ha="center", va=anchor)
    if equilibrium is not None:
        axes.plot(*on_simplex(equilibrium), "*", color="#d62728", markersize=14, zorder=4, label="equilibrium")
    axes.set_aspect("equal")
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 0.97))
    axes.axis("off")


def draw_path(axes: Any, policies: np.ndarray, width: float = 1.2) -> Any:
    """A path on the simplex that turns from dark to bright, with a circle at its start and a square at its end.

    Returns:
        The coloured line, from which a colour bar can be made.
    """
    from matplotlib.collections import LineCollection

    points = on_simplex(policies)
    path = LineCollection(list(np.stack([points[:-1], points[1:]], axis=1)), cmap="viridis", linewidth=width, zorder=2)
    path.set_array(np.linspace(0, 1, max(len(points) - 1, 1))[: len(points) - 1])
    axes.add_collection(path)
    for point, marker, name in ((points[0], "o", "start"), (points[-1], "s", "end")):
        axes.plot(*point, marker, color="black", markersize=5, zorder=3, label=name, linestyle="")
    return path


def on_simplex(policies: Any) -> np.ndarray:
    """Probabilities of three actions, `(..., 3)`, as points in the plane, `(..., 2)`."""
    points: np.ndarray = np.asarray(policies) @ CORNERS
    return points


def check_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        ImportError: matplotlib is not installed.
    """
    _matplotlib()


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib: pip install 'pg-agents[plots]', or ExploitabilityCallback(..., figure=False)."
        ) from error
    return Figure
