"""EnvPool's environments as Gymnasium vector environments.

[EnvPool](https://envpool.readthedocs.io) steps all copies of an environment in threads of C++. `envpool.make` with
`env_type="gymnasium"` gives an object that derives from Gymnasium's `VectorEnv`, and differs from that interface:

|                            | EnvPool 1.2                                         | `EnvPoolVector`                 |
|----------------------------|-----------------------------------------------------|---------------------------------|
| spaces                     | `action_space` is one environment's                 | of all; one's in `single_...`   |
| MuJoCo's actions           | float64                                             | float32, as in Gymnasium        |
| next episode               | in the step after the last one's end, which ignores | on request (`DISABLED`): no     |
|                            | the action and has reward 0; or on request          | step is spent on it             |
| reset of some environments | returns the rows of these                           | returns a row for each          |
| `reset(seed=...)`          | warns; 42, unless `make` was given a `seed`         | makes the environments anew     |
| infos                      | with the environments' numbers                      | without                         |

`terminated` and `truncated` are EnvPool's own. It has one flag for the end and one for the time limit, so an episode
that terminates in the last step that its time limit allows is reported as truncated only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pg_agents.checks import suggestion


class EnvPoolVector(VectorEnv[Any, Any, Any]):
    """An EnvPool as a Gymnasium vector environment that starts episodes on request.

    Args:
        pool: The return value of `envpool.make(..., env_type="gymnasium")`.

    Attributes:
        pool: The same; another one with the same configuration after a reset with a seed.

    Raises:
        TypeError: `pool` is not EnvPool's, or is made for another interface.
        ValueError: Steps do not return all environments (`batch_size`), or an environment has several players.
    """

    def __init__(self, pool: Any) -> None:
        if not (is_pool(pool) and isinstance(pool, VectorEnv)):
            raise TypeError(f"`pool` must come from `envpool.make(..., env_type='gymnasium')`, but is {pool!r}.")
        config = pool.config  # type: ignore[attr-defined] # EnvPool's
        self.num_envs = config["num_envs"]
        if config["batch_size"] not in (0, self.num_envs):
            raise ValueError(
                f"`batch_size` of an EnvPool must be its `num_envs`, {self.num_envs}, so that a step returns all "
                f"environments, but is {config['batch_size']}."
            )
        if config["max_num_players"] != 1:
            raise ValueError(f"`max_num_players` of an EnvPool must be 1, but is {config['max_num_players']}.")
        self.pool: Any = pool
        with _spaces_rounded_silently():
            self.single_observation_space = _observation_space(self.pool.observation_space)
            self.single_action_space = _action_space(self.pool.action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**pool.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = pool.render_mode

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: Environment i gets the seed `seed + i`, or its own from a sequence; None to go on with the random
                numbers that the environments have.
            options: `reset_mask`, bools of shape `(num_envs,)`, says which environments start; by default all do.

        Returns:
            Observations and infos with a row for each environment. Rows of environments that go on are zeros.

        Raises:
            ValueError: EnvPool does not know an option.
        """
        if seed is not None:
            self._make_anew([seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed))
        observations, infos = self.pool.reset(options=options)
        infos = _without_numbers(infos)
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            observations, infos = (_spread(rows, np.asarray(mask, dtype=np.bool_)) for rows in (observations, infos))
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Carry out one action in each environment.

        Args:
            actions: Array of shape `(num_envs, ...)`.

        Returns:
            Observations, rewards (float32), whether episodes terminated, whether their time limit cut them, and infos.
        """
        observations, rewards, terminated, truncated, infos = self.pool.step(actions)
        return observations, rewards, terminated, truncated, _without_numbers(infos)

    def render(self) -> Any:
        """One image of shape `(height, width, 3)` per environment; with the render mode `"human"`, a window."""
        return self.pool.render(self.pool.all_env_ids if self.render_mode == "rgb_array" else None)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the pool."""
        self.pool.close()

    def _make_anew(self, seeds: list[int]) -> None:
        """Replace the pool by one with the same configuration but other seeds, the only way to set them."""
        old = self.pool
        spec = type(old.spec)(old.spec.config._replace(env_seed=[_as_int32(seed) for seed in seeds]))
        self.pool = type(old)(spec)
        for name, value in vars(old).items():  # `make` stores arguments of rendering in the object
            vars(self.pool).setdefault(name, value)


def is_pool(env: Any) -> bool:
    """Whether an environment has EnvPool's interface: actions and results go by the numbers of environments."""
    return all(hasattr(env, name) for name in ("all_env_ids", "send", "recv", "config"))


def with_interface(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """A vector environment, as it is unless it is EnvPool's.

    Raises:
        TypeError: EnvPool's object is in a wrapper.
    """
    if not is_pool(env.unwrapped):
        return env
    if env is not env.unwrapped:
        raise TypeError(
            f"`env` is a {type(env).__name__} around EnvPool's object, whose interface wrappers do not understand. Put "
            "pg_agents.envs.EnvPoolVector between them."
        )
    return EnvPoolVector(env)


def make_pool(env_id: str, n_envs: int, env_kwargs: dict[str, Any]) -> EnvPoolVector:
    """Make EnvPool's version of an environment.

    Args:
        env_id: EnvPool's id, which for most of Gymnasium's environments is Gymnasium's.
        n_envs: Number of environments.
        env_kwargs: Further arguments of `envpool.make`.

    Raises:
        ImportError: EnvPool is not installed.
        TypeError: This environment does not have one of the arguments.
        gymnasium.error.NameNotFound: EnvPool does not have this environment.
        gymnasium.error.VersionNotFound: EnvPool has it only in other versions.
    """
    try:
        import envpool
    except ImportError as error:
        raise ImportError("`backend='envpool'` needs `pip install 'pg-agents[envpool]'`.") from error
    known = envpool.list_all_envs()
    if env_id not in known:
        versions = sorted(one for one in known if _name(one) == _name(env_id))
        if versions:
            raise gym.error.VersionNotFound(f"EnvPool does not have {env_id!r}, but has {', '.join(versions)}.")
        raise gym.error.NameNotFound(f"EnvPool does not have {env_id!r}.{suggestion(env_id, known)}")
    arguments = _ARGUMENTS_OF_RENDERING.union(envpool.make_spec(env_id).config._fields)
    for name in env_kwargs.keys() - arguments:
        raise TypeError(
            f"`env_kwargs` has {name!r}, which EnvPool's {env_id} does not take.{suggestion(name, arguments)}"
        )
    return EnvPoolVector(envpool.make(env_id, env_type="gymnasium", num_envs=n_envs, **env_kwargs))


_ARGUMENTS_OF_RENDERING = {"from_pixels", "render_mode", "render_env_id"}
_ARGUMENTS_OF_RENDERING |= {"render_width", "render_height", "render_camera_id"}


def _name(env_id: str) -> str:
    return env_id.rpartition("-v")[0]


def _as_int32(seed: int) -> int:
    """The seed itself if it has 31 bits; different seeds of 32 bits, which SB3 draws, stay different."""
    return (int(seed) + 2**31) % 2**32 - 2**31


@contextmanager
def _spaces_rounded_silently() -> Iterator[None]:
    with warnings.catch_warnings():  # EnvPool gives bounds in float64 for spaces in float32
        warnings.filterwarnings("ignore", message=".*Box (low|high)'s precision lowered", category=UserWarning)
        yield


def _observation_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Without bounds where EnvPool gives C++'s `numeric_limits<float>::min()`, 1e-38, instead of the lowest number."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _observation_space(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        unbounded = space.low == np.finfo(space.dtype).tiny
        low, high = np.where(unbounded, -np.inf, space.low), np.where(unbounded, np.inf, space.high)
        return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)
    return space


def _action_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """In float32, so that agents move between Gymnasium's environments and EnvPool's; EnvPool converts actions."""
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space


def _without_numbers(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: values for key, values in infos.items() if key not in ("env_id", "players")}


def _spread(rows: Any, mask: np.ndarray) -> Any:
    """Rows of some environments as rows of all."""
    if isinstance(rows, dict):
        return {key: _spread(part, mask) for key, part in rows.items()}
    spread = np.zeros((len(mask), *rows.shape[1:]), dtype=rows.dtype)
    spread[mask] = rows
    return spread
