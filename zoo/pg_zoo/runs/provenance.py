"""What made a result: command, versions, commit, machine, memory."""

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

# What scores and speed depend on, where it is installed.
_PACKAGES = ["pg-agents", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "torch", "numpy", "numba"]
_PACKAGES += ["ale-py", "box2d", "box2d-py", "mujoco"]


def command_line() -> str:
    """The command of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def peak_memory() -> float | None:
    """Of the largest of this process and those that it has started, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Linux counts in a new process what the one that started it had: here is its own.
    with suppress(OSError):
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peaks[0] = int(line.split()[1])
    return max(peaks) / (1024 if sys.platform != "darwin" else 1024**2)


def versions(cell: Cell) -> dict[str, str]:
    """Versions of what a cell's results depend on, by the name of the package."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    algorithms, envs = registry.plugins(registry.ALGORITHMS), registry.plugins(registry.ENVS)
    used = [algorithms[cell.algo]] if cell.algo in algorithms else []
    used += [envs[name] for name, env_ids in registry.register_envs().items() if cell.env in env_ids]
    found |= {COMMIT: _LOADED} if _LOADED else {}
    return found | dict(plugin.distribution.rsplit(" ", 1) for plugin in used)


def commit(folder: Path) -> str | None:
    """The commit of a git checkout, with `+changes` if its Python files differ from it; None if it is none.

    Args:
        folder: Its root.
    """
    if not (folder / ".git").exists():  # else, git would look for one that the folder lies in
        return None
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in its hooks
    # Without a lock, which would be in the way of someone who commits meanwhile.
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


# Of the code that this process has loaded, or was forked with: the checkout may change while it runs.
_LOADED = commit(Path(pg_agents.__file__).parents[1])


def cpu_model() -> str:
    """The name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
