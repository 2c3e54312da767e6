"""Learning in a world against learning in Gymnasium's environment: equal hyperparameters, ten seeds, three tasks.

    python benchmarks/world_learning.py           # writes benchmarks/results/world_learning.{md,json}
    python benchmarks/world_learning.py --only Pendulum

Both sides are our PPO or A2C with rl_zoo3's hyperparameters (those of `equivalence.py`). The one side trains in
`make_vec(env, world=True)`, the other in a `DummyVecEnv` of Gymnasium's environments. Both are evaluated in Gymnasium's
environment. Their seeds differ, so the two samples are independent.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import study
from equivalence import EVALUATION_SEED, N_EVALUATIONS, TASKS, Task, arguments, interval, iqm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import pg_agents

SIDES = {"world": 0, "Gymnasium": 100}  # with the first seed of each
ENVS = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1")
METRICS = {
    "evaluation": f"Final evaluation: mean return of {N_EVALUATIONS} episodes, deterministic actions",
    "training": "Whole training: mean return of all episodes that ended",
}


class Returns(BaseCallback):
    """The return of every episode of a training."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []

    def next_look(self) -> int | None:
        """Never: the returns are read at the end."""
        return None

    def _on_training_start(self) -> None:
        self.model.ep_info_buffer = deque()  # of any length

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.returns = [episode["r"] for episode in self.model.ep_info_buffer]


def run(name: str, index: int) -> dict[str, float]:
    """Train once, and evaluate in Gymnasium's environment."""
    side, _, task_name = name.partition(": ")
    task = next(task for task in TASKS if task.name == task_name)
    seed = SIDES[side] + index
    if side == "world":
        env = pg_agents.make_vec(task.env, task.n_envs, world=True, seed=seed)
    else:
        env = make_vec_env(task.env, task.n_envs, seed=seed)
    evaluation_env = make_vec_env(task.env, 10, seed=EVALUATION_SEED)
    if task.normalize:
        env = VecNormalize(env, gamma=task.hyperparameters.get("gamma", 0.99))
        evaluation_env = VecNormalize(evaluation_env, training=False, norm_reward=False)
        evaluation_env.obs_rms = env.obs_rms
    agent = getattr(pg_agents, task.algo)("MlpPolicy", env, seed=seed, device="cpu", **arguments(task.hyperparameters))
    returns, start = Returns(), time.perf_counter()
    agent.learn(task.n_timesteps, callback=returns, log_interval=None)
    seconds = time.perf_counter() - start
    mean, _ = pg_agents.evaluate_policy(agent, evaluation_env, N_EVALUATIONS)
    return {"evaluation": float(mean), "training": float(np.mean(returns.returns)), "seconds": round(seconds, 2)}


def table(metric: str, tasks: list[Task], found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: interquartile means of both sides, and their difference with its interval."""
    lines = [
        f"## {METRICS[metric]}",
        "",
        "|  | Gymnasium, IQM | world, IQM | world − Gymnasium [95 % interval] | verdict |",
        "|---|---|---|---|---|",
    ]
    for task in tasks:
        world, theirs = (
            np.array([result[metric] for result in found[f"{side}: {task.name}"]]) for side in ("world", "Gymnasium")
        )
        low, high = interval([world, theirs])
        verdict = "no difference shown" if low <= 0 <= high else "differs"
        difference = f"{iqm(world) - iqm(theirs):+.1f} [{low:+.1f}, {high:+.1f}]"
        lines.append(f"| {task.name} | {iqm(theirs):.1f} | {iqm(world):.1f} | {difference} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    args = study.arguments(__doc__, seeds=10).parse_args()
    tasks = [task for task in TASKS if task.env in ENVS and args.only.lower() in task.name.lower()]
    names = [f"{side}: {task.name}" for task in tasks for side in SIDES]
    found = study.run_seeds(run, names, args.seeds, args.jobs)
    seconds = {
        side: sum(result["seconds"] for name in names if name.startswith(side) for result in found[name])
        for side in SIDES
    }
    text = f"""Both sides are our agents with equal hyperparameters (those of `equivalence.py`) and {args.seeds} seeds
per task, which differ between the sides. One side trains in the environment's world, the other in Gymnasium's
environments; both are evaluated in Gymnasium's. The IQM is the mean without the lowest and the highest quarter of the
seeds. Intervals are from a percentile bootstrap with 10,000 resamples. With {2 * len(tasks)} comparisons, about
{0.1 * len(tasks):.1f} intervals would exclude 0 by chance if nothing differed.

{table("evaluation", tasks, found)}

{table("training", tasks, found)}

Time in `learn` over all runs, on a machine with other work, so not a measurement of speed: Gymnasium
{seconds["Gymnasium"]:.0f} s, world {seconds["world"]:.0f} s.
"""
    study.write("world_learning", "Learning in worlds", text, found, folder=args.output)


if __name__ == "__main__":
    main()
