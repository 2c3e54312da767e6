"""The size of GPT-2 on a CPU: three updates of PPO with 124 million random weights, with LoRA and without.

    python benchmarks/language_size.py    # writes benchmarks/results/language_size.{md,json}

A smoke test of memory and time, not of learning. Weights are random, and the vocabulary has GPT-2's size. Real weights
come from a folder: `LanguagePPO("folder", prompts=..., reward=...)`.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from study import arguments, run_all, write
from transformers import GPT2Config, GPT2LMHeadModel

from pg_agents.language import LanguagePPO, word_tokenizer

N_TOKENS = 50_257
KINDS: dict[str, dict[str, Any]] = {
    "all parameters": {},
    "LoRA, r = 8": {"lora": {"r": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True}},
}


class Clock(BaseCallback):
    """Times at which batches of completions were written."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def _on_step(self) -> bool:
        self.times.append(time.process_time())
        return len(self.times) < 4


def measure(kind: str, width: int, n_layers: int) -> dict[str, float]:
    th.set_num_threads(1)
    th.manual_seed(0)
    tokenizer = word_tokenizer(["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(N_TOKENS - 3))])
    config = GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=1024,
        n_embd=width,
        n_layer=n_layers,
        n_head=max(width // 64, 1),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    agent = LanguagePPO(
        GPT2LMHeadModel(config),
        tokenizer,
        ["<bos> w1 w2", "<bos> w3"],
        lambda prompt, completion: float(len(completion) % 7),
        n_episodes=8,
        batch_size=8,
        batch_tokens=128,
        max_new_tokens=16,
        n_epochs=1,
        seed=0,
        device="cpu",
        **KINDS[kind],
    )
    clock = Clock()
    agent.learn(10**6, callback=clock, log_interval=None)
    return {
        "parameters": sum(parameter.numel() for parameter in agent.policy.model.parameters()),
        "trained": sum(parameter.numel() for parameter in agent.policy.trained),
        "seconds": (clock.times[-1] - clock.times[0]) / 3,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = arguments(__doc__, None)
    parser.add_argument("--width", type=int, default=768, help="width of the layers (default 768)")
    parser.add_argument("--layers", type=int, default=12, help="number of layers (default 12)")
    options = parser.parse_args()
    calls = [(kind, options.width, options.layers) for kind in KINDS if options.only in kind]
    # One after the other, each in a process of its own, whose memory is the largest that it has needed.
    found = {call[0]: run_all(measure, [call], 1)[0] for call in calls}
    lines = ["| | parameters | trained | CPU s of an update | memory, GiB |", "|---|---|---|---|---|"]
    for kind, one in found.items():
        numbers = f"{one['parameters']:,} | {one['trained']:,} | {one['seconds']:.1f} | {one['memory']:.2f}"
        lines.append(f"| {kind} | {numbers} |")
    text = "An update: 8 completions of 16 tokens, one epoch, gradients of 128 tokens at once.\n\n" + "\n".join(lines)
    write("language_size", "A language model of GPT-2's size", text, found, None, options.output)


if __name__ == "__main__":
    main()
