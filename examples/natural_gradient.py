"""The natural gradient: Kakade's two states, and two sets of parameters for one policy.

    python examples/natural_gradient.py    # exact, no seeds; writes docs/images/examples/natural_gradient.png

Staying in state 0 pays 1, staying in state 1 pays 2, and going pays nothing. At the start, the policy is in state 0
for 80 % of the time, so the plain gradient first learns to stay there. State 1 is then hardly ever visited, and its
part of the gradient vanishes. The natural gradient divides by the visits.

Then the same policies are written with other parameters: those of state 1 count three times. The plain gradient takes
another path, the natural gradient the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from common import arguments, save
from matplotlib.figure import Figure

from pg_agents.theory import ascend, two_states

GAMMA = 0.99
START = np.array([[np.log(4), 0.0], [-np.log(4), 0.0]])  # stays with probability 0.8 in state 0, and 0.2 in state 1
SCALES = {"θ": [[1.0], [1.0]], "φ, with θ = (φ₀, 3 φ₁)": [[1.0], [3.0]]}  # by state
STEPS = {False: (2500, 0.1), True: (200, 0.03)}  # how many, and how long with (1 - γ) J as the objective


def paths(natural: bool, scale: Sequence[Sequence[float]], n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean reward (1 - γ) J, and probability to stay in either state, after each step."""
    mdp, step_size = two_states(GAMMA), (1 - GAMMA) * STEPS[natural][1]
    solutions = [mdp.solve(theta) for theta in ascend(mdp, START, n_steps, step_size, natural=natural, scale=scale)]
    return np.array([(1 - GAMMA) * one.J for one in solutions]), np.array([one.policy[:, 0] for one in solutions])


def on_plateau(rewards: np.ndarray) -> float:
    """Share of the steps up to a mean reward of 1.9 that are spent between 0.95 and 1.05."""
    needed = int(np.argmax(rewards > 1.9)) or len(rewards)
    return float(((rewards[:needed] > 0.95) & (rewards[:needed] < 1.05)).mean())


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=None)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for natural, (n_steps, _) in STEPS.items():
        name = "natural gradient" if natural else "plain gradient"
        found = {label: paths(natural, scale, max(int(n_steps * options.scale), 2)) for label, scale in SCALES.items()}
        rewards, _ = found["θ"]
        needed = int(np.argmax(rewards > 1.9)) or len(rewards)
        print(f"{name}: {on_plateau(rewards):.0%} of the steps up to 1.9 are on the plateau")
        colours = ("C1", "black") if natural else ("C0", "navy")
        left.plot(np.arange(len(rewards)) / needed, rewards, color=colours[0], label=name)
        for (label, (_, stay)), style, colour in zip(found.items(), ("-", "--"), colours, strict=True):
            right.plot(*stay.T, style, color=colour, label=f"{name} of {label}", linewidth=4 if style == "-" else 1.5)
    left.axhline(1.0, color="0.7", linestyle=":")
    left.set(xlim=(0, 1.4), xlabel="steps, as a share of those to a mean reward of 1.9", ylabel="mean reward, exact")
    left.legend(frameon=False)
    right.plot(0.8, 0.2, "o", color="black")
    right.set(xlabel="π(stay | state 0)", ylabel="π(stay | state 1)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    right.legend(frameon=False)
    save(figure, "natural_gradient", options.output)


if __name__ == "__main__":
    main()
