"""The equivalence test of our scores and SB3's after whole trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pg_zoo.crosscheck.parameters import SEED, counterpart, counterpart_of
from pg_zoo.errors import UserError
from pg_zoo.evidence.scored import published
from pg_zoo.results.scales import Mark, find_scale
from pg_zoo.results.statistics import Equivalence, equivalence
from pg_zoo.results.storage import RANDOM, read_cells
from pg_zoo.runs.cell import Cell

PACKAGES = ("pg-agents", "stable-baselines3", "rl_zoo3", "gymnasium", "torch", "numpy", "numba")


@dataclass(frozen=True)
class ScoreCheck:
    """The comparison of scores on one entry.

    Attributes:
        ours: Our scores, one for each seed.
        theirs: SB3's scores, one for each seed.
        steps: Steps of each training.
        random: Mean return of random actions.
        end: The kind of score at the upper end of the range of which the margin is a part.
        result: The equivalence test; None if no score better than random is known.
        engine: The engine of our trainings.
        speedup: Our steps per second divided by SB3's; medians.
        failed: Number of failed trainings.
    """

    ours: Sequence[float]
    theirs: Sequence[float]
    steps: int
    random: float | None = None
    end: str = ""
    result: Equivalence | None = None
    engine: str = ""
    speedup: float = np.nan
    failed: int = 0

    @property
    def answer(self) -> str:
        """The result in one or two words."""
        return "failed" if self.failed else self.result.answer if self.result else "no margin"

    @property
    def verdict(self) -> str:
        """The result as the table shows it."""
        if self.failed:
            return f"**failed trainings: {self.failed}**"
        if self.result is None:
            return "no margin: no score better than random is known"
        near = ""
        if self.answer == "equivalent" and self._is_near_random:
            near = ", but neither beats random by more than the margin"
        return self.result.verdict + near

    @property
    def _is_near_random(self) -> bool:
        """Whether both sides are within the margin of random actions, to which they would then be equivalent too."""
        if self.result is None or self.random is None:
            return False
        return all(abs(np.mean(scores) - self.random) < self.result.margin for scores in (self.ours, self.theirs))

    @property
    def contradicts(self) -> bool:
        """Whether trainings failed or the scores are shown to differ."""
        return self.answer in ("failed", "different")


def score_cells(cells: Sequence[Cell], seeds: int, max_steps: int, final_episodes: int) -> list[Cell]:
    """The trainings for the comparison: ours and SB3's in turn, and random actions once on each environment.

    Args:
        cells: Our training of each entry.
        seeds: Number of seeds.
        max_steps: Longer trainings are cut to this number of steps.
        final_episodes: Episodes after each training, whose mean return is its score.
    """
    found = {}
    for cell in cells:
        kwargs = cell.hyperparams.get("env_kwargs")
        # The score of random actions is one end of the margin's range: it takes the default number of episodes.
        random = Cell(
            RANDOM,
            cell.env,
            SEED,
            {"env_kwargs": kwargs} if kwargs else {},
            "random actions",
            gym_packages=cell.gym_packages,
        )
        found[random.path] = random
        cell = replace(cell, hyperparams={**cell.hyperparams, "n_timesteps": min(cell.n_timesteps, max_steps)})
        for seed in range(SEED, SEED + seeds):
            for one in (cell, counterpart(cell)):
                one = replace(one, seed=seed, eval_points=0, final_episodes=final_episodes)
                found[one.path] = one
    return list(found.values())


def compare_scores(cell: Cell, folder: Path, seeds: int, max_steps: int, margin: float) -> ScoreCheck:
    """Compare the stored scores of an entry.

    Args:
        cell: Our training of the entry.
        folder: The results of `score_cells`.
        seeds: As for `score_cells`.
        max_steps: As for `score_cells`.
        margin: The smallest difference that matters, as a fraction of the range from random actions to the best known
            score.
    """
    steps = min(cell.n_timesteps, max_steps)
    stored = read_cells(folder)
    ours, theirs = (
        [one for one in stored.get((algo, cell.env), []) if SEED <= one["seed"] < SEED + seeds]
        for algo in (cell.algo, counterpart_of(cell.algo))
    )
    failed = 2 * seeds - len(ours) - len(theirs)
    for one in (*ours, *theirs):
        if old := [name for name in PACKAGES if one["versions"].get(name, version(name)) != version(name)]:
            raise UserError(f"{folder} has scores made with another version of {', '.join(old)}: choose another -o.")
    scores = ScoreCheck([one["score"] for one in ours], [one["score"] for one in theirs], steps, failed=failed)
    if failed:
        return scores
    sb3 = published().get(cell.algo, {}).get(cell.env)
    # The compared scores are no part of the scale: the margin would depend on the scores that it judges.
    scale = find_scale(
        cell.env,
        cell.hyperparams.get("env_kwargs"),
        [one["score"] for one in stored.get((RANDOM, cell.env), [])],
        None if sb3 is None else Mark(float(sb3["mean"]), "SB3's published score"),
    )
    speeds = [np.median([one["steps_per_second"] for one in group]) for group in (ours, theirs)]
    engine = ", ".join(sorted({one["engine"] for one in ours}))
    scores = replace(scores, random=scale.random, engine=engine, speedup=float(speeds[0] / speeds[1]))
    if scale.random is None or scale.end is None or scale.one is None:
        return scores
    result = equivalence(scores.ours, scores.theirs, margin * (scale.one - scale.random))
    return replace(scores, end=scale.end.kind, result=result)
