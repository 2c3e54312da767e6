"""Infos: from a Gymnasium vector environment's dictionary of arrays to SB3's list of dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

Infos = list[dict[str, Any]]


def per_environment(infos: dict[str, Any], n_envs: int) -> Infos:
    """Gymnasium's infos, a dictionary of arrays, as SB3's list of dictionaries.

    Args:
        infos: Arrays with a row per environment. Bools under `_key` say which environments have an entry `key`;
            without them, all have one. A value without a row per environment goes to all of them.
        n_envs: Number of environments.

    Returns:
        One dictionary per environment. Scalars are Python's; values that the environment may change later are copied.

    Raises:
        TypeError: The infos are not a dictionary.
    """
    if not isinstance(infos, dict):
        raise TypeError(
            f"The infos of a vector environment must be a dictionary, but are a {type(infos).__name__}. The wrapper "
            "DictInfoToList is not needed: the adapter makes a list of them."
        )
    each: Infos = [{} for _ in range(n_envs)]
    for key, values in infos.items():
        if isinstance(key, str) and key.startswith("_") and key[1:] in infos:
            continue  # a mask
        rows = _rows(values, n_envs)
        mask = infos.get(f"_{key}")
        if mask is None:
            for info, row in zip(each, rows, strict=True):
                info[key] = row
        else:
            for info, row, has_one in zip(each, rows, np.asarray(mask).tolist(), strict=True):
                if has_one:
                    info[key] = row
    return each


def _rows(values: Any, n_envs: int) -> Sequence[Any]:
    if isinstance(values, dict):
        return per_environment(values, n_envs)
    if not isinstance(values, (list, tuple)) and hasattr(values, "__array__"):
        values = np.asarray(values)  # another library's array
    if not isinstance(values, np.ndarray) or values.dtype == object:
        values = deepcopy(values)  # may be part of the environment's state
    if not has_rows(values, n_envs):
        return [values] * n_envs
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim == 1 else list(values.copy())
    return list(values)


def has_rows(values: Any, n_envs: int) -> bool:
    """Whether values are an array, list or tuple with one entry for each environment."""
    is_sequence = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim > 0)
    return is_sequence and len(values) == n_envs
