"""An agent and its environment, packed for a worker that may be another process."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from pg_agents.asynchronous.contract import Start
from pg_agents.asynchronous.linked import Linked, MadeVecEnv

MakesEnv = Callable[[], VecEnv]


@dataclass(frozen=True)
class Parcel:
    """All that a worker is made from.

    Attributes:
        content: The agent's class, its file, and the function that makes its environment, pickled.
        start: Its random state.
        number: The worker's number.
    """

    content: bytes
    start: Start
    number: int

    def open(self) -> Linked:
        """The agent, with an environment of its own."""
        cls, file, make = _unpickled(self.content)
        agent: Linked = cls.load(
            # Our own, as all of the content.
            io.BytesIO(file),
            make(),
            device="cpu",
            seed=self.start.seed,
            tensorboard_log=None,
            verbose=0,
            trust=True,
        )
        return agent


def pack(agent: Linked) -> bytes:
    """The content of a `Parcel`.

    Raises:
        ValueError: The environment cannot be copied, or the agent cannot be pickled.
    """
    assert agent.env is not None, "checked by `learn`"
    make = copier(agent.env)
    file = io.BytesIO()
    agent.save(file)
    return _pickled((type(agent), file.getvalue(), make))


def copier(env: VecEnv) -> MakesEnv:
    """A function that makes another environment of the same kind, and can be pickled.

    Args:
        env: The environment: made by a `MadeVecEnv`, or one that can be pickled, or single ones that `gym.make` made.

    Raises:
        ValueError: It cannot be copied.
    """
    if unwrap_vec_wrapper(env, VecNormalize) is not None:
        raise ValueError(
            "The statistics of a VecNormalize are not shared between workers: n_workers=1 trains in it, and "
            "gymnasium.wrappers scale observations and rewards inside an environment."
        )
    if isinstance(env, MadeVecEnv):
        return partial(MadeVecEnv, env.make)
    try:
        pickled = _pickled(env)
        _unpickled(pickled).close()
    except Exception as reason:  # environments fail in many ways
        makers = _makers(env)
        if makers is None:
            raise ValueError(
                f"`env`, a {type(env).__name__}, cannot be copied for the workers ({type(reason).__name__}: {reason}). "
                "Give an id, or a function that makes an environment."
            ) from None
        return partial(DummyVecEnv, makers)
    return partial(_unpickled, pickled)


def _makers(env: VecEnv) -> list[Callable[[], gym.Env[Any, Any]]] | None:
    """Functions that make the environments of a `DummyVecEnv`, from their specifications."""
    if type(env) is not DummyVecEnv:
        return None
    makers: list[Callable[[], gym.Env[Any, Any]]] = []
    for single in env.envs:
        inner = single.env if type(single) is Monitor else single
        if inner.spec is None or any(one.kwargs is None for one in inner.spec.additional_wrappers):
            return None
        makers.append(partial(_remade, inner.spec))
    return makers


def _remade(spec: gym.envs.registration.EnvSpec) -> gym.Env[Any, Any]:
    return Monitor(gym.make(spec))


def _pickled(anything: Any) -> bytes:
    """With functions that have no name in a module, as SB3 sends them to its processes."""
    return pickle.dumps(CloudpickleWrapper(anything))


def _unpickled(pickled: bytes) -> Any:
    return pickle.loads(pickled).var
