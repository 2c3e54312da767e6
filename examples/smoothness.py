"""7. Smoothness: J as a function of the parameters, for a softmax policy and for argmax of Q.

    python examples/smoothness.py    # exact, no seeds; writes docs/images/examples/smoothness.png

Both policies read the same table of numbers θ(s, a) in a small MDP. Along a line through parameter space, the softmax's
J is a smooth curve whose slope is ∇J; the greedy policy's jumps wherever two actions change places, and is flat in
between: there is nothing to follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from common import arguments, save
from matplotlib.figure import Figure

from pg_agents.theory import TabularMDP

SURE = 1e3  # a softmax of numbers this far apart is an argmax


def along(mdp: TabularMDP, start: np.ndarray, direction: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """J of the softmax, its slope, and J of the argmax, at θ = start + x direction."""
    softmax, slopes, greedy = [], [], []
    for x in points:
        theta = start + x * direction
        solution = mdp.solve(theta)
        softmax.append(solution.J)
        slopes.append(float((solution.gradient * direction).sum()))
        greedy.append(mdp.solve(SURE * np.eye(theta.shape[1])[theta.argmax(axis=1)]).J)
    return np.array(softmax), np.array(slopes), np.array(greedy)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=None)
    rng = np.random.default_rng(3)
    mdp = TabularMDP.random(n_states=5, n_actions=3, seed=3, horizon=10)
    start, direction = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    points = np.linspace(-3, 3, max(int(601 * options.scale), 21))
    softmax, slopes, greedy = along(mdp, start, direction, points)
    jumps = int((np.abs(np.diff(greedy)) > 1e-9).sum())
    print(
        f"The greedy policy's J jumps {jumps} times; the softmax's slope is never steeper than {abs(slopes).max():.2f}."
    )
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="x, with θ = θ₀ + x d", ylabel="J(θ), exact")
    axes.plot(points, softmax, label="softmax(θ)")
    axes.plot(points, greedy, label="argmax θ", drawstyle="steps-mid")
    middle = len(points) // 2
    near = np.array([-0.8, 0.8])
    axes.plot(points[middle] + near, softmax[middle] + slopes[middle] * near, color="black", label="slope: ∇J · d")
    axes.legend(frameon=False)
    save(figure, "smoothness", options.output)


if __name__ == "__main__":
    main()
