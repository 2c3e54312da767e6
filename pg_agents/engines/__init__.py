"""Engines: what acts for an agent, and what turns a filled rollout buffer into an update of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch as th

from pg_agents.checks import check_choice
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.mlp import MLPEngine, NotServedError, check_served

if TYPE_CHECKING:
    from pg_agents.agent import PolicyGradient

ENGINES = ("auto", "autograd", "mlp")


class Actor(Protocol):
    """Acts for one rollout.

    Attributes:
        writes: It writes observation, action, V and log π into the next row of the agent's rollout buffer.
        checks: It refuses observations that are not finite.
    """

    writes: bool
    checks: bool

    def __call__(self, observations: Any) -> tuple[np.ndarray, np.ndarray]:
        """Actions, and the same as the environment takes them, for one observation of each environment."""
        ...

    def tensors(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """The observations that were acted on last, V, and log π of the actions drawn."""
        ...

    def is_current(self) -> bool:
        """Whether it still acts with the policy's parameters, should these have been given another place."""
        ...

    def finish(self) -> None:
        """Complete what was written, when the environment has answered."""
        ...


class Engine(Protocol):
    """An engine keeps no state of its own: parameters and the optimiser's state are the policy's."""

    def fits(self, agent: PolicyGradient) -> bool:
        """Whether the agent's policy is still one that this engine serves."""
        ...

    def actor(self, agent: PolicyGradient) -> Actor:
        """What acts in the agent's next rollout."""
        ...

    def values(self, agent: PolicyGradient, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        ...

    def final_values(self, agent: PolicyGradient, observations: list[Any]) -> th.Tensor:
        """V of single observations, each the last of an episode, of shape `(n,)`."""
        ...

    def update(self, agent: PolicyGradient) -> Callable[[], dict[str, Any]]:
        """Train on `agent.rollout_buffer`, and call `agent._on_epoch` before each epoch if it is not None.

        Returns:
            A function that gives what to log, by the key without its `train/` prefix.
        """
        ...


def check_engine(name: str, agent: PolicyGradient) -> None:
    """Refuse an engine that does not exist, or that cannot serve the agent, without compiling anything.

    Raises:
        ValueError: With the reason.
    """
    check_choice("engine", name, ENGINES)
    if name == "mlp":
        try:
            check_served(agent)
        except NotServedError as reason:
            raise _refusal(reason) from None


def make_engine(name: str, agent: PolicyGradient) -> Engine:
    """The engine of that name; `"auto"` is the fastest that serves the agent.

    Raises:
        ValueError: The engine does not serve the agent.
    """
    check_choice("engine", name, ENGINES)
    if name == "autograd":
        return AutogradEngine()
    try:
        check_served(agent)
        return MLPEngine(agent)
    except NotServedError as reason:
        if name == "mlp":
            raise _refusal(reason) from reason
        if agent.verbose >= 1:
            print(f"Using the autograd engine; the compiled one does not serve this agent: {reason}.")
        return AutogradEngine()


def _refusal(reason: NotServedError) -> ValueError:
    return ValueError(
        f"`engine` is 'mlp', which does not serve this agent: {reason}. engine='auto' takes autograd in its place."
    )
