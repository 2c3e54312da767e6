"""Partial observation: if states look the same, the best policy is stochastic, and value-based learning has none.

    python benchmarks/partial_observation.py      # 10 seeds; about 3 minutes on two cores

The study compares PPO and A2C of this package with SB3's DQN on the short corridor and the aliased gridworld. The score
is exact: the expected return of the acting policy under the time limit, computed from its probabilities in every cell.
DQN's acting policy is ε-greedy with ε = .1 at the end of training; its greedy policy would never arrive.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import study

N_ENVS = 8
N_CHECKS = 50
P_START = 0.05  # start of PPO and A2C in the corridor; a start at 1/2 would be within 3 % of the optimum
CORRIDOR, GRIDWORLD = "pg/ShortCorridor-v0", "pg/AliasedGridworld-v0"
STEPS = {CORRIDOR: 100_000, GRIDWORLD: 50_000}
NAMES = {CORRIDOR: "Short corridor", GRIDWORLD: "Aliased gridworld"}
ALGORITHMS = ("PPO", "A2C", "DQN")
# Networks are linear in the corridor, whose observation is a constant, and SB3's two layers of 64 in the gridworld. The
# learning rates of PPO and A2C fall linearly to 0.
LEARNING_RATES = {(CORRIDOR, "PPO"): 1e-3, (CORRIDOR, "A2C"): 1e-2, (GRIDWORLD, "PPO"): 1e-3, (GRIDWORLD, "A2C"): 3e-3}
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 128, "batch_size": 256, "gamma": 1.0, "gae_lambda": 1.0},
    "A2C": {"n_steps": 64, "gamma": 1.0},
    "DQN": {
        "learning_rate": 1e-3,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "train_freq": 1,
        "target_update_interval": 500,
        "exploration_fraction": 0.5,
        "exploration_final_eps": 0.1,
    },
}


def cells(env_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """The environment as tables: next cell and reward by cell and action, observations, first cells, time limit."""
    from pg_envs import corridor, gridworld

    if env_id == CORRIDOR:
        rewards = np.where(np.arange(4)[:, None] == corridor.GOAL, 0.0, -1.0) * np.ones((4, 2))
        return corridor.NEXT, rewards, np.ones((4, 1), np.float32), np.array([0]), 1000
    inside = np.arange(8)[:, None] < gridworld.N_CORRIDOR
    rewards = np.where(inside, gridworld.REWARD_OF_ENTERING[gridworld.NEXT], 0.0)
    return gridworld.NEXT, rewards, gridworld.WALLS.astype(np.float32), gridworld.STARTS, 200


def probabilities(model: Any, observations: np.ndarray) -> np.ndarray:
    """π(a|o), of shape `(observations, actions)`; for a DQN, its present ε-greedy policy."""
    import torch as th

    with th.no_grad():
        if hasattr(model, "exploration_rate"):
            greedy = model.q_net(th.as_tensor(observations)).argmax(dim=1).numpy()
            n_actions = model.action_space.n
            return (1 - model.exploration_rate) * np.eye(n_actions)[greedy] + model.exploration_rate / n_actions
        return model.policy.get_distribution(th.as_tensor(observations)).distribution.probs.numpy()


def exact_return(env_id: str, model: Any) -> float:
    """V(s) = Σ_a π(a|s) (r + V(s')), iterated once for each step of the time limit."""
    following, rewards, observations, starts, limit = cells(env_id)
    policy = probabilities(model, observations).astype(float)
    values = np.zeros(len(observations))
    for _ in range(limit):
        values = (policy * (rewards + values[following])).sum(axis=1)
    return float(values[starts].mean())


def run(env_id: str, name: str, seed: int) -> dict[str, Any]:
    """Train once.

    Returns:
        The exact return at regular steps, and at the end the policy.
    """
    import stable_baselines3
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
    from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

    import pg_agents
    import pg_envs  # noqa: F401  # registers the environments

    th.set_num_threads(1)

    class Check(BaseCallback):
        def _on_step(self) -> bool:
            curve.append(exact_return(env_id, self.model))
            return True

    curve: list[float] = []
    hyperparameters = dict(HYPERPARAMETERS[name])
    if name != "DQN":
        hyperparameters["learning_rate"] = FloatSchedule(LinearSchedule(LEARNING_RATES[env_id, name], 0, 1))
    if env_id == CORRIDOR:
        hyperparameters["policy_kwargs"] = {"net_arch": []}
    env = pg_agents.make_vec(env_id, N_ENVS, seed=seed)
    cls = getattr(stable_baselines3 if name == "DQN" else pg_agents, name)
    model = cls("MlpPolicy", env, seed=seed, device="cpu", **hyperparameters)
    if name == "DQN":
        model.exploration_rate = 1.0  # its initial value, although the attribute is 0 until the first step
    elif env_id == CORRIDOR:
        with th.no_grad():
            model.policy.action_net.weight.zero_()
            model.policy.action_net.bias[1] = math.log(P_START / (1 - P_START))
    curve.append(exact_return(env_id, model))
    model.learn(STEPS[env_id], EveryNTimesteps(STEPS[env_id] // N_CHECKS, Check()), log_interval=10**9)
    observation = cells(env_id)[2][1:2]
    return {
        "score": exact_return(env_id, model),
        "p": float(probabilities(model, observation)[0, 1]),
        "curve": np.round(curve, 4).tolist(),
    }


def levels(env_id: str) -> dict[str, float]:
    """Reference levels of the figure and the table."""
    from pg_envs import reference_scores

    return reference_scores(env_id)


def figure(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Any:
    """Exact return against steps, of every seed and as a mean, with levels of the best and of ε-greedy policies."""
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(1, 2, figsize=(12, 4.4))
    colours = dict(zip(ALGORITHMS, ("C0", "C2", "C3"), strict=True))
    for axis, (env_id, steps) in zip(axes, STEPS.items(), strict=True):
        for name, colour in colours.items():
            curves = np.array([result["curve"][: N_CHECKS + 1] for result in results[env_id, name]])
            at = np.linspace(0, steps, curves.shape[1])
            axis.plot(at, curves.T, colour, lw=0.5, alpha=0.4)
            axis.plot(at, curves.mean(axis=0), colour, lw=2, label=f"SB3's {name}" if name == "DQN" else name)
        for level, value in levels(env_id).items():
            if level != "random":
                axis.axhline(value, color="k", ls="--" if level == "optimum" else ":", lw=1)
                words = level.replace("epsilon_greedy", "ε-greedy, ε = .1").replace("_", ", ")
                axis.text(0.995 * steps, value, f"{words}: {value:.3g}", ha="right", va="bottom", fontsize=8)
        axis.axvspan(0, steps / 2, ymax=0.055, color="C3", alpha=0.15, lw=0)
        axis.text(
            steps / 4,
            0.012,
            "DQN's ε falls from 1 to .1",
            ha="center",
            fontsize=8,
            transform=axis.get_xaxis_transform(),
        )
        axis.set(title=NAMES[env_id], xlabel="Environment steps", xlim=(0, steps))
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axes[0].legend(loc=(0.22, 0.15), fontsize=9)
    axes[0].set(ylim=(-92, -5), ylabel="Expected return of the acting policy (exact)")
    axes[1].set(ylim=(-1.8, 1.05))
    drawing.tight_layout()
    return drawing


def main() -> None:
    args = study.arguments(__doc__, seeds=10).parse_args()
    tasks = [
        (env_id, name, seed)
        for env_id in STEPS
        for name in ALGORITHMS
        if args.only in f"{env_id} {name}"
        for seed in range(args.seeds)
    ]
    found = study.run_all(run, tasks, args.jobs)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (env_id, name, _), result in zip(tasks, found, strict=True):
        results.setdefault((env_id, name), []).append(result)
    lines = ["| | | steps | expected return [95 % interval] | worst | best | p |", "|---|---|---|---|---|---|---|"]
    for (env_id, name), runs in results.items():
        scores, p = ([run_[key] for run_ in runs] for key in ("score", "p"))
        lines.append(
            f"| {NAMES[env_id]} | {name} | {STEPS[env_id]:,} | {study.mean_and_interval(scores)} | {min(scores):.3f} "
            f"| {max(scores):.3f} | {min(p):.3f} ... {max(p):.3f} |"
        )
    raw = [{"env": env_id, "algorithm": name, "runs": runs} for (env_id, name), runs in results.items()]
    complete = len(results) == len(STEPS) * len(ALGORITHMS)
    study.write(
        "partial_observation",
        "Partial observation",
        "\n".join([*lines, "", TEXT]),
        raw,
        figure(results) if complete else None,
        args.output,
    )


TEXT = """\
p is the probability of going right in the corridor (optimum: .586), and of going east in the grey cells of the
gridworld (optimum: .5). The best returns are -11.657 and .825. ε-greedy policies with ε = .1 have -44.2 or -82.1 in the
corridor and -.604 in the gridworld.

In the corridor PPO and A2C start from p = .05, with a return of -82.1. A start at 1/2 would have a return of -12,
which is almost the solution. DQN starts with random actions and gets worse as it stops exploring. It has one value
for each action, and its observation does not tell it when to take which action. It moves back and forth between
nearly equal values, so its final policy is an accident.

An earlier implementation had these values. Corridor: PPO and A2C -11.7 ... -11.9 with p from .545 to .648, DQN -44 or
-82. Gridworld: PPO .821 ... .824, A2C .82, DQN -1.8 ... -2.3. The last range depends on the ε that DQN acts with: at
.05 the level is -1.58.
"""

if __name__ == "__main__":
    main()
