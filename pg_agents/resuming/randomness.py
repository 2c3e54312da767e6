"""The random generators that a whole process shares."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th


def global_generators() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, those of GPUs in use included."""
    # A GPU that nobody uses must not be woken.
    uses_gpus = th.cuda.is_available() and th.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - SB3 draws from it
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if uses_gpus else [],
    }


def restore_global_generators(states: dict[str, Any]) -> None:
    """Put these states back. Those of GPUs that are not here are left out."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])  # noqa: NPY002 - as above
    th.set_rng_state(states["torch"])
    for number, state in enumerate(states["cuda"][: th.cuda.device_count() if th.cuda.is_available() else 0]):
        th.cuda.set_rng_state(state, number)
