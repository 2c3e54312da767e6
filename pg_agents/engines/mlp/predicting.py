"""Predicting in compiled code: the answers of SB3's `policy.predict`, without torch."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from pg_agents.contract import NotServedError
from pg_agents.engines.mlp.served import check_policy
from pg_agents.engines.mlp.tables import Program

_INTEGERS = frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1")))
_NUMBERS = _INTEGERS | frozenset(map(np.dtype, ("f2", "f4", "f8", "?")))
# Methods that make up SB3's `predict`; they can be replaced on the policy or in its class.
_METHODS = frozenset({"predict", "_predict", "obs_to_tensor", "set_training_mode", "get_distribution"})
_SB3S = BasePolicy.predict, ActorCriticPolicy._predict


class MLPPredictor:
    """`predict` of one policy, from the policy's own parameters, in working memory that training does not use.

    Sampled actions are torch's: the random numbers come from its global generator, in the order in which the policy
    would draw them, and mean the same.

    Args:
        policy: The policy.

    Raises:
        NotServedError: The engine does not serve it.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        check_policy(policy)
        if not _predicts_as_sb3(policy):
            raise NotServedError("a method of the policy was replaced")
        space, action_space = policy.observation_space, policy.action_space
        if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary)) or (
            isinstance(space, spaces.Box) and space.shape == ()
        ):
            raise NotServedError(f"it predicts for single arrays and numbers, and observations are {space}")
        program = self._program = Program(policy)
        program.policies["has_critic"] = False  # values are not needed
        kernels = self._kernels = program.kernels
        self._lock = threading.Lock()  # kernels run while other threads do, and share their working memory
        self._policy, self._shape = policy, space.shape or ()
        self._n_categories = int(space.n) if isinstance(space, spaces.Discrete) else None
        self._dtypes = _NUMBERS if self._n_categories is None else _INTEGERS
        self._action_shape, self._action_space = action_space.shape or (), action_space
        block = kernels.BLOCK
        self._inputs = np.zeros((block, program.n_observation), np.float32)
        self._noise = np.zeros((block, program.n_actions), np.float32)
        drawn = np.zeros((block, program.n_actions), np.int64 if program.is_categorical else np.float32)
        clipped, log_probs = np.zeros_like(self._noise), np.zeros(block, np.float32)
        low = high = np.zeros(1, np.float32)
        self._actions = drawn
        self._clips_here = False
        if isinstance(action_space, spaces.Box):
            low, high = (bound.astype(np.float32).ravel() for bound in (action_space.low, action_space.high))
            # NumPy's clipping gives the type of the bounds.
            self._clips_here = action_space.dtype != np.float32
            self._actions = drawn if self._clips_here else clipped
        step = self._step = np.zeros(1, kernels.STEP)
        step["deterministic"] = self._explores = program.exploration is not None
        self._rows = step["n_envs"]
        for name, array in (
            ("observations", self._inputs),
            ("noise", self._noise),
            ("actions", drawn),
            ("clipped", clipped),
            ("low", low),
            ("high", high),
            ("log_probs", log_probs),
        ):
            step[name] = array.ctypes.data
        self._kept = drawn, clipped, low, high, log_probs
        # What the kernels leave of the last block: logits, and the probabilities of categories, (n_outputs, 64).
        self._logits, self._probabilities = program.outputs()
        self._sizes = program.sizes

    def fits(self) -> bool:
        """Whether the policy is still the one whose answers these are."""
        return self._program.computes_forward() and _predicts_as_sb3(self._policy)

    def predict(self, observation: Any, deterministic: bool) -> np.ndarray | None:
        """See `pg_agents.contract.Predictor`."""
        if self._policy.training:
            self._policy.set_training_mode(False)
        if type(observation) is not np.ndarray:
            if type(observation) not in (int, np.int64):
                return None
            observation = np.asarray(observation)
        shape = observation.shape
        is_single = shape == self._shape
        if not is_single and (not shape or shape[1:] != self._shape or not shape[0]):
            return None
        if observation.dtype not in self._dtypes:
            return None
        n = 1 if is_single else shape[0]
        flat = observation.reshape(n, -1)
        if self._n_categories is not None and not 0 <= flat.min() <= flat.max() < self._n_categories:
            return None
        if not deterministic and (self._explores or not (self._program.is_gaussian or self._program.is_categorical)):
            return None  # torch's Bernoulli numbers are not to be had from outside, and gSDE's noise is the policy's
        noise = [] if deterministic else self._draw(n)
        with self._lock:
            actions = self._block(flat, noise) if n <= len(self._inputs) else self._blocks(flat, noise)
        if actions is None:
            return None
        if self._clips_here:
            assert isinstance(self._action_space, spaces.Box), "or there are no bounds"
            actions = np.clip(actions.reshape(-1, *self._action_shape), self._action_space.low, self._action_space.high)
        return actions.reshape(self._action_shape if is_single else (n, *self._action_shape))

    def _draw(self, n: int) -> list[np.ndarray]:
        """Torch's random numbers for the actions of `n` observations, as `sample` of a distribution draws them."""
        if self._program.is_gaussian:
            return [th.randn(n, self._program.n_actions).numpy()]
        # `multinomial` takes the category with the largest p / q, where q is exponentially distributed.
        return [th.empty(n, size).exponential_().numpy() for size in self._sizes]

    def _blocks(self, observations: np.ndarray, noise: list[np.ndarray]) -> np.ndarray | None:
        size, parts = len(self._inputs), []
        for start in range(0, len(observations), size):
            rows = slice(start, start + size)
            part = self._block(observations[rows], [numbers[rows] for numbers in noise])
            if part is None:
                return None
            parts.append(part)
        return np.concatenate(parts)

    def _block(self, observations: np.ndarray, noise: list[np.ndarray]) -> np.ndarray | None:
        """The actions of at most 64 observations; None if an observation or a result is not finite."""
        program, n = self._program, len(observations)
        self._rows[0] = n
        if observations.dtype == np.float64:
            with np.errstate(over="ignore"):  # torch finds it
                self._inputs[:n] = observations
        else:
            self._inputs[:n] = observations
        if program.is_gaussian:
            self._noise[:n] = noise[0] if noise else 0
        if not program.act(self._step.ctypes.data, 0):
            return None
        if program.is_gaussian:
            drawn: np.ndarray = self._actions[:n].copy()
            return drawn
        if not program.is_categorical:
            return np.asarray(self._logits[:, :n].T > 0, np.float32)
        chosen, end = [], 0
        for dimension, size in enumerate(self._sizes):
            start, end = end, end + size
            p = self._probabilities[start:end, :n]
            chosen.append((p.T / noise[dimension]).argmax(1) if noise else p.argmax(0))
        return chosen[0] if len(chosen) == 1 else np.stack(chosen, axis=1)


def _predicts_as_sb3(policy: ActorCriticPolicy) -> bool:
    """Whether the methods that make up `predict` are SB3's own."""
    return vars(policy).keys().isdisjoint(_METHODS) and (type(policy).predict, type(policy)._predict) == _SB3S
