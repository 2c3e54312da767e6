"""The part of an agent that is the same in the parent and in a worker: parameters behind a link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pg_agents.agent import PolicyGradient
from pg_agents.asynchronous.contract import Link, Staleness, Start
from pg_agents.buffers import OURS, EstimatorMixin
from pg_agents.contract import CompiledLoop, Loss, Summary
from pg_agents.envs.compiled import CompiledEnv

_OF_THIS_PROCESS = ("link", "staleness", "_new_seed", "_has_begun")


class MadeVecEnv(DummyVecEnv):
    """A single environment that remembers the function that made it, so that others can be made.

    Args:
        make: Makes an environment.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        super().__init__([lambda: Monitor(make())])
        self.make = make


class Linked(PolicyGradient):
    """An agent that pulls its parameters before each rollout and pushes its gradient, if it has a link.

    Its environment may also be given as a function that makes one.
    """

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if callable(env) and not isinstance(env, gym.Env | VecEnv | VectorEnv):
            env = MadeVecEnv(env)
        return PolicyGradient._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self.link: Link | None = None
        self.staleness = Staleness()
        # The seed that was set since workers last began, and whether any have begun.
        self._new_seed: int | None = None
        self._has_begun = False
        super()._setup_model()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random generators, those of workers included."""
        super().set_random_seed(seed)
        if seed is not None:
            self._new_seed = seed

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OF_THIS_PROCESS]

    def __getstate__(self) -> dict[str, Any]:
        """As the parent's, without the link."""
        return super().__getstate__() | {"link": None}

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As the parent's, with the parameters that the link gives."""
        if self.link is not None:
            self.link.pull(self.policy)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def update(self, loss: Loss) -> Summary:
        """One step of the optimiser, which moves the parameters behind the link."""
        if self.link is None:
            summary, staleness = super().update(loss), 0
        else:
            summary = self.link.push(self._engine_for(loss), self.policy, self.rollout_buffer, loss)
            staleness = self.link.staleness
        self.staleness.add(Staleness(1, staleness, staleness))
        return summary

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; may be called at any time.

        Args:
            iteration: Number of updates so far; 0 to leave it out of the log.
        """
        if self.staleness.count:
            self._logger.record("train/staleness", self.staleness.mean)
            self._logger.record("train/staleness_max", self.staleness.largest)
            self.staleness = Staleness()
        super().dump_logs(iteration)

    # As a worker

    def compiled_loop(self, env: CompiledEnv) -> CompiledLoop | None:
        """Rollouts and updates in compiled code, if they would be those of this agent.

        Args:
            env: The agent's environment.
        """
        if any(getattr(type(self), name) is not getattr(Linked, name) for name in ("collect_rollouts", "update")):
            return None
        named = self.rollout_buffer_class
        if named not in OURS:
            return None
        buffer = OURS[named](self.n_steps, self.policy.observation_space, self.policy.action_space, n_envs=self.n_envs)
        assert isinstance(buffer, EstimatorMixin), "as all of `OURS`"
        return self.loop_into(buffer, env)

    def starts(self, n_workers: int) -> list[Start]:
        """The random states in which workers begin.

        The first one goes on from this agent's own, as if it were trained in this process; that of the agent moves on.
        Where no seed was set since the last time, the environments of all workers get drawn ones: as copies of one
        environment they would repeat its luck. The exception is the first worker's at the first time, which is the
        agent's own.
        """
        seed = self._new_seed
        first = Start(
            seed=seed,
            generator=self._own_generator,
            torch=th.get_rng_state(),
            numpy=np.random.get_state(),  # noqa: NPY002 - SB3 shuffles with this generator
        )
        # The generators of this process must not repeat the first worker's numbers.
        sequence = np.random.SeedSequence(int(th.randint(2**62, ())))
        if self._own_generator is not None:
            self._own_generator = np.random.default_rng(sequence.spawn(1)[0])
        others = []
        for number, one in enumerate(sequence.spawn(n_workers - 1), 1):
            of_env, of_torch, of_numpy = (int(word) for word in one.generate_state(3))
            its_seed = of_env if seed is None else seed + number * self.n_envs
            others.append(Start(its_seed, np.random.default_rng(one.spawn(1)[0]), of_torch, of_numpy))
        if seed is None and self._has_begun:
            first = replace(first, seed=int(sequence.generate_state(1)[0]))
        self._new_seed, self._has_begun = None, True
        return [first, *others]

    def begin(self, start: Start) -> None:
        """Bring the agent and the global generators into a random state.

        Args:
            start: The state.
        """
        self._own_generator = start.generator
        if isinstance(start.torch, int):
            th.manual_seed(start.torch)
        else:
            th.set_rng_state(start.torch)
        if isinstance(start.numpy, int):
            np.random.seed(start.numpy)  # noqa: NPY002 - SB3 shuffles with this generator
        else:
            np.random.set_state(start.numpy)  # noqa: NPY002 - as above
