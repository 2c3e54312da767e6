"""Whatever can hold a seat: models, functions and fixed mixtures, and what they play."""

from __future__ import annotations

import inspect
from copy import copy, deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

# Anything that acts: see `action_probabilities`.
Policy = Any

SMALL_OBSERVATION = 64  # numbers
REMEMBERED = 10_000  # observations


class Snapshot:
    """A model's policy as it was, with the statistics of `VecNormalize` if there are any; it plays like the model.

    Args:
        model: An SB3 model, which may go on learning.

    Attributes:
        num_timesteps: How long the model had been trained.
    """

    def __init__(self, model: Any) -> None:
        self.policy = _copied(model.policy)
        self.observation_space, self.action_space = model.observation_space, model.action_space
        self.num_timesteps = model.num_timesteps
        self._normalizer = deepcopy(model.get_vec_normalize_env())
        self._known: dict[bytes, np.ndarray] = {}

    def predict(self, observation: Any, **kwargs: Any) -> Any:
        """As the policy's."""
        return self.policy.predict(observation, **kwargs)

    def get_vec_normalize_env(self) -> Any:
        """The statistics by which observations are normalised, or None."""
        return self._normalizer

    def action_probabilities(self, observations: Any, n_actions: int) -> np.ndarray:
        """π(a|s), remembered: it never changes, and asking many networks about a few observations each is slow."""
        if isinstance(observations, dict) or observations[0].size > SMALL_OBSERVATION:
            return model_probabilities(self, observations, n_actions)
        if len(self._known) > REMEMBERED:
            self._known.clear()
        keys = [one.tobytes() for one in observations]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            answers = model_probabilities(self, observations[list(new.values())], n_actions)
            self._known.update(zip(new, answers, strict=True))
        return np.stack([self._known[key] for key in keys])

    def __str__(self) -> str:
        return f"snapshot at {self.num_timesteps} steps"


def frozen(policy: Policy) -> Policy:
    """A policy that later training does not change."""
    if isinstance(policy, Snapshot):
        return policy
    if hasattr(policy, "predict"):
        return Snapshot(policy) if hasattr(policy, "policy") else _copied(policy)
    return deepcopy(policy)


def _copied(policy: Any) -> Any:
    """A deep copy of an SB3 policy, without the distribution of its last update, which cannot be copied."""
    memo: dict[int, Any] = {}
    distribution = getattr(policy, "action_dist", None)
    if distribution is not None:
        empty = copy(distribution)
        if hasattr(empty, "distribution"):
            empty.distribution = None
        memo[id(distribution)] = empty
    return deepcopy(policy, memo)


def choose(policy: Policy, observations: Any, space: spaces.Space[Any], rng: np.random.Generator) -> np.ndarray:
    """An action for each of several observations, drawn at random where the policy is.

    Args:
        policy: As for `action_probabilities`; where `space` is not Discrete, a model or a function from an observation
            to an action.
        observations: Array, or dictionary of arrays, of shape `(copies, ...)`.
        space: Of the actions.
        rng: Draws from the probabilities.

    Returns:
        Actions of shape `(copies, ...)`.

    Raises:
        ValueError: The policy does not fit the space.
    """
    if isinstance(space, spaces.Discrete):
        probabilities = action_probabilities(policy, observations, int(space.n))
        drawn = rng.random((len(probabilities), 1))
        actions: np.ndarray = space.start + (probabilities.cumsum(axis=1)[:, :-1] <= drawn).sum(axis=1)
        return actions
    if hasattr(policy, "predict"):
        return np.asarray(policy.predict(_normalised(policy, observations), deterministic=False)[0])
    if callable(policy):
        return np.stack([np.asarray(policy(one)) for one in _rows(observations)])
    raise ValueError(f"A policy for {space} must be a model or a function, but is {policy!r}.")


def action_probabilities(policy: Policy, observations: Any, n_actions: int) -> np.ndarray:
    """π(a|s), as a table.

    Args:
        policy: A model or policy of SB3 or of this package (one without action distribution, like DQN's, plays its
            best action), a function from an observation to probabilities or to an action, or probabilities that do not
            depend on what is seen.
        observations: Array, or dictionary of arrays, of shape `(copies, ...)`.
        n_actions: Number of actions.

    Returns:
        Float64, of shape `(copies, n_actions)`.

    Raises:
        ValueError: Not probabilities, of another number of actions, or of a policy that needs more than an observation.
    """
    if hasattr(policy, "action_probabilities"):
        known: np.ndarray = policy.action_probabilities(observations, n_actions)
        return known
    if hasattr(policy, "predict"):
        return model_probabilities(policy, observations, n_actions)
    if callable(policy):
        return np.stack([_checked(policy(one), n_actions, "returns") for one in _rows(observations)])
    return np.tile(_checked(policy, n_actions), (_count(observations), 1))


def model_probabilities(model: Any, observations: Any, n_actions: int) -> np.ndarray:
    """π(a|s) of an SB3 model or policy: see `action_probabilities`."""
    import torch

    if not isinstance(model.action_space, spaces.Discrete) or model.action_space.n != n_actions:
        raise ValueError(f"The model must have {n_actions} discrete actions here, but has {model.action_space}.")
    observations = _normalised(model, observations)
    actor = getattr(model, "policy", model)
    if not hasattr(actor, "get_distribution"):
        greedy, _ = model.predict(observations, deterministic=True)
        probabilities: np.ndarray = np.eye(n_actions)[np.asarray(greedy).reshape(-1)]
        return probabilities
    if "lstm_states" in inspect.signature(actor.get_distribution).parameters:
        raise ValueError(f"{type(actor).__name__} has a memory: its actions do not follow from what it sees.")
    actor.set_training_mode(False)
    with torch.no_grad():
        distribution = actor.get_distribution(actor.obs_to_tensor(observations)[0]).distribution
        logits = distribution.logits.cpu().double().numpy()
    # Not torch's own probabilities, whose sum is 1 to float32's precision only.
    likelihoods = np.exp(logits)
    normed: np.ndarray = likelihoods / likelihoods.sum(axis=1, keepdims=True)
    return normed


def _normalised(model: Any, observations: Any) -> Any:
    """As `VecNormalize` shows them to a model that was trained behind it."""
    normalizer = model.get_vec_normalize_env() if hasattr(model, "get_vec_normalize_env") else None
    return observations if normalizer is None else normalizer.normalize_obs(observations)


def _checked(policy: Any, n_actions: int, verb: str = "is") -> np.ndarray:
    probabilities = np.asarray(policy)
    if probabilities.ndim == 0 and probabilities.dtype.kind in "iu" and 0 <= probabilities < n_actions:
        pure: np.ndarray = np.eye(n_actions)[probabilities]
        return pure
    fine = probabilities.shape == (n_actions,) and probabilities.dtype.kind in "iuf"
    # float32's rounding is forgiven, a mistake is not; NaN is refused by both comparisons.
    if not (fine and (probabilities >= 0).all() and abs(probabilities.sum() - 1) < 1e-5):
        raise ValueError(
            f"A policy must be a model, a function that returns an action from 0 to {n_actions - 1} or the "
            f"probabilities of {n_actions} actions, or such probabilities, not negative and with sum 1, but {verb} "
            f"{policy!r}."
        )
    normed: np.ndarray = probabilities.astype(np.float64) / probabilities.astype(np.float64).sum()
    return normed


def _count(observations: Any) -> int:
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def _rows(observations: Any) -> list[Any]:
    if isinstance(observations, dict):
        return [{key: values[i] for key, values in observations.items()} for i in range(_count(observations))]
    return list(observations)
