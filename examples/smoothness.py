"""7. Smoothness: policy and J as functions of the parameters, for a softmax and for the argmax of Q.

    python examples/smoothness.py    # exact, no seeds; writes docs/images/examples/smoothness.png

Both policies read the same table of numbers θ(s, a) in a small MDP, and the greedy policy treats them as Q. Along a
line through parameter space, the softmax's probabilities and J are smooth curves, and ∇J is the slope of J. The
greedy policy flips whenever another action gets the largest number. In between its J is flat, so there is no slope to
follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from common import arguments, save
from matplotlib.figure import Figure
from scipy.special import softmax

from pg_agents.theory import TabularMDP

SURE = 1e3  # a softmax of numbers this far apart is an argmax


def along(mdp: TabularMDP, start: np.ndarray, direction: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """J of the softmax, its slope, and J of the argmax, at θ = start + x direction."""
    smooth, slopes, greedy = [], [], []
    for x in points:
        theta = start + x * direction
        solution = mdp.solve(theta)
        smooth.append(solution.J)
        slopes.append(float((solution.gradient * direction).sum()))
        greedy.append(mdp.solve(SURE * np.eye(theta.shape[1])[theta.argmax(axis=1)]).J)
    return np.array(smooth), np.array(slopes), np.array(greedy)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=None)
    rng = np.random.default_rng(3)
    mdp = TabularMDP.random(n_states=5, n_actions=3, seed=3, horizon=10)
    start, direction = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    points = np.linspace(-3, 3, max(int(601 * options.scale), 21))
    smooth, slopes, greedy = along(mdp, start, direction, points)
    jumps = int((np.abs(np.diff(greedy)) > 1e-9).sum())
    print(
        f"The greedy policy's J jumps {jumps} times; the softmax's slope is never steeper than {abs(slopes).max():.2f}."
    )
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    tables = start + points[:, None, None] * direction
    flips = (np.diff(tables.argmax(axis=2), axis=0) != 0).sum(axis=0)
    numbers = tables[:, flips.argmax()]  # θ(s, ·) of the state in which argmax changes most often
    for action in range(numbers.shape[1]):
        (line,) = left.plot(points, softmax(numbers, axis=1)[:, action], label=f"softmax, action {action}")
        chosen = numbers.argmax(axis=1) == action
        left.plot(points, chosen, color=line.get_color(), linestyle=":", drawstyle="steps-mid")
    left.plot([], [], color="0.3", linestyle=":", label="argmax")
    left.set(xlabel="x, with θ = θ₀ + x d", ylabel="π(a|s) in one state")
    left.legend(frameon=False)
    right.set(xlabel="x, with θ = θ₀ + x d", ylabel="J(θ), exact")
    right.plot(points, smooth, label="softmax(θ)")
    right.plot(points, greedy, label="argmax θ", drawstyle="steps-mid")
    middle = len(points) // 2
    near = np.array([-0.8, 0.8])
    right.plot(points[middle] + near, smooth[middle] + slopes[middle] * near, color="black", label="slope: ∇J · d")
    right.legend(frameon=False)
    save(figure, "smoothness", options.output)


if __name__ == "__main__":
    main()
