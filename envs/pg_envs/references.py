"""How good is good: the mean return of the best policy, of a reference controller, of random and of zero actions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from pg_envs.batched import Batched
from pg_envs.checks import check_choice, check_number

POLICIES = ("controller", "random", "zero")
BEST = ("optimum", "controller", "value", "equilibrium")
TOO_LONG = 100_000  # steps of an episode: one that never ends must not go unnoticed

_cache: dict[str, dict[str, float]] = {}


def reference_scores(env_id: str, *, n_episodes: int = 1000, **kwargs: Any) -> dict[str, float]:
    """Mean returns of an episode, without discount, that tell how far from optimal a score is.

    | key          | whose                                                              | how                         |
    |--------------|--------------------------------------------------------------------|-----------------------------|
    | `optimum`    | the best policy's                                                  | exact                       |
    | `controller` | the reference controller's, which knows the environment's equations | simulated                   |
    | `random`     | of actions drawn uniformly from the action space                   | exact where known, else     |
    | `zero`       | of the action 0 of a Box                                           | simulated                   |
    | others       | as the environment's `Dynamics.known_returns` has them             | exact                       |

    A key is missing where there is no such thing, or where another `max_episode_steps` than the registered makes it
    unknown. Simulated means have a standard error, which `simulated_returns`
    tells; `benchmarks/results/reference_scores.md` lists it for every environment. Environments of other packages are
    simulated too, with `random` and `zero`. What was computed once is remembered.

    Args:
        env_id: A registered id.
        n_episodes: How many episodes are simulated, with the seeds 0, 1, ...
        **kwargs: Arguments of the environment, such as its size.

    Raises:
        ValueError: An argument is out of range, or an episode does not end.
        gymnasium.error.Error: There is no such environment.
    """
    check_number("n_episodes", n_episodes, at_least=1, integer=True)
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
    """Returns of episodes, without discount, under a reference policy.

    Args:
        env_id: A registered id.
        policy: `"controller"`, `"random"` or `"zero"`, as in `reference_scores`.
        n_episodes: How many.
        seed: Of the first episode; the others have the following ones.
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
    """Where a score lies between random actions, 0, and the best known, 1.

    (score - random) / (best - random)

    Args:
        score: A mean return.
        scores: What `reference_scores` gives. The best known is its `optimum`, or else its `controller`,
            or a game's `value`, or what an `equilibrium` wins.

    Raises:
        ValueError: There is no best known score, or random actions are no worse than it.
    """
    best = next((scores[key] for key in BEST if key in scores), None)
    if best is None or "random" not in scores:
        raise ValueError(f"`scores` must have 'random' and one of {', '.join(BEST)}, but has {sorted(scores)}.")
    if best <= scores["random"]:
        raise ValueError(f"`scores`: nothing lies between random actions ({scores['random']}) and the best ({best}).")
    return (score - scores["random"]) / (best - scores["random"])


def is_batched(spec: EnvSpec) -> bool:
    """Whether an environment is one of this package's kind, whose scores are known, or simulated in no time."""
    point = spec.vector_entry_point
    creator = load_env_creator(point) if isinstance(point, str) else point
    return isinstance(creator, type) and issubclass(creator, Batched)


def _key(env_id: str, n_episodes: int, kwargs: dict[str, Any]) -> str | None:
    """None for arguments that could change, such as an opponent that learns."""
    try:
        return json.dumps([env_id, n_episodes, kwargs], sort_keys=True, default=np.ndarray.tolist)
    except TypeError:
        return None


def _make(env_id: str, n_episodes: int, kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    """As many copies as episodes where they are cheap, which is where they are ours, and else one."""
    if is_batched(gym.spec(env_id)):
        return gym.make_vec(env_id, n_episodes, **kwargs)
    return gym.make_vec(env_id, 1, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP}, **kwargs)


def _known_scores(env: VectorEnv[Any, Any, Any], limit: int | None) -> dict[str, float]:
    """What is known exactly, which holds for the time limit that the environment is registered with."""
    if not isinstance(env, Batched) or env.max_episode_steps != limit:
        return {}
    optimum = env.dynamics.optimum()
    return env.dynamics.known_returns() | ({} if optimum is None else {"optimum": optimum})


def _exists(policy: str, env: VectorEnv[Any, Any, Any]) -> bool:
    if policy == "controller":
        env.reset(seed=0)
        return isinstance(env, Batched) and env.dynamics.controller(env.state) is not None
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
            assert isinstance(env, Batched)
            actions = env.dynamics.controller(env.state)
        else:
            actions = env.action_space.sample() if policy == "random" else zeros
        _, rewards, terminated, truncated, _ = env.step(actions)
        returns += np.where(running, rewards, 0)
        running &= ~(terminated | truncated)
        if not running.any():
            return returns
    raise ValueError(f"An episode of {env} has not ended after {TOO_LONG} steps: give it a `max_episode_steps`.")
