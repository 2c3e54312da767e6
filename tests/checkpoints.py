"""Checkpoints as a stranger could write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pg_agents.files import values
from pg_agents.resuming.folders import checkpoints, manifest_of, new_checkpoint


def altered(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change what the newest checkpoint says, checksums included."""
    newest = checkpoints(folder)[0]
    manifest, made, state = manifest_of(newest), values.read(newest, "made"), values.read(newest, "state")
    change(made, state)
    with new_checkpoint(folder, manifest["n_steps"], {"algorithm": manifest["algorithm"]}, 2) as beside:
        values.write(made, beside, "made")
        values.write(state, beside, "state")
