"""The bitwise comparison of our parameters and the reference's after a few updates, on the engine `autograd`.

The reference is the algorithm of the same name in SB3 or sb3-contrib; messages call both "SB3".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import set_random_seed

from pg_agents import registry
from pg_agents.arguments import constructor_arguments
from pg_zoo.errors import UserError
from pg_zoo.lookup import find_algorithm
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import built, resolved

SEED = 0  # the seed of the comparison of parameters, and the first seed of the comparison of scores
MIN_STEPS = 5000  # a few updates of A2C alone would end before any episode does


@dataclass(frozen=True)
class ParameterCheck:
    """The comparison of the learnt parameters and statistics of two trainings from the same seed.

    Attributes:
        updates: Number of updates of both.
        differences: The largest difference of each array that is not equal bit for bit; infinite if only one side has
            the array, or if the difference is not finite. None if nothing was compared.
        reason: The reason why nothing was compared, in words.
        failed: Whether the reason is a failure of the check, rather than an entry that SB3 cannot take.
    """

    updates: int = 0
    differences: Mapping[str, float] | None = None
    reason: str = ""
    failed: bool = False

    @property
    def contradicts(self) -> bool:
        """Whether the check failed or found a difference."""
        return self.failed or bool(self.differences)

    @property
    def answer(self) -> str:
        """The result in one or two words."""
        if self.differences is None:
            return "failed" if self.failed else "not compared"
        return "different" if self.differences else "equal"

    def __str__(self) -> str:
        if self.differences is None:
            return self.reason
        if not self.differences:
            return "equal"
        largest, name = max((difference, name) for name, difference in self.differences.items())
        return f"**different**: up to {largest:.2g} ({name})"


def compare_parameters(cell: Cell, updates: int) -> ParameterCheck:
    """Train our class and SB3's from the same seed, one after the other, and compare their parameters and statistics.

    Args:
        cell: Our training. Its first updates are made, with the schedules of the whole training.
        updates: Minimum number of updates. There are more if they take fewer than `MIN_STEPS` steps, and fewer if the
            training ends first.

    Raises:
        Exception: One of the two cannot be trained.
    """
    names = missing_in_sb3(cell)
    if names:
        return ParameterCheck(reason=f"cannot be compared: SB3 has no {', '.join(names)}")
    try:
        resolved(counterpart(cell))
    except UserError as error:
        return ParameterCheck(reason=f"cannot be compared: {error}")
    ours, done = _learnt(replace(cell, hyperparams={**cell.hyperparams, "engine": "autograd"}), updates)
    theirs, done_by_sb3 = _learnt(counterpart(cell), updates)
    assert done == done_by_sb3
    return ParameterCheck(done, differences(ours, theirs))


def counterpart(cell: Cell) -> Cell:
    """The same training with SB3's class, which has no engines.

    Raises:
        UserError: SB3 has no such class.
    """
    hyperparams = {name: value for name, value in cell.hyperparams.items() if name != "engine"}
    return replace(cell, algo=counterpart_of(cell.algo), hyperparams=hyperparams)


def counterpart_of(algo: str) -> str:
    """The name of SB3's class for the same algorithm.

    Raises:
        UserError: SB3 has no such class.
    """
    found = registry.reference_of(algo)
    if found is None:
        raise UserError(f"Neither SB3 nor an installed sb3-contrib has {algo!r}.")
    return found


def missing_in_sb3(cell: Cell) -> list[str]:
    """The hyperparameters of a cell that SB3's class lacks."""
    ours, theirs = (constructor_arguments(find_algorithm(algo)) for algo in (cell.algo, counterpart_of(cell.algo)))
    return sorted(set(cell.hyperparams) & set(ours) - {*theirs, "engine"})


def differences(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each array that is not equal bit for bit."""
    found = {}
    for name in ours.keys() | theirs.keys():
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            found[name] = np.inf
        elif a.tobytes() != b.tobytes():
            difference = np.abs(a.astype(float) - b.astype(float)).max()
            found[name] = float(difference) if np.isfinite(difference) else np.inf
    return found


class _Stop(BaseCallback):
    """Ends a training in the first step after a number of updates and `MIN_STEPS` steps."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.updates, self.done, self.steps = updates, 0, 0

    def _on_rollout_end(self) -> None:
        self.done += 1
        self.steps = self.num_timesteps

    def _on_step(self) -> bool:
        return self.done < self.updates or self.steps < MIN_STEPS


def _learnt(cell: Cell, updates: int) -> tuple[dict[str, np.ndarray], int]:
    """The arrays that training changes, after at least this number of updates, and the actual number."""
    stop = _Stop(updates)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        set_random_seed(cell.seed)
        with built(cell) as training:
            training.model.learn(training.recipe.n_timesteps, [*training.recipe.callbacks, stop])
            return _arrays(training.model), stop.done


def _arrays(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    optimizer = model.policy.optimizer.state_dict()
    found: dict[str, Any] = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    for index, state in optimizer["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    found |= {f"optimizer.lr.{index}": group["lr"] for index, group in enumerate(optimizer["param_groups"])}
    normalisation = model.get_vec_normalize_env()
    if normalisation is not None:
        of_observations = normalisation.obs_rms if normalisation.norm_obs else {}
        if isinstance(of_observations, RunningMeanStd):
            of_observations = {"": of_observations}
        for name, running in {**of_observations, "returns": normalisation.ret_rms}.items():
            for moment in ("mean", "var", "count"):
                found[f"normalisation.{name}.{moment}"] = getattr(running, moment)
    return {name: th.as_tensor(value).numpy(force=True) for name, value in found.items() if value is not None}
