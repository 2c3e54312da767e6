"""The settings of a run, `config.yml` and `args.yml`, read as data, and the options of a run that goes on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml

from pg_agents import NotAllowedError
from pg_agents.files.allowed import find
from pg_agents.resuming.folders import checkpoints
from pg_zoo.errors import UserError
from pg_zoo.options import ResumeOptions, TrainOptions, parse
from pg_zoo.recipes.files import yaml_problem
from pg_zoo.recipes.limits import LimitedLoader
from pg_zoo.recipes.trust import TRUST

CHECKPOINTS = "checkpoints"  # the subfolder of a run from which it can go on

_PYTHON = "tag:yaml.org,2002:python/"
# Options that a run may go on with, whatever it began with.
_MAY_CHANGE = {"device", "n_timesteps", "num_threads", "progress", "trust", "verbose"}


class _RunLoader(LimitedLoader):
    """Knows what runs are written with beside plain YAML: ordered dictionaries, tuples, and names of networks."""

    def ordered_dict(self, node: yaml.SequenceNode) -> dict[Any, Any]:
        return dict(*self.construct_sequence(node, deep=True))

    def tuple_(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node, deep=True))

    def class_(self, name: str, node: yaml.Node) -> type:
        """`nn.ReLU` and the like."""
        module, _, attribute = name.rpartition(".")
        try:
            found: type = find(module, attribute)
        except NotAllowedError:
            return self.refuse(node)
        return found

    def refuse(self, node: yaml.Node) -> NoReturn:
        problem = f"{node.tag.replace('tag:yaml.org,2002:', '!!')} is not plain data and could run code"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_RunLoader.add_constructor(f"{_PYTHON}object/apply:collections.OrderedDict", _RunLoader.ordered_dict)
_RunLoader.add_constructor(f"{_PYTHON}tuple", _RunLoader.tuple_)
_RunLoader.add_multi_constructor(f"{_PYTHON}name:", _RunLoader.class_)
_RunLoader.add_constructor(None, _RunLoader.refuse)


def read_settings(path: Path, trust: bool) -> dict[str, Any]:
    """A file of a run; nothing where there is none.

    Raises:
        UserError: It cannot be read, or has Python objects that could be code, and is not trusted.
    """
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.load(file, yaml.UnsafeLoader if trust else _RunLoader)
    except yaml.constructor.ConstructorError as error:
        raise UserError(f"{path}, {yaml_problem(error)}. {'' if trust else TRUST}") from error
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {yaml_problem(error)}.") from error
    if not isinstance(found, dict) or not isinstance(found.get("env_kwargs") or {}, dict):
        raise UserError(f"{path} must hold a mapping, and so must env_kwargs in it.")
    return found


@dataclass(frozen=True)
class Interrupted:
    """A run that goes on.

    Attributes:
        folder: Its folder.
        args: Its options, and those that the user has changed.
        entry: Its hyperparameters.
        origin: The file of these.
    """

    folder: Path
    args: TrainOptions
    entry: dict[str, Any]
    origin: str


def interrupted_run(options: ResumeOptions) -> Interrupted:
    """The run that `--resume` names.

    Raises:
        UserError: There is no such run, it has no checkpoint, its settings are damaged, or options contradict them.
    """
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(
            f"--resume must be the folder of a run, such as logs/ppo/CartPole-v1_1, but is {options.folder!r}."
        )
    found = sorted(folder.glob("*/args.yml"))
    if len(found) != 1:
        raise UserError(f"--resume {folder} is not the folder of a run, which has one file <environment>/args.yml.")
    if not checkpoints(folder / CHECKPOINTS):
        raise UserError(f"--resume {folder} has no checkpoints; a run has them with --checkpoint STEPS.")
    given, config = options.given, found[0].with_name("config.yml")
    trust = bool(given.get("trust"))
    args = _options(found[0], read_settings(found[0], trust))
    entry = read_settings(config, trust)
    if not isinstance(entry.get("n_timesteps"), (int, float)) or not isinstance(entry.get("policy"), str):
        raise UserError(f"{config} is damaged: it must say n_timesteps and policy.")
    if not args.track:
        args = replace(args, wandb_project_name=None)  # which older runs have nevertheless
    if args.n_timesteps == -1:
        args = replace(args, n_timesteps=int(entry["n_timesteps"]))
    _check_contradictions(folder, args, given)
    if args.gym_packages and not trust and "gym_packages" not in given:
        raise UserError(
            f"{found[0]}: gym_packages is {args.gym_packages}, modules that would be imported, and so run. If you "
            f"trust them, say --gym-packages {' '.join(args.gym_packages)}."
        )
    changed = {name: value for name, value in given.items() if name in _MAY_CHANGE}
    return Interrupted(folder, replace(args, **{"trust": False, "progress": False, **changed}), entry, str(config))


def _options(path: Path, stored: dict[str, Any]) -> TrainOptions:
    """The options in a run's `args.yml`; those that it lacks have their defaults.

    Raises:
        UserError: The value of one is of another type.
    """
    defaults = parse(["train"])
    assert isinstance(defaults, TrainOptions)
    hints = get_type_hints(TrainOptions)
    names = {field.name for field in fields(TrainOptions)} - {"subcommand", "trust"}
    for name in sorted(names & stored.keys()):
        if not _fits(stored[name], hints[name]):
            raise UserError(f"{path} is damaged: {name} cannot be {stored[name]!r}.")
    return replace(defaults, **{name: stored[name] for name in names & stored.keys()})


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(key, parts[0]) for key in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    return type(value) is hint


def _check_contradictions(folder: Path, args: TrainOptions, given: dict[str, Any]) -> None:
    for name, value in given.items():
        before = getattr(args, name)
        if name not in _MAY_CHANGE and value != before:
            raise UserError(
                f"--{name.replace('_', '-')} {value} contradicts the run in {folder}, which has "
                f"{'none' if before is None else before}: leave it out."
            )
    if given.get("n_timesteps", -1) != -1 and given["n_timesteps"] < args.n_timesteps:
        raise UserError(
            f"--n-timesteps {given['n_timesteps']} is less than the {args.n_timesteps} steps of the run in {folder}: "
            "it can only be extended."
        )
