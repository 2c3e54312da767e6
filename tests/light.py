"""What other processes of test_processes.py run. Importing it takes no seconds, which each of them would need."""

import os
import sys
import threading
import time
from pathlib import Path

from pg_zoo.runs.processes import in_order, prepare, start

__all__ = ["prepared_and_loaded", "start", "tell_and_sleep"]


def tell_and_sleep(index, folder):
    Path(folder, str(os.getpid())).touch()
    if index:
        time.sleep(600)


def loaded(folder):
    from pg_agents.engines.mlp.tables import load_kernels  # here: others start a process that needs none of it
    from pg_zoo.runs.cell import Cell
    from pg_zoo.runs.training import run_cell

    modules = {"pg_zoo.runs.backends", "pg_agents.engines.mlp.kernels", "torch._dynamo", "pg_envs.registration"}
    n_threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc").is_dir() else threading.active_count()
    n_uses, before = load_kernels.cache_info().currsize, set(sys.modules)
    for engine in ("mlp", "autograd"):
        hyperparams = {"policy": "MlpPolicy", "n_timesteps": 16, "n_steps": 16, "batch_size": 16, "engine": engine}
        cell = Cell("ppo", "CartPole-v1", 0, hyperparams, eval_points=0, final_episodes=1)
        run_cell(cell, folder / engine)
    return modules - before, n_uses, n_threads, set(sys.modules) - before


def prepared_and_loaded(folder):
    prepare()
    return next(in_order(loaded, [(folder,)]))
