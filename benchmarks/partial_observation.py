"""Partial observation: where states look the same, the best policy is stochastic, and value-based learning has none.

    python benchmarks/partial_observation.py      # 10 seeds; about 3 minutes on two cores

PPO and A2C of this package against SB3's DQN on the short corridor and the aliased gridworld. The score is exact: the
expected return of the policy that acts, time limit included, computed from its probabilities in every cell. DQN's
policy is ε-greedy with ε = .1, as it acts at the end of its training; its greedy policy would never arrive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import study

N_ENVS = 8
N_CHECKS = 50
STEPS = {"pg/ShortCorridor-v0": 100_000, "pg/AliasedGridworld-v0": 50_000}
NAMES = {"pg/ShortCorridor-v0": "Short corridor", "pg/AliasedGridworld-v0": "Aliased gridworld"}
ALGORITHMS = ("PPO", "A2C", "DQN")
COMMON: dict[str, Any] = {"policy_kwargs": {"net_arch": []}, "device": "cpu"}
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 128, "batch_size": 256, "gamma": 1.0, "gae_lambda": 1.0, "learning_rate": 5e-3},
    "A2C": {"n_steps": 64, "gamma": 1.0, "learning_rate": 5e-3},
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

    if env_id == "pg/ShortCorridor-v0":
        rewards = np.where(np.arange(4)[:, None] == corridor.GOAL, 0.0, -1.0) * np.ones((4, 2))
        return corridor.NEXT, rewards, np.ones((4, 1), np.float32), np.array([0]), 1000
    inside = np.arange(8)[:, None] < gridworld.N_CORRIDOR
    rewards = np.where(inside, gridworld.REWARD_OF_ENTERING[gridworld.NEXT], 0.0)
    return gridworld.NEXT, rewards, gridworld.WALLS.astype(np.float32), gridworld.STARTS, 200


def probabilities(model: Any, observations: np.ndarray) -> np.ndarray:
    """π(a|o), of shape `(observations, actions)`; of a DQN as it acts now, ε-greedily."""
    import torch as th

    with th.no_grad():
        if hasattr(model, "exploration_rate"):
            greedy = model.q_net(th.as_tensor(observations)).argmax(dim=1).numpy()
            n_actions = model.action_space.n
            return (1 - model.exploration_rate) * np.eye(n_actions)[greedy] + model.exploration_rate / n_actions
        return model.policy.get_distribution(th.as_tensor(observations)).distribution.probs.numpy()


def exact_return(env_id: str, model: Any) -> float:
    """V(s) = Σ_a π(a|s) (r + V(s')), as many times as the time limit has steps."""
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

    import pg_agents
    import pg_envs  # noqa: F401  # registers the environments

    th.set_num_threads(1)

    class Check(BaseCallback):
        def _on_step(self) -> bool:
            curve.append(exact_return(env_id, self.model))
            return True

    curve: list[float] = []
    cls = getattr(stable_baselines3 if name == "DQN" else pg_agents, name)
    env = pg_agents.make_vec(env_id, N_ENVS, seed=seed)
    model = cls("MlpPolicy", env, seed=seed, **COMMON, **HYPERPARAMETERS[name])
    curve.append(exact_return(env_id, model))
    model.learn(STEPS[env_id], EveryNTimesteps(STEPS[env_id] // N_CHECKS, Check()), log_interval=10**9)
    observation = cells(env_id)[2][1:2]
    return {
        "score": exact_return(env_id, model),
        "p": float(probabilities(model, observation)[0, 1]),
        "curve": np.round(curve, 4).tolist(),
    }


def levels(env_id: str) -> dict[str, float]:
    """What the figure and the table compare with."""
    from pg_envs import reference_scores

    return reference_scores(env_id)


def figure(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Any:
    """Exact return against steps, every seed, with the levels of the best and of ε-greedy policies."""
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(1, 2, figsize=(12, 4.4))
    colours = dict(zip(ALGORITHMS, ("C0", "C2", "C3"), strict=True))
    for axis, (env_id, steps) in zip(axes, STEPS.items(), strict=True):
        for name, colour in colours.items():
            curves = np.array([result["curve"][: N_CHECKS + 1] for result in results[env_id, name]])
            at = np.linspace(0, steps, curves.shape[1])
            axis.plot(at, curves.T, colour, lw=0.5, alpha=0.4)
            axis.plot(at, np.median(curves, axis=0), colour, lw=2, label=f"SB3's {name}" if name == "DQN" else name)
        for level, value in levels(env_id).items():
            if level != "random":
                axis.axhline(value, color="k", ls="--" if level == "optimum" else ":", lw=1)
                words = (
                    "optimum" if level == "optimum" else level.replace("epsilon_greedy", "ε-greedy").replace("_", ", ")
                )
                axis.text(steps, value, f"{words} {value:.3g} ", ha="right", va="bottom", fontsize=8)
        axis.set(title=NAMES[env_id], xlabel="Environment steps", xlim=(0, steps))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="center right", fontsize=9)
    axes[0].set(ylim=(-90, -5), ylabel="Expected return (exact); thick: median of the seeds")
    axes[1].set(ylim=(-3, 1.1))
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


TEXT = """p is the probability of going right in the corridor (best: .586), and of going east in the grey cells of the
gridworld (best: .5)."""

if __name__ == "__main__":
    main()
