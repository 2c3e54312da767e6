"""The provenance of a result: command, versions, commit, machine, memory."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pg_agents
from pg_agents import registry
from pg_zoo.results.storage import COMMIT
from pg_zoo.runs.cell import Cell

# Packages that scores and speed may depend on; not all need be installed.
_PACKAGES = ["pg-agents", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "torch", "numpy", "numba"]
_PACKAGES += ["ale-py", "box2d", "box2d-py", "minigrid", "mujoco", "transformers"]


def command_line() -> str:
    """The command of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


class AddedMemory:
    """The memory that this process takes in addition to its present memory."""

    def __init__(self) -> None:
        # Resets Linux's record of the peak, which includes the past of this process and the one it was forked from.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before, self._children_before = _peak(), _peak_of_children()

    def at_its_peak(self) -> float | None:
        """The peak in MiB of this process, or of the largest of its children since; None if it is unknown."""
        peak, of_children = _peak(), _peak_of_children()
        if self._before is None or peak is None or of_children is None:
            return None
        if of_children != self._children_before:
            peak = max(peak, of_children)
        return peak - self._before


def _peak() -> float | None:
    """The peak memory of this process in MiB."""
    # `ru_maxrss` is the second choice: Linux never resets it, and a child inherits its parent's.
    with suppress(OSError):
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return _most("RUSAGE_SELF")


def _peak_of_children() -> float | None:
    return _most("RUSAGE_CHILDREN")


def _most(whose: str) -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(getattr(resource, whose)).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def versions(cell: Cell) -> dict[str, str]:
    """The versions of the packages that a cell's results depend on, by name."""
    found = dict(_INSTALLED)
    algorithms, envs = registry.plugins(registry.ALGORITHMS), registry.plugins(registry.ENVS)
    used = [algorithms[cell.algo]] if cell.algo in algorithms else []
    used += [envs[name] for name, env_ids in registry.register_envs().items() if cell.env in env_ids]
    found |= {COMMIT: _LOADED} if _LOADED else {}
    return found | dict(plugin.distribution.rsplit(" ", 1) for plugin in used)


def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path) -> str | None:
    """The commit of a git checkout, with `+changes` if its Python files differ from it; None without a checkout.

    Args:
        folder: The root of the checkout.
    """
    if not (folder / ".git").exists():  # git would search the parent folders
        return None
    # Inside a git hook, these variables point to another repository.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A lock would be in the way of simultaneous commits.
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    packages = [f":(glob)**/{package}/**/*.py" for package in ("pg_agents", "pg_envs", "pg_zoo")]
    try:
        head, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True, env=environ, timeout=5).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", *packages])
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None
    return head.strip() + "+changes" * bool(changes)


# Read at import, as the code was: packages and the checkout may change while the process runs.
_INSTALLED = _installed()
_LOADED = commit(Path(pg_agents.__file__).parents[1])


def cpu_model() -> str:
    """The name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
