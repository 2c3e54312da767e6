"""`pg-zoo crosscheck`: compare our PPO, A2C and TRPO with those of SB3 and sb3-contrib, for every entry of the zoo.

Parameters after a few updates are compared bit for bit on the engine that reproduces SB3. The scores of whole trainings
on the default engine are compared by an equivalence test: it can show that two means are close, whereas an ordinary
test can only fail to show that they differ.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from pg_agents import registry
from pg_agents.checks import check_number, suggestion
from pg_zoo.crosscheck.parameters import SEED, ParameterCheck, compare_parameters
from pg_zoo.crosscheck.scores import compare_scores, score_cells
from pg_zoo.errors import UserError, one_line
from pg_zoo.evidence.entries import Entry, entries
from pg_zoo.lookup import find_env, import_packages, plugin_warnings
from pg_zoo.options import CrosscheckOptions
from pg_zoo.pages.crosscheck import Row, document, tallies
from pg_zoo.ranges import MAX_SEEDS, check_options
from pg_zoo.results.storage import write_whole, writing
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.processes import Died, in_order
from pg_zoo.runs.training import resolved


def crosscheck(args: CrosscheckOptions) -> int:
    """Run `pg-zoo crosscheck`.

    Returns:
        The exit status: 1 if anything differs or could not be run. 0 means that no comparison contradicted the claim,
        not that all were conclusive.

    Raises:
        UserError: An option is invalid, or a file cannot be written.
    """
    check_options(args, "updates", "max_steps", "final_episodes", at_least=1)
    check_options(args, "jobs", at_least=1, optional=True)
    if args.seeds != 0:
        check_options(args, "seeds", at_least=2, at_most=MAX_SEEDS)
    with one_line(ValueError):
        check_number("--margin", args.margin, above=0)
    import_packages(args.gym_packages)
    selected = _selected(args.algos, args.envs)
    folder, written = Path(args.output), Path(args.write or Path(args.output, "crosscheck.md"))
    for path, option in ((folder, "-o/--output"), (written.parent, "--write")):
        with one_line(OSError), writing(path, option):
            path.mkdir(parents=True, exist_ok=True)
    print(f"Entries: {len(selected)}. Parameters after at least {args.updates} updates:", flush=True)
    rows, cells = [], []
    for entry, cell, parameters in _parameters(selected, args):
        print(f"{entry.algo} on {entry.env}: {parameters}", flush=True)
        rows.append(Row(entry, parameters))
        cells.append(cell)
    comparable = [
        (row, cell) for row, cell in zip(rows, cells, strict=True) if cell and row.parameters.differences is not None
    ]
    if args.seeds and comparable:
        print(
            f"Margin of the scores: {args.margin:g} of the range from random actions to the best known score, or else "
            "to the return that counts as solved, or else to SB3's published score"
        )
        grid = score_cells([cell for _, cell in comparable], args.seeds, args.max_steps, args.final_episodes)
        run_grid(grid, folder, jobs=args.jobs)
        for row, cell in comparable:
            row.scores = compare_scores(cell, folder, args.seeds, args.max_steps, args.margin)
            print(f"{row.entry.algo} on {row.entry.env}: {row.scores.verdict}", flush=True)
    option = "--write" if args.write else "-o/--output"
    with one_line(OSError), writing(written if args.write else folder, option):
        write_whole(written, document(rows, args))
    print(*(f"{line}." for line in tallies(rows)), f"Result: {written}", sep="\n")
    return 1 if any(row.contradicts for row in rows) else 0


def _selected(algos: Sequence[str], envs: Sequence[str] | None) -> list[Entry]:
    """The entries of these algorithms and environments."""
    with one_line(registry.PluginError):
        counterparts = [name for name in registry.algorithms() if registry.reference_of(name) is not None]
    for algo in algos:
        if algo not in counterparts:
            raise UserError(f"--algos: SB3 and sb3-contrib have no {algo!r}. Known: {', '.join(counterparts)}.")
    found = [entry for entry in entries() if entry.algo in algos]
    known = {entry.env for entry in found}
    for env in envs or ():
        if env not in known:
            raise UserError(f"--envs: {' and '.join(algos)} have no entry {env!r}.{suggestion(env, known)}")
    return [entry for entry in found if not envs or entry.env in envs]


def _parameters(
    selected: Sequence[Entry], args: CrosscheckOptions
) -> Generator[tuple[Entry, Cell | None, ParameterCheck], None, None]:
    """Compare the parameters of all entries, several at a time, each in a process of its own."""
    tasks = [(entry, args.updates, tuple(args.gym_packages)) for entry in selected]
    with closing(in_order(_examine, tasks, args.jobs)) as results:
        for entry, result in zip(selected, results, strict=True):
            died = isinstance(result, Died)
            yield entry, *((None, _failed(f"its process ended with status {result.status}")) if died else result)


def _examine(entry: Entry, updates: int, gym_packages: tuple[str, ...]) -> tuple[Cell | None, ParameterCheck]:
    """The training that an entry describes, and the result of `compare_parameters`."""
    try:
        with plugin_warnings():
            find_env(entry.env, gym_packages)
        origin = f"the zoo's {entry.algo}.yml"
        cell = resolved(Cell(entry.algo, entry.env, SEED, entry.hyperparams, origin, gym_packages=gym_packages))
        return cell, compare_parameters(cell, updates)
    except Exception as error:  # of whatever kind: the other entries are still compared
        return None, _failed(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def _failed(reason: str) -> ParameterCheck:
    return ParameterCheck(reason=f"**failed**: {' '.join(reason.split())}", failed=True)
