"""The modules that trainings need, imported once by the process from which the trainings' processes are forked.

Only modules are loaded: generators, registries and anything else that a training could notice are as in a new process.
There are no threads, which would not survive the fork.
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
    with suppress(Exception):  # of any kind: a training that needs the module reports the error
        importlib.import_module(f"{mlp.__name__}.{module.name}")
# Only our own environments: importing another package may have effects that belong into a training's own process.
with suppress(registry.PluginError):
    for plugin in registry.plugins(registry.ENVS).values():
        if plugin.distribution.startswith("pg-agents "):
            plugin.load()

# Otherwise, garbage collections in the forked processes would touch these objects, and so copy their memory.
gc.collect()
gc.freeze()
