"""TRL's side of `language_peers.py`; runs in TRL's own environment.

    python benchmarks/peer_trl.py WORK

WORK is a JSON object:

| key         | what                                                               |
|-------------|--------------------------------------------------------------------|
| `trainer`   | `RLOO` or `GRPO`                                                   |
| `config`    | arguments of `RLOOConfig` or `GRPOConfig`                          |
| `model`     | folder of the fine-tuned model with its tokenizer                  |
| `reward`    | folder of a reward model that `RewardModel.save` has written       |
| `output`    | folder for the trained model                                       |
| `prompts`   | the prompts                                                        |
| `n_batches` | batches of completions                                             |
| `seed`      | seed of the training                                               |
| `known`     | pairs of prompt and completion                                     |

Prints one JSON object: completions and tokens written, the optimiser's steps, processor seconds and seconds of `train`,
and the rewards of `known`.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch as th
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

TRAINERS = {"RLOO": (RLOOTrainer, RLOOConfig), "GRPO": (GRPOTrainer, GRPOConfig)}


class Reward:
    """A reward function in TRL's form: the trunk and the head of a `RewardModel`, on a whole batch at once."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.trunk = AutoModel.from_pretrained(folder).eval()
        head = load_file(folder / "reward_head.safetensors")
        self.weight, self.bias = head["weight"][0], head["bias"][0]
        numbers = json.loads((folder / "reward.json").read_text())
        self.mean, self.std = numbers["mean"], numbers["std"]
        self.tokenizer = tokenizer
        self.encoded: dict[str, list[int]] = {}
        self.n_completions = self.n_tokens = 0
        self.__name__ = "reward"

    def __call__(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward of each completion."""
        self.n_completions += len(completion_ids)
        self.n_tokens += sum(map(len, completion_ids))
        rows = [[*self.encode(prompt), *tokens] for prompt, tokens in zip(prompts, completion_ids, strict=True)]
        longest = max(map(len, rows))
        # Padding follows the text, so no token that counts sees it.
        padded = th.tensor([row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        last = th.tensor([len(row) - 1 for row in rows])
        with th.inference_mode():
            hidden = self.trunk(input_ids=padded, use_cache=False).last_hidden_state[th.arange(len(rows)), last]
            return ((hidden @ self.weight + self.bias - self.mean) / self.std).tolist()

    def encode(self, prompt: str) -> list[int]:
        """The tokens of a prompt."""
        if prompt not in self.encoded:
            self.encoded[prompt] = self.tokenizer(prompt)["input_ids"]
        return self.encoded[prompt]


def main(work: dict[str, Any]) -> dict[str, Any]:
    """Train."""
    th.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # transformers' own, about names that TRL uses
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind, config = TRAINERS[work["trainer"]]
    arguments = config(
        output_dir=work["output"],
        seed=work["seed"],
        max_steps=work["n_batches"] * work["config"]["steps_per_generation"] * work["config"]["num_iterations"],
        shuffle_dataset=False,  # the dataset has the prompts in turn: each batch has all of them equally often
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        lr_scheduler_type="constant",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **work["config"],
    )
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    reward = Reward(Path(work["reward"]), tokenizer)
    found = reward([prompt for prompt, _ in work["known"]], [tokenizer(text)["input_ids"] for _, text in work["known"]])
    reward.n_completions = reward.n_tokens = 0
    n_groups = arguments.generation_batch_size // arguments.num_generations
    prompts = [work["prompts"][i % len(work["prompts"])] for i in range(n_groups * work["n_batches"])]
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(work["model"], dtype=th.float32),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    started, processor = time.perf_counter(), time.process_time()
    trainer.train()
    processor, seconds = time.process_time() - processor, time.perf_counter() - started
    trainer.model.save_pretrained(work["output"])
    return {
        "completions": reward.n_completions,
        "tokens": reward.n_tokens,
        "updates": trainer.state.global_step,
        "training": processor,
        "training_seconds": seconds,
        "known": found,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
