"""Policies that can hold a seat: models, functions and fixed mixtures, and their action probabilities."""

from __future__ import annotations

import inspect
from copy import copy, deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.checks import is_distribution

# Anything that acts: see `action_probabilities`.
Policy = Any

SMALL_OBSERVATION = 64  # numbers in an observation whose probabilities are cached
REMEMBERED = 10_000  # observations in the cache


class Snapshot:
    """A copy of a model's policy, with the statistics of `VecNormalize` if there are any; it plays as the model did.

    Args:
        model: An SB3 model. Its further training does not change the snapshot.

    Attributes:
        num_timesteps: Time steps that the model had been trained for.
    """

    def __init__(self, model: Any) -> None:
        self.policy = _copied(model.policy)
        self.observation_space, self.action_space = model.observation_space, model.action_space
        self.num_timesteps = model.num_timesteps
        self._normalizer = deepcopy(model.get_vec_normalize_env())
        self._known: dict[bytes, np.ndarray] = {}

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint of a training keeps: parameters, noise, statistics, and the number of steps."""
        return {
            "num_timesteps": self.num_timesteps,
            "policy": {name: value.clone() for name, value in self.policy.state_dict().items()},
            "noise": {name: value.clone() for name, value in self._noise().items()},
            "statistics": {key: dict(vars(one)) for key, one in self._statistics().items()},
        }

    def restore_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Put this state back into a copy of the same kind of policy."""
        self.num_timesteps = state["num_timesteps"]
        self.policy.load_state_dict(state["policy"])
        if state["noise"]:
            vars(self.policy.action_dist).update(state["noise"])
        for key, one in self._statistics().items():
            vars(one).update(state["statistics"][key])
        self._known = {}

    def _noise(self) -> dict[str, Any]:
        """The tensors of a distribution that draws its noise once for many actions, as gSDE does."""
        import torch

        distribution = getattr(self.policy, "action_dist", None)
        held = {} if distribution is None else vars(distribution)
        return {name: value.detach() for name, value in held.items() if isinstance(value, torch.Tensor)}

    def _statistics(self) -> dict[str, Any]:
        """Mean and variance of observations, by key; one that is not a dictionary has the key ""."""
        found = getattr(self._normalizer, "obs_rms", {})
        return found if isinstance(found, dict) else {"": found}

    def predict(self, observation: Any, **kwargs: Any) -> Any:
        """The `predict` of the policy."""
        return self.policy.predict(observation, **kwargs)

    def get_vec_normalize_env(self) -> Any:
        """The statistics that normalise observations, or None."""
        return self._normalizer

    def action_probabilities(self, observations: Any, n_actions: int) -> np.ndarray:
        """π(a|s), cached: it never changes, and many networks are slow to evaluate on a few observations each."""
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
    """One action per observation, sampled if the policy is stochastic.

    Args:
        policy: A policy as for `action_probabilities`; if `space` is not Discrete, a model or a function from an
            observation to an action.
        observations: Array, or dictionary of arrays, of shape `(copies, ...)`.
        space: The action space.
        rng: Generator that draws from the probabilities.

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
        policy: A model or policy of SB3 or of this package (one without an action distribution, such as DQN's, plays
            its best action), a function from an observation to probabilities or to an action, or probabilities that do
            not depend on the observation.
        observations: Array, or dictionary of arrays, of shape `(copies, ...)`.
        n_actions: Number of actions.

    Returns:
        Float64, of shape `(copies, n_actions)`.

    Raises:
        ValueError: The policy does not give probabilities of `n_actions` actions, or needs more than an observation.
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
        raise ValueError(f"{type(actor).__name__} has a memory: its actions do not follow from the observation alone.")
    actor.set_training_mode(False)
    with torch.no_grad():
        distribution = actor.get_distribution(actor.obs_to_tensor(observations)[0]).distribution
        logits = distribution.logits.cpu().double().numpy()
    # The sum of torch's own probabilities is 1 only to the precision of float32.
    likelihoods = np.exp(logits)
    normed: np.ndarray = likelihoods / likelihoods.sum(axis=1, keepdims=True)
    return normed


def stacked(observations: list[Any]) -> Any:
    """Single observations as one batch: arrays, or dictionaries of arrays."""
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def _normalised(model: Any, observations: Any) -> Any:
    """Observations as `VecNormalize` shows them to a model that was trained behind it."""
    normalizer = model.get_vec_normalize_env() if hasattr(model, "get_vec_normalize_env") else None
    return observations if normalizer is None else normalizer.normalize_obs(observations)


def _checked(policy: Any, n_actions: int, verb: str = "is") -> np.ndarray:
    probabilities = np.asarray(policy)
    if probabilities.ndim == 0 and probabilities.dtype.kind in "iu" and 0 <= probabilities < n_actions:
        pure: np.ndarray = np.eye(n_actions)[probabilities]
        return pure
    fine = probabilities.shape == (n_actions,) and probabilities.dtype.kind in "iuf"
    if not (fine and is_distribution(probabilities)):
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
