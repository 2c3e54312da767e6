"""Imitation: a policy fitted to demonstrations by maximum likelihood, as a prior or as a start.

```python
model = PPO("MlpPolicy", "LunarLander-v3")
imitate(model, collect_demonstrations(teacher, "LunarLander-v3", n_episodes=20))  # π = π_prior
```
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents.checks import check_number
from pg_agents.demonstrations import Demonstrations, Observations, as_demonstrations, rows
from pg_agents.engines import threads
from pg_agents.policies import critic_parameters, unchecked_distributions
from pg_agents.spaces import Translation

# Of a squashed action, in [-1, 1]: tanh reaches the bounds nowhere, so an action there would be infinitely far away.
LARGEST_SQUASHED = 0.999


@dataclass(frozen=True)
class Fit:
    """The course of a fit.

    Attributes:
        losses: The mean loss of the training samples during each epoch.
        validation_losses: The mean loss of the held-out samples before the fit and after each epoch; empty without any.
        best_epoch: The epoch whose parameters were kept, from 1; 0 for the parameters before the fit.
        stopped_early: The validation loss did not improve for `patience` epochs.
    """

    losses: tuple[float, ...] = field(repr=False)
    validation_losses: tuple[float, ...] = field(repr=False)
    best_epoch: int
    stopped_early: bool

    @property
    def n_epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.losses)


@dataclass(frozen=True)
class Imitation:
    """The result of `imitate`.

    Attributes:
        actor: The policy's fit; its losses are -log π(a|s), in nats.
        critic: The critic's fit, whose losses are (G - V(s))²; None if the critic was not fitted.
        n_training: Number of steps trained on.
        n_validation: Number of steps held out.
    """

    actor: Fit
    critic: Fit | None
    n_training: int
    n_validation: int


def imitate(
    agent: OnPolicyAlgorithm,
    demonstrations: Any,
    *,
    n_epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    validation_fraction: float = 0.1,
    patience: int | None = 5,
    critic: bool = False,
    seed: int | None = None,
    progress_bar: bool = False,
    tb_log_name: str = "imitation",
) -> Imitation:
    """Fit an agent's policy to demonstrations by maximum likelihood, and its critic to their returns if asked.

    minimise -E[log π(a|s)], then E[(G - V(s))²]   (behavioural cloning: Pomerleau 1988; G is the Monte-Carlo return)

    Both are minimised by an Adam of their own, so the agent's optimiser is as it was. Whole episodes are held out where
    there are two or more, else single steps, and the parameters with the least loss on them are kept. The critic's fit
    moves no parameter that the policy depends on.

    Where the environment is a `VecNormalize` in training, its statistics take in the demonstrations first. A squashed
    policy is fitted to the actions scaled to [-0.999, 0.999]. A Gaussian policy that is clipped to the action space is
    fitted to the clipped actions, with less σ than the demonstrator had where these are frequent. If TensorBoard is on,
    the losses of each epoch are in a run of their own.

    Ctrl-C raises `KeyboardInterrupt` here and leaves the best parameters so far.

    Args:
        agent: Any on-policy agent, SB3's included.
        demonstrations: `Demonstrations`; a tuple `(observations, actions)`, with `rewards` and `ends` for the critic; a
            Minari dataset, or the id of a local one.
        n_epochs: Largest number of passes over the demonstrations.
        batch_size: Minibatch size.
        learning_rate: Step size of Adam.
        validation_fraction: Share of the episodes or steps that is held out, from 0 to below 1; 0 keeps the parameters
            of the last epoch.
        patience: Epochs without improvement on the held-out steps after which to stop; None for no early stop.
        critic: Fit the critic too; needs rewards.
        seed: Seed of the split and of the minibatches; None for the agent's.
        progress_bar: Show a progress bar.
        tb_log_name: Name of the run in TensorBoard.

    Returns:
        The losses, and how many steps they are of.

    Raises:
        TypeError: `agent` or `demonstrations` is of another kind.
        ValueError: An argument is out of range, the demonstrations do not fit the agent's spaces, or are too few.
        FloatingPointError: The loss is not finite; the policy has the best parameters so far.
    """
    if not isinstance(getattr(agent, "policy", None), ActorCriticPolicy):
        raise TypeError(f"`agent` must be an on-policy agent with an ActorCriticPolicy, but is {agent!r}.")
    check_number("n_epochs", n_epochs, at_least=1, integer=True)
    check_number("batch_size", batch_size, at_least=1, integer=True)
    check_number("learning_rate", learning_rate, above=0)
    check_number("validation_fraction", validation_fraction, at_least=0)
    check_number("patience", patience, at_least=1, integer=True, optional=True)
    if validation_fraction >= 1:
        raise ValueError(f"`validation_fraction` must be below 1, but is {validation_fraction!r}.")
    given = as_demonstrations(demonstrations)
    policy = agent.policy
    value_parameters = critic_parameters(policy) if critic else []
    if critic and not value_parameters:
        raise ValueError(f"`critic` is True, but no parameter of {type(policy).__name__} is its critic's alone.")
    if critic and given.rewards is None:
        raise ValueError("`critic` is True, but the demonstrations have no rewards.")
    translation: Translation | None = getattr(agent, "translation", None)
    check_fit(given, policy, translation)
    generator = np.random.default_rng(agent.seed if seed is None else seed)
    training, held_out = split(given, validation_fraction, generator)
    observations, rewards = _normalised(given, agent.get_vec_normalize_env())
    actions = policy_actions(
        policy, given.actions if translation is None else translation.policy_actions(given.actions)
    )
    if translation is not None:
        observations = translation.observations(observations)

    def log_likelihood_loss(chosen: np.ndarray) -> th.Tensor:
        tensors, _ = policy.obs_to_tensor(rows(observations, chosen))
        return -policy.get_distribution(tensors).log_prob(actions[chosen].to(policy.device))

    fits: dict[str, Fit] = {}
    settings = n_epochs, batch_size, learning_rate, patience
    with _log(agent, tb_log_name) as logger, threads.for_policy(policy), unchecked_distributions():
        fits["actor"] = _fit(
            policy,
            [parameter for parameter in policy.parameters() if parameter.requires_grad],
            log_likelihood_loss,
            (training, held_out),
            settings,
            generator,
            _Report(logger, "", "actions", progress_bar),
        )
        if critic:
            returns = th.as_tensor(given.returns(agent.gamma, rewards), dtype=th.float32)

            def value_loss(chosen: np.ndarray) -> th.Tensor:
                tensors, _ = policy.obs_to_tensor(rows(observations, chosen))
                return (returns[chosen].to(policy.device) - policy.predict_values(tensors).flatten()) ** 2

            fits["critic"] = _fit(
                policy,
                value_parameters,
                value_loss,
                (training, held_out),
                settings,
                generator,
                _Report(logger, "critic_", "returns", progress_bar),
            )
    return Imitation(fits["actor"], fits.get("critic"), len(training), len(held_out))


# The fit


@dataclass
class _Report:
    """The outputs that show each epoch's losses."""

    logger: Logger
    prefix: str
    targets: str  # of the fit, in an error
    progress_bar: bool

    def epoch(self, number: int, loss: float, validation_loss: float | None) -> None:
        self.logger.record(f"imitation/{self.prefix}loss", loss)
        if validation_loss is not None:
            self.logger.record(f"imitation/{self.prefix}validation_loss", validation_loss)
        self.logger.dump(number)

    @contextmanager
    def bar(self, total: int) -> Iterator[Callable[[], Any]]:
        """A function to call after each epoch."""
        if not self.progress_bar:
            yield lambda: None
            return
        with warnings.catch_warnings():
            from tqdm import TqdmExperimentalWarning

            warnings.simplefilter("ignore", TqdmExperimentalWarning)
            from tqdm.rich import tqdm

            with tqdm(total=total, unit="epoch") as shown:
                yield shown.update


def _fit(
    policy: ActorCriticPolicy,
    parameters: list[th.nn.Parameter],
    loss: Callable[[np.ndarray], th.Tensor],
    samples: tuple[np.ndarray, np.ndarray],
    settings: tuple[int, int, float, int | None],
    generator: np.random.Generator,
    report: _Report,
) -> Fit:
    """Minimise the mean loss of the samples, and keep the parameters with the least loss on those held out.

    Args:
        policy: The policy.
        parameters: Those to fit.
        loss: Gives one number for each of the chosen samples.
        samples: Numbers of the samples to train on, and of those held out.
        settings: `n_epochs`, `batch_size`, `learning_rate` and `patience`.
        generator: Shuffles.
        report: Shows the losses.
    """
    training, held_out = samples
    n_epochs, batch_size, learning_rate, patience = settings
    optimizer = th.optim.Adam(parameters, lr=learning_rate)
    best, best_epoch = _copied(policy), 0
    losses: list[float] = []
    validation_losses = [_mean_loss(policy, loss, held_out, batch_size)] if len(held_out) else []
    stopped_early = False
    try:
        with report.bar(n_epochs) as advance:
            for epoch in range(1, n_epochs + 1):
                policy.set_training_mode(True)
                total = 0.0
                for chosen in _minibatches(generator.permutation(training), batch_size):
                    values = loss(chosen)
                    optimizer.zero_grad()
                    values.mean().backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    total += values.sum().item()
                if not np.isfinite(total):
                    raise FloatingPointError(
                        f"The loss is {total} in epoch {epoch}, so the parameters are those after epoch {best_epoch}. "
                        f"The {report.targets} of the demonstrations may be too large, or `learning_rate`, which is "
                        f"{learning_rate}."
                    )
                losses.append(total / len(training))
                if len(held_out):
                    validation_losses.append(_mean_loss(policy, loss, held_out, batch_size))
                if not len(held_out) or validation_losses[-1] < validation_losses[best_epoch]:
                    best, best_epoch = _copied(policy), epoch
                report.epoch(epoch, losses[-1], validation_losses[-1] if len(held_out) else None)
                advance()
                if len(held_out) and patience is not None and epoch - best_epoch >= patience:
                    stopped_early = True
                    break
    finally:
        policy.load_state_dict(best)  # in place: compiled engines hold the parameters' addresses
        policy.set_training_mode(False)
    return Fit(tuple(losses), tuple(validation_losses), best_epoch, stopped_early)


def _minibatches(samples: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(samples), batch_size):
        yield samples[first : first + batch_size]


def _mean_loss(
    policy: ActorCriticPolicy, loss: Callable[[np.ndarray], th.Tensor], samples: np.ndarray, batch_size: int
) -> float:
    policy.set_training_mode(False)
    with th.no_grad():
        parts = [loss(chosen).sum().item() for chosen in _minibatches(samples, max(batch_size, 1024))]
    return sum(parts) / len(samples)


def _copied(policy: ActorCriticPolicy) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


@contextmanager
def _log(agent: OnPolicyAlgorithm, tb_log_name: str) -> Iterator[Logger]:
    """The logger that was given to the agent, else one of a run of its own in the agent's TensorBoard folder."""
    if agent._custom_logger:
        yield agent.logger
        return
    logger = configure_logger(agent.verbose, agent.tensorboard_log, tb_log_name)
    try:
        yield logger
    finally:
        logger.close()


# The samples


def split(
    demonstrations: Demonstrations, validation_fraction: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the steps to train on and of those to hold out: whole episodes, or steps of a single one.

    Neighbouring steps are so alike that held-out steps of a trained-on episode would show no overfitting.

    Args:
        demonstrations: The steps.
        validation_fraction: Share to hold out; at least one episode or step, unless it is 0.
        generator: Draws.

    Raises:
        ValueError: There is only one step, and a part of it is to be held out.
    """
    everything = np.arange(len(demonstrations))
    if validation_fraction == 0:
        return everything, everything[:0]
    several = demonstrations.n_episodes > 1
    groups = demonstrations.episodes if several else everything
    n_groups = int(groups[-1]) + 1
    if n_groups < 2:
        raise ValueError(
            "`demonstrations` have only one step, of which no part can be held out: set `validation_fraction` to 0."
        )
    n_held_out = min(max(round(validation_fraction * n_groups), 1), n_groups - 1)
    is_held_out = np.isin(groups, generator.permutation(n_groups)[:n_held_out])
    return everything[~is_held_out], everything[is_held_out]


def policy_actions(policy: ActorCriticPolicy, actions: np.ndarray) -> th.Tensor:
    """The environment's actions as the policy's distribution takes them: flat, and scaled if they are squashed.

    Args:
        policy: The policy.
        actions: `(n, ...)`, as the environment takes them.
    """
    space = policy.action_space
    if isinstance(space, spaces.Discrete):
        return th.as_tensor(actions.reshape(-1)).long()
    if isinstance(space, spaces.Box) and policy.squash_output:
        scaled = np.asarray(policy.scale_action(actions.reshape(-1, *space.shape)))
        actions = np.clip(scaled, -LARGEST_SQUASHED, LARGEST_SQUASHED)
    return th.as_tensor(actions.reshape(len(actions), get_action_dim(space)), dtype=th.float32)


def _normalised(
    demonstrations: Demonstrations, normalizer: VecNormalize | None
) -> tuple[Observations, np.ndarray | None]:
    """Observations and rewards as the agent's environment gives them."""
    observations, rewards = demonstrations.observations, demonstrations.rewards
    if normalizer is None:
        return observations, rewards
    if normalizer.training:
        if normalizer.norm_obs and isinstance(normalizer.obs_rms, dict):
            for key, statistics in normalizer.obs_rms.items():
                statistics.update(observations[key])
        elif normalizer.norm_obs:
            assert not isinstance(normalizer.obs_rms, dict)
            normalizer.obs_rms.update(observations)
        if normalizer.norm_reward and rewards is not None:
            normalizer.ret_rms.update(_running_returns(demonstrations, normalizer.gamma))
    seen: Any = normalizer.normalize_obs(observations)
    return seen, None if rewards is None else normalizer.normalize_reward(rewards)


def _running_returns(demonstrations: Demonstrations, gamma: float) -> np.ndarray:
    """The discounted sums of past rewards, whose variance `VecNormalize` divides rewards by."""
    assert demonstrations.rewards is not None
    found, running = np.zeros(len(demonstrations)), 0.0
    for t, (reward, end) in enumerate(zip(demonstrations.rewards, demonstrations.ends, strict=True)):
        running = running * gamma + reward
        found[t] = running
        running = 0.0 if end else running
    return found


# Checks


def check_fit(
    demonstrations: Demonstrations, policy: ActorCriticPolicy, translation: Translation | None = None
) -> None:
    """Refuse demonstrations that do not fit a policy's spaces.

    Args:
        demonstrations: The demonstrations.
        policy: The policy.
        translation: Between the demonstrations' spaces and the policy's, where they are not the same.

    Raises:
        ValueError: Spaces, keys, shapes or categories differ, or an action of a squashed policy is out of bounds.
    """
    expected = (policy.observation_space, policy.action_space) if translation is None else translation.given
    for name, ours in zip(("observation_space", "action_space"), expected, strict=True):
        theirs = getattr(demonstrations, name)
        if theirs is not None and not _alike(theirs, ours):
            raise ValueError(f"`demonstrations` have the {name} {theirs}, but the agent has {ours}.")
    actions, (observation_space, space) = demonstrations.actions, expected
    n, translated = len(demonstrations), translation is not None
    _check_array("observations", demonstrations.observations, observation_space, n, translated=translated)
    _check_array("actions", actions, space, n, translated=translated)
    if isinstance(space, spaces.Box) and policy.squash_output:
        actions = actions.reshape(-1, *space.shape)
        slack = 1e-3 * (space.high - space.low)
        wrong = (actions < space.low - slack) | (actions > space.high + slack)
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"`actions` of the demonstrations is {actions[row]} at step {row}, outside {space}, where the agent's "
                "squashed policy has no actions."
            )


def _alike(theirs: spaces.Space[Any], ours: spaces.Space[Any]) -> bool:
    """Whether samples of one space fit the other; bounds and types of numbers may differ, the layout of images too."""
    if isinstance(theirs, spaces.Dict) and isinstance(ours, spaces.Dict):
        return set(theirs.spaces) == set(ours.spaces) and all(
            _alike(theirs.spaces[key], ours.spaces[key]) for key in ours.spaces
        )
    if isinstance(theirs, spaces.Box) and isinstance(ours, spaces.Box):
        return theirs.shape in _shapes(ours)
    return theirs == ours


def _shapes(space: spaces.Space[Any]) -> list[tuple[int, ...]]:
    """The shapes of a space's elements as a policy takes them."""
    assert space.shape is not None
    if isinstance(space, spaces.Box) and is_image_space(space):
        return [space.shape, (*space.shape[1:], space.shape[0])]
    if isinstance(space, spaces.Discrete):
        return [(), (1,)]
    return [space.shape]


def _check_array(name: str, values: Any, space: spaces.Space[Any], n: int, *, translated: bool) -> None:
    if isinstance(space, spaces.Dict):
        given = sorted(values) if isinstance(values, dict) else type(values).__name__
        if given != sorted(space.spaces):
            raise ValueError(f"`{name}` of the demonstrations has {given}, but the agent's {sorted(space.spaces)}.")
        for key, part in space.spaces.items():
            _check_array(f"{name}[{key!r}]", values[key], part, n, translated=translated)
        return
    if isinstance(values, dict):
        raise ValueError(f"`{name}` of the demonstrations is a dictionary, but the agent has the space {space}.")
    if values.shape[1:] not in _shapes(space):
        raise ValueError(
            f"`{name}` of the demonstrations has shape {values.shape}, but {n} steps in the agent's space {space} have "
            f"{(n, *(space.shape or ()))}."
        )
    if isinstance(space, spaces.Box):
        return
    first: Any = getattr(space, "start", 0)
    if np.any(first) and not translated:
        raise ValueError(
            f"`{name}` of the demonstrations are in {space}, but Stable-Baselines3's policies count from 0: use a "
            "space without `start`."
        )
    whole = values.reshape(n, *(space.shape or ()))
    size: Any = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", 2)
    wrong = (whole < first) | (whole >= first + size) | (whole != np.floor(whole))
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise ValueError(f"`{name}` of the demonstrations is {whole[row]} at step {row}, outside the space {space}.")
