"""Reference scores of every environment and size, with standard errors, and the speed of many copies.

    python benchmarks/reference_scores.py         # about a minute on one core

Simulated scores are means over 1000 episodes, computed by `pg_envs.reference_scores`. The speed is measured with 1,024
copies in one process with random actions, without the time to draw the actions.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import study

from pg_envs import reference_scores
from pg_envs.references import POLICIES, simulated_returns

SIZES: list[tuple[str, dict[str, Any]]] = [
    *[("pg/RPSMatch-v0", {"opponent": name}) for name in ("frequency", "pattern", "oracle", "uniform")],
    ("pg/RPSMatch-v0", {"payoff": "weighted"}),
    ("pg/PenaltyKick-v0", {}),
    ("pg/TorqueBandit-v0", {"kind": "narrow"}),
    ("pg/TorqueBandit-v0", {"kind": "unequal"}),
    ("pg/ShortCorridor-v0", {}),
    ("pg/AliasedGridworld-v0", {}),
    *[("pg/Reviews-v0", {"kl_coef": kl_coef}) for kl_coef in (0.1, 1.0)],
    ("pg/TorquePendulum-v0", {}),
    *[("pg/TorqueLQR-v0", {"n_joints": n}) for n in (1, 2, 5, 20)],
    *[("pg/TorqueArm-v0", {"n_joints": n, "dynamics": kind}) for kind in ("geared", "chain") for n in (2, 7, 20)],
    *[(f"pg/{name}", {}) for name in ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")],
    *[(f"pg/{name}", {}) for name in ("MountainCar-v0", "MountainCarContinuous-v0")],
    *[(f"pg/{name}", {}) for name in ("FrozenLake-v1", "CliffWalking-v1", "Taxi-v4")],
]
N_EPISODES = 1000
N_COPIES = 1024


def steps_per_second(env_id: str, kwargs: dict[str, Any], seconds: float = 0.5) -> float:
    """Steps per second, the fastest of three measurements."""
    env = gym.make_vec(env_id, N_COPIES, **kwargs)
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(10)]
    rates = []
    for _ in range(3):
        n_steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            env.step(actions[n_steps % len(actions)])
            n_steps += 1
        rates.append(n_steps * N_COPIES / (time.perf_counter() - started))
    return max(rates)


def main() -> None:
    args = study.arguments(__doc__, seeds=None).parse_args()
    names = ("optimum", *POLICIES)
    lines = [f"| | {' | '.join(names)} | others, exact | M steps/s |", "|---" * (len(names) + 3) + "|"]
    results = []
    for env_id, kwargs in SIZES:
        if args.only not in env_id:
            continue
        scores = reference_scores(env_id, n_episodes=N_EPISODES, **kwargs)
        errors = {}
        for policy in POLICIES:
            if policy in scores:
                found = simulated_returns(env_id, policy, n_episodes=N_EPISODES, **kwargs)
                if found.mean() == scores[policy] and found.std() > 0:  # otherwise the score is exact
                    errors[policy] = float(found.std() / N_EPISODES**0.5)
        speed = steps_per_second(env_id, kwargs)
        results.append({"env": env_id, "kwargs": kwargs, "scores": scores, "standard_errors": errors, "speed": speed})
        cells = [shown(scores.get(name), errors.get(name)) for name in names]
        further = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if name not in names)
        title = " ".join([env_id, *(f"{key}={value}" for key, value in kwargs.items())])
        lines.append(f"| {title} | {' | '.join(cells)} | {further} | {speed / 1e6:.2f} |")
        print(lines[-1], flush=True)
    study.write("reference_scores", "Reference scores", "\n".join([*lines, "", TEXT]), results, folder=args.output)


def shown(score: float | None, error: float | None) -> str:
    """A score, with its standard error if it has one."""
    if score is None:
        return ""
    return f"{score:.4g}" if error is None else f"{score:.4g} ± {error:.2g}"


TEXT = f"""\
Scores are mean undiscounted returns of an episode. ± is the standard error of a mean over {N_EPISODES} simulated
episodes. Scores without it are exact. The speed is measured with {N_COPIES} copies in one process.
"""

if __name__ == "__main__":
    main()
