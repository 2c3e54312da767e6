"""The options of every command of `pg-zoo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Literal, NoReturn

from pg_zoo.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, like every other failure."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default in ("", []):
            return action.help
        return super()._get_help_string(action)


class _StoreDict(argparse.Action):
    """`name:value ...` as a dictionary, as in rl_zoo3, but values are data and never evaluated."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from pg_zoo.recipes.trust import parse_value

        before = getattr(namespace, self.dest)
        stored = dict(before) if isinstance(before, dict) else {}
        for text in values or ():
            name, colon, value = text.partition(":")
            if not colon:
                parser.error(f"{option_string} takes name:value, but was given {text!r}")
            try:
                stored[name] = parse_value(value)
            except ValueError as error:
                parser.error(f"{option_string} {name}: {error}")
        setattr(namespace, self.dest, stored)


def _path(text: str) -> str:
    """A file or folder, which an empty name is none of: of shell variables that are not set, it is what is left."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


@dataclass(frozen=True)
class Options:
    """The options of a command, as the user has given them or by default."""

    subcommand: str


@dataclass(frozen=True)
class CommonOptions(Options):
    """The options that `pg-zoo train` and `pg-zoo enjoy` share."""

    algo: str
    env: str
    device: str
    num_threads: int
    verbose: int
    gym_packages: list[str]
    env_kwargs: dict[str, Any] | None


@dataclass(frozen=True)
class ListOptions(Options):
    """The options of `pg-zoo list`; `pg-zoo list --help` explains them."""

    algo: str | None
    env: str | None


@dataclass(frozen=True)
class TrainOptions(CommonOptions):
    """The options of `pg-zoo train`; `pg-zoo train --help` explains them."""

    n_timesteps: int
    seed: int
    hyperparams: dict[str, Any] | None
    conf_file: str | None
    trust: bool
    log_folder: str
    tensorboard_log: str
    trained_agent: str
    eval_freq: int
    eval_episodes: int
    n_eval_envs: int
    eval_env_kwargs: dict[str, Any] | None
    deterministic: bool
    stochastic: bool
    save_freq: int
    checkpoint: int | None
    log_interval: int
    vec_env: Literal["dummy", "subproc", "native", "world", "envpool"]
    progress: bool
    uuid: bool
    save_replay_buffer: bool
    track: bool
    wandb_project_name: str | None
    wandb_entity: str | None
    wandb_group: str | None
    wandb_tags: list[str]


@dataclass(frozen=True)
class ResumeOptions(Options):
    """The options of `pg-zoo train --resume`.

    Attributes:
        folder: The folder of the run.
        given: The other options that were given.
    """

    folder: str
    given: dict[str, Any]


@dataclass(frozen=True)
class EnjoyOptions(CommonOptions):
    """The options of `pg-zoo enjoy`; `pg-zoo enjoy --help` explains them."""

    folder: str | None
    n_timesteps: int
    n_envs: int
    seed: int
    exp_id: int
    shipped: bool
    load_best: bool
    load_checkpoint: Any  # a number of steps; rl_zoo3 declares text
    load_last_checkpoint: bool
    deterministic: bool
    stochastic: bool
    no_render: bool
    video: str | None
    trust: bool


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """The options of `pg-zoo benchmark`; `pg-zoo benchmark --help` explains them."""

    algos: list[str]
    envs: list[str]
    gym_packages: list[str]
    quick: bool
    seeds: int | None
    first_seed: int
    same_hyperparams: str | None
    n_timesteps: int | None
    eval_points: int | None
    eval_episodes: int | None
    final_episodes: int | None
    tensorboard: bool
    keep_agents: bool
    vec_env: Literal["auto", "dummy", "envpool"]
    device: str
    jobs: int | None
    backend: Literal["local", "ray"]
    ray_address: str | None
    output: str


@dataclass(frozen=True)
class ReportOptions(Options):
    """The options of `pg-zoo report`; `pg-zoo report --help` explains them."""

    folder: str
    baseline: str | None
    format: list[str]
    threshold: list[str] | None
    tensorboard: bool
    output: str | None
    verbose: int


@dataclass(frozen=True)
class TuneOptions(Options):
    """The options of `pg-zoo tune`; `pg-zoo tune --help` explains them."""

    algo: str
    env: str
    gym_packages: list[str]
    output: str
    n_timesteps: int | None
    trials: int
    seeds: int
    top: int
    score_seeds: int
    eval_points: int
    eval_episodes: int
    final_episodes: int
    jobs: int
    seed: int
    device: str
    write: str | None
    replace: bool


@dataclass(frozen=True)
class EvidenceOptions(Options):
    """The options of `pg-zoo evidence`; `pg-zoo evidence --help` explains them."""

    results: str | None
    zoo: str | None
    same_seeds: bool
    output: str | None


@dataclass(frozen=True)
class CrosscheckOptions(Options):
    """The options of `pg-zoo crosscheck`; `pg-zoo crosscheck --help` explains them."""

    algos: list[str]
    envs: list[str] | None
    gym_packages: list[str]
    updates: int
    seeds: int
    max_steps: int
    final_episodes: int
    margin: float
    jobs: int | None
    output: str
    write: str | None


KINDS: dict[str, type[Options]] = {
    "list": ListOptions,
    "train": TrainOptions,
    "enjoy": EnjoyOptions,
    "benchmark": BenchmarkOptions,
    "report": ReportOptions,
    "tune": TuneOptions,
    "evidence": EvidenceOptions,
    "crosscheck": CrosscheckOptions,
}


def parse(argv: Sequence[str] | None = None) -> Options | None:
    """The options of a command line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The options, or None if no command is named; then the help text is printed.

    Raises:
        UserError: The command line cannot be parsed.
    """
    argv = sys.argv[1:] if argv is None else argv
    if no_text := [text for text in argv if "\0" in text]:
        raise UserError(f"A NUL character can be in no argument, but is in {no_text[0]!r}.")
    parser = make_parser()
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        command = f"pg-zoo {parsed.subcommand}" if parsed.subcommand else "pg-zoo"
        raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see {command} --help)")
    if parsed.subcommand is None:
        parser.print_help()
        return None
    if parsed.subcommand == "train" and parsed.resume is not None:
        return ResumeOptions("train", parsed.resume, _given(argv))
    kind = KINDS[parsed.subcommand]
    if hasattr(parsed, "gym_packages"):
        _take_modules_out_of_ids(parsed)
    return kind(**{field.name: getattr(parsed, field.name) for field in fields(kind)})


_NOT_GIVEN = object()


def _given(argv: Sequence[str]) -> dict[str, Any]:
    """The options of `pg-zoo train --resume` that are on the command line, beside `--resume`."""
    parser = _Parser(prog="pg-zoo train")
    _add_train(parser)
    parser.set_defaults(**dict.fromkeys((field.name for field in fields(TrainOptions)), _NOT_GIVEN))
    found = vars(parser.parse_args(argv[argv.index("train") + 1 :]))
    return {name: value for name, value in found.items() if name != "resume" and value is not _NOT_GIVEN}


def _take_modules_out_of_ids(parsed: argparse.Namespace) -> None:
    """Gymnasium's `module:Id-v0` becomes `Id-v0`, and its module one of those that are imported first."""

    def plain(env: str) -> str:
        module, colon, name = env.partition(":")
        if colon:
            parsed.gym_packages = [*parsed.gym_packages, module]
        return name if colon else env

    if hasattr(parsed, "env"):
        parsed.env = plain(parsed.env)
    elif parsed.envs is not None:
        parsed.envs = [plain(env) for env in parsed.envs]


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser, in their order: argparse has no public name for them."""
    return parser._actions


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command of a parser."""
    return {
        name: command
        for action in arguments_of(parser)
        if isinstance(action.choices, dict)
        for name, command in action.choices.items()
    }


def make_parser() -> argparse.ArgumentParser:
    """The parser of `pg-zoo`, with one for each command."""
    parser = _Parser(prog="pg-zoo", description="Train and replay policy-gradient agents.")
    parser.add_argument("--version", action="version", version=f"pg-agents {version('pg-agents')}")
    commands = parser.add_subparsers(dest="subcommand", metavar="command")
    _add_list(commands.add_parser("list", help="show algorithms, environments, tuned values and trained agents"))
    _add_train(commands.add_parser("train", help="train an agent", formatter_class=_Help))
    _add_enjoy(commands.add_parser("enjoy", help="replay a trained agent", formatter_class=_Help))
    _add_benchmark(commands.add_parser("benchmark", help="compare algorithms over seeds", formatter_class=_Help))
    _add_report(
        commands.add_parser(
            "report", help="write the report of a benchmark from its stored results", formatter_class=_Help
        )
    )
    _add_tune(commands.add_parser("tune", help="search hyperparameters and score the best", formatter_class=_Help))
    _add_evidence(commands.add_parser("evidence", help="show or store the scores of tuned entries"))
    _add_crosscheck(
        commands.add_parser("crosscheck", help="compare our PPO, A2C and TRPO with SB3's", formatter_class=_Help)
    )
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", default="ppo", help="algorithm; `pg-zoo list` shows all")
    parser.add_argument("--env", default="CartPole-v1", help="Gymnasium environment id")
    parser.add_argument("--device", default="auto", help="torch device")
    parser.add_argument("--num-threads", type=int, default=-1, help="threads of torch; -1: torch's default")
    parser.add_argument("--verbose", type=int, default=1, help="0, 1, or 2, which shows tracebacks of errors")
    _add_packages(parser)
    parser.add_argument("--env-kwargs", nargs="+", action=_StoreDict, help="environment arguments, name:value ...")


def _add_packages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gym-packages",
        nargs="+",
        default=[],
        help="modules to import: they register environments; module:Id-v0 as an environment does the same",
    )


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", help="only of this algorithm")
    parser.add_argument("--env", help="only of environments whose id has this in it, as Torque or cartpole")


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    add = parser.add_argument
    add("-n", "--n-timesteps", type=int, default=-1, help="environment steps; -1: as the hyperparameter file says")
    add("--seed", type=int, default=-1, help="random seed; -1: a random one")
    add(
        "-params",
        "--hyperparams",
        nargs="+",
        action=_StoreDict,
        help="hyperparameters, name:value ...; lin_0.01 falls to 0",
    )
    add(
        "-conf",
        "--conf-file",
        type=_path,
        help="hyperparameter file (YAML or Python) or module, instead of those installed",
    )
    add(
        "--trust",
        action="store_true",
        help="let hyperparameter files and the agent of -i run code: Python files, expressions, any function as "
        "wrapper, callback or schedule",
    )
    add("-f", "--log-folder", type=_path, default="logs", help="folder of all runs")
    add("-tb", "--tensorboard-log", default="", help="TensorBoard folder; none is written by default")
    add("-i", "--trained-agent", default="", help="saved agent (.zip) to train on")
    add("--eval-freq", type=int, default=25000, help="evaluate every so many steps; negative: never")
    add("--eval-episodes", type=int, default=5, help="episodes of an evaluation")
    add("--n-eval-envs", type=int, default=1, help="environments of an evaluation")
    add("--eval-env-kwargs", nargs="+", action=_StoreDict, help="as --env-kwargs, for evaluation")
    _add_actions(parser)
    add("--save-freq", type=int, default=-1, help="save the model every so many steps; negative: never")
    add(
        "--checkpoint",
        type=int,
        metavar="STEPS",
        help="store the whole training every so many steps, so that --resume goes on exactly after whatever stops it",
    )
    add(
        "--resume",
        type=_path,
        metavar="FOLDER",
        help="go on with the run in this folder, which had --checkpoint, as if nothing had stopped it; of the other "
        "options, only -n may differ from the run's, to extend it, and --device, --num-threads, --trust, --verbose, -P",
    )
    add(
        "--log-interval",
        type=int,
        default=-1,
        help="log every so many updates; -1: print about 20 tables, with about 200 points in TensorBoard; -2: never",
    )
    add(
        "--vec-env",
        choices=["dummy", "subproc", "native", "world", "envpool"],
        default="dummy",
        help="environments one by one in this process, each in one of its own, the environment's own vector version, "
        "its world, which compiled code steps, or EnvPool's version (pip install 'pg-agents[envpool]')",
    )
    add("-P", "--progress", action="store_true", help="show a progress bar")
    add("-uuid", "--uuid", action="store_true", help="give the run's folder a unique name")
    add("--save-replay-buffer", action="store_true", help="save the replay buffer, too, of algorithms that have one")
    add("--track", action="store_true", help="track the run with Weights & Biases (pip install 'pg-agents[wandb]')")
    add("--wandb-project-name", metavar="NAME", help="project in Weights & Biases; by default sb3")
    add("--wandb-entity", metavar="NAME", help="team of the project; by default your own account")
    add("--wandb-group", metavar="NAME", help="group of the run")
    add("-tags", "--wandb-tags", nargs="+", default=[], metavar="TAG", help="tags of the run")
    for names, instead in _ELSEWHERE.items():
        add(
            *names.split(),
            nargs="*",
            action=_OfRlZoo3,
            const=instead,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


class _OfRlZoo3(argparse.Action):
    """An option of rl_zoo3's `train` that has its place elsewhere."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is an option of rl_zoo3 that pg-zoo train lacks: {self.const}")


_TUNE = "pg-zoo tune searches hyperparameters"
_ELSEWHERE = {
    "-optimize --optimize-hyperparameters": f"{_TUNE}, as in pg-zoo tune --algo ppo --env CartPole-v1 -o runs/tune",
    "--n-trials": f"{_TUNE}; --trials there is the number of trials",
    "--max-total-trials": f"{_TUNE}; --trials there counts the trials of earlier starts, too",
    "--n-jobs": f"{_TUNE}; --jobs there is the number of trainings at a time",
    "--n-evaluations": f"{_TUNE}; --eval-points there is the number of evaluations along a training",
    "--optimization-log-path": f"{_TUNE}; its -o is the folder of the search",
    "--storage": f"{_TUNE}; the folder of its -o has the study, which optuna-dashboard opens",
    "--study-name": f"{_TUNE}; the folder of its -o is the study",
    "--trial-id": f"{_TUNE} and writes the best entry into a file, which pg-zoo train --conf-file reads",
    "--sampler": f"{_TUNE} with Optuna's TPE sampler",
    "--pruner": f"{_TUNE} and stops trials that fall behind the median",
    "--n-startup-trials": f"{_TUNE} with Optuna's own number of random trials at the start",
    "--no-optim-plots": f"{_TUNE} and draws no plots; optuna-dashboard draws them from its study.log",
    "--truncate-last-trajectory": "a replay buffer that is loaded with an agent has its last trajectory truncated, "
    "which is rl_zoo3's default",
}


def _add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--deterministic",
        action="store_true",
        help="evaluate with the most probable actions; by default, unless the environment asks for the other",
    )
    actions.add_argument("--stochastic", action="store_true", help="evaluate with actions drawn from the policy")


def _add_enjoy(parser: argparse.ArgumentParser) -> None:
    parser.description = "Replay a trained agent. No code in its files runs, unless you say --trust."
    _add_common(parser)
    add = parser.add_argument
    add(
        "-f",
        "--folder",
        type=_path,
        help="folder of all runs (default: logs, and where it has no such run, the agents that come with pg-agents)",
    )
    add("-n", "--n-timesteps", type=int, default=1000, help="steps in each environment")
    add("--n-envs", type=int, default=1, help="number of environments")
    add("--seed", type=int, default=0, help="random seed")
    add("--exp-id", type=int, default=0, help="number of the run; 0: the latest, -1: no folder for each run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--shipped", action="store_true", help="the agent that comes with pg-agents, even if there is a run of your own"
    )
    which.add_argument("--load-best", action="store_true", help="the best model of the evaluations, not the last")
    which.add_argument("--load-checkpoint", type=int, help="the checkpoint after so many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="the last checkpoint")
    _add_actions(parser)
    add("--no-render", action="store_true", help="show nothing but numbers, as is done without a display")
    add("--video", nargs="?", const="", metavar="FOLDER", help="record an mp4, by default into the run's folder")
    add(
        "--trust",
        action="store_true",
        help="let the run's files run code: functions and objects of any class in the agent and in vecnormalize.pkl, "
        "Python objects and expressions in config.yml and args.yml, any function as wrapper",
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--algos", nargs="+", required=True, metavar="ALGO", help="algorithms; random actions are always added")
    add("--envs", nargs="+", required=True, metavar="ENV", help="Gymnasium environment ids")
    _add_packages(parser)
    add(
        "--quick",
        action="store_true",
        help="a first look in about a minute: fewer seeds, evaluations and steps; the report says what it cannot tell",
    )
    add("--seeds", type=int, help="number of seeds (default: 10; with --quick: 3)")
    add("--first-seed", type=int, default=0, help="the first of them")
    add(
        "--same-hyperparams",
        metavar="ALGO",
        help="all algorithms take this one's hyperparameters, not their own; for those that share them: ppo, sb3/ppo",
    )
    add("-n", "--n-timesteps", type=int, help="environment steps of each training, not what the hyperparameters say")
    add(
        "--eval-points",
        type=int,
        help="evaluations along each learning curve, evenly spaced (default: 20; with --quick: 10)",
    )
    add("--eval-episodes", type=int, help="episodes of each (default: 10; with --quick: 5)")
    add(
        "--final-episodes",
        type=int,
        help="episodes after training; their mean return is the score (default: 100; with --quick: 20)",
    )
    add("--tensorboard", action="store_true", help="keep a TensorBoard log of each training")
    add("--keep-agents", action="store_true", help="keep the trained agents")
    add(
        "--vec-env",
        choices=["auto", "dummy", "envpool"],
        default="auto",
        help="all environments in their worlds or vector versions, where there are such, or one by one; or training in "
        "EnvPool's versions (pip install 'pg-agents[envpool]')",
    )
    add("--device", default="cpu", help="torch device")
    add("--jobs", type=int, help="trainings at a time; by default, one for each core (of the Ray cluster)")
    add("--backend", choices=["local", "ray"], default="local", help="run on this machine or on a Ray cluster")
    add("--ray-address", help="of the Ray cluster; by default RAY_ADDRESS, or a new one on this machine")
    add(
        "-o",
        "--output",
        type=_path,
        required=True,
        metavar="FOLDER",
        help="results; a second start goes on with what is missing",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=_path, help="results of `pg-zoo benchmark`, finished or not")
    add(
        "--baseline",
        metavar="ALGO",
        help="compare all others with this one; by default, each with its own in SB3, where there is one",
    )
    add(
        "--format",
        nargs="+",
        choices=["html", "markdown", "latex"],
        default=["html", "markdown"],
        help="report.html, report.md, report.tex; figures are there as PNG and PDF with each of them",
    )
    add(
        "--threshold",
        nargs="+",
        metavar="SCORE",
        help="tell the steps and seconds to this mean return; ENV:SCORE ... for one of each environment; by default, "
        "to the return at which an environment counts as solved",
    )
    add("--tensorboard", action="store_true", help="write the numbers for TensorBoard's HParams too")
    add("-o", "--output", type=_path, metavar="FOLDER", help="where the report goes; by default into the results")
    add("--verbose", type=int, default=1, help="0, 1, or 2, which shows tracebacks of errors")


def _add_tune(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--algo", default="ppo", help="algorithm; `pg-zoo list` shows all")
    add("--env", default="CartPole-v1", help="Gymnasium environment id")
    _add_packages(parser)
    add(
        "-o",
        "--output",
        type=_path,
        required=True,
        metavar="FOLDER",
        help="folder of the search; an unfinished one goes on",
    )
    add("-n", "--n-timesteps", type=int, help="steps of each training; by default as the entry says")
    add("--trials", type=int, default=50, help="trials in all, those included that the folder has")
    add("--seeds", type=int, default=2, help="trainings of each trial")
    add("--top", type=int, default=3, help="best trials that are scored on other seeds")
    add("--score-seeds", type=int, default=10, help="trainings of each of these, and of the evidence; 5 to 250")
    add("--eval-points", type=int, default=10, help="evaluations along each training of a trial")
    add("--eval-episodes", type=int, default=5, help="episodes of each")
    add("--final-episodes", type=int, default=30, help="episodes after each training of a trial")
    add("--jobs", type=int, default=1, help="trainings at a time")
    add("--seed", type=int, default=0, help="random seed of the search")
    add("--device", default="cpu", help="torch device")
    add("--write", type=_path, metavar="FOLDER", help="folder of <algo>.yml files that gets the entry if it is better")
    add(
        "--replace",
        action="store_true",
        help="with --write: overwrite the entry even if the new one is not shown to be better",
    )


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "results",
        type=_path,
        nargs="?",
        help="results of `pg-zoo benchmark --first-seed 1000`, to be stored beside the entries",
    )
    add("--zoo", type=_path, metavar="FOLDER", help="folder of <algo>.yml files; by default all that are installed")
    add(
        "--same-seeds",
        action="store_true",
        help="replace evidence of other hyperparameters even by results with the same seeds: the score then is not of "
        "fresh seeds, which the table says",
    )
    add(
        "-o",
        "--output",
        type=_path,
        metavar="FILE",
        help="write the table into this file; without results, it is printed",
    )


def _add_crosscheck(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare our PPO and A2C with SB3's, and our TRPO with sb3-contrib's. Exit status 0: nothing contradicts that "
        "they are the same, because no parameters and no scores were found different, and nothing failed. It does not "
        "say that all scores are shown to be equivalent: the last lines say of how many that is shown. 1: something "
        "differs or failed."
    )
    add = parser.add_argument
    add("--algos", nargs="+", default=["ppo", "a2c", "trpo"], help="algorithms that SB3 or sb3-contrib has too")
    add("--envs", nargs="+", help="environments; by default, all that the hyperparameter files have entries for")
    _add_packages(parser)
    add("--updates", type=int, default=3, help="updates after which parameters are compared, at least")
    add("--seeds", type=int, default=5, help="seeds that scores are compared over; 0: compare the parameters alone")
    add("--max-steps", type=int, default=100_000, help="steps of each training, if the entry does not say less")
    add("--final-episodes", type=int, default=100, help="episodes after training; their mean return is the score")
    add(
        "--margin",
        type=float,
        default=0.1,
        help="differences of scores below this part of the range from random actions to the best known do not matter",
    )
    add("--jobs", type=int, help="trainings at a time; by default, as many as there are cores")
    add(
        "-o",
        "--output",
        type=_path,
        default="runs/crosscheck",
        help="folder of the results; the command goes on where it stopped",
    )
    add("--write", type=_path, metavar="FILE", help="write the table into this file instead of the results folder")
