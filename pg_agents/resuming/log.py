"""The log of a run that goes on: pending values, and TensorBoard's folder."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat

_PENDING = ("name_to_value", "name_to_count", "name_to_excluded")


def pending_values(logger: Logger) -> dict[str, Any]:
    """What was recorded and not yet written, and the folder of TensorBoard. Pictures and videos are left out."""
    names = [name for name, value in logger.name_to_value.items() if isinstance(value, (*_NUMBERS, str))]
    pending = {
        kind: {name: getattr(logger, kind)[name] for name in names if name in getattr(logger, kind)}
        for kind in _PENDING
    }
    shows = any(isinstance(output, TensorBoardOutputFormat) for output in logger.output_formats)
    return {**pending, "folder": logger.dir if shows else None, "hparams": "hparams" in logger.name_to_value}


_NUMBERS = (bool, int, float, np.generic)


def put_pending_values_back(logger: Logger, state: dict[str, Any]) -> None:
    """Record them again, in the order in which they were."""
    for kind in _PENDING:
        getattr(logger, kind).update(state[kind])


class _Continued(TensorBoardOutputFormat):
    """TensorBoard's output in a folder that has events already.

    Args:
        folder: The folder.
        purge_step: Events from this step on, which an interrupted training has written, are not shown any more.
    """

    def __init__(self, folder: str, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir=folder, purge_step=purge_step)
        self._is_closed = False


def continued_logger(folder: str, verbose: int, n_steps: int) -> Logger:
    """SB3's logger for a TensorBoard folder, in which a run goes on after so many steps."""
    import sys

    outputs: list[Any] = [HumanOutputFormat(sys.stdout)] if verbose >= 1 else []
    logger = Logger(folder, [*outputs, _Continued(folder, n_steps + 1)])
    logger.log(f"Logging to {folder}")
    return logger
