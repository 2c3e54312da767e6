"""What all algorithms share but for their slots: arguments, constructor, checks."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import InitVar
from typing import Any, ClassVar, TypedDict

import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from pg_agents import registry
from pg_agents.arguments import Arguments, argument, check_keywords
from pg_agents.checks import check_boolean
from pg_agents.collecting import EpisodeStatistics
from pg_agents.contract import Loss, Objective, Rollout
from pg_agents.engines.compiling import announced
from pg_agents.envs.make import make_vec, offers_copies
from pg_agents.estimators import Floats
from pg_agents.objectives import KL_ESTIMATORS
from pg_agents.policies import with_state_dependent_std
from pg_agents.resuming.agents import AsMade, as_made
from pg_agents.resuming.resume import Interrupted
from pg_agents.resuming.run import Run
from pg_agents.suitability import check_is_env, warn_of_policy

Env = GymEnv | VectorEnv[Any, Any, Any] | str | None

# Not "k1": see `objectives.k1`.
PRIOR_KL_ESTIMATORS = ("exact", *(name for name in KL_ESTIMATORS if name != "k1"))


class CommonArguments(TypedDict, total=False):
    """The arguments that all algorithms share, for an `__init__` with `**common: Unpack[CommonArguments]`."""

    use_sde: bool
    sde_sample_freq: int
    rollout_buffer_class: type[SB3RolloutBuffer] | None
    rollout_buffer_kwargs: dict[str, Any] | None
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str
    engine: str
    prior: Any
    prior_kl_coef: float | Schedule
    prior_kl_estimator: str
    _init_setup_model: bool


class Common(Arguments):
    """The arguments that all algorithms share, their constructor and their checks.

    The parts of an agent know it as this class.
    """

    # Of `PolicyGradient` and the algorithms
    has_critic: ClassVar[bool]
    separate_critic: ClassVar[bool]
    default_log_interval: ClassVar[int]

    policy: InitVar[str | type[ActorCriticPolicy]] = argument(
        doc='`"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a policy class.'
    )
    env: InitVar[Env] = argument(doc="A Gymnasium environment, single or vector, an SB3 `VecEnv`, or a registered id.")
    use_sde: bool = argument(
        default=False,
        kw_only=True,
        doc="Generalised state-dependent exploration instead of independent action noise (Box actions).",
        fixed="make a new agent",
    )
    sde_sample_freq: int = argument(
        default=-1, kw_only=True, doc="Draw new gSDE noise every so many steps; -1: at the start of each rollout only."
    )
    rollout_buffer_class: type[SB3RolloutBuffer] | None = argument(
        default=None,
        kw_only=True,
        doc="Buffer class; None chooses by the observation space.",
        fixed="make a new agent",
    )
    rollout_buffer_kwargs: dict[str, Any] | None = argument(  # type: ignore[assignment]
        default=None, kw_only=True, doc="Further keyword arguments of the buffer class.", fixed="make a new agent"
    )
    stats_window_size: InitVar[int] = argument(
        default=100,
        kw_only=True,
        doc="Number of episodes over which the `rollout/` means are taken.",
        at_least=1,
        integer=True,
        fixed="give it to `load`",
    )
    tensorboard_log: str | None = argument(default=None, kw_only=True, doc="Folder for TensorBoard; None writes none.")
    policy_kwargs: dict[str, Any] | None = argument(  # type: ignore[assignment]
        default=None,
        kw_only=True,
        doc="Keyword arguments of the policy. `state_dependent_std=True` makes σ of a Gaussian policy an output of its "
        "network.",
        fixed="make a new agent",
    )
    verbose: int = argument(default=0, kw_only=True, doc="0 prints nothing, 1 progress, 2 debugging information.")
    seed: int | None = argument(
        default=None, kw_only=True, doc="Seed of all random generators.", fixed="call `set_random_seed`"
    )
    device: InitVar[th.device | str] = argument(
        default="auto", kw_only=True, doc='`"auto"`, `"cpu"`, `"cuda"`, ...', fixed="give it to `load`"
    )
    _init_setup_model: InitVar[bool] = argument(default=True, kw_only=True, doc="Build the networks now.")
    engine: str = argument(
        default="auto",
        kw_only=True,
        doc='Engine that acts and learns: `"mlp"` (compiled, for policies without images on the CPU), `"autograd"` '
        '(torch, for all), `"auto"` for the first where it serves this agent and else the second, or the name of a '
        "plugin.",
    )
    prior: Any = argument(
        default=None,
        kw_only=True,
        doc="A policy that training is kept near, an agent with one, or its file. A copy of "
        "the policy becomes part of the agent and of its file.",
    )
    prior_kl_coef: float | Schedule = argument(
        default=0.1,
        kw_only=True,
        doc="Coefficient of KL(π || π_prior) in the loss; a number or a schedule.",
        at_least=0,
        schedule=True,
    )
    prior_kl_estimator: str = argument(
        default="exact",
        kw_only=True,
        doc='How KL(π || π_prior) is found: `"exact"`, its closed form at each state, or an estimate from the action '
        'taken, `"k2"` or `"k3"`. Of `"k1"` the gradient has mean 0.',
        choices=PRIOR_KL_ESTIMATORS,
    )

    def __init__(self, policy: str | type[ActorCriticPolicy], env: Env, **arguments: Any) -> None:
        check_keywords(type(self), [*self.declared, "monitor_wrapper"], arguments)
        monitor_wrapper = arguments.pop("monitor_wrapper", True)
        defaults = self.defaults()
        values = {**defaults, **arguments}
        for name in set(self.declared) - {"policy", "env", *values}:
            raise TypeError(f"{type(self).__name__}() needs the argument {name!r}.")
        for name in arguments:
            if isinstance(defaults.get(name), bool):  # at once: SB3 takes a text for True
                check_boolean(name, arguments[name])
        if values["_init_setup_model"] and env is None:
            check_is_env(env)
        registry.find_env(env)
        if isinstance(env, str) and offers_copies(env):
            # A world's id means its copies, which compiled code can step; `gym.make` would hide them.
            with announced(values["verbose"]):
                env = make_vec(env, 1)
        sb3s = set(inspect.signature(OnPolicyAlgorithm.__init__).parameters)
        for name in values.keys() - sb3s:
            if name in arguments or name not in vars(self):  # a subclass may have set its own before
                setattr(self, name, values[name])
        # For diagnostics: called before each epoch of an update.
        self.on_epoch: Callable[[], None] | None = None
        self.current_run: Run | None = None  # the last `learn`, with its callbacks
        self.interrupted: Interrupted | None = None  # what `resume` has read, for `learn_on`
        self.as_made: AsMade | None = None
        self.episode_statistics: EpisodeStatistics  # made with the model, and by each `learn`
        self._in_mid_episode = False
        self._schedules_end: int | None = None  # steps, as given to `learn`
        # A copy: additions of algorithms and policies must not show up in the caller's own dictionary.
        policy_kwargs = dict(values["policy_kwargs"] or {})
        state_dependent_std = policy_kwargs.pop("state_dependent_std", False)
        check_boolean("policy_kwargs['state_dependent_std']", state_dependent_std)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type] # None is what `load` passes
            **{name: value for name, value in values.items() if name in sb3s - {"policy", "env"}}
            | {
                "policy_kwargs": self.complete_policy_kwargs(policy_kwargs),
                "monitor_wrapper": monitor_wrapper,
                "_init_setup_model": False,
                "supported_action_spaces": (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            },
        )
        if state_dependent_std:
            self.policy_class = with_state_dependent_std(self.policy_class)
        if values["_init_setup_model"]:
            self._setup_model()
        for name in ("prior_kl_coef", "prior_kl_estimator"):
            if self.prior is None and name in arguments and values[name] != defaults[name]:
                warnings.warn(f"`{name}` has no effect, because there is no `prior`.", stacklevel=3)
        self.warn_of_arguments()
        if values["_init_setup_model"]:
            warn_of_policy(self.policy, self.action_space, stacklevel=3)
        self.as_made = as_made(self)

    # The slots that the parts of an agent rely on

    @abstractmethod
    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """See `PolicyGradient.estimate`."""

    @abstractmethod
    def objective(self) -> Objective:
        """See `PolicyGradient.objective`."""

    @abstractmethod
    def loss(self, scale: float = 1.0) -> Loss:
        """See `PolicyGradient.loss`."""

    @abstractmethod
    def _overrides(self, method: str) -> bool:
        """Whether a subclass of `PolicyGradient` or the agent itself replaces a method of that class."""

    # Arguments

    def complete_policy_kwargs(self, given: dict[str, Any]) -> dict[str, Any]:
        """The policy's keyword arguments as given, with those that the algorithm adds."""
        return given

    def warn_of_arguments(self) -> None:
        """Warn of arguments that are allowed but probably unintended; called once, by the constructor."""

    def check_arguments(self) -> None:
        """Refuse arguments out of range, or in contradiction to each other; called before `setup` and after loading.

        Raises:
            ValueError: An argument is out of range.
        """
        if self.value_learning_rate is not None and not self.separate_critic:
            raise ValueError(f"`value_learning_rate` is given, but {type(self).__name__} has no `separate_critic`.")
        for name, field in self.declared.items():
            field.check(name, getattr(self, "_stats_window_size" if name == "stats_window_size" else name, None))
        if self.normalize_advantage and self.n_episodes is None:
            n_envs = getattr(self, "n_envs", 2)  # not known yet for a model built without an environment
            assert self.n_steps * n_envs > 1, (
                f"`n_steps * n_envs` must be greater than 1. Currently n_steps={self.n_steps} and n_envs={n_envs}"
            )
        if self.group_size is not None:
            in_groups = self.n_groups * self.group_size
            if self.n_episodes not in (in_groups, self.defaults()["n_episodes"]):
                raise ValueError(
                    f"`n_episodes` is {self.n_episodes}, but n_groups={self.n_groups} and group_size={self.group_size} "
                    f"make {in_groups} episodes: leave `n_episodes` out."
                )

    def before_assigning(self, name: str, before: Any) -> None:
        """See `Arguments.before_assigning`."""
        if name in ("n_episodes", "group_size") and (getattr(self, name) is None) != (before is None):
            raise ValueError(
                f"`{name}` of {type(self).__name__} is {before!r}, and cannot become {getattr(self, name)!r} after "
                "construction: another kind of rollout needs another buffer."
            )
        if name in ("n_groups", "group_size"):
            self.n_episodes = self.defaults()["n_episodes"]

    def after_assigning(self, name: str) -> None:
        """See `Arguments.after_assigning`."""
        super().after_assigning(name)
        if self.group_size is not None:
            vars(self)["n_episodes"] = self.n_groups * self.group_size

    @property
    def reuses_samples(self) -> bool:
        """Whether the policy moves while it is trained on one rollout: then its KL divergence from the old counts."""
        return self.n_epochs > 1 or self.batch_size is not None
