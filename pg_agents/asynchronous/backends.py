"""The backends by name, and which of them serves an agent."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from pg_agents.asynchronous.contract import Backend
from pg_agents.asynchronous.linked import Linked
from pg_agents.asynchronous.parcels import Parcel
from pg_agents.asynchronous.processes import Processes
from pg_agents.asynchronous.ray import Ray
from pg_agents.asynchronous.threads import Threads, why_not

MakesBackend = Callable[[Linked, list[Parcel]], Backend]
NAMES = ("auto", "threads", "processes", "ray")


def backend_for(agent: Linked, name: str) -> MakesBackend:
    """A function that starts the backend of that name; `"auto"` is threads where they serve, else processes.

    Args:
        agent: The agent.
        name: One of `NAMES`.

    Raises:
        ValueError: The backend does not serve this agent, with the reason.
        ImportError: Ray is not installed.
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
    if name == "ray":
        if agent.engine not in ("auto", "autograd"):
            raise ValueError(f"Workers on Ray have the engine 'autograd', but `engine` is {agent.engine!r}.")
        if importlib.util.find_spec("ray") is None:
            raise ImportError("`backend` is 'ray', which is not installed: pip install 'pg-agents[ray]'.")
        return Ray
    if name in ("auto", "threads"):
        reason = why_not(agent)
        if reason is None:
            return lambda agent, parcels: Threads(agent.policy, parcels)
        if name == "threads":
            raise ValueError(f"`backend` is 'threads', which do not serve this agent: {reason}. 'processes' do.")
    return lambda agent, parcels: Processes(agent.policy, parcels)
