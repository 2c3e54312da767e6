"""Which policies suit which spaces: errors for those that cannot be, warnings for those that will hardly learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.distributions import DiagGaussianDistribution, StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN

from pg_agents.arguments import constructor_defaults
from pg_agents.checks import check_boolean
from pg_agents.policies import ACTOR_CRITIC_POLICIES, ACTOR_POLICIES, STATE_DEPENDENT_STD

SMALLEST_IMAGE = 36  # pixels each way, of which SB3's network for images makes one
_OBSERVED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_ALIASES: dict[type[Any], str] = {
    cls: alias for table in (ACTOR_CRITIC_POLICIES, ACTOR_POLICIES) for alias, cls in table.items()
}
_ALIASES |= {with_std: _ALIASES[usual] for usual, with_std in STATE_DEPENDENT_STD.items()}
_COLOURS = (1, 3, 4)  # channels of an image that is told by its shape
# SB3 wants finite bounds, so those beyond are an author's way to write that there are none.
_NO_BOUND = 1e8
_REACH = 3  # standard deviations
_LEAST_REACHED = 0.5  # of the range
_MOST_CLIPPED = 0.75  # of the actions, to one and the same end of the range


def check_is_env(env: Any) -> None:
    """Refuse what is no environment.

    Args:
        env: As given to an agent; ids have been made environments.

    Raises:
        ValueError: It is none; the message says what is allowed.
    """
    if isinstance(env, VectorEnv):  # those of EnvPool warn when their spaces are read
        return
    space = None if isinstance(env, type) else getattr(env, "observation_space", None)
    if space is None or callable(space):  # PettingZoo's is a method
        missing = ", which has no `observation_space`" if isinstance(env, gym.Env) else ""
        remedy = " Call it first: it is no environment yet." if missing == "" and callable(env) else ""
        raise ValueError(
            "`env` must be a Gymnasium environment, single or vector, an SB3 `VecEnv`, or a registered id such as "
            f"'CartPole-v1', but is {env!r}{missing}.{remedy}"
        )


def check_observation_space(space: spaces.Space[Any]) -> None:
    """Refuse observations that no policy reads.

    Raises:
        ValueError: The space or a part of it is of another kind, and the message says what can be done; or it is empty.
    """
    parts = [*space.spaces.values()] if isinstance(space, spaces.Dict) else [space]
    odd = next((part for part in parts if not isinstance(part, _OBSERVED)), None)
    if odd is None:
        if all(0 in (part.shape or ()) for part in parts):
            raise ValueError(f"No policy reads the observation space {space}: it has no numbers.")
        return
    kinds = ", ".join(kind.__name__ for kind in _OBSERVED)
    remedy = (
        "gymnasium.wrappers.FlattenObservation makes it a Box"
        if space.is_np_flattenable
        else "a gymnasium.ObservationWrapper of your own can make it a Box of fixed shape"
    )
    where = "" if odd is space else f", because of its part {odd}"
    raise ValueError(
        f"No policy reads the observation space {space}{where}: MlpPolicy and CnnPolicy read {kinds}, and "
        f"MultiInputPolicy a Dict of these; {remedy}."
    )


def check_policy(
    policy_class: type[Any], space: spaces.Space[Any], policy_kwargs: dict[str, Any], *, normalized: bool = False
) -> None:
    """Refuse a policy that cannot read the observations, and arguments that it would misread.

    Args:
        policy_class: Its class.
        space: The observation space, images with their channels first.
        policy_kwargs: Arguments of its constructor.
        normalized: The observations come from a `VecNormalize`.

    Raises:
        ValueError: The policy is for other observations, and the message says which one fits; or an argument is
            neither True nor False where it must be.
    """
    for argument, default in constructor_defaults(policy_class).items():
        if isinstance(default, bool):
            check_boolean(f"policy_kwargs[{argument!r}]", policy_kwargs.get(argument, default))
    extractor, fits = _extractor_of(policy_class, policy_kwargs), suitable_policy(space)
    of_extractor = policy_kwargs.get("features_extractor_kwargs") or {}
    scaled = not policy_kwargs.get("normalize_images", True) or of_extractor.get("normalized_image", False)
    name = _name_of(policy_class)
    if isinstance(space, spaces.Dict):
        if extractor in (FlattenExtractor, NatureCNN):
            raise ValueError(f"{name} does not read the observation space {space}: {fits} does.")
        if extractor is CombinedExtractor:
            for key, part in space.spaces.items():
                if is_image_space(part, normalized_image=scaled) and not _is_large(_shape(part)[1:]):
                    raise ValueError(_too_small(name, part, f"the image {key!r} of the observation space {space}"))
    elif extractor is CombinedExtractor:
        raise ValueError(f"{name} reads a Dict, but the observation space is {space}: {fits} fits.")
    elif extractor is NatureCNN and not is_image_space(space, normalized_image=scaled):
        if len(_shape(space)) == 3:  # of all others, SB3 says it
            raise ValueError(_no_bytes(name, space, normalized))
    elif extractor is NatureCNN and scaled and _shape(space)[-1] in _COLOURS and _shape(space)[0] not in _COLOURS:
        raise ValueError(
            f"{name} reads images with their channels first, but the observation space {space} has the shape "
            f"{space.shape}: a gymnasium.ObservationWrapper with np.moveaxis(observation, -1, 0) puts them there."
        )
    elif extractor is NatureCNN and not _is_large(_shape(space)[1:]):
        raise ValueError(_too_small(name, space, f"the observation space {space}", "MlpPolicy, "))


def suitable_policy(space: spaces.Space[Any]) -> str:
    """The name of the usual policy for observations, images in either layout."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) and _is_large(sorted(_shape(space))[1:]) else "MlpPolicy"


def warn_of_policy(policy: ActorCriticPolicy, action_space: spaces.Space[Any], stacklevel: int = 2) -> None:
    """Warn of a policy that reads an image as if its pixels had no places, and of actions that it hardly reaches.

    Args:
        policy: A new policy.
        action_space: The environment's, which the policy's may stand for.
        stacklevel: As for `warnings.warn`, from here.

    Warns:
        UserWarning: The policy is of such a kind.
    """
    for said in (_flat_image(policy), _out_of_reach(policy, action_space)):
        if said is not None:
            warnings.warn(said, stacklevel=stacklevel + 1)


def _flat_image(policy: ActorCriticPolicy) -> str | None:
    space = policy.observation_space
    if type(policy.features_extractor) is not FlattenExtractor or not isinstance(space, spaces.Box):
        return None
    if len(space.shape) != 3 or not _is_large(sorted(space.shape)[1:]):
        return None
    scaled = bool((space.low == 0).all() and (space.high == 1).all()) and min(space.shape) in _COLOURS
    if not is_image_space(space) and not scaled:
        return None
    keywords = ", with policy_kwargs=dict(normalize_images=False)" if scaled else ""
    return (
        f"{_name_of(type(policy))} reads an image of the shape {space.shape} as a flat list of "
        f"{math.prod(space.shape):,} numbers, and will hardly learn from it: CnnPolicy reads it as an image{keywords}."
    )


def _out_of_reach(policy: ActorCriticPolicy, env_space: spaces.Space[Any]) -> str | None:
    """What part of its actions a Gaussian policy reaches, if it is a small one."""
    space = policy.action_space
    if not isinstance(space, spaces.Box) or policy.squash_output:
        return None
    if not isinstance(policy.action_dist, DiagGaussianDistribution | StateDependentNoiseDistribution):
        return None
    sigma = math.exp(policy.log_std_init)
    if isinstance(policy.action_dist, StateDependentNoiseDistribution):
        sigma *= policy.mlp_extractor.latent_dim_pi**0.5  # the most that features of size 1 make of it
    for index, (low, high) in enumerate(zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)):
        if not -_NO_BOUND < low < high < _NO_BOUND:
            continue
        lowest, highest = _within(_REACH * sigma, low, high)
        # A small deviation is a choice: tuned values often begin with exp(-2), and the mean moves.
        least, most = _within(_REACH * max(sigma, 1), low, high)
        drawn = NormalDist(0, sigma)
        clipped, end = max((drawn.cdf(low), low), (1 - drawn.cdf(high), high))
        if most - least >= _LEAST_REACHED * (high - low) and clipped <= _MOST_CLIPPED:
            continue
        which = "" if space.shape in ((), (1,)) else f" in dimension {index}"
        share = f", {100 * clipped:.0f} % of them at {end:g}" if clipped >= _LEAST_REACHED else ""
        remedy = "gymnasium.wrappers.RescaleAction(env, -1.0, 1.0) lets it act between -1 and 1."
        if env_space.dtype is not None and env_space.dtype.kind in "biu":
            remedy = "MultiDiscrete with `start` gives each integer a probability of its own."
        return (
            f"The actions of {env_space} go from {low:g} to {high:g}{which}, but those of a new Gaussian policy, with "
            f"mean 0 and standard deviation {sigma:.3g}, stay between {lowest:g} and {highest:g}{share}: it will "
            f"hardly learn. {remedy}"
        )
    return None


def _within(reach: float, low: float, high: float) -> tuple[float, float]:
    """The part of a range that is within reach of 0."""
    return min(max(-reach, low), high), min(max(reach, low), high)


def _extractor_of(policy_class: type[Any], policy_kwargs: dict[str, Any]) -> Any:
    """The class that reads the observations; None if it is unknown."""
    name = "features_extractor_class"
    return policy_kwargs.get(name, constructor_defaults(policy_class).get(name))


def _name_of(policy_class: type[Any]) -> str:
    """The name by which users choose a policy."""
    return _ALIASES.get(policy_class, policy_class.__name__)


def _shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    return space.shape or ()


def _is_large(sides: Sequence[int]) -> bool:
    return min(sides) >= SMALLEST_IMAGE


def _no_bytes(name: str, image: spaces.Space[Any], normalized: bool) -> str:
    if normalized:
        return (
            f"{name} scales images itself, but VecNormalize has made {image} of them: leave them as they are with "
            "VecNormalize(env, norm_obs=False)."
        )
    return (
        f"{name} reads images of bytes, such as Box(0, 255, (64, 64, 3), uint8), but the observation space is {image}: "
        "policy_kwargs=dict(normalize_images=False) reads other numbers, and MlpPolicy fits where they are no image."
    )


def _too_small(name: str, image: spaces.Space[Any], what: str, others: str = "") -> str:
    height, width = _shape(image)[1:]
    return (
        f"{name} reads images of at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels, but {what} has {height} x "
        f"{width}: {others}gymnasium.wrappers.ResizeObservation or a `features_extractor_class` of your own fits."
    )
