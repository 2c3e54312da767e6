"""Engines: what turns a filled rollout buffer into an update of the policy's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pg_agents.checks import check_choice
from pg_agents.engines.autograd import AutogradEngine

if TYPE_CHECKING:
    from pg_agents.agent import PolicyGradient


class Engine(Protocol):
    """An engine is stateless: parameters and optimiser state are the policy's."""

    def update(self, agent: PolicyGradient) -> dict[str, Any]:
        """Train on `agent.rollout_buffer` and return what to log, by the key without its `train/` prefix."""
        ...


ENGINES: dict[str, type[Engine]] = {"autograd": AutogradEngine}


def make_engine(name: str) -> Engine:
    """The engine of that name; `"auto"` is the fastest that serves every agent.

    Raises:
        ValueError: There is no engine of that name.
    """
    check_choice("engine", name, ("auto", *ENGINES))
    return ENGINES["autograd" if name == "auto" else name]()
