"""Constructor arguments as fields: a class body lists names, defaults, documentation and ranges.

```python
class A2C(PolicyGradient):
    same_order_as = stable_baselines3.A2C

    n_steps: int = 5                                                    # documented and checked as in `Arguments`
    rms_prop_eps: float = argument(default=1e-5, above=0, doc="ε of RMSprop.")
```

A class takes the fields of its body and its parents' bodies, and the arguments common to all algorithms. Its signature,
the "Args" section of its docstring, and the range check of each argument follow from the fields.

Every annotated name with a value is a field, as in a dataclass. A class attribute that is no argument is annotated with
`ClassVar`, has no annotation, or has a name that starts with an underscore.

An argument that is assigned to an agent, `model.clip_range = 0.1`, is checked as the constructor checks it, and counts
from the next update on.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import dataclass_transform

from pg_agents.checks import check_boolean, check_choice, check_number, suggestion
from pg_agents.schedules import progress_remaining, value_of

_REQUIRED: Any = inspect.Parameter.empty

# Methods that the library used to call, and their successors.
_FORMER_HOOKS = {
    "_check_arguments": "define `check_arguments`",
    "_environment_actions": "define `environment_actions`",
    "update_settings": "give `settings` to the `Objective`",
    "weight": "give `weight` to the `Objective`",
}

# What several arguments decide, each in other algorithms.
_ROLES = {
    "how much is collected for an update": ("n_steps", "n_episodes", "n_groups", "group_size"),
    "how far an update may move the policy": ("clip_range", "target_kl"),
    "how the weights of log π are scaled": ("normalize_advantage", "normalize_returns"),
}


@dataclass(frozen=True)
class Argument:
    """One constructor argument.

    Attributes:
        default: Its default; `inspect.Parameter.empty` for none.
        doc: Its documentation, in one or two sentences.
        at_least: Smallest number allowed.
        above: Numbers must be larger than this.
        at_most: Largest number allowed.
        integer: The number must be an integer.
        infinite: Infinity is allowed.
        optional: None is allowed.
        schedule: A function of the progress remaining is allowed.
        choices: Values allowed, where they are names.
        kw_only: Given by keyword.
        fixed: For one that an agent keeps from its construction on: what to do instead of assigning another.
    """

    default: Any = _REQUIRED
    doc: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    integer: bool = False
    infinite: bool = False
    optional: bool = False
    schedule: bool = False
    choices: Collection[str] | None = None
    kw_only: bool = False
    fixed: str = ""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value outside the range, if the argument has one, and a text as a truth value.

        Raises:
            ValueError: The value is not allowed.
        """
        if self.choices is not None:
            check_choice(name, value, self.choices)
        elif isinstance(self.default, bool):
            check_boolean(name, value)
        elif not (self.at_least is self.above is self.at_most is None):
            check_number(
                name,
                value,
                at_least=self.at_least,
                above=self.above,
                at_most=self.at_most,
                integer=self.integer,
                infinite=self.infinite,
                optional=self.optional,
                schedule=self.schedule,
            )


def argument(
    *,
    default: Any = _REQUIRED,
    doc: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    integer: bool = False,
    infinite: bool = False,
    optional: bool = False,
    schedule: bool = False,
    choices: Collection[str] | None = None,
    kw_only: bool = False,
    fixed: str = "",
) -> Any:
    """A field of a class body; see `Argument`."""
    return Argument(
        default, doc, at_least, above, at_most, integer, infinite, optional, schedule, choices, kw_only, fixed
    )


class Assigned:
    """An argument as an attribute of its class: what is assigned to an agent goes through `Arguments.assign`.

    An agent has its arguments in its `__dict__`, as any object has its attributes. Without a `__get__`, they are read
    from there at the price of any other attribute.

    Args:
        name: Of the argument.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __set__(self, agent: Arguments, value: Any) -> None:
        known, name = vars(agent), self.name
        is_new = not (name in known and _is_same(known[name], value))
        if is_new and "policy" in known and not agent._takes_all:
            if not _is_method_of(agent, sys._getframe(1)):
                check_taken(type(agent), name, value)
            agent.assign(name, value)
        else:
            known[name] = value


def _is_method_of(agent: Arguments, frame: FrameType) -> bool:
    """Whether code that runs is a method of an agent, which may set what its class takes from nobody else."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return bool(names) and frame.f_locals.get(names[0]) is agent


def check_taken(cls: type[Arguments], name: str, value: Any) -> None:
    """Refuse a value for an argument that is declared for all classes, but that a class does not take.

    Raises:
        ValueError: The class does not take it.
    """
    if name not in cls.taken and name not in constructor_arguments(cls):
        raise ValueError(f"{cls.__name__} has no argument `{name}`, but {value!r} was assigned.")


class ShowsDefaults(ABCMeta):
    """The class of classes with arguments: read from a class, an argument is its default."""

    if not TYPE_CHECKING:  # attributes keep their types

        def __getattribute__(cls, name: str) -> Any:
            """As of any class; the default, where there is one, instead of an `Assigned`."""
            found = super().__getattribute__(name)
            if type(found) is not Assigned:
                return found
            default = cls.declared[name].default
            if default is _REQUIRED:
                raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
            return default


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, (bool, int, float, str)) and one == other)


class LoadedByClass(classmethod):  # type: ignore[type-arg]
    """`load`, a method of the class, which warns on an agent: it would stay as it is."""

    def __get__(self, agent: Any, owner: Any = None) -> Any:
        load = super().__get__(agent, owner)
        if agent is None:
            return load

        @wraps(load)
        def warned(*args: Any, **kwargs: Any) -> Any:
            name = type(agent).__name__
            warnings.warn(
                f"`load` returns a new {name}, and the one that it is called on stays as it is: write model = "
                f"{name}.load(...), or model.set_parameters(...) for parameters alone.",
                stacklevel=2,
            )
            return load(*args, **kwargs)

        return warned


# The attributes of these names are something else than the argument, or are looked up whenever they are needed.
_NOT_WATCHED = frozenset({"policy", "env", "prior", "verbose", "tensorboard_log", "_init_setup_model"})


@dataclass_transform(field_specifiers=(argument,))
class Arguments(OnPolicyAlgorithm, metaclass=ShowsDefaults):
    """The arguments that algorithms choose from, and the constructor made of those that a class takes.

    Attributes:
        declared: All arguments known to the class, by name.
        common: Arguments that every algorithm takes.
        taken: Arguments that the class's own constructor takes.
        same_order_as: An SB3 algorithm whose arguments come first, in its order, or their names; all others are given
            by keyword.
    """

    declared: ClassVar[dict[str, Argument]] = {}
    common: ClassVar[tuple[str, ...]] = ()
    taken: ClassVar[tuple[str, ...]] = ()
    same_order_as: ClassVar[type[OnPolicyAlgorithm] | tuple[str, ...] | None] = None
    _is_made_of_fields: ClassVar[bool] = True
    _own_fields: ClassVar[dict[str, Argument]] = {}
    _schedules_end: int | None = None  # steps, or tokens, as given to `learn`
    _takes_all = False  # whether assigned arguments are stored as they come
    fixed_on_load: ClassVar[frozenset[str]] = frozenset()  # arguments that a saved agent cannot change

    learning_rate: float | Schedule = argument(
        doc="Step size of the optimiser; a number or a function of the progress remaining (1 to 0).",
        at_least=0,
        schedule=True,
    )
    n_steps: int = argument(default=512, doc="Steps per environment and update.", at_least=1, integer=True)
    n_episodes: int | None = argument(
        default=None,
        doc="Whole episodes per environment and update, instead of `n_steps`.",
        at_least=1,
        integer=True,
        optional=True,
    )
    group_size: int | None = argument(
        default=None,
        doc="Episodes that start in the same way; None if each starts as it pleases.",
        at_least=2,
        integer=True,
        optional=True,
    )
    n_groups: int = argument(default=1, doc="Groups of episodes per environment and update.", at_least=1, integer=True)
    batch_size: int | None = argument(
        default=None,
        doc="Minibatch size; None takes the whole rollout at once.",
        at_least=1,
        integer=True,
        optional=True,
    )
    n_epochs: int = argument(default=1, doc="Passes over each rollout.", at_least=1, integer=True)
    gamma: float = argument(doc="Discount factor.", at_least=0, at_most=1)
    gae_lambda: float = argument(default=1.0, doc="λ of generalised advantage estimation.", at_least=0, at_most=1)
    value_learning_rate: float | Schedule | None = argument(
        default=None,
        doc="Step size of the parameters that only the value depends on; a number, a schedule, or None for "
        "`learning_rate`. Layers that actor and critic share move with `learning_rate`.",
        at_least=0,
        optional=True,
        schedule=True,
    )
    # SB3's types of the attributes; as arguments, the three take schedules or None, which a class says by `InitVar`.
    ent_coef: float = argument(
        default=0.0, doc="Coefficient of the entropy bonus; a number or a schedule.", at_least=0, schedule=True
    )
    vf_coef: float = argument(
        default=0.0, doc="Coefficient of the value loss; a number or a schedule.", at_least=0, schedule=True
    )
    max_grad_norm: float = argument(
        default=None,
        doc="The gradient is scaled down to this norm; None leaves it as it is.",
        above=0,
        infinite=True,
        optional=True,
    )
    normalize_advantage: bool = argument(
        default=False, doc="Shift and scale each minibatch's advantages to mean 0 and standard deviation 1."
    )
    target_kl: float | None = argument(
        default=None,
        doc="An update stops early when the KL divergence from the old policy exceeds 1.5 times this.",
        above=0,
        optional=True,
    )

    def __init_subclass__(cls, *, init: bool = True, **kwargs: Any) -> None:
        """Read the class body, and make `__init__` unless the class or a parent has one of its own.

        Args:
            init: As for a dataclass: False for a class that keeps its parent's constructor.
            **kwargs: Of other parents.

        Raises:
            TypeError: A field has the name of a class attribute, or a mutable default.
        """
        super().__init_subclass__(**kwargs)
        _warn_of_former_hooks(cls)
        load = vars(cls).get("load")
        if type(load) is classmethod:
            cls.load = LoadedByClass(load.__func__)  # type: ignore[method-assign,assignment]
        cls.declared = dict(Arguments.declared)
        for base in reversed(cls.__mro__[1:]):
            cls.declared |= vars(base).get("_own_fields", {})
        own = cls._own_fields = _fields(cls)
        cls.declared |= own
        if Arguments in cls.__bases__:  # the root of all algorithms: its `__init__` takes every argument
            cls.common, cls.taken = tuple(own), tuple({**own, **cls.declared})
            cls.__init__.__signature__ = signature(cls)  # type: ignore[attr-defined]
        elif "__init__" in vars(cls):
            cls._is_made_of_fields = False
        elif init and cls._is_made_of_fields and not _has_mixed_in_constructor(cls):
            # A parent that takes every argument, as the root does, lists none.
            lists = [base.taken for base in cls.__bases__ if issubclass(base, Arguments)]
            listed = [name for taken in lists if taken != _root(cls).taken for name in taken]
            required = [name for name, field in cls.declared.items() if field.default is _REQUIRED]
            if own or not {*listed} <= {*cls.taken}:
                cls.taken = tuple(dict.fromkeys([*(listed or [*cls.common, *required]), *own]))
                cls.__init__ = _constructor(cls)  # type: ignore[method-assign]
                cls.__doc__ = _documentation(cls)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The defaults of all declared arguments that have one."""
        return {name: field.default for name, field in cls.declared.items() if field.default is not _REQUIRED}

    def check_arguments(self) -> None:
        """Refuse arguments that contradict each other.

        Raises:
            ValueError: They do.
        """

    def complete_arguments(self) -> None:
        """Replace arguments, once checked, by what they stand for; called again after loading and assigning."""

    def assign(self, name: str, value: Any) -> None:
        """Give an agent that exists another value of an argument, from the next update on.

        Args:
            name: Of the argument.
            value: Its value.

        Raises:
            ValueError: The constructor would refuse it, or an agent that exists cannot change it; it keeps the old one.
        """
        field, known = type(self).declared[name], vars(self)
        remedy = field.fixed or ("make a new agent" if name in self.fixed_on_load else "")
        if remedy:
            raise ValueError(
                f"`{name}` of {type(self).__name__} cannot change after construction, but {value!r} was assigned: "
                f"{remedy}."
            )
        before = {one: known[one] for one in type(self).declared if one in known}
        with self.takes_all():
            try:
                known[name] = value
                self.before_assigning(name, before.get(name))
                self.check_arguments()
                field.check(name, value)
                self.complete_arguments()
            except Exception:
                known.update(before)
                raise
        self.after_assigning(name)

    def before_assigning(self, name: str, before: Any) -> None:
        """Adapt the arguments that follow from one that is assigned, which is stored but not checked yet.

        Args:
            name: Of the argument.
            before: Its old value.

        Raises:
            ValueError: An agent that exists cannot change it in this way.
        """

    def after_assigning(self, name: str) -> None:
        """Renew what was made from an argument, now that another one is assigned.

        Args:
            name: Of the argument.
        """
        if name == "learning_rate":
            self._setup_lr_schedule()

    def coefficient(self, name: str) -> float:
        """The current value of an argument that may be a number or a schedule."""
        value = getattr(self, name)
        progress = max(self._current_progress_remaining, 0.0)  # in a file of SB3's it may be below
        return value_of(name, value, progress) if callable(value) else value

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        self._current_progress_remaining = progress_remaining(num_timesteps, self._schedules_end or total_timesteps)

    @contextmanager
    def takes_all(self) -> Iterator[None]:
        """Store assigned arguments as they come, unchecked."""
        if self._takes_all:
            yield
            return
        vars(self)["_takes_all"] = True
        try:
            yield
        finally:
            del self._takes_all


def _fields(cls: type[Arguments]) -> dict[str, Argument]:
    """The fields of a class body. A bare default keeps the documentation and the range of the parents' field."""
    found = {}
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        value = vars(cls).get(name, _REQUIRED)
        is_field = isinstance(value, Argument) or (value is not _REQUIRED and not name.startswith("_"))
        if not is_field or "ClassVar" in str(annotation):
            continue
        known = cls.declared.get(name, Argument())
        if not isinstance(value, Argument):
            if cls._is_made_of_fields and "__init__" not in vars(cls):
                _check_bare_default(cls, name, value)
            value = replace(known, default=value, kw_only=False)
        elif value == Argument(value.default, kw_only=value.kw_only):
            value = replace(known, default=value.default, kw_only=value.kw_only)
        found[name] = value
        if name not in _NOT_WATCHED:
            setattr(cls, name, Assigned(name))
        elif value.default is _REQUIRED:
            delattr(cls, name)
        else:
            setattr(cls, name, value.default)
    return found


def _check_bare_default(cls: type[Arguments], name: str, value: Any) -> None:
    """Refuse class attributes that an annotation would turn into arguments."""
    mend = f"annotate `{name}` of {cls.__name__} with ClassVar or leave the annotation out"
    if name not in cls.declared and hasattr(super(cls, cls), name):
        raise TypeError(f"`{name}` is a class attribute of the parents and not an argument: {mend}.")
    if isinstance(value, (list, dict, set)):
        raise TypeError(
            f"The default {value!r} of the argument `{name}` would be shared by all agents. For a class attribute, "
            f"{mend}; for an argument, make None the default."
        )


def _warn_of_former_hooks(cls: type[Arguments]) -> None:
    for name, successor in _FORMER_HOOKS.items():
        if inspect.isfunction(vars(cls).get(name)):
            warnings.warn(f"`{name}` of {cls.__name__} is no longer called: {successor}.", stacklevel=4)


def _has_mixed_in_constructor(cls: type[Arguments]) -> bool:
    bases = cls.__mro__[: cls.__mro__.index(_root(cls))]
    return any("__init__" in vars(base) and not issubclass(base, Arguments) for base in bases)


def _root(cls: type[Arguments]) -> type[Arguments]:
    return next(base for base in cls.__mro__ if Arguments in base.__bases__)


def signature(cls: type[Arguments]) -> inspect.Signature:
    """The signature of a class's `__init__`, as its fields make it."""
    by_position = [name for name in cls.taken if not cls.declared[name].kw_only]
    if cls.same_order_as is not None:
        order = cls.same_order_as
        names = order if isinstance(order, tuple) else inspect.signature(order.__init__).parameters
        by_position = [name for name in names if name in cls.taken]
    # Python takes no required argument after one with a default, but for keywords.
    optional = [name for name in by_position if cls.declared[name].default is not _REQUIRED]
    if optional:
        first = by_position.index(optional[0])
        by_position = [name for n, name in enumerate(by_position) if n < first or name in optional]
    by_keyword = [name for name in cls.taken if name not in by_position]

    def parameters(names: list[str], kind: Any) -> list[inspect.Parameter]:
        return [inspect.Parameter(name, kind, default=cls.declared[name].default) for name in names]

    return inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *parameters(by_position, inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *parameters(by_keyword, inspect.Parameter.KEYWORD_ONLY),
        ]
    )


def _constructor(cls: type[Arguments]) -> Callable[..., None]:
    made = signature(cls)

    def __init__(self: Arguments, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes the class's
        check_keywords(type(self), cls.taken, kwargs)
        try:
            bound = made.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}() {error}") from None
        bound.apply_defaults()
        _root(cls).__init__(**bound.arguments)

    __init__.__signature__ = made  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


def _documentation(cls: type[Arguments]) -> str | None:
    """The class's docstring with its arguments."""
    doc = vars(cls).get("__doc__")
    if doc is None or "\nArgs:" in inspect.cleandoc(doc):
        return doc
    names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    lines = [f"    {name}: {cls.declared[name].doc}" for name in names if cls.declared[name].doc]
    return inspect.cleandoc(doc) + "\n\nArgs:\n" + "\n".join(lines)


def constructor_arguments(cls: type[Any]) -> list[str]:
    """Names of the arguments that a constructor takes, those included that it hands on as `**kwargs` to its parent's.

    To the root of our algorithms, `**kwargs` hand on the arguments common to all algorithms.

    Args:
        cls: Any class.
    """
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        if names and issubclass(base, Arguments) and Arguments in base.__bases__:
            return [*names, *(name for name in base.common if name not in names)]
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names |= dict.fromkeys(one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL))
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return list(names)


def constructor_defaults(cls: type[Any]) -> dict[str, Any]:
    """The defaults of a constructor's arguments and of its parents'; `inspect.Parameter.empty` for none.

    Args:
        cls: Any class.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        if "__init__" in vars(base):
            found |= {one.name: one.default for one in inspect.signature(vars(base)["__init__"]).parameters.values()}
    return found


def check_keywords(cls: type[Any], known: Iterable[str], keywords: Iterable[str]) -> None:
    """Refuse a keyword that a constructor does not take.

    Args:
        cls: The class, for the message.
        known: The keywords that it takes.
        keywords: The keywords given.

    Raises:
        TypeError: A keyword is unknown; the message suggests the nearest known one, and names the one that decides
            the same.
    """
    known = list(known)
    for keyword in keywords:
        if keyword not in known:
            hint = suggestion(keyword, known) + _counterpart(cls, keyword, known)
            raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {keyword!r}.{hint}")


def _counterpart(cls: type[Any], keyword: str, known: list[str]) -> str:
    """A sentence with the arguments of a class that decide what a keyword decides in others; nothing without any."""
    for role, names in _ROLES.items():
        own = [f"`{name}`" for name in names if name in known]
        if keyword in names and own:
            return f" {role.capitalize()} is decided by {' and '.join(own)} of {cls.__name__}."
    return ""


Arguments.declared = {name: replace(field, kw_only=True) for name, field in _fields(Arguments).items()}
