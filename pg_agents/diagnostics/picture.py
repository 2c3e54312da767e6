"""A picture of the policy for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike
from stable_baselines3.common.logger import Figure

from pg_agents.diagnostics.base import Diagnostic

_MAX_STATES = 12  # number of paths that remain distinguishable in one picture
_MAX_NAMES = 40  # number of names that fit beside a table


class PolicyPicture(Diagnostic):
    """Draws a policy over Discrete actions for TensorBoard, as `policy/picture`: before rollouts and at the end.

    With three actions and at most 12 states, the picture shows each state's path on the simplex, whose corners are the
    actions; otherwise a table of the probabilities, states by actions.

    Args:
        states: Observations to show, in the form that the policy receives, of shape `(n, ...)`; None for all
            observations of a Discrete space.
        every: Number of environment steps between pictures.
        state_names: Names of the states; None for `state 0`, `state 1`, ...
        action_names: Names of the actions; None for `action 0`, `action 1`, ...
        draw: Write pictures to the TensorBoard log, if there is one; False only keeps the probabilities.
        verbose: Verbosity, as in SB3.

    Attributes:
        timesteps: Numbers of environment steps at which the policy was evaluated.
        probabilities: Its probabilities at these times, each of shape `(n_states, n_actions)`.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the actions or states cannot be drawn.
    """

    def __init__(
        self,
        states: ArrayLike | None = None,
        every: int = 50_000,
        *,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        draw: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose)
        self.states = states
        self.state_names = state_names
        self.action_names = action_names
        self.draw = draw
        self.timesteps: list[int] = []
        self.probabilities: list[np.ndarray] = []

    def _check_model(self) -> None:
        super()._check_model()
        observations, actions = self.model.observation_space, self.model.action_space
        if isinstance(observations, spaces.Dict):
            raise ValueError("PolicyPicture does not support Dict observations.")
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"PolicyPicture draws the probabilities of Discrete actions, not of {actions}.")
        if self.states is not None:
            shown = np.asarray(self.states)
            if shown.ndim == 0 or shown.shape[1:] != observations.shape:
                raise ValueError(
                    f"`states` must be observations of shape (n, {', '.join(map(str, observations.shape or ()))}), but "
                    f"has the shape {shown.shape}."
                )
            self._shown = shown
        elif isinstance(observations, spaces.Discrete):
            self._shown = np.arange(observations.start, observations.start + observations.n)
        else:
            raise ValueError(f"`states` must be given, because the observations are not Discrete, but {observations}.")
        for name, given, n in (
            ("state_names", self.state_names, len(self._shown)),
            ("action_names", self.action_names, int(actions.n)),
        ):
            if given is not None and len(given) != n:
                raise ValueError(f"`{name}` must be {n} names, but is {given!r}.")

    def _restart(self) -> None:
        super()._restart()
        self.timesteps, self.probabilities = [], []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self._measured_at >= self.every:
            self._measure()

    def _on_rollout_end(self) -> None:
        """Do nothing: the policy is the one that was drawn when the rollout began."""

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._measured_at:
            self._measure()

    def _measure(self) -> None:
        self._measured_at = self.num_timesteps
        translation = getattr(self.model, "translation", None)  # agents of SB3 have none
        shown = self._shown if translation is None else translation.observations(self._shown)
        observations, _ = self._policy.obs_to_tensor(shown)
        found = self._distribution(observations).distribution
        assert isinstance(found, th.distributions.Categorical)
        self.timesteps.append(self.num_timesteps)
        self.probabilities.append(found.probs.cpu().numpy())
        if self.draw and self._tensorboards:
            self._write({"policy/picture": Figure(self.figure(), close=True)})

    def figure(self) -> Any:
        """The picture as a matplotlib figure; after training, that of the learnt policy.

        Raises:
            ValueError: The callback has seen no training.
        """
        from matplotlib.figure import Figure as Canvas

        if not self.probabilities:
            raise ValueError("There is no policy to draw yet: pass this callback to `learn` first.")
        paths = np.stack(self.probabilities)
        _, n_states, n_actions = paths.shape
        actions = self.action_names or [f"action {i}" for i in range(n_actions)]
        states = self.state_names or [f"state {i}" for i in range(n_states)]
        canvas = Canvas(figsize=(5, 4.5), layout="constrained")
        axes = canvas.add_subplot(title=f"policy after {self.timesteps[-1]:,} steps")
        if n_actions == 3 and n_states <= _MAX_STATES:
            _draw_simplex(axes, paths, states, actions)
        else:
            picture = axes.imshow(paths[-1], vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.set_xticks(range(n_actions), actions)
            named = range(0, n_states, -(-n_states // _MAX_NAMES))
            axes.set_yticks(named, [states[i] for i in named])
            canvas.colorbar(picture, label="probability")
        return canvas


def _draw_simplex(axes: Any, paths: np.ndarray, states: Sequence[str], actions: Sequence[str]) -> None:
    corners = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])
    axes.plot(*corners[[0, 1, 2, 0]].T, color="0.3", linewidth=1)
    for corner, name, side in zip(corners, actions, ("top", "top", "bottom"), strict=True):
        axes.text(*corner, name, ha="center", va=side)
    for state, name in enumerate(states):
        points = paths[:, state] @ corners
        axes.plot(*points.T, linewidth=1, marker="o", markevery=[-1], label=name)
    axes.set(aspect="equal", xlim=(-0.1, 1.1), ylim=(-0.1, 1.0))
    axes.axis("off")
    if len(states) > 1:
        axes.legend(frameon=False, fontsize="small")
