"""Language models: algorithms at equal tokens, the price of KL divergence, reward models, and flattery.

    python benchmarks/language.py    # 3 reward models x 3 seeds; writes benchmarks/results/language.{md,json,png}

The task is `pg/Reviews-v0`. One small GPT-2 is fine-tuned on 20,000 reviews, and each reward model learns from its own
pairs of that model's texts, which a rater with the gold reward compares. Every algorithm writes the same number of
tokens. J is the reward less β KL of 4,096 texts of the last policy; J* is β log E_ref[exp(r/β)], from 100,000 texts of
the fine-tuned model. `--only` computes a part: algorithms, beta, pairs or sycophancy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from study import arguments, mean_and_interval, run_all, write

from pg_agents.language import (
    DirectPreference,
    LanguageGRPO,
    LanguagePPO,
    LanguageREINFORCE,
    LanguageRLOO,
    RewardModel,
    SupervisedFineTuning,
    generate,
    small_gpt2,
    word_tokenizer,
)
from pg_agents.language.models import run
from pg_agents.language.texts import Completions
from pg_envs import reviews
from pg_envs.reviews import sycophancy

matplotlib.use("agg")
import matplotlib.pyplot as plt

TOKENIZER = word_tokenizer(reviews.WORDS)
N_EXAMPLES, N_PAIRS, N_TOKENS, N_EVALUATED, N_REFERENCE = 20_000, 1000, 170_000, 4096, 100_000
BETAS = (0.0, 0.03, 0.1, 0.3, 1.0)
PAIRS = (100, 300, 1000, 3000, 10_000)
RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)
BEST_OF = (4, 16, 64)

ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (LanguagePPO, {}),
    "REINFORCE, batch mean": (LanguageREINFORCE, {}),
    "RLOO": (LanguageRLOO, {}),
    "RLOO, 4 epochs": (LanguageRLOO, {"n_epochs": 4, "learning_rate": 2e-4}),
    "GRPO, KL in the reward": (LanguageGRPO, {}),
    "GRPO, k3 in the loss": (LanguageGRPO, {"kl_in": "loss", "kl_estimator": "k3"}),
    "GRPO, k2 of the text in the loss": (LanguageGRPO, {"kl_in": "loss", "kl_estimator": "k2_sequence"}),
    **{name: (LanguageGRPO, {"variant": name}) for name in ("dr_grpo", "dapo", "gspo", "cispo")},
}


@dataclass(frozen=True)
class Task:
    """A run: an algorithm with its price on a reward model."""

    part: str
    algorithm: str
    kl_coef: float = 0.1
    n_pairs: int = N_PAIRS
    rho: float | None = None
    scale: float = field(default=1.0)

    @property
    def name(self) -> str:
        """For `--only`."""
        return f"{self.part} {self.algorithm} {self.kl_coef} {self.n_pairs} {self.rho}"


@lru_cache(maxsize=2)
def fine_tuned(flattery: bool, scale: float) -> SupervisedFineTuning:
    """The language model that all runs of a part start from; each process trains it once, with the same result."""
    th.manual_seed(0)
    rng, n = np.random.default_rng(0), int(N_EXAMPLES * scale)
    pairs = sycophancy.answers(n // 4, rng) if flattery else reviews.corpus(n, rng)
    return SupervisedFineTuning(small_gpt2(TOKENIZER), TOKENIZER, seed=0).fit(pairs)


def texts(model: Any, prompts: list[str], seed: int) -> Completions:
    """Completions by a model."""
    return generate(model, TOKENIZER, prompts, generator=th.Generator().manual_seed(seed))


def repeated(prompts: Any, n: int) -> list[str]:
    """The prompts in turn."""
    return [prompts[i % len(prompts)] for i in range(n)]


@lru_cache(maxsize=4)
def reward_model(task: Task, seed: int) -> tuple[RewardModel, list[tuple[str, str, str]]]:
    """A reward model of a seed, and the preferences that it has learnt from."""
    sft, n = fine_tuned(task.rho is not None, task.scale), max(int(task.n_pairs * task.scale), 40)
    prompts = repeated(reviews.PROMPTS if task.rho is None else sycophancy.OPINIONS, n)
    first, second = (texts(sft.model, prompts, 10 + 2 * seed + side).texts(TOKENIZER)[1] for side in (0, 1))
    rng = np.random.default_rng(seed)
    if task.rho is None:
        preferences = reviews.preferences(prompts, first, second, rng)
    else:
        preferences = sycophancy.rated(prompts, first, second, task.rho, rng)
    return RewardModel(sft, TOKENIZER, seed=seed).fit(preferences), preferences


def kl_divergence(model: Any, reference: Any, completions: Completions) -> float:
    """KL(model || reference) of a text, in nats."""
    total = 0.0
    with th.no_grad():
        for rows in th.arange(len(completions)).split(512):
            some = completions.take(rows)
            log_p, log_q = (run(one, some).log_probs for one in (model, reference))
            total += float(((log_p.exp() * (log_p - log_q)).sum(dim=-1) * some.alive).sum())
    return total / len(completions)


def quality(completions: Completions, rewards: np.ndarray) -> dict[str, float]:
    """Means over completions of reviews."""
    prompts, written = completions.texts(TOKENIZER)
    return {
        "proxy": float(rewards.mean()),
        "gold": float(np.mean([reviews.gold_reward(*pair) for pair in zip(prompts, written, strict=True)])),
        "valid": float(np.mean([reviews.is_valid(text) for text in written])),
        "length": float(completions.lengths.float().mean()),
    }


class Curve(BaseCallback):
    """Of each batch: tokens, proxy, gold, KL divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[float, ...]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        gold = [reviews.gold_reward(info["prompt"], info["completion"]) for info in self.locals["infos"]]
        kl = self.logger.name_to_value["rollout/reference_kl"]
        self.rows.append((self.num_timesteps, float(self.locals["rewards"].mean()), float(np.mean(gold)), float(kl)))


def train(task: Task, reward_seed: int, seed: int) -> dict[str, Any]:
    """Train and judge the last policy."""
    th.set_num_threads(1)
    sft = fine_tuned(task.rho is not None, task.scale)
    reward, preferences = reward_model(task, reward_seed)
    prompts = reviews.PROMPTS if task.rho is None else sycophancy.OPINIONS
    evaluated = repeated(prompts, max(int(N_EVALUATED * task.scale), len(prompts)))
    started, curve = time.process_time(), Curve()
    if task.algorithm == "DPO":
        model = DirectPreference(sft, kl_coef=task.kl_coef, seed=seed).fit(preferences).model
    else:
        kind, options = ALGORITHMS[task.algorithm]
        agent = kind(sft, TOKENIZER, prompts, reward, kl_coef=task.kl_coef, seed=seed, device="cpu", **options)
        agent.learn(int(N_TOKENS * task.scale), callback=curve if task.rho is None else None, log_interval=None)
        model = agent.policy.model
    seconds = time.process_time() - started
    completions = texts(model, evaluated, 1000 + seed)
    rewards = reward.scores(completions).numpy()
    kl = kl_divergence(model, sft.model, completions)
    found = {"kl": kl, "J": float(rewards.mean()) - task.kl_coef * kl, "seconds": seconds, "accuracy": reward.accuracy}
    written = completions.texts(TOKENIZER)
    if task.rho is None:
        found |= quality(completions, rewards)
        found["optimum"] = optimum(task, reward_seed)
        found["curve"] = curve.rows
        found["samples"] = [" ".join(pair) for pair in zip(*written, strict=True)][:3]
    else:
        found["truth"] = sycophancy.accuracy(*written)
        found["truth_before"] = sycophancy.accuracy(*texts(sft.model, evaluated, 999).texts(TOKENIZER))
    return found


@lru_cache(maxsize=4)
def reference_rewards(task: Task, reward_seed: int) -> tuple[Completions, np.ndarray]:
    """Texts of the fine-tuned model with their rewards."""
    sft = fine_tuned(False, task.scale)
    completions = texts(sft.model, repeated(reviews.PROMPTS, int(N_REFERENCE * task.scale)), 77)
    return completions, reward_model(task, reward_seed)[0].scores(completions).double().numpy()


def optimum(task: Task, reward_seed: int) -> float:
    """J* of a reward model at a price; the largest reward at price 0, a lower bound there."""
    shared = Task("reference", "", 0.1, task.n_pairs, None, task.scale)
    _, rewards = reference_rewards(shared, reward_seed)
    if task.kl_coef == 0:
        return float(rewards.max())
    tilted = rewards / task.kl_coef
    return float(task.kl_coef * (np.logaddexp.reduce(tilted) - np.log(len(tilted))))


def best_of(n: int, scale: float, reward_seed: int) -> dict[str, float]:
    """The best of n texts, from the texts that estimate J*."""
    th.set_num_threads(1)
    task = Task("reference", "", 0.1, N_PAIRS, None, scale)
    completions, rewards = reference_rewards(task, reward_seed)
    # The prompts come in turn, so texts of one prompt are as far apart as there are prompts.
    n_prompts = len(reviews.PROMPTS)
    n_groups = len(rewards) // (n * n_prompts)
    shape = n_groups, n, n_prompts
    used = rewards[: n_groups * n * n_prompts].reshape(shape)
    index = np.arange(used.size).reshape(shape)
    best = np.take_along_axis(index, used.argmax(axis=1)[:, None], axis=1).ravel()[:N_EVALUATED]
    kl = float(np.log(n) - (n - 1) / n)
    found = quality(completions.take(th.as_tensor(best)), rewards[best])
    return {**found, "kl": kl, "J": found["proxy"] - 0.1 * kl}


def calibration(n_pairs: int, scale: float, reward_seed: int) -> dict[str, float]:
    """A reward model against the probabilities with which the rater prefers, on pairs that it has not seen."""
    th.set_num_threads(1)
    task = Task("pairs", "PPO", 0.1, n_pairs, None, scale)
    reward, _ = reward_model(task, reward_seed)
    sft, prompts = fine_tuned(False, scale), repeated(reviews.PROMPTS, max(int(4000 * scale), 40))
    sides = [texts(sft.model, prompts, 500 + side) for side in (0, 1)]
    gaps = (reward.scores(sides[0]) - reward.scores(sides[1])).double().numpy() * reward.std
    written = [side.texts(TOKENIZER)[1] for side in sides]
    golds = [np.array([reviews.gold_reward(*pair) for pair in zip(prompts, text, strict=True)]) for text in written]
    known, predicted = 1 / (1 + np.exp(golds[1] - golds[0])), 1 / (1 + np.exp(-gaps))
    return {
        "accuracy": float(np.where(gaps > 0, known, 1 - known).mean()),  # of the rater's next choice
        "best_accuracy": float(np.maximum(known, 1 - known).mean()),
        "error": float(np.abs(predicted - known).mean()),
        "slope": float(np.polyfit(golds[0] - golds[1], gaps, 1)[0]),
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tasks(scale: float) -> list[Task]:
    """All runs, each reward model and seed of which is a process's call."""
    return [
        *(Task("algorithms", name, scale=scale) for name in (*ALGORITHMS, "DPO")),
        *(Task("beta", "PPO", beta, scale=scale) for beta in BETAS),
        *(Task("pairs", "PPO", 0.03, n, scale=scale) for n in PAIRS),
        *(Task("sycophancy", "PPO", 0.1, 2000, rho, scale=scale) for rho in RHOS),
    ]


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the length of everything (default 1)")
    options = parser.parse_args()
    chosen = [task for task in tasks(options.scale) if options.only in task.name]
    seeds = range(options.seeds)
    calls = [(task, one, other) for task in chosen for one in seeds for other in seeds]
    runs: dict[Task, list[dict[str, Any]]] = {task: [] for task in chosen}
    for (task, *_), found in zip(calls, run_all(train, calls, options.jobs), strict=True):
        runs[task].append(found)
    parts = {task.part for task in chosen}
    others: dict[str, dict[int, list[dict[str, float]]]] = {}
    for part, function, numbers in (("algorithms", best_of, BEST_OF), ("pairs", calibration, PAIRS)):
        if part in parts:
            extra = [(n, options.scale, seed) for n in numbers for seed in seeds]
            others[part] = {n: [] for n in numbers}
            for (n, *_), found in zip(extra, run_all(function, extra, options.jobs), strict=True):
                others[part][n].append(found)
    text = "\n\n".join(SECTIONS[part](runs, others.get(part, {})) for part in SECTIONS if part in parts)
    results = {task.name: found for task, found in runs.items()} | {"others": others}
    write("language", "Language models", text, results, figure(runs) if "beta" in parts else None, options.output)


Runs = dict[Task, list[dict[str, Any]]]


def cells(found: list[dict[str, Any]], *names: str) -> list[str]:
    return [mean_and_interval([one[name] for one in found], 2) for name in names]


def algorithms_section(runs: Runs, best: dict[int, list[dict[str, float]]]) -> str:
    rows = []
    for task, found in runs.items():
        if task.part == "algorithms":
            gaps = [one["optimum"] - one["J"] for one in found]
            rows.append([task.algorithm, *cells(found, "J"), mean_and_interval(gaps, 2)])
            rows[-1] += [*cells(found, "gold", "kl", "valid"), f"{np.mean([one['seconds'] for one in found]):.0f}"]
    for n, several in best.items():
        rows.append([f"best of {n}", *cells(several, "J"), "", *cells(several, "gold", "kl", "valid"), ""])
    head = ["algorithm", "J", "J* - J", "gold", "KL", "well-formed", "CPU s"]
    return f"## Algorithms at {N_TOKENS:,} tokens, β = .1\n\n{table(head, rows)}"


def beta_section(runs: Runs, _: Any) -> str:
    rows, samples = [], []
    for task, found in runs.items():
        if task.part == "beta":
            rows.append([f"{task.kl_coef:g}", *cells(found, "proxy", "gold", "kl", "valid", "J", "optimum")])
            samples += [f"* β = {task.kl_coef:g}: `{text}`" for text in found[0]["samples"]]
    head = ["β", "proxy", "gold", "KL", "well-formed", "J", "J*"]
    return f"## The price of KL divergence (PPO)\n\n{table(head, rows)}\n\n" + "\n".join(samples)


def pairs_section(runs: Runs, known: dict[int, list[dict[str, float]]]) -> str:
    rows = []
    for task, found in runs.items():
        if task.part == "pairs":
            fit = known[task.n_pairs]
            rows.append([f"{task.n_pairs:,}", *cells(fit, "accuracy", "best_accuracy", "error", "slope")])
            rows[-1] += cells(found, "proxy", "gold", "kl")
    head = ["pairs", "accuracy", "that of the rater's own reward", "error of P", "slope", "proxy", "gold", "KL"]
    return f"## Reward models, and PPO on them at β = .03\n\n{table(head, rows)}"


def sycophancy_section(runs: Runs, _: Any) -> str:
    rows = [
        [f"{task.rho:g}", *cells(found, "truth_before", "truth", "kl")]
        for task, found in runs.items()
        if task.part == "sycophancy"
    ]
    return "## Flattery (PPO, β = .1)\n\n" + table(["ρ", "truth before", "truth after", "KL"], rows)


SECTIONS = {
    "algorithms": algorithms_section,
    "beta": beta_section,
    "pairs": pairs_section,
    "sycophancy": sycophancy_section,
}


def figure(runs: Runs) -> Any:
    """Proxy and gold over the square root of the KL divergence, for each β."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for task, found in runs.items():
        if task.part != "beta":
            continue
        for one in found:
            rows = np.array(one["curve"])
            colour = plt.get_cmap("viridis")(BETAS.index(task.kl_coef) / len(BETAS))
            label = f"β = {task.kl_coef:g}" if one is found[0] else None
            for ax, column in zip(axes, (1, 2), strict=True):
                ax.plot(np.sqrt(np.maximum(rows[:, 3], 0)), rows[:, column], color=colour, alpha=0.6, label=label)
    for ax, title in zip(axes, ("reward model (proxy)", "gold reward"), strict=True):
        ax.set(xlabel="√KL(π ‖ π_ref)", title=title)
    axes[0].legend(frameon=False)
    return fig


if __name__ == "__main__":
    main()
