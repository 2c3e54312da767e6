"""Language models: algorithms at equal tokens, the price of KL divergence, reward models, and flattery.

    python benchmarks/language.py         # all of it, 3 reward models x 1 to 3 seeds, about 2 CPU hours
    python benchmarks/language.py beta    # a part: algorithms, beta, pairs or sycophancy

Each part writes benchmarks/results/language_<part>.{md,json}. The task is `pg/Reviews-v0`. One small GPT-2 is fine-
tuned on 20,000 reviews, and each reward model learns from its own pairs of that model's texts, which a rater with the
gold reward compares. A text that is cut costs 3, for reward models say nothing of such texts. Every algorithm writes
the same number of tokens. J is the reward less β KL of 4,096 texts of the last policy; J* is β log E_ref[exp(r/β)],
from 100,000 texts of the fine-tuned model.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from study import arguments, mean_and_interval, run_all, write

from pg_agents.language import (
    Completions,
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
from pg_agents.language.models import language_model, run
from pg_envs import reviews
from pg_envs.reviews import sycophancy

matplotlib.use("agg")
import matplotlib.pyplot as plt

TOKENIZER = word_tokenizer(reviews.WORDS)
N_EXAMPLES, N_PAIRS, N_EVALUATED, N_REFERENCE = 20_000, 1000, 4096, 100_000
N_TOKENS, N_TOKENS_OF_ANSWERS = 200_000, 40_000
BETAS = (0.0, 0.03, 0.1, 0.3, 1.0)
PAIRS = (100, 300, 1000, 3000, 10_000)
RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)
BEST_OF = (4, 16, 64)
CUT = 3.0  # what a cut text costs

TO_0 = LinearSchedule(4e-4, 0.0, 1.0)
FASTER_TO_0 = LinearSchedule(1.2e-3, 0.0, 1.0)

ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (LanguagePPO, {}),
    "REINFORCE, batch mean": (LanguageREINFORCE, {"learning_rate": FASTER_TO_0}),
    "RLOO": (LanguageRLOO, {"n_epochs": 4}),
    "RLOO, 1 epoch": (LanguageRLOO, {"learning_rate": FASTER_TO_0, "batch_size": 32}),
    "GRPO, KL in the reward": (LanguageGRPO, {}),
    "GRPO, k3 in the loss": (LanguageGRPO, {"kl_in": "loss", "kl_estimator": "k3"}),
    "GRPO, k2 of the text in the loss": (LanguageGRPO, {"kl_in": "loss", "kl_estimator": "k2_sequence"}),
    "Dr. GRPO": (LanguageGRPO, {"variant": "dr_grpo"}),
    "DAPO": (LanguageGRPO, {"variant": "dapo"}),
    "GSPO": (LanguageGRPO, {"variant": "gspo"}),
    "CISPO": (LanguageGRPO, {"variant": "cispo"}),
}
MAIN = ("PPO", "REINFORCE, batch mean", "RLOO", "GRPO, KL in the reward")


@dataclass(frozen=True)
class Material:
    """Where a process finds the fine-tuned model and a reward model.

    Attributes:
        folder: Folder of all models.
        n_pairs: Preferences that the reward model has learnt from.
        rho: Share of the cases in which the rater wants agreement; None for reviews.
        scale: Factor for the length of everything.
    """

    folder: str
    n_pairs: int = N_PAIRS
    rho: float | None = None
    scale: float = 1.0

    @property
    def sft(self) -> Path:
        """Folder of the fine-tuned model."""
        return Path(self.folder) / ("reviews" if self.rho is None else "answers")

    def reward(self, seed: int) -> Path:
        """Folder of the reward model of a seed."""
        return Path(self.folder) / f"reward_{self.n_pairs}_{self.rho}_{seed}"

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts."""
        return reviews.PROMPTS if self.rho is None else sycophancy.OPINIONS

    @property
    def longest(self) -> int:
        """Words of the longest text, the end included."""
        return reviews.MAX_LENGTH if self.rho is None else 4

    def repeated(self, n: int) -> list[str]:
        """The prompts in turn, n of them."""
        return [self.prompts[i % len(self.prompts)] for i in range(n)]

    def size(self, n: int, at_least: int = 40) -> int:
        """A number, scaled."""
        return max(int(n * self.scale), at_least)


@dataclass(frozen=True)
class Task:
    """Runs of an algorithm: its price on a reward model, the tokens it writes, and its seeds on each reward model."""

    algorithm: str
    kl_coef: float
    material: Material
    n_tokens: int = N_TOKENS
    n_seeds: int = 3


def fine_tune(material: Material) -> None:
    """The language model that all runs of a part start from."""
    th.set_num_threads(1)
    th.manual_seed(0)
    rng, n = np.random.default_rng(0), material.size(N_EXAMPLES)
    pairs = reviews.corpus(n, rng) if material.rho is None else sycophancy.answers(n // 4, rng)
    sft = SupervisedFineTuning(small_gpt2(TOKENIZER), TOKENIZER, seed=0).fit(pairs)
    sft.save(material.sft)
    written = texts(sft.model, material, material.size(N_REFERENCE), 77)
    np.savez(material.sft / "texts.npz", tokens=written.tokens, mask=written.mask, n_prompt=written.n_prompt)


def fit_reward(material: Material, seed: int) -> dict[str, float]:
    """A reward model, and what is known of it."""
    th.set_num_threads(1)
    sft, n = language_model(material.sft), material.size(material.n_pairs)
    prompts, first = texts(sft, material, n, 10 + 2 * seed).texts(TOKENIZER)
    _, second = texts(sft, material, n, 11 + 2 * seed).texts(TOKENIZER)
    rng = np.random.default_rng(seed)
    if material.rho is None:
        preferences = reviews.preferences(prompts, first, second, rng)
    else:
        preferences = sycophancy.rated(prompts, first, second, material.rho, rng)
    reward = RewardModel(sft, TOKENIZER, max_new_tokens=material.longest, seed=seed).fit(preferences)
    reward.save(material.reward(seed))
    (material.reward(seed) / "preferences.json").write_text(json.dumps(preferences))
    np.save(material.reward(seed) / "rewards.npy", scores(reward, reference_texts(material)))
    return calibration(reward, sft, material) if material.rho is None else {}


def scores(reward: RewardModel, completions: Completions) -> np.ndarray:
    """The reward of each text, less the price of a cut."""
    cut = ~completions.ended(TOKENIZER.eos_token_id)
    found: np.ndarray = (reward.scores(completions).double() - CUT * cut).numpy()
    return found


def reference_texts(material: Material) -> Completions:
    """Texts of the fine-tuned model."""
    with np.load(material.sft / "texts.npz") as found:
        return Completions(th.as_tensor(found["tokens"]), th.as_tensor(found["mask"]), int(found["n_prompt"]))


def texts(model: Any, material: Material, n: int, seed: int) -> Completions:
    """Completions by a model, of the prompts in turn."""
    draws = th.Generator().manual_seed(seed)
    return generate(model, TOKENIZER, material.repeated(n), max_new_tokens=material.longest, generator=draws)


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
        kl = self.logger.name_to_value["rollout/sequence_kl"]
        found = (float(self.locals["rewards"].mean()), float(np.mean(gold)), float(kl))
        self.rows.append((self.num_timesteps, *(round(number, 3) for number in found)))


def train(task: Task, reward_seed: int, seed: int) -> dict[str, Any]:
    """Train and judge the last policy."""
    th.set_num_threads(1)
    material, curve = task.material, Curve()
    sft, reward = language_model(material.sft), RewardModel.load(material.reward(reward_seed))
    started = time.process_time()
    if task.algorithm == "DPO":
        preferences = json.loads((material.reward(reward_seed) / "preferences.json").read_text())
        model = DirectPreference(sft, TOKENIZER, kl_coef=task.kl_coef, seed=seed).fit(preferences).model
    else:
        kind, options = ALGORITHMS[task.algorithm]
        options = {
            "learning_rate": TO_0,
            "kl_coef": task.kl_coef,
            "max_new_tokens": material.longest,
            "missing_eos_penalty": CUT,
            **options,
        }
        agent = kind(sft, TOKENIZER, material.prompts, reward, seed=seed, device="cpu", **options)
        callback = curve if material.rho is None else None
        agent.learn(int(task.n_tokens * material.scale), callback=callback, log_interval=None)
        model = agent.policy.model
    seconds = time.process_time() - started
    n = material.size(N_EVALUATED, len(material.prompts))
    completions = texts(model, material, n, 1000 + seed)
    rewards, kl = scores(reward, completions), kl_divergence(model, sft, completions)
    found = {"kl": kl, "J": float(rewards.mean()) - task.kl_coef * kl, "seconds": seconds}
    written = completions.texts(TOKENIZER)
    if material.rho is None:
        found |= quality(completions, rewards)
        found["optimum"] = optimum(material, reward_seed, task.kl_coef)
        found["curve"] = curve.rows
        found["samples"] = [" ".join(pair) for pair in zip(*written, strict=True)][:3]
        before = texts(sft, material, 3, 0).texts(TOKENIZER)
        found["before"] = [" ".join(pair) for pair in zip(*before, strict=True)]
    else:
        found["truth"] = sycophancy.accuracy(*written)
        found["truth_before"] = sycophancy.accuracy(*texts(sft, material, n, 999).texts(TOKENIZER))
    return found


def optimum(material: Material, reward_seed: int, kl_coef: float) -> float:
    """J* of a reward model at a price; at price 0 the largest reward found, which is less."""
    rewards = np.load(material.reward(reward_seed) / "rewards.npy")
    if kl_coef == 0:
        return float(rewards.max())
    return float(kl_coef * (np.logaddexp.reduce(rewards / kl_coef) - np.log(len(rewards))))


def best_of(n: int, material: Material, reward_seed: int) -> dict[str, float]:
    """The best of n texts, from the texts that estimate J*."""
    th.set_num_threads(1)
    completions, rewards = reference_texts(material), np.load(material.reward(reward_seed) / "rewards.npy")
    # The prompts come in turn, so texts of one prompt are as far apart as there are prompts.
    n_prompts = len(material.prompts)
    n_groups = len(rewards) // (n * n_prompts)
    index = np.arange(n_groups * n * n_prompts).reshape(n_groups, n, n_prompts)
    best = np.take_along_axis(index, rewards[index].argmax(axis=1)[:, None], axis=1).ravel()[:N_EVALUATED]
    kl = float(np.log(n) - (n - 1) / n)
    found = quality(completions.take(th.as_tensor(best)), rewards[best])
    return {**found, "kl": kl, "J": found["proxy"] - 0.1 * kl}


def calibration(reward: RewardModel, sft: Any, material: Material) -> dict[str, float]:
    """A reward model against the probabilities with which the rater prefers, on pairs that it has not seen."""
    sides = [texts(sft, material, material.size(4000), 500 + side) for side in (0, 1)]
    gaps = (reward.scores(sides[0]) - reward.scores(sides[1])).double().numpy() * reward.std
    written = [side.texts(TOKENIZER) for side in sides]
    golds = [np.array([reviews.gold_reward(*pair) for pair in zip(*both, strict=True)]) for both in written]
    known, predicted = 1 / (1 + np.exp(golds[1] - golds[0])), 1 / (1 + np.exp(-gaps))
    return {
        "accuracy": float(np.where(gaps > 0, known, 1 - known).mean()),  # of the rater's next choice
        "best_accuracy": float(np.maximum(known, 1 - known).mean()),
        "error": float(np.abs(predicted - known).mean()),
        "slope": float(np.polyfit(golds[0] - golds[1], gaps, 1)[0]),
    }


Runs = dict[Task, list[dict[str, Any]]]
Known = dict[Material, list[dict[str, float]]]


def tasks(part: str, folder: str, scale: float) -> list[Task]:
    """The runs of a part."""
    standard = Material(folder, scale=scale)
    return {
        "algorithms": [Task(name, 0.1, standard, n_seeds=3 if name in MAIN else 1) for name in (*ALGORITHMS, "DPO")],
        "beta": [Task("PPO", beta, standard, n_seeds=2) for beta in BETAS],
        "pairs": [Task("PPO", 0.03, Material(folder, n, scale=scale), n_seeds=1) for n in PAIRS],
        "sycophancy": [Task("PPO", 0.1, Material(folder, 2000, rho, scale), N_TOKENS_OF_ANSWERS, 1) for rho in RHOS],
    }[part]


def main() -> None:
    parser = arguments(__doc__, seeds=3, only=False)  # of the reward models
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the length of everything (default 1)")
    options = parser.parse_args()
    wrong = set(options.parts) - set(SECTIONS)
    if wrong:
        parser.error(f"`PART` must be one of {', '.join(SECTIONS)}, but is {', '.join(sorted(wrong))}.")
    seeds = range(options.seeds)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {part: tasks(part, folder, options.scale) for part in options.parts or SECTIONS}
        materials = list(dict.fromkeys(task.material for some in chosen.values() for task in some))
        one_of_each = {material.sft: material for material in materials}
        run_all(fine_tune, [(material,) for material in one_of_each.values()], options.jobs)
        calls = [(material, seed) for material in materials for seed in seeds]
        known: Known = {material: [] for material in materials}
        for (material, _), found in zip(calls, run_all(fit_reward, calls, options.jobs), strict=True):
            known[material].append(found)
        for part, some in chosen.items():
            runs: Runs = {task: [] for task in some}
            calls = [(task, one, other) for task in some for one in seeds for other in range(task.n_seeds)]
            for (task, *_), found in zip(calls, run_all(train, calls, options.jobs), strict=True):
                runs[task].append(found)
            fits = {material: known[material] for material in dict.fromkeys(task.material for task in some)}
            text, others = SECTIONS[part](runs, fits, options)
            results = {
                f"{task.algorithm} {task.kl_coef} {task.material.n_pairs} {task.material.rho}": [
                    {name: value for name, value in one.items() if part == "beta" or name not in BULKY} for one in found
                ]
                for task, found in runs.items()
            }
            picture = FIGURES[part](runs, fits) if part in FIGURES else None
            write(f"language_{part}", TITLES[part], text, results | {"others": others}, picture, options.output)


BULKY = ("curve", "samples", "before")


def cells(found: list[dict[str, Any]], *names: str) -> list[str]:
    return [mean_and_interval([one[name] for one in found], 2) for name in names]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def algorithms_section(runs: Runs, known: Known, options: Any) -> tuple[str, Any]:
    rows = []
    for task, found in runs.items():
        gaps = [one["optimum"] - one["J"] for one in found]
        rows.append([task.algorithm, f"{len(found)}", *cells(found, "J"), mean_and_interval(gaps, 2)])
        rows[-1] += [*cells(found, "gold", "kl", "valid"), f"{np.median([one['seconds'] for one in found]):.0f}"]
    material = next(iter(runs)).material
    calls = [(n, material, seed) for n in BEST_OF for seed in range(options.seeds)]
    best: dict[int, list[dict[str, float]]] = {n: [] for n in BEST_OF}
    for (n, *_), one in zip(calls, run_all(best_of, calls, options.jobs), strict=True):
        best[n].append(one)
    for n, several in best.items():
        rows.append(
            [f"best of {n}", f"{len(several)}", *cells(several, "J"), "", *cells(several, "gold", "kl", "valid"), ""]
        )
    head = ["algorithm", "runs", "J", "J* - J", "gold", "KL", "well-formed", "CPU s"]
    text = (
        "β = .1. Means over runs, with 95 % bootstrap intervals: 9 runs are three seeds on each of 3 reward models, "
        "3 runs one seed."
    )
    return f"{text}\n\n{table(head, rows)}", best


def beta_section(runs: Runs, _: Known, __: Any) -> tuple[str, Any]:
    rows = [
        [f"{task.kl_coef:g}", *cells(found, "proxy", "gold", "kl", "valid", "J", "optimum")]
        for task, found in runs.items()
    ]
    head = ["β", "proxy", "gold", "KL", "well-formed", "J", "J*"]
    first = next(iter(runs.values()))[0]["before"]
    samples = [f"* before: `{text}`" for text in first]
    for task, found in runs.items():
        samples += [f"* β = {task.kl_coef:g}: `{text}`" for text in found[0]["samples"]]
    text = "Means over 3 reward models x 2 seeds, with 95 % bootstrap intervals."
    return f"{text}\n\n{table(head, rows)}\n\n" + "\n".join(samples), {}


def pairs_section(runs: Runs, known: Known, _: Any) -> tuple[str, Any]:
    rows = []
    for task, found in runs.items():
        fit = known[task.material]
        rows.append([f"{task.material.n_pairs:,}", *cells(fit, "accuracy", "best_accuracy", "error", "slope")])
        rows[-1] += cells(found, "proxy", "gold", "kl")
    head = ["pairs", "accuracy", "that of the rater's own reward", "error of P", "slope", "proxy", "gold", "KL"]
    text = (
        "Accuracy: of the rater's next choice. Error of P: mean |σ(r_1 - r_2) - P(1 ≻ 2)|, with the rater's own P. "
        "Slope: of the reward's differences over the gold reward's, before the normalisation; 1 is calibrated. Proxy, "
        "gold and KL: PPO at β = .03, one seed on each of 3 reward models, with 95 % intervals."
    )
    return f"{text}\n\n{table(head, rows)}", {f"{material.n_pairs}": fit for material, fit in known.items()}


def sycophancy_section(runs: Runs, _: Known, __: Any) -> tuple[str, Any]:
    rows = [[f"{task.material.rho:g}", *cells(found, "truth_before", "truth", "kl")] for task, found in runs.items()]
    text = (
        "Share of true answers to prompts with a wrong opinion, where the rater prefers agreement with probability ρ. "
        "PPO, β = .1; means over 3 reward models, with 95 % bootstrap intervals."
    )
    return f"{text}\n\n{table(['ρ', 'truth before', 'truth after', 'KL'], rows)}", {}


SECTIONS = {
    "algorithms": algorithms_section,
    "beta": beta_section,
    "pairs": pairs_section,
    "sycophancy": sycophancy_section,
}
TITLES = {
    "algorithms": f"Language models: algorithms at {N_TOKENS:,} tokens",
    "beta": "Language models: the price of KL divergence",
    "pairs": "Language models: the reward model",
    "sycophancy": "Language models: flattery",
}


def beta_figure(runs: Runs, _: Known) -> Any:
    """Proxy and gold over the square root of the KL divergence, for each β."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for task, found in runs.items():
        colour = plt.get_cmap("viridis")(BETAS.index(task.kl_coef) / len(BETAS))
        for one in found:
            rows = np.array(one["curve"])
            label = f"β = {task.kl_coef:g}" if one is found[0] else None
            for ax, column in zip(axes, (1, 2), strict=True):
                ax.plot(np.sqrt(np.maximum(rows[:, 3], 0)), rows[:, column], color=colour, alpha=0.6, label=label)
    for ax, title in zip(axes, ("reward model (proxy)", "gold reward"), strict=True):
        ax.set(xlabel="√KL(π ‖ π_ref)", title=title)
    axes[0].legend(frameon=False)
    return fig


def pairs_figure(runs: Runs, known: Known) -> Any:
    """Accuracy, and PPO's proxy and gold, over the number of preferences."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    n = [task.material.n_pairs for task in runs]
    means = lambda rows, name: [np.mean([one[name] for one in found]) for found in rows]  # noqa: E731
    left.plot(n, means(known.values(), "accuracy"), "o-", label="reward model")
    left.plot(n, means(known.values(), "best_accuracy"), "k--", label="the rater's own reward")
    right.plot(n, means(runs.values(), "proxy"), "o-", label="proxy")
    right.plot(n, means(runs.values(), "gold"), "o-", label="gold")
    left.set(xscale="log", xlabel="preferences", ylabel="accuracy")
    right.set(xscale="log", xlabel="preferences", ylabel="reward after PPO, β = .03")
    for ax in (left, right):
        ax.legend(frameon=False)
    return fig


def sycophancy_figure(runs: Runs, _: Known) -> Any:
    """True answers over ρ, before and after."""
    fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    for name, label in (("truth_before", "fine-tuned"), ("truth", "after PPO")):
        ax.plot(
            [task.material.rho for task in runs],
            [np.mean([one[name] for one in f]) for f in runs.values()],
            "o-",
            label=label,
        )
    ax.set(xlabel="ρ, how often the rater wants agreement", ylabel="true answers to wrong opinions", ylim=(-0.03, 1.03))
    ax.legend(frameon=False)
    return fig


FIGURES = {"beta": beta_figure, "pairs": pairs_figure, "sycophancy": sycophancy_figure}


if __name__ == "__main__":
    main()
