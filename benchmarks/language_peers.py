"""RLOO and GRPO on a language model, compared with TRL (Hugging Face) in the same run of this script.

    python benchmarks/language_peers.py --install peers    # writes benchmarks/results/language_peers.{md,json}
    python benchmarks/language_peers.py --install peers --scale .05 --output runs    # all of it in a few minutes

TRL has an environment of its own: `--install FOLDER` makes the virtual environment FOLDER/trl with pip where it is
missing, and `--trl` names an existing one. Without it there is nothing to compare.

The task is that of `language.py`: a small GPT-2, fine-tuned on 20,000 reviews, and a reward model from 1,000
preferences. Both are made once, and saved as folders that both sides load. Each side trains in a process of its own, on
one thread, and in alternation. The last policies are judged here, all in the same way: J is the reward less β KL of
4,096 texts. The results are written after each training. `--only` computes the trainings whose name contains it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import study
import torch as th
from language import N_EVALUATED, Material, fine_tune, fit_reward, kl_divergence, quality, reference_texts
from language import texts as written_by
from peers import HERE, Peer, add_options, find_peers, machine, whole_process

from pg_agents.language import RewardModel
from pg_agents.language.models import language_model
from pg_envs import reviews

N_BATCHES, REWARD_SEED, KL_COEF = 100, 0, 0.1
KNOWN = [(prompt, text) for prompt in reviews.PROMPTS for text in ("it is good . <eos>", "i hate it", "<eos>")]

OF_TRL = {
    "per_device_train_batch_size": 64,
    "steps_per_generation": 2,
    "num_generations": 8,
    "max_completion_length": 24,
    "beta": KL_COEF,
    "adam_epsilon": 1e-5,
}
"""Our defaults in TRL's words."""


@dataclass(frozen=True)
class Training:
    """A training by one of the sides.

    Attributes:
        side: `ours` or `TRL`.
        algorithm: A name in `pg_agents.language`, or a trainer of TRL without its ending.
        config: What differs from our defaults, or from `OF_TRL`, in the side's words.
    """

    side: str
    algorithm: str
    config: dict[str, Any]

    def command(self, trl: Peer, work: dict[str, Any]) -> list[str]:
        """The command of its process."""
        if self.side == "TRL":
            work = {"trainer": self.algorithm, "config": OF_TRL | self.config, **work}
            return [trl.python, str(HERE / "peer_trl.py"), json.dumps(work)]
        work = {"algorithm": self.algorithm, "config": {"kl_coef": KL_COEF, **self.config}, **work}
        return [sys.executable, str(HERE / "peer_language.py"), json.dumps(work)]


ONE_EPOCH = {"learning_rate": 6e-4, "num_iterations": 1}
FOUR_EPOCHS = {"learning_rate": 2e-4, "num_iterations": 4}

TRAININGS = {
    "TRL RLOO, 1 epoch": Training("TRL", "RLOO", ONE_EPOCH),
    "our RLOO, 1 epoch": Training("ours", "LanguageRLOO", {}),
    "TRL RLOO, 4 epochs": Training("TRL", "RLOO", FOUR_EPOCHS),
    "our RLOO, 4 epochs": Training("ours", "LanguageRLOO", {"learning_rate": 2e-4, "n_epochs": 4}),
    "TRL GRPO, k3 in the loss": Training("TRL", "GRPO", FOUR_EPOCHS),
    "our GRPO": Training("ours", "LanguageGRPO", {}),
    "TRL GRPO, unscaled": Training("TRL", "GRPO", FOUR_EPOCHS | {"scale_rewards": "none"}),
}
ROWS = {
    "RLOO, 1 epoch": ("TRL RLOO, 1 epoch", "our RLOO, 1 epoch"),
    "RLOO, 4 epochs": ("TRL RLOO, 4 epochs", "our RLOO, 4 epochs"),
    "GRPO, each as it is": ("TRL GRPO, k3 in the loss", "our GRPO"),
    "GRPO, TRL's best": ("TRL GRPO, unscaled", "our GRPO"),
}


def judge(folder: str | Path, reward: RewardModel, material: Material, seed: int) -> dict[str, float]:
    """Quality of the policy in a folder."""
    model = language_model(folder)
    completions = written_by(model, material, material.size(N_EVALUATED), 1000 + seed)
    rewards = reward.scores(completions).numpy()
    kl = kl_divergence(model, language_model(material.sft), completions)
    return {"kl": kl, "J": float(rewards.mean()) - KL_COEF * kl, **quality(completions, rewards)}


Found = dict[str, dict[int, dict[str, Any]]]
"""Reports of the trainings so far, by name and seed."""


def measure(
    trainings: dict[str, Training],
    trl: Peer,
    options: argparse.Namespace,
    record: Callable[[Found, dict[str, float]], None],
) -> None:
    """Train, and record the reports after each training, with what is known of the task."""
    th.set_num_threads(1)
    scale = options.scale
    found: Found = {name: {} for name in trainings}
    lock = Lock()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        folder = Path(name)
        material = Material(name, scale=scale)
        fine_tune(material)
        fit_reward(material, REWARD_SEED)
        reward = RewardModel.load(material.reward(REWARD_SEED))
        known = [reward(*pair) for pair in KNOWN]
        tilted = reward.scores(reference_texts(material)).double().numpy() / KL_COEF
        of_task = {
            "optimum": float(KL_COEF * (np.logaddexp.reduce(tilted) - np.log(len(tilted)))),
            "reference": judge(material.sft, reward, material, seed=0)["J"],
            "accuracy": reward.accuracy,
        }

        def train_all(seed: int) -> None:
            for name, training in trainings.items():
                work = {
                    "model": str(material.sft),
                    "reward": str(material.reward(REWARD_SEED)),
                    "output": str(folder / f"trained-{seed}"),
                    "prompts": list(reviews.PROMPTS),
                    "n_batches": max(int(N_BATCHES * scale), 1),
                    "seed": seed,
                    "known": KNOWN,
                }
                report = whole_process(training.command(trl, work), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
                np.testing.assert_allclose(report.pop("known"), known, atol=1e-4)  # both sides have the same reward
                report |= judge(work["output"], reward, material, seed)
                with lock:
                    found[name][seed] = report
                    print(f"{name}, seed {seed}: {report}", flush=True)
                    record(found, of_task)

        list(pool.map(train_all, range(options.seeds)))


Reports = list[dict[str, Any]]


def spread(values: Any, digits: int = 2) -> str:
    """Median and range."""
    return f"{np.median(values):.{digits}f} [{np.min(values):.{digits}f}, {np.max(values):.{digits}f}]"


def column(reports: Reports, key: str) -> np.ndarray:
    """One number of each report."""
    return np.array([report[key] for report in reports], dtype=float)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comparison(found: Found) -> str:
    """Both sides of each row, over the seeds that both have finished."""
    head = ["", "TRL's J", "our J", "TRL, CPU s", "ours, CPU s", "ratio", "TRL, whole process", "ours", "ratio"]
    rows = []
    for name, sides in ROWS.items():
        seeds = sorted(set.intersection(*(set(found.get(side, {})) for side in sides)))
        if not seeds:
            continue
        theirs, ours = ([found[side][seed] for seed in seeds] for side in sides)
        cells = [spread(column(reports, "J")) for reports in (theirs, ours)]
        for key in ("training", "processor"):
            cells += [spread(column(reports, key), 1) for reports in (theirs, ours)]
            cells.append(f"**{spread(column(theirs, key) / column(ours, key))}**")
        rows.append([name, *cells])
    return table(head, rows)


def policies(found: Found) -> str:
    """Each training by itself."""
    digits = {"J": 2, "proxy": 2, "gold": 2, "kl": 1, "valid": 2, "length": 1}
    head = ["training", "seeds", "J", "reward", "gold", "KL", "well-formed", "length"]
    head += ["tokens", "steps", "tokens per CPU s"]
    rows = []
    for name, by_seed in found.items():
        if not by_seed:
            continue
        reports = list(by_seed.values())
        cells = [str(len(reports)), *(spread(column(reports, key), n) for key, n in digits.items())]
        speed = column(reports, "tokens") / column(reports, "training")
        numbers = [column(reports, "tokens"), column(reports, "updates"), speed]
        rows.append([name, *cells, *(f"{np.median(values):,.0f}" for values in numbers)])
    return table(head, rows)


EXPLANATION = """
Medians [and ranges] over seeds of training, with one reward model; ratios of the same seed, above 1 where ours
is faster. J is the reward less .1 KL of {texts:,} texts of the last policy. J* is {optimum:.2f}, the fine-tuned model's
own J is {reference:.2f}, and the reward model's accuracy {accuracy:.2f}.

A training is {batches} batches of 128 completions, in groups of 8, of at most 24 tokens, in minibatches of 64. *CPU s*
is the processor time of `trainer.train()` and `agent.learn()`, with nothing logged; *whole process* has imports,
loading and saving too. Learning rates (6e-4 for one epoch, 2e-4 for four), epochs, clip range, norm of the gradient and
Adam's ε are equal. Temperature is 1, and nothing is cut off the distribution, as both libraries have it by default.

TRL has the fastest settings that were found: 32-bit numbers and no gradient checkpointing (its defaults are bfloat16
and checkpointing), no log, one thread, PyTorch's fused AdamW, and a reward function for the whole batch, which runs the
same trunk and head on TRL's own tokens. A static cache, eager attention and PyTorch's other AdamW made no difference
beyond noise of 10 %. TRL computes the last layer in tiles of 32,768 words, and has no argument for it: with a constant
of its code changed to the vocabulary's 44 words, RLOO of four epochs takes 15 % less time. TRL's own learning rate,
1e-6, is for larger models.

The algorithms differ where the libraries do:

* RLOO has the price of KL divergence in the reward in both. TRL's ratio and clip are those of a whole text, ours those
  of a token.
* GRPO has that price in the reward here, and as k3 in the loss in TRL, whose mean is over tokens (`loss_type="dapo"`)
  where ours is over texts. *TRL's best* does not divide by the group's standard deviation (`scale_rewards="none"`).
"""


def main() -> None:
    parser = study.arguments(__doc__, seeds=None)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the length of everything (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time (default 1)")
    add_options(parser, ["trl"])
    options = parser.parse_args()
    peers = find_peers(options, ["trl"])
    if not peers:
        return
    trainings = {name: training for name, training in TRAININGS.items() if options.only in name}
    versions, computer = peers["trl"].versions, machine()
    named = ", ".join(f"{package} {number}" for package, number in versions.items())
    origin = (
        f"{computer['processor']}, {computer['cores']} cores; TRL's environment: {named}; ours: transformers "
        f"{version('transformers')}."
    )

    def record(found: Found, of_task: dict[str, float]) -> None:
        n_batches, texts = max(int(N_BATCHES * options.scale), 1), int(N_EVALUATED * options.scale)
        explanation = EXPLANATION.format(batches=n_batches, texts=texts, **of_task)
        text = "\n\n".join([origin, comparison(found), policies(found), explanation])
        results = {"machine": computer, "peers": versions, "task": of_task, "trainings": found}
        study.write("language_peers", "Language models, compared with TRL", text, results, folder=options.output)

    measure(trainings, peers["trl"], options, record)


if __name__ == "__main__":
    main()
