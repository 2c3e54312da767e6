"""A training of a language model that is interrupted and resumed equals one that is not, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th

pytest.importorskip("transformers")

import language as world
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from pg_agents import Checkpoint
from pg_agents.language import LanguageGRPO, LanguagePPO, LanguageREINFORCE, LanguageRLOO
from pg_agents.resuming.folders import checkpoints


class KilledError(Exception):
    """Stands for the end of a process."""


class Kill(BaseCallback):
    """Counts the texts that end, and ends a training."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.n_ended = at, 0

    def _on_step(self) -> bool:
        self.n_ended += sum("eos" in info["completion"] for info in self.locals["infos"])
        if self.num_timesteps >= self.at:
            raise KilledError
        return True


class Rows(KVWriter):
    """What was logged, but for times."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append((step, {name: value for name, value in key_values.items() if not name.startswith("time/")}))

    def close(self) -> None:
        pass


def reward(prompt: str, completion: str) -> float:
    return float(completion.count("b"))


def agent(algorithm: Any, **arguments: Any) -> Any:
    standard = {"tokenizer": world.tokenizer(), "prompts": ["a", "b a", "b"], "reward": reward, "seed": 0}
    small = {"device": "cpu", "max_new_tokens": 4, "n_episodes": 8, "batch_size": 4, "learning_rate": 1e-2}
    return algorithm(world.model(), **{**standard, **small, **arguments})


def logged(agent: Any) -> Rows:
    rows = Rows()
    agent.set_logger(Logger(None, [rows]))
    return rows


def results(agent: Any, callback: Kill) -> Any:
    numbered = agent.policy.optimizer.state_dict()["state"]
    optimiser = [numbered[number] for number in sorted(numbered)]
    tensors = [*agent.policy.state_dict().values(), *agent.random_state().values()]
    return (
        [one.tolist() for one in [*tensors, *(value for state in optimiser for _, value in sorted(state.items()))]],
        [agent.num_timesteps, agent._n_updates, agent.kl_coef, list(agent.ep_info_buffer), callback.n_ended],
    )


VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (LanguagePPO, {"kl_target": 0.01, "n_epochs": 2}),
    "reinforce": (LanguageREINFORCE, {}),
    "rloo": (LanguageRLOO, {"group_size": 2}),
    "grpo": (LanguageGRPO, {"group_size": 4}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_algorithm_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    algorithm, arguments = VARIANTS[name]
    whole, kept = agent(algorithm, **arguments), Kill(10**9)
    rows = logged(whole)
    whole.learn(160, callback=kept)

    interrupted = agent(algorithm, **arguments)
    first = logged(interrupted)
    with pytest.raises(KilledError):
        interrupted.learn(160, callback=[Kill(100), Checkpoint(tmp_path, 40)])
    th.manual_seed(9)
    resumed, kept_on = algorithm.resume(tmp_path, reward=reward, device="cpu"), Kill(10**9)
    assert 40 <= resumed.num_timesteps < 100
    n_before = sum(step <= resumed.num_timesteps for step, _ in first.rows)
    last = logged(resumed)
    resumed.learn_on(callback=kept_on)
    assert results(resumed, kept_on) == results(whole, kept)
    assert first.rows[:n_before] + last.rows == rows.rows


def test_the_reward_is_asked_for(tmp_path: Path) -> None:
    agent(LanguageREINFORCE).learn(20, callback=Checkpoint(tmp_path, 1000))
    with pytest.raises(ValueError, match="does not hold the reward"):
        LanguageREINFORCE.resume(tmp_path)
    with pytest.raises(ValueError, match=r"`prompts` must be as they were .* 3, but there are 1"):
        LanguageREINFORCE.resume(tmp_path, reward=reward, prompts=["a"])
    with pytest.raises(ValueError, match="otherwise call `learn`"):
        agent(LanguageREINFORCE).learn_on()


def test_a_damaged_checkpoint_is_skipped_with_a_line(tmp_path: Path) -> None:
    agent(LanguageREINFORCE).learn(60, callback=Checkpoint(tmp_path, 20))
    newest, before = checkpoints(tmp_path)
    with (newest / "agent.zip").open("r+b") as file:
        file.truncate(100)
    with pytest.warns(UserWarning, match="agent.zip is not what was written"):
        resumed = LanguageREINFORCE.resume(tmp_path, reward=reward, device="cpu")
    assert before.name == f"step_{resumed.num_timesteps:09d}"
