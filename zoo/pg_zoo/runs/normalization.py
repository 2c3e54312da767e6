"""The files in which the statistics of a saved model's normalisation are found."""

from __future__ import annotations

from pathlib import Path

from huggingface_sb3 import EnvironmentName

from pg_agents.files.saving import statistics_beside
from pg_zoo.errors import warn

STATISTICS = "vecnormalize.pkl"


def statistics_of(model: str | Path, env: str) -> Path | None:
    """The statistics that a saved model acts with; None if it has none.

    Those of its moment come first, then those of the end of its run, as rl_zoo3 stores them, and then those in the same
    folder, as `pg-zoo benchmark --keep-agents` and checkpoints store them.

    Args:
        model: File of the model.
        env: Its Gymnasium id.
    """
    beside, folder = statistics_beside(model), Path(model).parent
    places = beside, folder / EnvironmentName(env) / STATISTICS, folder / STATISTICS
    return next((path for path in places if path.is_file()), None)


def warn_of_later_statistics(model: str | Path, statistics: Path, env: str) -> None:
    """Warn if a model's statistics may be those of a later moment, as in runs of rl_zoo3.

    Args:
        model: File of the model.
        statistics: What `statistics_of` has found.
        env: The Gymnasium id.
    """
    path = Path(model)
    of_the_end = statistics.parent.name == EnvironmentName(env) and path.name != f"{EnvironmentName(env)}.zip"
    if of_the_end and statistics != statistics_beside(path):
        warn(
            f"There are no statistics saved with {path.name}; those from the end of its run are used, so scores may be "
            "worse than in training."
        )
