"""Search spaces as data: beside its arguments, a class lists in `search` the values that are worth a try.

```python
search = {"n_steps": PowerOfTwo(4, 256), "gae_lambda": Uniform(0.8, 1.0), "use_rms_prop": Choice(False, True)}
```

`pg-zoo tune` draws them from an Optuna trial, in the order of the classes' `search` from the base to the class itself;
an entry of a subclass replaces its parent's. Drawn values are those of a hyperparameter file: numbers of two digits,
`lin_...` for a schedule that falls linearly to 0, `dict(...)` for the policy's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Context:
    """The knowledge on which a draw may depend.

    Attributes:
        observation_space: The observation space of one environment, before normalisation.
        action_space: The action space of one environment.
        drawn: The entries drawn before this one.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    drawn: Mapping[str, Any]


class Range(Protocol):
    """The values of one name in a search space."""

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """Draw one of them.

        Args:
            trial: The Optuna trial.
            name: The name in the search space.
            context: Spaces, and the entries drawn before.

        Returns:
            Entries of a hyperparameter file: `name` alone, another, several or none.
        """
        ...


SearchSpace = Mapping[str, Range]


@dataclass(frozen=True)
class Uniform:
    """A number between two others."""

    low: float
    high: float

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        return {name: _rounded(trial.suggest_float(name, self.low, self.high))}


@dataclass(frozen=True)
class LogUniform:
    """A positive number of any order of magnitude between two others."""

    low: float
    high: float

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        return {name: _log_uniform(trial, name, self.low, self.high)}


@dataclass(frozen=True)
class LogInteger:
    """An integer of any order of magnitude between two others."""

    low: int
    high: int

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        return {name: trial.suggest_int(name, self.low, self.high, log=True)}


@dataclass(frozen=True)
class OneMinus:
    """1 minus a number of any order of magnitude between two others: a discount factor."""

    low: float
    high: float

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        return {name: round(1 - _log_uniform(trial, f"one_minus_{name}", self.low, self.high), 9)}


@dataclass(frozen=True)
class PowerOfTwo:
    """A power of two between two others, and no more than the product of some entries drawn before."""

    low: int
    high: int
    at_most: tuple[str, ...] = ()

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        value = _power_of_two(trial, name, self.low, self.high)
        return {name: min(value, prod(context.drawn[other] for other in self.at_most)) if self.at_most else value}


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        return {name: trial.suggest_categorical(name, list(self.values))}


@dataclass(frozen=True)
class ScheduleBetween:
    """A positive number of any order of magnitude between two others, constant or falling linearly to 0."""

    low: float
    high: float

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        value = _log_uniform(trial, name, self.low, self.high)
        falls = trial.suggest_categorical(f"{name}_schedule", ["constant", "linear"]) == "linear"
        return {name: f"lin_{value}" if falls else value}


@dataclass(frozen=True)
class Episodes:
    """So many whole episodes for an update, shared among at most the `n_envs` environments drawn before."""

    low: int = 2
    high: int = 64

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`. Returns `n_envs`, too."""
        n_episodes = _power_of_two(trial, name, self.low, self.high)
        n_envs = min(context.drawn["n_envs"], n_episodes)
        return {"n_envs": n_envs, name: n_episodes // n_envs}


@dataclass(frozen=True)
class Normalisation:
    """Observations and rewards are normalised or not; nothing for images and Dict observations."""

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`."""
        space = context.observation_space
        if not isinstance(space, spaces.Box) or is_image_space(space):
            return {}
        return {name: True} if trial.suggest_categorical(name, [False, True]) else {}


@dataclass(frozen=True)
class Networks:
    """Size and activation of the networks, and for continuous actions the kind and size of exploration."""

    def draw(self, trial: Trial, name: str, context: Context) -> dict[str, Any]:
        """See `Range.draw`. Returns `policy_kwargs`, `use_sde` and `sde_sample_freq` where they are no defaults."""
        found: dict[str, Any] = {}
        kwargs = []
        if (width := _power_of_two(trial, "width", 32, 256)) != 64:
            kwargs.append(f"net_arch=[{width}, {width}]")
        if trial.suggest_categorical("activation", ["Tanh", "ReLU"]) == "ReLU":
            kwargs.append("activation_fn=nn.ReLU")
        if isinstance(context.action_space, spaces.Box):
            kwargs.append(f"log_std_init={_rounded(trial.suggest_float('log_std_init', -3, 0.5))}")
            if trial.suggest_categorical("use_sde", [False, True]):
                found = {"use_sde": True, "sde_sample_freq": _power_of_two(trial, "sde_sample_freq", 4, 64)}
        return {**found, "policy_kwargs": f"dict({', '.join(kwargs)})"} if kwargs else found


def search_of(cls: type[Any]) -> SearchSpace:
    """The search space of a class: its `search` and those of its parents."""
    found: dict[str, Range] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base).get("search", {})
    return found


def draw(
    search: SearchSpace, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> dict[str, Any]:
    """Draw one value for each name of a search space.

    Args:
        search: The search space.
        trial: The Optuna trial.
        observation_space: The observation space of one environment, before normalisation.
        action_space: The action space of one environment.

    Returns:
        The content of an entry of a hyperparameter file.
    """
    drawn: dict[str, Any] = {}
    for name, values in search.items():
        drawn |= values.draw(trial, name, Context(observation_space, action_space, drawn))
    return drawn


def _log_uniform(trial: Trial, name: str, low: float, high: float) -> float:
    return _rounded(trial.suggest_float(name, low, high, log=True))


def _power_of_two(trial: Trial, name: str, low: int, high: int) -> int:
    return int(2 ** trial.suggest_int(f"log2_{name}", low.bit_length() - 1, high.bit_length() - 1))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
