"""Results folders with known numbers, as `pg-zoo benchmark` would leave them."""

import json
from pathlib import Path

import numpy as np


def write_cell(folder, algo, env, seed, score, *, curve=(), steps=10_000, spread=0.0, **changes):
    """One cell: two episodes whose mean is the score, and a curve of (timesteps, wall_time, mean_return)."""
    path = Path(folder, "cells", algo.replace("/", "-"), env.replace("/", "-"), f"seed_{seed}")
    path.mkdir(parents=True)
    trained = algo != "random"
    record = {
        "format": 1,
        "algo": algo,
        "env": env,
        "seed": seed,
        "hyperparams": {"n_timesteps": steps, "n_envs": 4} if trained else {},
        "origin": f"{env!r} in {algo}.yml of somewhere 1.0" if trained else "no training",
        "n_timesteps": steps if trained else 0,
        "engine": "none" if not trained else "sb3" if "/" in algo else "mlp",
        "device": "cpu",
        "deterministic": trained,
        "score": score,
        "wall_time": 10.0 + seed if trained else 0.0,
        "steps_per_second": steps / (10.0 + seed) if trained else None,
        "peak_memory_mib": 300.0,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": {"cpu": "a processor", "cores": 2},
        "command": "pg-zoo benchmark -o somewhere",
        "date": f"2026-11-2{seed % 10}T10:00:00+00:00",
        "options": {"eval_points": 3, "eval_episodes": 10, "final_episodes": 2},
    } | changes
    (path / "cell.json").write_text(json.dumps(record))
    write_rows(path / "curve.csv", "timesteps,wall_time,mean_return", curve)
    episodes = [(0, score - spread, 7), (1, score + spread, 9)]
    write_rows(path / "evaluation.csv", "episode,return,length", episodes)
    return path


def write_rows(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(repr, row)) for row in rows)]) + "\n")


def write_grid(folder, algos, envs, seeds, **changes):
    """`benchmark.json`: what was asked for."""
    cells = {algo: {env: [*seeds] for env in envs} for algo in dict.fromkeys([*algos, "random"])}
    record = {
        "format": 1,
        "command": "pg-zoo benchmark -o somewhere",
        "created": "2026-11-20",
        "cells": cells,
    } | changes
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "benchmark.json").write_text(json.dumps(record))


def write_results(folder, scores, *, random=None, seeds=None, **changes):
    """A folder of results.

    Args:
        folder: Where to.
        scores: By algorithm, by environment: one score for each seed.
        random: By environment, what random actions score with every seed.
        seeds: Of the grid; by default as many as scores.
        **changes: As for `write_cell`.
    """
    by_env = {env: len(values) for envs in scores.values() for env, values in envs.items()}
    n = max(by_env.values())
    write_grid(folder, scores, by_env, range(n) if seeds is None else seeds)
    for algo, envs in scores.items():
        for env, values in envs.items():
            for seed, score in enumerate(values):
                curve = [(3000, 3.0 + seed, score / 4), (6000, 6.0 + seed, score / 2), (10_000, 10.0 + seed, score)]
                write_cell(folder, algo, env, seed, float(score), curve=curve, **changes)
    for env, score in (random or {}).items():
        for seed in range(by_env[env]):
            write_cell(folder, "random", env, seed, float(score))
    return Path(folder)


def spread(mean, deviation, n, seed=0):
    """n numbers of exactly this mean and standard deviation."""
    numbers = np.random.default_rng(seed).normal(size=n)
    return (mean + deviation * (numbers - numbers.mean()) / numbers.std(ddof=1)).tolist()
