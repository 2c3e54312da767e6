"""Speed of training, compared with rejax (JAX) and RLtools (C++) in the same run of this script.

    python benchmarks/peers.py --install peers           # writes benchmarks/results/peers.{md,json}
    python benchmarks/peers.py --install peers --only RLtools --pairs 3    # prints only

Each peer has an environment of its own: `--install FOLDER` makes the virtual environments FOLDER/rejax and
FOLDER/rltools with pip where they are missing, and `--rejax` and `--rltools` name existing ones. RLtools is compiled
with g++ from the headers in its package. What is not installed is skipped, with a line that says so.

All sides are trained alternately, with equal hyperparameters. Run it on an idle machine with Linux or macOS. Kernels of
this package are compiled beforehand, except where a row says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import study

HERE = Path(__file__).parent
# gymnax 1.0 changed what `step` returns, and rejax 0.1.3 does not know it yet.
REQUIREMENTS = {
    "rejax": ["rejax==0.1.3", "gymnax==0.0.9", "jax[cpu]"],
    "rltools": ["--no-deps", "rltools==2.2.1"],
    "trl": ["trl==1.16.0", "transformers==5.24.0", "torch==2.13.0"],
}
PACKAGES = {
    "rejax": ["rejax", "gymnax", "jax", "jaxlib", "flax", "optax"],
    "rltools": ["rltools"],
    "trl": ["trl", "transformers", "accelerate", "torch"],
}
GYMNASIUM = ("rejax", "rltools")  # the peers that play Gymnasium's environments
FIRST_RUN = 500_000  # steps
BUILDS = {"no BLAS": [], "OpenBLAS": ["-DRL_TOOLS_BACKEND_ENABLE_OPENBLAS", "-lopenblas"]}
FLAGS = ["-std=c++17", "-Ofast", "-march=native"]


@dataclass(frozen=True)
class Workload:
    """A training that both sides do. `ppo` has the names of SB3's arguments; what it lacks is SB3's default."""

    name: str
    env: str
    n_envs: int
    steps: int  # of a training after compilation
    ppo: dict[str, Any]
    normalize: bool = False

    @property
    def sb3(self) -> dict[str, Any]:
        """For `peer_sb3.py`."""
        return {
            "env": self.env,
            "n_envs": self.n_envs,
            "ppo": self.ppo,
            "normalize": self.normalize,
            "steps": self.steps,
        }

    @property
    def rejax(self) -> dict[str, Any]:
        """For `peer_rejax.py`."""
        n_steps = self.ppo.get("n_steps", 2048)
        config = {
            "env": self.env,
            "agent_kwargs": {"activation": "tanh"},
            "num_envs": self.n_envs,
            "num_steps": n_steps,
            "num_minibatches": self.n_envs * n_steps // self.ppo.get("batch_size", 64),
            "num_epochs": self.ppo.get("n_epochs", 10),
            "learning_rate": self.ppo.get("learning_rate", 3e-4),
            "gamma": self.ppo.get("gamma", 0.99),
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "ent_coef": 0.0,
            "vf_coef": 0.5,
            "max_grad_norm": 0.5,
        }
        return {"config": config, "steps": self.steps}


WORKLOADS = [
    Workload(
        "PPO 8 envs × 256 steps, CartPole",
        "CartPole-v1",
        8,
        204_800,
        {"n_steps": 256, "batch_size": 256, "n_epochs": 10},
    ),
    Workload("PPO defaults, CartPole, 1 env", "CartPole-v1", 1, 102_400, {}),
    Workload(
        "PPO 4 envs × 1,024 steps, 2 epochs, Pendulum",
        "Pendulum-v1",
        4,
        409_600,
        {"n_steps": 1024, "batch_size": 256, "n_epochs": 2, "gamma": 0.9, "learning_rate": 1e-3},
    ),
]
RLTOOLS = Workload(
    "RLtools' example: PPO, Pendulum, 300,000 steps",
    "Pendulum-v1",
    4,
    300_000,
    {"n_steps": 1024, "batch_size": 256, "n_epochs": 2, "gamma": 0.9, "learning_rate": 1e-3, "activation": "ReLU"},
    normalize=True,
)
EVALUATION = 1_000  # episodes, in RLtools' example


# The peers and their environments


@dataclass(frozen=True)
class Peer:
    """A peer's virtual environment."""

    name: str
    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    @property
    def versions(self) -> dict[str, str]:
        """Versions of its packages."""
        code = "import json, sys; from importlib.metadata import version; "
        code += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        return json.loads(output([self.python, "-c", code, *PACKAGES[self.name]]))

    def install(self) -> None:
        """Make the environment, unless there is one."""
        if not Path(self.python).exists():
            print(f"Installing {self.name} in {self.folder}", flush=True)
            venv.create(self.folder, with_pip=True)
            subprocess.run([self.python, "-m", "pip", "install", "-q", *REQUIREMENTS[self.name]], check=True)


def add_options(parser: argparse.ArgumentParser, names: Sequence[str] = GYMNASIUM) -> None:
    """The options that say where the peers are."""
    for name in names:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"virtual environment with {name}")
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="make missing ones in this folder with pip")


def find_peers(options: argparse.Namespace, names: Sequence[str] = GYMNASIUM) -> dict[str, Peer]:
    """The peers that are installed, by name; prints a line for each that is not."""
    found = {}
    for name in names:
        folder = getattr(options, name) or (options.install / name if options.install else None)
        if folder is None:
            print(f"Skipped: {name}. Name its virtual environment with --{name}, or let --install make one.")
            continue
        peer = Peer(name, folder.absolute())
        if options.install:
            peer.install()
        if Path(peer.python).exists():
            found[name] = peer
        else:
            print(f"Skipped: {name}. There is no {peer.python}.")
    return found


def compile_rltools(peer: Peer, folder: Path) -> dict[str, list[str]]:
    """RLtools' programs, by build, and prints a line for each that cannot be compiled."""
    compiler = shutil.which("g++")
    if compiler is None:
        print("Skipped: RLtools. There is no g++.")
        return {}
    header = next(peer.folder.rglob("include/rl_tools/rl_tools.h"))
    programs = {}
    for build, flags in BUILDS.items():
        program = folder / build.replace(" ", "-")
        command = [
            compiler,
            *FLAGS,
            f"-I{header.parents[1]}",
            str(HERE / "peer_rltools.cpp"),
            "-o",
            str(program),
            *flags,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            programs[build] = [str(program)]
        else:
            print(f"Skipped: RLtools with {build}. {done.stderr.splitlines()[-1]}")
    return programs


def sb3_command(library: str, mode: str, work: dict[str, Any]) -> list[str]:
    """The command of a side with SB3's interface."""
    return [sys.executable, str(HERE / "peer_sb3.py"), library, mode, json.dumps(work)]


def rejax_command(peer: Peer, mode: str, work: dict[str, Any]) -> list[str]:
    """The command of rejax's side."""
    return [peer.python, str(HERE / "peer_rejax.py"), mode, json.dumps(work)]


# Processes


def environment(**variables: str) -> dict[str, str]:
    """The variables of a child: this process's, and more.

    Each side chooses its own number of threads, except OpenBLAS, which is slower with several.
    """
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return kept | {"OPENBLAS_NUM_THREADS": "1"} | variables


def jax_cache(folder: str) -> dict[str, str]:
    """Variables with which JAX keeps what it compiles."""
    return {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def output(command: Sequence[str]) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1]


def whole_process(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """The report of a process, with the seconds and processor seconds that it took, and `started` in Unix time."""
    started, start = time.time(), time.perf_counter()
    process = subprocess.Popen(command, env=environment(**variables), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    times = {"seconds": seconds, "processor": usage.ru_utime + usage.ru_stime, "started": started}
    return json.loads(text.splitlines()[-1]) | times


class Worker:
    """A process that trains once for each seed, after it has compiled."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self.command = command
        self.process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)
        self._read()

    def train(self, seed: int) -> dict[str, float]:
        """Train, and return the report."""
        assert self.process.stdin is not None
        print(seed, file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self.process.wait(), self.command)
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# The measurements: each returns its pairs, {side: report}


Pairs = list[dict[str, dict[str, Any]]]


def measure_rates(workload: Workload, rejax: Peer, n_pairs: int) -> Pairs:
    """Trainings after compilation."""
    with (
        Worker(rejax_command(rejax, "rates", workload.rejax)) as theirs,
        Worker(sb3_command("pg_agents", "rates", workload.sb3)) as ours,
    ):
        return [{"rejax": theirs.train(seed), "ours": ours.train(seed)} for seed in range(n_pairs)]


def measure_first_runs(workload: Workload, rejax: Peer, n_pairs: int) -> Pairs:
    """Whole processes that train for 500,000 steps, with and without what an earlier process has compiled."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        cache = jax_cache(folder)
        for seed in range(-1, n_pairs):  # the first round, which fills the caches, does not count
            work = {"steps": FIRST_RUN, "seed": seed + 1}
            theirs = rejax_command(rejax, "run", workload.rejax | work)
            ours = sb3_command("pg_agents", "run", workload.sb3 | work)
            pair = {}
            if seed >= 0:
                pair["rejax, first"] = whole_process(theirs)
                with tempfile.TemporaryDirectory() as empty:
                    pair["ours, first"] = whole_process(ours, NUMBA_CACHE_DIR=empty)
            pair["rejax, later"] = whole_process(theirs, **cache)
            pair["ours, later"] = whole_process(ours)
            pairs.append(pair)
    return pairs[1:]


def measure_rltools(programs: dict[str, list[str]], n_pairs: int) -> Pairs:
    """Whole processes that train and evaluate."""
    ours = RLTOOLS.sb3 | {"episodes": EVALUATION}
    whole_process(sb3_command("pg_agents", "run", ours | {"seed": 0}))
    pairs = []
    for seed in range(n_pairs):
        pair = {}
        for build, program in programs.items():
            pair[f"RLtools, {build}"] = whole_process([*program, str(seed), str(RLTOOLS.steps), "0", "0"])
        pair["ours"] = whole_process(sb3_command("pg_agents", "run", ours | {"seed": seed}))
        pairs.append(pair)
    return pairs


# Tables


def values(pairs: Pairs, side: str, key: str) -> np.ndarray:
    """One number of each pair."""
    return np.array([pair[side][key] for pair in pairs], dtype=float)


def per_second(pairs: Pairs, side: str, key: str = "seconds") -> np.ndarray:
    """Steps per second of each pair, or with `"processor"` per second of the processor."""
    return values(pairs, side, "steps") / values(pairs, side, key)


def ratio(faster: np.ndarray, slower: np.ndarray) -> str:
    """Median and range of the pairs' ratios."""
    ratios = faster / slower
    return f"**{np.median(ratios):.2f}** ({ratios.min():.2f}–{ratios.max():.2f})"


def rates_table(measured: dict[str, Pairs]) -> str:
    lines = [
        "| training, after compilation | rejax, steps/s | ours, steps/s | ratio | ratio by processor time "
        "| rejax's return | our return |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pairs in measured.items():
        cells = [f"{np.median(per_second(pairs, side)):,.0f}" for side in ("rejax", "ours")]
        cells += [
            ratio(per_second(pairs, "ours", key), per_second(pairs, "rejax", key)) for key in ("seconds", "processor")
        ]
        cells += [f"{np.median(values(pairs, side, 'return')):.0f}" for side in ("rejax", "ours")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def first_runs_table(measured: dict[str, Pairs]) -> str:
    lines = [
        f"| whole process, {FIRST_RUN:,} steps | rejax, first | ours, first | ratio "
        "| rejax, later | ours, later | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pairs in measured.items():
        cells = []
        for when in ("first", "later"):
            theirs, ours = (values(pairs, f"{side}, {when}", "seconds") for side in ("rejax", "ours"))
            cells += [f"{np.median(theirs):.1f} s", f"{np.median(ours):.1f} s", ratio(theirs, ours)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rltools_table(pairs: Pairs) -> str:
    lines = [
        f"| {RLTOOLS.name}, and {EVALUATION:,} episodes, whole process | seconds | processor seconds | mean return "
        "| RLtools' seconds / ours |",
        "|---|---|---|---|---|",
    ]
    for side in pairs[0]:
        cells = [f"{np.median(values(pairs, side, key)):.2f}" for key in ("seconds", "processor")]
        cells.append(f"{values(pairs, side, 'return').mean():.0f}")
        cells.append("" if side == "ours" else ratio(values(pairs, side, "seconds"), values(pairs, "ours", "seconds")))
        lines.append(f"| {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> dict[str, Any]:
    """What the results depend on."""
    return {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()}


def provenance(peers: dict[str, Peer], world: bool) -> tuple[str, dict[str, Any]]:
    """A sentence and data about machine, versions and this package's environments."""
    versions = {name: peer.versions for name, peer in peers.items()}
    named = ", ".join(f"{package} {number}" for packages in versions.values() for package, number in packages.items())
    computer = machine()
    envs = "compiled worlds" if world else "Gymnasium's environments in SB3's `DummyVecEnv`"
    text = f"{computer['processor']}, {computer['cores']} cores; {named}. Our side steps {envs}."
    return text, {"machine": computer, "peers": versions, "world": world}


EXPLANATION = """
Medians over {pairs} alternating pairs, each with a seed of its own; ratios are medians (and ranges) of the pairs'
ratios, above 1 where ours is faster. Returns are means of 100 episodes after training with the most probable actions,
medians over pairs; in the table of RLtools, means over pairs.

*First* is a process with nothing compiled beforehand; *later* one with Numba's cache filled, or rejax with JAX's
persistent compilation cache, which is off by default.

Both sides have the same hyperparameters. These differences remain: rejax clips each element of the gradient at 0.5, and
not its norm; it clips the critic's loss; it takes time limits for terminations; its initial weights are not orthogonal.
RLtools clips no gradient, normalises observations by the statistics of one first rollout, and starts with a standard
deviation of twice the largest torque.

RLtools is compiled with `g++ {flags}`. Its own example of this training (commit 9acdf5c) does not call a BLAS even
where one is given, because it lacks a header. With the header and OpenBLAS, on one thread, it is far faster.
"""


def main() -> None:
    parser = study.arguments(__doc__, seeds=None)
    parser.add_argument("--pairs", type=int, default=5, help="pairs per row (default 5)")
    add_options(parser)
    options = parser.parse_args()
    peers = find_peers(options)

    tables: list[str] = []
    results: dict[str, Any] = {}
    if "rejax" in peers:
        chosen = [workload for workload in WORKLOADS if options.only in workload.name]
        for title, measurement, table in (
            ("rates", measure_rates, rates_table),
            ("first runs", measure_first_runs, first_runs_table),
        ):
            measured = {}
            for workload in chosen:
                measured[workload.name] = measurement(workload, peers["rejax"], options.pairs)
                print(table({workload.name: measured[workload.name]}), flush=True)
            if measured:
                tables.append(table(measured))
                results[title] = measured
    if "rltools" in peers and options.only in RLTOOLS.name:
        with tempfile.TemporaryDirectory() as folder:
            programs = compile_rltools(peers["rltools"], Path(folder))
            pairs = measure_rltools(programs, options.pairs) if programs else []
        if pairs:
            tables.append(rltools_table(pairs))
            results["RLtools"] = pairs
    if not tables:
        return
    measured = [*results.get("rates", {}).values(), results.get("RLtools", [])]
    world = any(report.get("world") for pairs in measured for pair in pairs for report in pair.values())
    origin, data = provenance(peers, world)
    explanation = EXPLANATION.format(pairs=options.pairs, flags=" ".join(FLAGS))
    text = "\n\n".join([origin, *tables, explanation])
    study.write("peers", "Speed, compared with rejax and RLtools", text, data | results, folder=options.output)


if __name__ == "__main__":
    main()
