"""The allow-list: classes and functions that a file may name."""

from __future__ import annotations

import importlib
from typing import Any


class NotAllowedError(ValueError):
    """A file names a class or function that is not on the allow-list."""


def find(module: str, name: str) -> Any:
    """The class or function that a file names.

    Raises:
        NotAllowedError: It is not on the allow-list.
    """
    if (module, name) not in _ALLOWED:
        raise NotAllowedError(f"{module}.{name} is not among the objects that a file may name.")
    return getattr(importlib.import_module(module), name)


_ALLOWED = {
    ("torch.nn.modules.activation", name) for name in ("Tanh", "ReLU", "ELU", "LeakyReLU", "Sigmoid", "GELU", "SiLU")
}
