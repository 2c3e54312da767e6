"""How good is good: reference scores of environments, and normalisation by them.

    normalised score = (score - random) / (one - random)

`random` is the mean return of random actions. `one` is the best known score. Without one, it is the return at which the
environment counts as solved, its registered `reward_threshold`; without that either, a substitute from the caller.

An environment states its reference scores in the metadata of its class: `metadata["reference_scores"]` is a mapping
from key to mean undiscounted episode return, or a function of the environment's keyword arguments that returns such a
mapping. This works for the environments of other packages too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from pg_agents import registry
from pg_zoo.errors import one_line, warn
from pg_zoo.lookup import plugin_warnings
from pg_zoo.results import statistics
from pg_zoo.words import number

# The keys of the best known score, in order of precedence, and their descriptions.
BEST = {
    "optimum": "the exact optimum",
    "controller": "the reference controller's score, which can be surpassed",
    "value": "the game's value",
    "equilibrium": "the return of an equilibrium",
}
SOLVED = "solved"
_WORDS = {**BEST, SOLVED: "the return at which it counts as solved"}


class Mark(NamedTuple):
    """A score on a scale.

    Attributes:
        value: The score.
        kind: A key of `BEST`, `SOLVED`, or a description.
    """

    value: float
    kind: str

    @property
    def words(self) -> str:
        """The kind in words."""
        return _WORDS.get(self.kind, self.kind)


@dataclass(frozen=True)
class Scale:
    """The reference scores of an environment.

    Attributes:
        random: Mean return of random actions; None if it is unknown.
        best: The best known score; None if there is none.
        threshold: The return at which the environment counts as solved; None if its author gave none.
        substitute: The upper end if neither of these is known.
        objective: The best value of return less price, if training charges a price for the KL divergence from a
            reference policy; otherwise None.
        reference: The return of that reference policy; None if there is none.
    """

    random: float | None
    best: Mark | None
    threshold: float | None
    substitute: Mark | None = None
    objective: float | None = None
    reference: float | None = None

    @property
    def goal(self) -> Mark | None:
        """The best known score, or else the threshold."""
        if self.best is not None or self.threshold is None:
            return self.best
        return Mark(self.threshold, SOLVED)

    @property
    def end(self) -> Mark | None:
        """The upper end of the scale: the goal, or else the substitute."""
        return self.goal or self.substitute

    @property
    def one(self) -> float | None:
        """The score that is 1 after normalisation; None if nothing can be normalised."""
        if self.random is None or self.end is None or not self.end.value > self.random:
            return None
        return self.end.value

    @property
    def why(self) -> str:
        """A description of `one`, or the reason why there is none."""
        if self.random is None:
            return "the score of random actions is not known"
        if self.end is None:
            return "no score is known to exceed that of random actions"
        if self.one is None:
            return (
                f"random actions, {number(self.random)}, are no worse than {self.end.words}, {number(self.end.value)}"
            )
        return self.end.words

    @property
    def best_name(self) -> str:
        """A short name of `best`: a controller's score can be surpassed."""
        assert self.best is not None
        return "controller" if self.best.kind == "controller" else "optimal"

    def normalise(self, scores: np.ndarray | float) -> np.ndarray:
        """0 for random actions, 1 for `one`."""
        assert self.random is not None
        assert self.one is not None
        return statistics.normalised(np.asarray(scores), self.random, self.one)


def find_scale(
    env: str,
    env_kwargs: Mapping[str, Any] | None = None,
    measured: Sequence[float] = (),
    substitute: Mark | None = None,
) -> Scale:
    """The scale of an environment.

    Args:
        env: A Gymnasium id. If it is not registered, only `measured` and `substitute` are known.
        env_kwargs: Keyword arguments of the environment.
        measured: Scores of random actions, used if the environment does not state theirs.
        substitute: The upper end where there is neither a best known score nor a threshold.
    """
    known = known_scores(env, env_kwargs)
    spec = gym.registry.get(env)
    threshold = None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)
    random = known["random"] if "random" in known else float(np.mean(measured)) if len(measured) else None
    best = next((Mark(known[kind], kind) for kind in BEST if kind in known), None)
    return Scale(random, best, threshold, substitute, known.get("objective"), known.get("reference"))


def known_scores(env: str, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, float]:
    """The scores that an environment states in `metadata["reference_scores"]`, for its time limit.

    They hold for the registered time limit. With another `max_episode_steps` among the arguments, only a function that
    takes this argument is asked.

    Args:
        env: A Gymnasium id, registered or not.
        env_kwargs: Keyword arguments of the environment.

    Returns:
        Scores by key; empty if the environment states none or cannot be imported. If the stated scores are no mapping
        to numbers, or their function fails, a warning says so.
    """
    with one_line(registry.PluginError), plugin_warnings():
        registry.find_env(env)
    spec = gym.registry.get(env)
    if spec is None:
        return {}
    arguments = {**spec.kwargs, **(env_kwargs or {})}
    has_own_limit = arguments.get("max_episode_steps", spec.max_episode_steps) != spec.max_episode_steps
    if not has_own_limit:
        arguments.pop("max_episode_steps", None)
    try:
        metadata = _metadata(spec, arguments)
    except (ImportError, gym.error.Error):  # its packages are not installed here
        return {}
    stated = metadata.get("reference_scores") or {}
    try:
        if callable(stated):
            stated = {} if has_own_limit and not _takes_limit(stated) else stated(**arguments)
        elif has_own_limit:
            stated = {}
        return {str(key): float(value) for key, value in dict(stated).items()}
    except Exception as error:
        warn(f"metadata['reference_scores'] of {env} is left out: {type(error).__name__}: {error}")
        return {}


def _metadata(spec: EnvSpec, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of an id's class; an environment is made only if the entry point is a function without metadata."""
    point = spec.entry_point or spec.vector_entry_point
    creator: Any = load_env_creator(point) if isinstance(point, str) else point
    metadata = getattr(creator, "metadata", {} if isinstance(creator, type) else None)
    if isinstance(metadata, Mapping):
        return metadata
    with closing(gym.make(spec.id, **arguments)) as made:
        return made.unwrapped.metadata


def _takes_limit(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    return "max_episode_steps" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
