"""Demonstrations: steps of a policy to imitate, from arrays, a policy's episodes, or a Minari dataset.

Actions are the environment's, as its `step` takes them, and observations those of the environment itself, before any
`VecNormalize`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from pg_agents.checks import check_number
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.evaluation import AnyEnv
from pg_agents.envs.make import make_vec
from pg_agents.envs.masking import with_masks
from pg_agents.estimators import reward_to_go

Observations = np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Steps, one row each, in the order in which they were taken; the last one ends its episode in any case.

    Attributes:
        observations: s, `(n, ...)`, or a dictionary of such arrays.
        actions: a, `(n, ...)`, as the environment takes them.
        rewards: r, `(n,)`; None if they are not known.
        ends: `(n,)` bool, the episode ended after this step; None for one episode.
        terminated: `(n,)` bool, it ended because the task did, not by a time limit; None for all ends.
        last_observations: The observation after each end, `(n_episodes, ...)`; None if they are not known.
        observation_space: The environment's observation space; None if it is unknown.
        action_space: The environment's action space; None if it is unknown.

    Raises:
        ValueError: There are no steps, the arrays differ in length, or a number is not finite.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray | None = None
    ends: np.ndarray = None  # type: ignore[assignment] # filled in by `__post_init__`, as the next one
    terminated: np.ndarray = None  # type: ignore[assignment]
    last_observations: Any = None
    observation_space: spaces.Space[Any] | None = None
    action_space: spaces.Space[Any] | None = None

    def __post_init__(self) -> None:
        observations, actions = _arrays(self.observations), np.asarray(self.actions)
        if actions.ndim == 0 or len(actions) == 0:
            raise ValueError(f"`demonstrations` hold no steps: `actions` has shape {actions.shape}.")
        fields: dict[str, Any] = {"observations": observations, "actions": actions}
        for name, kind in (("rewards", np.float32), ("ends", bool), ("terminated", bool)):
            if (given := getattr(self, name)) is not None:
                fields[name] = np.asarray(given, dtype=kind)
                if fields[name].ndim != 1:
                    raise ValueError(f"`{name}` must have one number for each step, but has shape {np.shape(given)}.")
        for name, values in fields.items():
            for label, array in _named(name, values):
                if len(array) != len(actions):
                    raise ValueError(f"{label} has {len(array)} steps, but `actions` has {len(actions)}.")
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    row = int(np.argwhere(~np.isfinite(array))[0][0])
                    raise ValueError(f"{label} is not finite at step {row}: {array[row]}.")
        ends = fields["ends"] = fields.get("ends", np.zeros(len(actions), dtype=bool)).copy()
        ends[-1] = True
        fields["terminated"] = fields.get("terminated", ends) & ends
        if self.last_observations is not None:
            fields["last_observations"] = _arrays(self.last_observations)
            for label, array in _named("last_observations", fields["last_observations"]):
                if len(array) != ends.sum():
                    raise ValueError(f"{label} has {len(array)} rows, but there are {ends.sum()} episodes.")
        for name, values in fields.items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.actions)

    def __repr__(self) -> str:
        returns = "" if self.rewards is None else f", mean return {self.episode_returns.mean():.4g}"
        return f"Demonstrations({self.n_episodes} episodes, {len(self)} steps{returns})"

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return int(self.ends.sum())

    @cached_property
    def episodes(self) -> np.ndarray:
        """`(n,)`: the number of each step's episode, from 0."""
        return np.concatenate([[0], np.cumsum(self.ends[:-1])]).astype(np.int64)

    @property
    def episode_returns(self) -> np.ndarray:
        """`(n_episodes,)`: the sum of each episode's rewards."""
        return np.bincount(self.episodes, weights=self._rewards())

    def returns(self, gamma: float, rewards: np.ndarray | None = None) -> np.ndarray:
        """Monte-Carlo returns G_t = Σ_k γ^k r_{t+k}, `(n,)`; a time limit ends the sum like any other end.

        Args:
            gamma: Discount factor.
            rewards: `(n,)`, to take the place of the demonstrations' own.

        Raises:
            ValueError: There are no rewards.
        """
        given = self._rewards() if rewards is None else rewards
        return reward_to_go(given[:, None], self.ends[:, None], gamma)[:, 0]

    def _rewards(self) -> np.ndarray:
        if self.rewards is None:
            raise ValueError("`demonstrations` have no rewards, so there are no returns.")
        return self.rewards


def as_demonstrations(given: Any) -> Demonstrations:
    """Demonstrations in any of the forms that `imitate` takes.

    Args:
        given: `Demonstrations`; a tuple `(observations, actions)`, with `rewards`, `ends` and further fields if they
            are known; a Minari dataset, or the id of a local one.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(given, Demonstrations):
        return given
    if isinstance(given, str) or hasattr(given, "iterate_episodes"):
        return read_minari(given)
    if isinstance(given, (tuple, list)) and 2 <= len(given) <= 6:
        return Demonstrations(*given)
    raise TypeError(
        "`demonstrations` must be Demonstrations, a tuple (observations, actions[, rewards, ends]), a Minari dataset "
        f"or its id, but is {type(given).__name__}. The episodes of a policy come from collect_demonstrations."
    )


def collect_demonstrations(
    policy: PolicyPredictor,
    env: AnyEnv | str,
    n_episodes: int,
    *,
    deterministic: bool = False,
    seed: int | None = None,
) -> Demonstrations:
    """Let a policy play whole episodes, and record them.

    Several environments contribute evenly many episodes each, decided before they start: the first to finish would be
    short ones. The rewards and observations of a `VecNormalize` are recorded as they were before it, and its statistics
    stay as they are.

    Args:
        policy: An agent or a policy, or any object with SB3's `predict`.
        env: The environment, single or vector, or a registered id.
        n_episodes: Number of episodes.
        deterministic: The most probable actions, not sampled ones. They show a policy only how to act and not how sure
            to be, so a Gaussian policy's σ shrinks to the error of its fit.
        seed: Seed of the first reset.

    Raises:
        ValueError: `n_episodes` is out of range.
    """
    check_number("n_episodes", n_episodes, at_least=1, integer=True)
    vec_env = _vec_env(env)
    if seed is not None:
        vec_env.seed(seed)
    normalizer = unwrap_vec_normalize(vec_env)
    was_training = normalizer is not None and normalizer.training
    if normalizer is not None:
        normalizer.training = False
    try:
        return _play(with_masks(policy, vec_env), vec_env, n_episodes, deterministic)
    finally:
        if normalizer is not None:
            normalizer.training = was_training


def _vec_env(env: AnyEnv | str) -> VecEnv:
    if isinstance(env, str):
        return make_vec(env, 1)
    if isinstance(env, VectorEnv):
        return VectorEnvAdapter(env)
    return env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])


def _play(policy: PolicyPredictor, env: VecEnv, n_episodes: int, deterministic: bool) -> Demonstrations:
    normalizer = unwrap_vec_normalize(env)
    left = (n_episodes + np.arange(env.num_envs)) // env.num_envs
    running: list[list[tuple[Any, ...]]] = [[] for _ in range(env.num_envs)]
    steps: list[tuple[Any, ...]] = []
    last_observations: list[Any] = []
    seen: Any = env.reset()
    state, starts = None, np.ones(env.num_envs, dtype=bool)
    while left.any():
        observations = seen if normalizer is None else normalizer.get_original_obs()
        actions, state = policy.predict(seen, state=state, episode_start=starts, deterministic=deterministic)
        seen, rewards, dones, infos = env.step(actions)
        given = rewards if normalizer is None else normalizer.get_original_reward()
        starts = dones
        for i in np.flatnonzero(left).tolist():
            if infos[i].get("reset_row"):
                continue
            terminated = dones[i] and not infos[i].get("TimeLimit.truncated", False)
            running[i].append((_row(observations, i), np.array(actions[i]), given[i], dones[i], terminated))
            if dones[i]:
                last = infos[i]["terminal_observation"]
                last_observations.append(last if normalizer is None else normalizer.unnormalize_obs(last))
                steps += running[i]
                running[i] = []
                left[i] -= 1
    observed, *columns = zip(*steps, strict=True)
    actions, given, ends, terminations = map(np.stack, columns)
    return Demonstrations(
        _stacked(observed),
        actions,
        given,
        ends,
        terminations,
        last_observations=_stacked(last_observations),
        observation_space=(env if normalizer is None else normalizer.venv).observation_space,
        action_space=env.action_space,
    )


def read_minari(dataset: Any) -> Demonstrations:
    """The steps of a Minari dataset.

    Args:
        dataset: A `minari.MinariDataset`, or the id of a local one: nothing is downloaded.

    Raises:
        ImportError: Minari is not installed, and the dataset is given by its id.
        FileNotFoundError: There is no local dataset of this id.
        ValueError: The dataset has no episodes.
    """
    if isinstance(dataset, str):
        minari, name = _minari(), dataset
        try:
            dataset = minari.load_dataset(name, download=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"`demonstrations` is {name!r}, but there is no local Minari dataset of this id. `minari list local` "
                f"shows those that there are, and `minari download {name}` fetches it."
            ) from error
    episodes = [episode for episode in dataset.iterate_episodes() if len(episode.rewards)]
    if not episodes:
        raise ValueError("`demonstrations` is a Minari dataset without episodes.")
    terminated = [np.asarray(episode.terminations, dtype=bool) for episode in episodes]
    ends = [np.arange(len(one)) == len(one) - 1 for one in terminated]
    return Demonstrations(
        _joined([_each(episode.observations, lambda array: array[:-1]) for episode in episodes]),
        np.concatenate([np.asarray(episode.actions) for episode in episodes]),
        np.concatenate([np.asarray(episode.rewards) for episode in episodes]),
        np.concatenate(ends),
        np.concatenate(terminated),
        _joined([_each(episode.observations, lambda array: array[-1:]) for episode in episodes]),
        dataset.observation_space,
        dataset.action_space,
    )


def write_minari(
    demonstrations: Demonstrations, dataset_id: str, env: str | gym.Env[Any, Any] | None = None, **about: Any
) -> Any:
    """Write demonstrations as a local Minari dataset.

    Args:
        demonstrations: With rewards, and the observation after each end.
        dataset_id: Name of the dataset, such as `"pole/expert-v0"`.
        env: The environment, or its id, from which Minari makes it anew; None if only its spaces are known.
        **about: What the dataset says of itself: `algorithm_name`, `author`, `author_email`, `code_permalink`,
            `description`, and further arguments of `minari.create_dataset_from_buffers`.

    Returns:
        The `minari.MinariDataset`.

    Raises:
        ImportError: Minari is not installed.
        ValueError: Rewards or last observations are missing, or there is a dataset of this id.
    """
    minari = _minari()
    for name in ("rewards", "last_observations"):
        if getattr(demonstrations, name) is None:
            raise ValueError(f"`demonstrations` have no `{name}`, which Minari's format has.")
    from minari.data_collector import EpisodeBuffer

    with warnings.catch_warnings():
        # Minari warns of each entry in `about` that is missing.
        warnings.simplefilter("ignore", UserWarning)
        return minari.create_dataset_from_buffers(
            dataset_id,
            [EpisodeBuffer(**episode) for episode in _minari_episodes(demonstrations)],
            env=env,
            observation_space=demonstrations.observation_space,
            action_space=demonstrations.action_space,
            **{"jpeg_encoding": False, **about},  # JPEG would change the images
        )


def _minari_episodes(demonstrations: Demonstrations) -> Iterator[dict[str, Any]]:
    assert demonstrations.rewards is not None
    first = 0
    for number, last in enumerate(np.flatnonzero(demonstrations.ends)):
        steps, end = slice(first, last + 1), slice(number, number + 1)
        terminated = demonstrations.terminated[steps]
        inside = _each(demonstrations.observations, lambda array, steps=steps: array[steps])
        after = _each(demonstrations.last_observations, lambda array, end=end: array[end])
        yield {
            "observations": _joined([inside, after]),
            "actions": demonstrations.actions[steps],
            "rewards": demonstrations.rewards[steps],
            "terminations": terminated,
            "truncations": demonstrations.ends[steps] & ~terminated,
            "infos": {},
        }
        first = last + 1


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError("Minari datasets need the package minari: pip install 'pg-agents[minari]'.") from error
    return minari


# Observations are arrays, or dictionaries of arrays.


def rows(observations: Observations, indices: np.ndarray) -> Observations:
    """Some rows of the observations."""
    found: Observations = _each(observations, lambda array: array[indices])
    return found


def _each(observations: Any, function: Callable[..., Any]) -> Any:
    if isinstance(observations, dict):
        return {key: function(np.asarray(array)) for key, array in observations.items()}
    return function(np.asarray(observations))


def _arrays(observations: Any) -> Any:
    return _each(observations, lambda array: array)


def _row(observations: Any, index: int) -> Any:
    return _each(observations, lambda array: array[index].copy())


def _stacked(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    return np.stack(parts)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _named(name: str, values: Any) -> Iterable[tuple[str, np.ndarray]]:
    """Arrays, and their names in messages."""
    if isinstance(values, dict):
        return [(f"`{name}[{key!r}]`", array) for key, array in values.items()]
    return [(f"`{name}`", values)]
