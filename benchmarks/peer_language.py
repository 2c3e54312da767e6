"""Our side of `language_peers.py`.

    python benchmarks/peer_language.py WORK

WORK is a JSON object with the keys of `peer_trl.py`; instead of `trainer` it has `algorithm`, a name in
`pg_agents.language`, and `config` has that algorithm's arguments. The report is the same too.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from pg_agents import language
from pg_agents.language.models import save_model


class Batches(BaseCallback):
    """Ends the training after so many batches, and the one that follows them is not learnt from."""

    def __init__(self, n_batches: int) -> None:
        super().__init__()
        self.n_batches = n_batches
        self.n_completions = self.n_tokens = 0

    def _on_step(self) -> bool:
        if self.n_calls > self.n_batches:
            return False
        self.n_completions += len(self.locals["completions"])
        self.n_tokens = self.num_timesteps
        return True


def main(work: dict[str, Any]) -> dict[str, Any]:
    """Train."""
    reward = language.RewardModel.load(work["reward"])
    agent = getattr(language, work["algorithm"])(
        work["model"], None, work["prompts"], reward, seed=work["seed"], device="cpu", **work["config"]
    )
    batches = Batches(work["n_batches"])
    started, processor = time.perf_counter(), time.process_time()
    agent.learn(sys.maxsize, callback=batches, log_interval=None)
    processor, seconds = time.process_time() - processor, time.perf_counter() - started
    save_model(agent.policy.model, work["output"])
    minibatches = -(-agent.n_episodes // (agent.batch_size or agent.n_episodes))
    return {
        "completions": batches.n_completions,
        "tokens": batches.n_tokens,
        "updates": work["n_batches"] * agent.n_epochs * minibatches,
        "training": processor,
        "training_seconds": seconds,
        "known": [reward(*pair) for pair in work["known"]],
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
