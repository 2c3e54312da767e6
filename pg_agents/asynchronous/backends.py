"""The backends by name, and which of them serves an agent."""

from __future__ import annotations

from collections.abc import Callable

from pg_agents.asynchronous.contract import Backend
from pg_agents.asynchronous.linked import Linked
from pg_agents.asynchronous.parcels import Parcel
from pg_agents.asynchronous.processes import Processes

MakesBackend = Callable[[Linked, list[Parcel]], Backend]
NAMES = ("auto", "threads", "processes", "ray")


def backend_for(agent: Linked, name: str) -> MakesBackend:
    """A function that starts the backend of that name; `"auto"` is threads where they serve, else processes.

    Args:
        agent: The agent.
        name: One of `NAMES`.

    Raises:
        ValueError: The backend does not serve this agent, with the reason.
    """
    if agent.device.type != "cpu":
        raise ValueError(
            f"Workers share parameters on the CPU, but `device` is {agent.device}: n_workers=1 trains there."
        )
    if any(True for _ in agent.policy.buffers()):
        raise ValueError(
            f"Workers share parameters, but {type(agent.policy).__name__} also has buffers, as batch normalisation "
            "keeps its statistics in: n_workers=1 trains it."
        )
    return lambda agent, parcels: Processes(agent.policy, parcels)
