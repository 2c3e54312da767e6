"""9. From supervised fine-tuning to RLHF: a language model of 44 words learns what a rater likes.

    python examples/rlhf.py    # under 3 minutes on two idle cores; writes docs/images/examples/rlhf.png

A small GPT-2 learns to write reviews from examples, a reward model learns a rater's taste from comparisons, and PPO
moves the language model towards the reward: with the price β = 0.1 of a nat of KL divergence from the fine-tuned model,
and without a price. The rater's true taste, the gold reward, is known here, and shows what the reward model misses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th
from common import arguments, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback

from pg_agents.language import LanguagePPO, RewardModel, SupervisedFineTuning, generate, small_gpt2, word_tokenizer
from pg_envs import reviews

BETAS = (0.1, 0.0)
N_EXAMPLES, N_PREFERENCES, N_TOKENS = 20_000, 1000, 150_000
CUT = 3.0  # what a text costs that does not end: of such texts a reward model knows nothing
TOKENIZER = word_tokenizer(reviews.WORDS)


def fine_tuned(seed: int, n_examples: int) -> SupervisedFineTuning:
    """Step 1: a language model that writes as the examples do."""
    th.manual_seed(seed)
    examples = reviews.corpus(n_examples, np.random.default_rng(seed))
    return SupervisedFineTuning(small_gpt2(TOKENIZER), TOKENIZER, seed=seed).fit(examples)


def reward_model(sft: SupervisedFineTuning, seed: int, n_preferences: int) -> RewardModel:
    """Step 2: a rater compares pairs of its texts, and a model learns to predict her."""
    prompts = [reviews.PROMPTS[i % len(reviews.PROMPTS)] for i in range(n_preferences)]
    draws = th.Generator().manual_seed(seed)
    first, second = (generate(sft.model, TOKENIZER, prompts, generator=draws).texts(TOKENIZER)[1] for _ in range(2))
    preferences = reviews.preferences(prompts, first, second, np.random.default_rng(seed))
    return RewardModel(sft, TOKENIZER, seed=seed).fit(preferences)


class Curves(BaseCallback):
    """Of each batch: tokens so far, reward, gold reward, KL divergence and share of well-formed texts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[float, ...]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        texts = [(info["prompt"], info["completion"]) for info in self.locals["infos"]]
        self.rows.append(
            (
                self.num_timesteps,
                self.locals["rewards"].mean(),
                np.mean([reviews.gold_reward(*text) for text in texts]),
                self.logger.name_to_value["rollout/sequence_kl"],
                np.mean([reviews.is_valid(completion) for _, completion in texts]),
            )
        )


def run(seed: int, scale: float) -> dict[str, Any]:
    """The three steps, and step 3 for each β."""
    th.set_num_threads(1)
    clock = [time.process_time()]
    sft = fine_tuned(seed, int(scale * N_EXAMPLES))
    clock.append(time.process_time())
    print(f"Seed {seed}: fine-tuning has reached {sft.history[-1].validation:.3f} nats a token", flush=True)
    reward = reward_model(sft, seed, max(int(scale * N_PREFERENCES), 40))
    clock.append(time.process_time())
    print(f"Seed {seed}: the reward model is right about {reward.accuracy:.0%} of new pairs", flush=True)
    found: dict[str, Any] = {}
    for beta in BETAS:
        agent = LanguagePPO(
            sft, TOKENIZER, reviews.PROMPTS, reward, kl_coef=beta, missing_eos_penalty=CUT, seed=seed, device="cpu"
        )
        before = agent.generate(reviews.PROMPTS[:3])
        curves = Curves()
        agent.learn(int(scale * N_TOKENS), callback=curves)
        found[f"{beta}"] = curves.rows
        found[f"texts {beta}"] = list(zip(reviews.PROMPTS, before, agent.generate(reviews.PROMPTS[:3]), strict=False))
        clock.append(time.process_time())
        print(f"Seed {seed}: PPO with β = {beta} is done", flush=True)
    found["seconds"] = np.diff(clock)
    return found


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=2)
    runs = run_all(partial(run, scale=options.scale), [(seed,) for seed in range(options.seeds)], options.jobs)
    for (seed,), found in runs.items():
        tuning, judging, *rl = found["seconds"]
        betas = ", ".join(f"PPO with β = {beta} {seconds:.0f}" for beta, seconds in zip(BETAS, rl, strict=True))
        print(f"Seed {seed}, seconds of processor time: fine-tuning {tuning:.0f}, reward model {judging:.0f}, {betas}")
    for beta in BETAS:
        print(f"\nβ = {beta}, seed 0")
        for prompt, before, after in runs[0,][f"texts {beta}"]:
            print(f"  {prompt}\n    before: {before}\n    after:  {after}")
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for beta, colour in zip(BETAS, ("tab:blue", "tab:red"), strict=True):
        rows = [np.array(found[f"{beta}"]) for found in runs.values()]
        n = min(map(len, rows))
        tokens = rows[0][:n, 0] / 1000
        for axes, column in ((left, 1), (middle, 2), (right, 3)):
            for number, one in enumerate(rows):  # too few seeds for an interval
                axes.plot(tokens, one[:n, column], color=colour, alpha=0.7, label=None if number else f"β = {beta}")
        ends = np.mean([one[-5:].mean(axis=0) for one in rows], axis=0)
        print(f"β = {beta}: reward {ends[1]:.2f}, gold {ends[2]:.2f}, KL {ends[3]:.1f}, well-formed {ends[4]:.0%}")
    left.set(xlabel="thousands of tokens", ylabel="reward of the model")
    middle.set(xlabel="thousands of tokens", ylabel="gold reward")
    right.set(xlabel="thousands of tokens", ylabel="KL(π ‖ π_ref), nats", yscale="symlog")
    left.legend(frameon=False)
    save(figure, "rlhf", options.output)


if __name__ == "__main__":
    main()
