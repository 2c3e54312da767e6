"""One training of a benchmark: an algorithm on an environment with a seed, evaluated during and after training."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import PurePath
from typing import Any, Literal

from pg_agents.agent import PolicyGradient
from pg_agents.arguments import constructor_arguments
from pg_agents.checks import check_number
from pg_zoo.lookup import find_algorithm
from pg_zoo.results.storage import RANDOM, cell_folder

MAX_SEED = 2**30  # evaluations use the seeds from here on

_JSON_SCALARS = (bool, int, float, str, type(None))
# Arguments of constructors that training does not depend on, or that are recorded separately.
_NO_HYPERPARAMETERS = {"device", "seed", "tensorboard_log", "verbose", "stats_window_size", "_init_setup_model"}


@dataclass(frozen=True)
class Cell:
    """One training: an algorithm on an environment with one seed.

    Attributes:
        algo: The algorithm's registered name, or `"random"`: uniformly random actions, no training.
        env: The Gymnasium id.
        seed: Random seed, below 2^30.
        hyperparams: The resolved entry in rl_zoo3's schema, with `n_timesteps`; it determines the run.
        origin: The source of the entry, in words.
        eval_points: Evaluations along the learning curve, evenly spaced, the last one at the end.
        eval_episodes: Episodes of each of them.
        final_episodes: Episodes of the evaluation after training, whose mean return is the score.
        tensorboard: Whether to keep a TensorBoard log.
        keep_agent: Whether to keep the trained model, and `vecnormalize.pkl` where observations are normalised.
        device: The torch device.
        gym_packages: Modules to import first, because they register environments. Results do not hold them.
        full_steps: Steps of a full training, if this one is a shorter first look.
        vec_env: How environments are stepped: one by one (`"dummy"`), in their own vector version (`"native"`), or in
            their world (`"world"`), which compiled code steps. `"own"` is native where that resets as SB3 expects it,
            else dummy; `"auto"` is world where there is one, else as `"own"`. `"envpool"` trains in EnvPool's version
            and evaluates as with `"own"`.

    Raises:
        ValueError: A number is out of range.
    """

    algo: str
    env: str
    seed: int
    hyperparams: dict[str, Any] = field(hash=False)
    origin: str = ""
    eval_points: int = 20
    eval_episodes: int = 10
    final_episodes: int = 100
    tensorboard: bool = False
    keep_agent: bool = False
    device: str = "cpu"
    gym_packages: tuple[str, ...] = ()
    full_steps: int | None = None
    vec_env: Literal["auto", "own", "dummy", "native", "world", "envpool"] = "own"

    def __post_init__(self) -> None:
        check_number("seed", self.seed, at_least=0, at_most=MAX_SEED - 1, integer=True)
        check_number("eval_points", self.eval_points, at_least=0, integer=True)
        check_number("eval_episodes", self.eval_episodes, at_least=1, integer=True)
        check_number("final_episodes", self.final_episodes, at_least=1, integer=True)

    def __str__(self) -> str:
        return f"{self.algo} {self.env} seed {self.seed}"

    @property
    def path(self) -> PurePath:
        """Its folder within a results folder."""
        return cell_folder(self.algo, self.env, self.seed)

    @property
    def n_timesteps(self) -> int:
        """Environment steps of the training; 0 for random actions."""
        return int(self.hyperparams.get("n_timesteps", 0))

    @property
    def options(self) -> dict[str, int]:
        """The numbers of evaluations and of their episodes."""
        return {name: getattr(self, name) for name in ("eval_points", "eval_episodes", "final_episodes")}


def defaults(cell: Cell) -> dict[str, Any]:
    """The algorithm's defaults for the arguments that a cell does not set; values that JSON lacks become text.

    Empty for random actions, and if the constructor hides its arguments behind `**kwargs`.
    """
    if cell.algo == RANDOM:
        return {}
    algorithm = find_algorithm(cell.algo)
    names = set(constructor_arguments(algorithm)) - _NO_HYPERPARAMETERS - set(cell.hyperparams)
    own = signature(algorithm.__init__).parameters
    if any(one.kind is one.VAR_KEYWORD for one in own.values()) and not issubclass(algorithm, PolicyGradient):
        return {}
    known = {**signature(PolicyGradient.__init__).parameters, **own}
    found = {name: known[name].default for name in sorted(names) if known[name].default is not Parameter.empty}
    return {name: value if isinstance(value, _JSON_SCALARS) else _as_text(value) for name, value in found.items()}


def _as_text(value: Any) -> str:
    """A text that is the same in every process: a function's name without its address."""
    return str(getattr(value, "__qualname__", value))
