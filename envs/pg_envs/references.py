"""Reference scores: mean returns of the best policy, a reference controller, random and zero actions.

An environment states its own scores in the metadata of its class, so its id is enough to read them:

    metadata = {"render_modes": [], "reference_scores": {"optimum": 0.0, "random": -20.0}}

`metadata["reference_scores"]` is either a mapping from key to mean undiscounted episode return, or a function that
returns such a mapping. A function is called with the environment's keyword arguments, those of its registration and of
`gym.make`. If it has a parameter `n_episodes`, `reference_scores` passes the number of episodes to simulate. The scores
hold for the registered time limit. Metadata travel between processes, so the function must be picklable: a function of
a module, or a `functools.partial` of one.

| key           | mean return of                                                  |
|---------------|-----------------------------------------------------------------|
| `optimum`     | the best policy                                                 |
| `controller`  | a reference controller, which knows the environment's equations |
| `value`       | the best policy of a game against its worst-case opponent       |
| `equilibrium` | an equilibrium policy of a game                                 |
| `random`      | actions drawn uniformly from the action space                   |
| `zero`        | the action 0 of a Box                                           |
| any other     | a further policy of that name                                   |

Every key is optional. The best known score is the first of `optimum`, `controller`, `value` and `equilibrium` that the
mapping has. The environments of this package state `functools.partial(computed_scores, id)`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from pg_envs.checks import check_choice, check_number
from pg_envs.worlds.faces import VectorFace

POLICIES = ("controller", "random", "zero")
BEST = ("optimum", "controller", "value", "equilibrium")
TOO_LONG = 100_000  # steps after which an episode counts as endless

_cache: dict[str, dict[str, float]] = {}


def reference_scores(env_id: str, *, n_episodes: int = 1000, **kwargs: Any) -> dict[str, float]:
    """Mean undiscounted episode returns that tell how far from optimal a score is.

    The environment states them in `metadata["reference_scores"]`; the module's docstring defines the keys. If
    it states nothing, or `max_episode_steps` differs from the registered time limit, they are `computed_scores`.

    Args:
        env_id: A registered id.
        n_episodes: Number of simulated episodes, where scores are simulated.
        **kwargs: Arguments of the environment, such as its size.

    Raises:
        TypeError: `metadata["reference_scores"]` is neither a mapping nor a function.
        ValueError: An argument is out of range, or an episode does not end.
        gymnasium.error.Error: The id is not registered.
    """
    check_number("n_episodes", n_episodes, at_least=1, integer=True)
    spec = gym.spec(env_id)
    stated = _stated(spec)
    limit = kwargs.get("max_episode_steps", spec.max_episode_steps)
    if stated is None or limit != spec.max_episode_steps:
        return computed_scores(env_id, n_episodes=n_episodes, **kwargs)
    if not callable(stated):
        return dict(stated)
    arguments = {**spec.kwargs, **kwargs}
    arguments.pop("max_episode_steps", None)
    if "n_episodes" in inspect.signature(stated).parameters:
        arguments["n_episodes"] = n_episodes
    return dict(stated(**arguments))


def computed_scores(env_id: str, *, n_episodes: int = 1000, **kwargs: Any) -> dict[str, float]:
    """Reference scores from the environment's `World` or `Dynamics`, and from simulated episodes.

    | key          | source                                           |
    |--------------|--------------------------------------------------|
    | `optimum`    | `optimum`                                        |
    | `controller` | `known_returns`, or a simulation of `controller` |
    | `random`     | `known_returns`, or a simulation                 |
    | `zero`       | `known_returns`, or a simulation                 |
    | any other    | `known_returns`                                  |

    A key is missing if the environment has no such policy. `optimum` and `known_returns` are exact. They hold for the
    registered time limit and are not used with another `max_episode_steps`. Simulated means have a standard error:
    `simulated_returns` returns the episodes behind them, and `benchmarks/results/reference_scores.md` lists the error
    for every environment. An environment with neither has `random` and `zero` only. Results are cached.

    Args:
        env_id: A registered id.
        n_episodes: Number of simulated episodes, with the seeds 0, 1, ...
        **kwargs: Arguments of the environment. `render_mode` changes no score and is ignored.

    Raises:
        ValueError: An argument is out of range, or an episode does not end.
        gymnasium.error.Error: The id is not registered.
    """
    check_number("n_episodes", n_episodes, at_least=1, integer=True)
    kwargs.pop("render_mode", None)
    key = _key(env_id, n_episodes, kwargs)
    if key is not None and key in _cache:
        return dict(_cache[key])
    env = _make(env_id, n_episodes, kwargs)
    known = _known_scores(env, gym.spec(env_id).max_episode_steps)
    scores = {"optimum": known.pop("optimum")} if "optimum" in known else {}
    for policy in POLICIES:
        if policy in known:
            scores[policy] = known.pop(policy)
        elif _exists(policy, env):
            scores[policy] = float(_returns(env, policy, n_episodes, seed=0).mean())
    env.close()
    scores |= known
    if key is not None:
        _cache[key] = scores
    return dict(scores)


def simulated_returns(env_id: str, policy: str, *, n_episodes: int = 1000, seed: int = 0, **kwargs: Any) -> np.ndarray:
    """Undiscounted episode returns of a reference policy.

    Args:
        env_id: A registered id.
        policy: `"controller"`, `"random"` or `"zero"`.
        n_episodes: Number of episodes.
        seed: Seed of the first episode; the next ones have the next seeds.
        **kwargs: Arguments of the environment.

    Returns:
        Array of shape `(n_episodes,)`.

    Raises:
        ValueError: An argument is out of range, the environment has no such policy, or an episode does not end.
    """
    check_number("n_episodes", n_episodes, at_least=1, integer=True)
    check_choice("policy", policy, POLICIES)
    env = _make(env_id, n_episodes, kwargs)
    if not _exists(policy, env):
        raise ValueError(f"`policy` is {policy!r}, which {env_id} does not have.")
    with closing(env):
        return _returns(env, policy, n_episodes, seed)


def normalised_score(score: float, scores: Mapping[str, float]) -> float:
    """A score on the scale from random actions, 0, to the best known score, 1.

    (score - random) / (best - random)

    Args:
        score: A mean return.
        scores: Reference scores. The best known one is the first of `optimum`, `controller`, `value` and `equilibrium`.

    Raises:
        ValueError: There is no best known score or no `random`, or random actions are not worse than the best.
    """
    best = next((scores[key] for key in BEST if key in scores), None)
    if best is None or "random" not in scores:
        raise ValueError(f"`scores` must have 'random' and one of {', '.join(BEST)}, but has {sorted(scores)}.")
    if best <= scores["random"]:
        raise ValueError(f"`scores`: the best known ({best}) must be above random actions ({scores['random']}).")
    return (score - scores["random"]) / (best - scores["random"])


def is_batched(spec: EnvSpec) -> bool:
    """Whether an environment's vector version is a `VectorFace`: copies are cheap, and they can be asked."""
    creator = _creator(spec.vector_entry_point)
    face = getattr(creator, "face", creator)
    return isinstance(face, type) and issubclass(face, VectorFace)


def _creator(point: Any) -> Any:
    return load_env_creator(point) if isinstance(point, str) else point


def _stated(spec: EnvSpec) -> Mapping[str, float] | Callable[..., Mapping[str, float]] | None:
    """`metadata["reference_scores"]` of the class that an id stands for; the environment is not built."""
    metadata = getattr(_creator(spec.entry_point or spec.vector_entry_point), "metadata", None)
    stated = metadata.get("reference_scores") if isinstance(metadata, Mapping) else None
    if stated is not None and not isinstance(stated, Mapping) and not callable(stated):
        raise TypeError(
            f"`metadata['reference_scores']` of {spec.id} must be a mapping or a function that returns one, "
            f"but is {stated!r}."
        )
    return stated


def _key(env_id: str, n_episodes: int, kwargs: dict[str, Any]) -> str | None:
    """A key of the cache; None if an argument could change, as an opponent that learns does."""
    try:
        return json.dumps([env_id, n_episodes, kwargs], sort_keys=True, default=np.ndarray.tolist)
    except TypeError:
        return None


def _make(env_id: str, n_episodes: int, kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    """One copy per episode if copies are cheap, otherwise one copy."""
    if is_batched(gym.spec(env_id)):
        return gym.make_vec(env_id, n_episodes, **kwargs)
    return gym.make_vec(env_id, 1, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP}, **kwargs)


def _known_scores(env: VectorEnv[Any, Any, Any], limit: int | None) -> dict[str, float]:
    """The exact scores, if the time limit is the registered one, for which they hold."""
    if not isinstance(env, VectorFace) or env.max_episode_steps != limit:
        return {}
    optimum = env.copies.optimum()
    return env.copies.known_returns() | ({} if optimum is None else {"optimum": optimum})


def _exists(policy: str, env: VectorEnv[Any, Any, Any]) -> bool:
    if policy == "controller":
        env.reset(seed=0)
        return isinstance(env, VectorFace) and env.copies.controller() is not None
    space = env.single_action_space
    return policy == "random" or (isinstance(space, spaces.Box) and np.zeros(space.shape, space.dtype) in space)


def _returns(env: VectorEnv[Any, Any, Any], policy: str, n_episodes: int, seed: int) -> np.ndarray:
    parts = [_returns_of_batch(env, policy, seed + first) for first in range(0, n_episodes, env.num_envs)]
    return np.concatenate(parts)


def _returns_of_batch(env: VectorEnv[Any, Any, Any], policy: str, seed: int) -> np.ndarray:
    """The return of each copy's first episode."""
    if policy == "random" and hasattr(env, "hand_over"):
        n_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
        env.hand_over(np.full(n_actions, 1 / n_actions))
    env.reset(seed=seed)
    env.action_space.seed(seed)
    zeros = np.zeros(env.action_space.shape or (), env.action_space.dtype)
    returns, running = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=np.bool_)
    for _ in range(TOO_LONG):
        if policy == "controller":
            assert isinstance(env, VectorFace)
            actions = env.copies.controller()
        else:
            actions = env.action_space.sample() if policy == "random" else zeros
        _, rewards, terminated, truncated, _ = env.step(actions)
        returns += np.where(running, rewards, 0)
        running &= ~(terminated | truncated)
        if not running.any():
            return returns
    raise ValueError(f"An episode of {env} has not ended after {TOO_LONG} steps: give it a `max_episode_steps`.")
