"""Sutton & Barto's figures 13.1 and 13.2: REINFORCE on the short corridor, without and with a baseline.

    python benchmarks/sutton_barto.py             # 100 runs of 1000 episodes; about 4 minutes on two cores

All runs start from a probability of .05 of going right and use plain gradient ascent. "Ours" is `pg_agents.REINFORCE`
and `ReinforceBaseline`, which update once per episode, by the sum over its steps. "The book's loop" is the book's
pseudo-code (2nd ed., sections 13.3 and 13.4), transcribed below, which updates after each step.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import study

RUNS_OF_A_TASK = 10
P_START = 0.05
LIMIT = 1000
# With p this close to 0 or 1, the expected episode is 10^4 times the time limit, and the gradient of 1000 episodes
# moves log p/(1 - p) by less than .1: the rest of the run is known.
STUCK = 1e-7
# Results of an earlier implementation: mean return at episodes 100 and 500, and over the last 100.
SETTINGS: dict[str, tuple[float, float | None, str]] = {
    "REINFORCE, α = 2⁻¹²": (2**-12, None, "-60.8 / -51.8 / -51 (4 stuck)"),
    "REINFORCE, α = 2⁻¹³": (2**-13, None, "-31.6 / -14.5 / -12.3"),
    "REINFORCE, α = 2⁻¹⁴": (2**-14, None, "-44.0 / -19.8 / -14.9"),
    "with baseline, α = 2⁻⁹, α_w = 2⁻⁶": (2**-9, 2**-6, "-12.3 / -12.1 / -12.0"),
    "with baseline, α = 2⁻¹⁰, α_w = 2⁻⁹": (2**-10, 2**-9, ""),
}


def ours(setting: str, first_seed: int, n_runs: int, n_episodes: int) -> dict[str, Any]:
    """Returns of each run's episodes, `(n_runs, n_episodes)`, and p at its end."""
    results = [run(*SETTINGS[setting][:2], seed, n_episodes) for seed in range(first_seed, first_seed + n_runs)]
    return {"p": [p for _, p in results], "returns": [returns for returns, _ in results]}


def run(alpha: float, alpha_w: float | None, seed: int, n_episodes: int) -> tuple[list[float], float]:
    """One run of REINFORCE or, with an α_w, of ReinforceBaseline."""
    import torch as th
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    import pg_envs  # noqa: F401  # registers the corridor
    from pg_agents import REINFORCE, ReinforceBaseline, make_vec

    # The running mean stays at its first value, 1: this is plain gradient ascent, with an optimiser that the compiled
    # engine supports.
    ascent = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"alpha": 1.0, "eps": 0.0}}
    common: dict[str, Any] = {
        # The observation is 1, so weight and bias move by the same amount: each takes half of the step.
        "learning_rate": alpha / 2,
        "n_episodes": 1,
        "gamma": 1.0,
        "seed": seed,
        "device": "cpu",
        "stats_window_size": 10**6,
        "policy_kwargs": {"net_arch": [], **ascent},
    }
    env = make_vec("pg/ShortCorridor-v0")
    if alpha_w is None:
        model: Any = REINFORCE("MlpPolicy", env, **common)
    else:
        model = ReinforceBaseline("MlpPolicy", env, value_learning_rate=alpha_w / 2, **common)
    with th.no_grad():
        for layer in (model.policy.action_net, model.policy.value_net):
            for parameter in layer.parameters():
                parameter.zero_()
        model.policy.action_net.bias[1] = math.log(P_START / (1 - P_START))

    @th.no_grad()
    def p_right() -> float:
        logits = model.policy.action_net.weight[:, 0] + model.policy.action_net.bias
        return float(th.softmax(logits.double(), 0)[1])

    # Short calls, because a callback that counts episodes would double the time.
    model.learn(1, log_interval=10**9)
    while len(model.ep_info_buffer) < n_episodes and STUCK < p_right() < 1 - STUCK:
        model.learn(1000, log_interval=10**9, reset_num_timesteps=False)
    returns = [episode["r"] for episode in model.ep_info_buffer][:n_episodes]
    return returns + [-float(LIMIT)] * (n_episodes - len(returns)), p_right()


def book(setting: str, first_seed: int, n_runs: int, n_episodes: int) -> dict[str, Any]:
    """The same as `ours`, by the book's loop."""
    results = [book_run(*SETTINGS[setting][:2], seed, n_episodes) for seed in range(first_seed, first_seed + n_runs)]
    return {"p": [p for _, p in results], "returns": [returns for returns, _ in results]}


def book_run(alpha: float, alpha_w: float | None, seed: int, n_episodes: int) -> tuple[list[float], float]:
    """The book's pseudo-code; of its two parameters, one for each action, only the difference matters."""
    rng = random.Random(seed)
    leads_to = [(0, 1), (2, 0), (1, 3)]
    difference, w, returns = math.log(P_START / (1 - P_START)), 0.0, []

    def p_right() -> float:
        return 1 / (1 + math.exp(-max(-700.0, min(difference, 700.0))))

    for _ in range(n_episodes):
        p, position, actions = p_right(), 0, []
        while position < 3 and len(actions) < LIMIT:
            actions.append(int(rng.random() < p))
            position = leads_to[position][actions[-1]]
        returns.append(-float(len(actions)))
        for t, action in enumerate(actions):
            delta = t - len(actions) - w
            if alpha_w is not None:
                w += alpha_w * delta
            difference += 2 * alpha * delta * (action - p_right())
    return returns, p_right()


def summary(result: dict[str, np.ndarray]) -> str:
    """Mean return at episodes 100 and 500, and over the last 100; number of runs that are stuck."""
    mean = result["returns"].mean(axis=0)
    values = [mean[90:110].mean(), mean[490:510].mean(), mean[-100:].mean()]
    stuck = is_stuck(result).sum()
    return " / ".join(f"{value:.1f}" for value in values) + (f" ({stuck} stuck)" if stuck else "")


def means_of_ten(returns: np.ndarray) -> np.ndarray:
    """Mean over runs and over every ten episodes."""
    means: np.ndarray = returns.mean(axis=0).reshape(-1, 10).mean(axis=1)
    return means


def is_stuck(result: dict[str, np.ndarray]) -> np.ndarray:
    """Mask of the runs that no longer arrive at their end."""
    stuck: np.ndarray = result["returns"][:, -100:].mean(axis=1) < -200
    return stuck


def figure(results: dict[str, dict[str, dict[str, np.ndarray]]]) -> Any:
    """Both figures, with the book's axes: running means over ten episodes, the book's loop in a pale colour."""
    from matplotlib import pyplot as plt

    from pg_envs.corridor import BEST, expected_return

    first, second, third, books, milder = SETTINGS
    drawing, axes = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True)
    panels = [
        ("Figure 13.1: REINFORCE", [(first, "C0"), (second, "C3"), (third, "C2")]),
        ("Figure 13.2: REINFORCE with a baseline", [(second, "C3"), (books, "C4"), (milder, "C1")]),
    ]
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for setting, colour in lines:
            for name, style in (("book", {"lw": 3, "alpha": 0.3}), ("ours", {"lw": 1.2})):
                result = results[name][setting]
                stuck, label = is_stuck(result), setting
                if (name, setting) == ("book", milder):
                    continue
                if (name, setting) == ("ours", books) and stuck.any():
                    label += f"\n(ours: without its {stuck.sum()} of {len(stuck)} runs that get stuck)"
                    result = {"returns": result["returns"][~stuck]}
                mean = np.convolve(result["returns"].mean(axis=0), np.full(10, 0.1), mode="valid")
                axis.plot(np.arange(len(mean)) + 5.5, mean, colour, **style, label=label if name == "ours" else None)
        axis.axhline(expected_return(BEST), color="k", ls="--", lw=1)
        axis.plot([], [], "0.3", lw=1.2, label="thin: ours, one step per episode")
        axis.plot([], [], "0.3", lw=3, alpha=0.3, label="pale: the book's loop, one step per time step")
        axis.set(title=title, xlabel="Episode", ylim=(-92, -6), xlim=(1, results["ours"][first]["returns"].shape[1]))
        axis.legend(loc="lower right", fontsize=8, framealpha=0.95)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].text(8, expected_return(BEST) + 1, "optimum", fontsize=8)
    n_runs = len(results["ours"][first]["p"])
    axes[0].set_ylabel(f"Total reward on episode, mean of {n_runs} runs")
    drawing.tight_layout()
    return drawing


def main() -> None:
    parser = study.arguments(__doc__, seeds=100)
    parser.add_argument("--episodes", type=int, default=1000, help="episodes of a run (default 1000)")
    args = parser.parse_args()
    settings = [setting for setting in SETTINGS if args.only in setting]
    results: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, function in (("ours", ours), ("book", book)):
        firsts = range(0, args.seeds, RUNS_OF_A_TASK)
        tasks = [
            (setting, first, min(RUNS_OF_A_TASK, args.seeds - first), args.episodes)
            for setting in settings
            for first in firsts
        ]
        parts = study.run_all(function, tasks, args.jobs)
        results[name] = {
            setting: {
                key: np.concatenate([part[key] for task, part in zip(tasks, parts, strict=True) if task[0] == setting])
                for key in ("returns", "p")
            }
            for setting in settings
        }
    rows = [
        f"| {setting} | {summary(results['ours'][setting])} | {summary(results['book'][setting])} "
        f"| {SETTINGS[setting][2]} | {deviation(results['ours'][setting]['p'])} |"
        for setting in settings
    ]
    header = [
        "| | ours | the book's loop | an earlier implementation | final p(right) of our runs that arrive |",
        "|---|---|---|---|---|",
    ]
    raw = {
        name: {
            setting: {
                "mean_return_of_ten_episodes": means_of_ten(result["returns"]).round(2).tolist(),
                "stuck_runs": np.flatnonzero(is_stuck(result)).tolist(),
                "p": result["p"].round(4).tolist(),
            }
            for setting, result in by_setting.items()
        }
        for name, by_setting in results.items()
    }
    drawn = figure(results) if len(settings) == len(SETTINGS) else None
    text = "\n".join([*header, *rows]) + "\n\n" + TEXT
    study.write("sutton_barto", "Sutton & Barto, figures 13.1 and 13.2", text, raw, drawn, args.output)


def deviation(p: np.ndarray) -> str:
    """Mean and standard deviation over the runs that are not stuck."""
    p = p[(p > 0.01) & (p < 0.99)]
    return f"{p.mean():.3f} ± {p.std():.3f}"


TEXT = """\
The columns give the mean return at episode 100 (episodes 91 to 110), at episode 500 (491 to 510), and over the last 100
episodes. "Stuck" counts runs whose last 100 episodes have a mean below -200. The optimum is -11.66, at p = .586.

The two kinds of update differ as follows.

* After an episode, the book's loop updates θ and w once for each of its steps, with the gradient at the newest
  parameters. `REINFORCE` and `ReinforceBaseline` update once, by the sum of the same terms at the parameters that
  played the episode. To first order in α both are equal, and for α = 2⁻¹³ and 2⁻¹⁴ the curves agree.
* At α = 2⁻¹² some runs of the book's loop get stuck. The many updates after an early, long episode can drive the
  probability of an action to 0, and then nothing more is learnt. A single update per episode does not do this.
* With a baseline and the book's step sizes, our version gets stuck in 16 of 100 runs. The book's w follows the
  returns within the very first episode. Our w does not change until its end, and then moves by α_w Σ (G - w). This
  overshoots if α_w times the number of steps is above 2: for α_w = 2⁻⁶, in any episode of more than 128 steps. With
  α_w = 2⁻⁹ and half the step size for θ it does not overshoot, and the message of the figure is the same: the
  baseline makes learning several times faster. (These step sizes do not suit the book's loop: its w is then too slow
  for its θ.)
"""

if __name__ == "__main__":
    main()
