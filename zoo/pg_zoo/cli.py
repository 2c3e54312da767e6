"""The `pg-zoo` command: train agents, replay them, list what is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from pg_zoo.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like every other failure."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class _StoreDict(argparse.Action):
    """`name:value ...` as a dictionary, like rl_zoo3's, which however evaluates any Python."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from pg_zoo.hyperparameters import parse_value

        stored = dict(getattr(namespace, self.dest) or {})
        for text in values or ():
            name, colon, value = text.partition(":")
            if not colon:
                parser.error(f"{option_string} takes name:value, but was given {text!r}")
            try:
                stored[name] = parse_value(value)
            except ValueError as error:
                parser.error(f"{option_string} {name}: {error}")
        setattr(namespace, self.dest, stored)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; by default those of the process.

    Returns:
        The exit status: 0, or 2 for a mistake in what was asked, which is explained on one line of stderr.
    """
    try:
        parser = _parser()
        args, unknown = parser.parse_known_args(argv)
        if unknown:
            command = f"pg-zoo {args.subcommand}" if args.subcommand else "pg-zoo"
            raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see {command} --help)")
        if args.subcommand is None:
            parser.print_help()
        else:
            _run(args)
    except UserError as error:
        print(f"pg-zoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pg-zoo: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    # Imported only now: torch and rl_zoo3 take seconds, which nobody should wait for to read a help text.
    if args.subcommand == "train":
        from pg_zoo.experiment import train

        train(args)
    elif args.subcommand == "enjoy":
        from pg_zoo.replay import enjoy

        enjoy(args)
    else:
        from pg_zoo.listing import show

        show()


def _parser() -> _Parser:
    parser = _Parser(prog="pg-zoo", description="Train and replay policy-gradient agents.")
    parser.add_argument("--version", action="version", version=f"pg-agents {version('pg-agents')}")
    commands = parser.add_subparsers(dest="subcommand", metavar="command")
    commands.add_parser("list", help="show algorithms, environments and hyperparameter files, and where they are from")
    _add_train(commands.add_parser("train", help="train an agent", formatter_class=_HELP))
    _add_enjoy(commands.add_parser("enjoy", help="replay a trained agent", formatter_class=_HELP))
    return parser


_HELP = argparse.ArgumentDefaultsHelpFormatter


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", default="ppo", help="algorithm; `pg-zoo list` shows all")
    parser.add_argument("--env", default="CartPole-v1", help="Gymnasium environment id")
    parser.add_argument("--device", default="auto", help="torch device")
    parser.add_argument("--num-threads", type=int, default=-1, help="threads of torch; -1: torch's default")
    parser.add_argument("--verbose", type=int, default=1, help="0, 1, or 2, which shows tracebacks of errors")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules to import: they register environments")
    parser.add_argument("--env-kwargs", nargs="+", action=_StoreDict, help="environment arguments, name:value ...")


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
    add("-conf", "--conf-file", help="hyperparameter file (YAML or Python) or module, instead of those installed")
    add("-f", "--log-folder", default="logs", help="folder of all runs")
    add("-tb", "--tensorboard-log", default="", help="TensorBoard folder; none is written by default")
    add("-i", "--trained-agent", default="", help="saved agent (.zip) to train on")
    add("--eval-freq", type=int, default=25000, help="evaluate every so many steps; negative: never")
    add("--eval-episodes", type=int, default=5, help="episodes of an evaluation")
    add("--n-eval-envs", type=int, default=1, help="environments of an evaluation")
    add("--eval-env-kwargs", nargs="+", action=_StoreDict, help="as --env-kwargs, for evaluation")
    _add_actions(parser)
    add("--save-freq", type=int, default=-1, help="save a checkpoint every so many steps; negative: never")
    add(
        "--log-interval", type=int, default=-1, help="log every so many updates; -1: the algorithm's default, -2: never"
    )
    add("--vec-env", choices=["dummy", "subproc"], default="dummy", help="environments in this process or in others")
    add("-P", "--progress", action="store_true", help="show a progress bar")
    add("-uuid", "--uuid", action="store_true", help="give the run's folder a unique name")


def _add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--deterministic",
        action="store_true",
        help="evaluate with the most probable actions; by default, unless the environment asks for the other",
    )
    actions.add_argument("--stochastic", action="store_true", help="evaluate with actions drawn from the policy")


def _add_enjoy(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    add = parser.add_argument
    add("-f", "--folder", default="logs", help="folder of all runs")
    add("-n", "--n-timesteps", type=int, default=1000, help="steps in each environment")
    add("--n-envs", type=int, default=1, help="number of environments")
    add("--seed", type=int, default=0, help="random seed")
    add("--exp-id", type=int, default=0, help="number of the run; 0: the latest, -1: no folder for each run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model of the evaluations, not the last")
    which.add_argument("--load-checkpoint", type=int, help="the checkpoint after so many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="the last checkpoint")
    _add_actions(parser)
    add("--no-render", action="store_true", help="show nothing but numbers")
    add("--video", nargs="?", const="", metavar="FOLDER", help="record an mp4, by default into the run's folder")
