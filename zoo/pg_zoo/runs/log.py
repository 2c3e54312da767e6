"""The log of a training that nobody has set the interval of: some tables on stdout, and a curve in TensorBoard.

SB3 prints a table of 25 lines after every update, thousands of lines in a minute.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

TABLES = 20  # on stdout
POINTS = 200  # of a curve in TensorBoard

_OF_AN_EVALUATION = "eval/mean_reward"


def log_interval(model: BaseAlgorithm, n_timesteps: int, *, curves: bool) -> int | None:
    """Updates between entries of the log; None for the algorithm's default, which is more or of another kind.

    Args:
        model: The agent.
        n_timesteps: Steps of its training.
        curves: Whether TensorBoard shows curves.
    """
    if not isinstance(model, OnPolicyAlgorithm) or getattr(model, "n_episodes", None) is not None:
        return None
    n_updates = n_timesteps / (model.n_steps * model.n_envs)
    argument = inspect.signature(model.learn).parameters.get("log_interval")
    default = getattr(argument, "default", None)
    usual: Any = default if isinstance(default, int) else getattr(model, "default_log_interval", 1)
    wanted = math.ceil(n_updates / (POINTS if curves else TABLES))
    return wanted if wanted > usual else None


class FewTables(BaseCallback):
    """Prints some of the log's tables, evenly spaced, and those of evaluations; files get all of them.

    Args:
        n_timesteps: Steps of the training.
    """

    is_in_checkpoints = False

    def __init__(self, n_timesteps: int) -> None:
        super().__init__()
        self.total = n_timesteps

    def next_look(self) -> int | None:
        """Never: it has nothing to do in a step."""
        return None

    def _init_callback(self) -> None:
        outputs = self.logger.output_formats
        for index, output in enumerate(outputs):
            if type(output) is HumanOutputFormat:
                outputs[index] = _Some(output, self.total)

    def _on_step(self) -> bool:
        return True


class _Some(KVWriter):
    """The first table, one in each of `TABLES` parts of the training, and the last."""

    def __init__(self, output: HumanOutputFormat, total: int) -> None:
        self.output, self.total, self.next = output, total, 0

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        part = max(self.total // TABLES, 1)
        if step >= min(self.next, self.total):
            self.next = step - step % part + part
        elif _OF_AN_EVALUATION not in key_values:
            return
        self.output.write(key_values, key_excluded, step)

    def close(self) -> None:
        self.output.close()
