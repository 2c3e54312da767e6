"""Schedules: the progress that they are given, their values, and whether they are constant."""

from __future__ import annotations

import warnings

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule


def progress_remaining(n_steps: int, end: float) -> float:
    """1 at the beginning and 0 from `end` on, where SB3's goes on below 0: schedules end at their last value.

    Args:
        n_steps: Steps taken so far.
        end: Steps at which schedules end.
    """
    return max(1.0 - n_steps / end, 0.0)


def value_of(name: str, schedule: Schedule, progress: float) -> float:
    """The value of a schedule; 0 in the place of one below.

    Args:
        name: Of the argument.
        schedule: The schedule.
        progress: The progress remaining.

    Warns:
        UserWarning: It is below 0.
    """
    value = float(schedule(progress))
    if value < 0:
        warnings.warn(f"`{name}` is a schedule whose value falls below 0, where 0 is taken instead.", stacklevel=2)
        return 0.0
    return value


def constant_value(schedule: float | Schedule | None) -> float | None:
    """The value of what is a number, before and after SB3 has wrapped it in schedules; None for any other schedule."""
    if isinstance(schedule, FloatSchedule):
        return constant_value(schedule.value_schedule)
    if isinstance(schedule, ConstantSchedule):
        return schedule.val
    return None if callable(schedule) else schedule
