"""What trainings need, loaded: imported by a process that theirs are forked from, so that none of them has to load it.

Nothing but modules: generators, registries and whatever else a training could notice are as in a new process. Nor are
there threads, which would not survive the fork.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
from contextlib import suppress

import torch as th

import pg_zoo.runs.training  # noqa: F401
from pg_agents import registry
from pg_agents.engines import mlp

# The first optimiser of a process loads torch's compiler, which takes a second.
th.optim.Adam([th.nn.Parameter(th.zeros(1))])
for module in pkgutil.iter_modules(mlp.__path__):
    with suppress(Exception):  # whatever it is: a training that needs it says so
        importlib.import_module(f"{mlp.__name__}.{module.name}")
# Of the environments our own: another's package may do more than define something, and that in one training alone.
with suppress(registry.PluginError):
    for plugin in registry.plugins(registry.ENVS).values():
        if plugin.distribution.startswith("pg-agents "):
            plugin.load()

# Otherwise each collection in each of those processes would look at these objects, and so copy their memory.
gc.collect()
gc.freeze()
