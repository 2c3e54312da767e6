"""`PolicyGradient`: the base of all algorithms, with the four slots in which they differ.

Every policy-gradient algorithm is `θ += α Σ_i ψ_i ∇ log π(a_i|s_i)` (+ entropy, + regression of the value), and
differs in four answers:

| slot                 | question                                  |
|----------------------|-------------------------------------------|
| `collect_rollouts`   | which experience?                         |
| `estimate`           | how good was each action?                 |
| `objective`          | which scalar of log π is maximised?       |
| `update`             | how do the parameters move?               |

A subclass declares the slot that differs and inherits the others.
"""

from __future__ import annotations

import inspect
import io
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import InitVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.buffers import DictRolloutBuffer as SB3DictRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import (
    FloatSchedule,
    explained_variance,
    get_device,
    safe_mean,
    update_learning_rate,
)
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from pg_agents import registry, tuning
from pg_agents.arguments import Arguments, argument, check_keywords, constructor_arguments
from pg_agents.buffers import OURS, DictEpisodeBuffer, EpisodeBuffer, EpisodeMixin, EstimatorMixin
from pg_agents.callback_checks import check_callbacks
from pg_agents.checks import check_boolean, check_steps
from pg_agents.collecting import MANY, Collector, EpisodeCollector, EpisodeStatistics, Setting
from pg_agents.contract import (
    Batches,
    CompiledLoop,
    Engine,
    Loss,
    Minibatch,
    NotFiniteError,
    Objective,
    Penalty,
    Predictor,
    Rollout,
    Summary,
)
from pg_agents.engines import threads
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.choice import check_engine, load_predictor, make_engine, make_predictor
from pg_agents.engines.compiling import announced
from pg_agents.engines.mlp.tables import kernels_are_loaded
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.compiled import CompiledEnv, compiled_env
from pg_agents.envs.given import checked_as_given
from pg_agents.envs.make import make_vec, offers_copies
from pg_agents.envs.normalizing import Statistics
from pg_agents.envs.processes import explained
from pg_agents.envs.restarting import check_restarts
from pg_agents.envs.sharing import copied_env
from pg_agents.estimators import Floats, gae
from pg_agents.files.archives import check_optimizer, read_agent
from pg_agents.files.saving import whole
from pg_agents.groups import GroupCollector, RollingGroupCollector
from pg_agents.interrupts import deferrable
from pg_agents.logs import (
    DEFAULT,
    Default,
    LazyLog,
    close_when_unused,
    is_unread,
    record_hyperparameters,
    rollout_metrics,
)
from pg_agents.objectives import KL_ESTIMATORS, predicted_values
from pg_agents.observations import check_observations, check_storable
from pg_agents.policies import (
    ACTOR_CRITIC_POLICIES,
    STATE_DEPENDENT_STD,
    ZeroValue,
    environment_actions,
    separate_critic,
    tensors_of_graphs,
    with_state_dependent_std,
)
from pg_agents.priors import check_prior, frozen_policy
from pg_agents.resuming.agents import AsMade, as_made
from pg_agents.resuming.resume import Interrupted, interrupted_run, prepared, resumed, warn_of_another_training
from pg_agents.resuming.run import Run, go_through, in_progress, tell_of_boundary
from pg_agents.rolling import RollingCollector, RollingEpisodeCollector
from pg_agents.schedules import constant_value, value_of
from pg_agents.spaces import Translation
from pg_agents.spans import Parts as SpanParts
from pg_agents.spans import advance, n_unwatched
from pg_agents.suitability import check_is_env, check_observation_space, check_policy, warn_of_policy

if TYPE_CHECKING:
    from optuna import Trial

Env = GymEnv | VectorEnv[Any, Any, Any] | str | None

_ACTION_STREAM = 0x7067
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


class PolicyGradient(Arguments):
    """Base of all algorithms: an SB3 `OnPolicyAlgorithm` whose loop has four slots.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: An argument is out of range.
        AssertionError: The action space is not supported (in SB3's words).
    """

    policy_aliases = ACTOR_CRITIC_POLICIES
    has_critic = True
    separate_critic = False  # whether the parameters that only the value depends on may have a step size of their own
    policy_loss_name = "policy_loss"  # in the log; SB3 has two names for it
    fixed_on_load = frozenset({"policy"})  # arguments that a saved agent cannot change
    default_log_interval: ClassVar[int] = 1  # of `learn`
    # Nothing is learnt from an episode before its end, so an episode that never ends must raise an error.
    max_episode_steps = 100_000
    search: ClassVar[tuning.SearchSpace] = {
        "n_envs": tuning.PowerOfTwo(1, 32),
        "normalize": tuning.Normalisation(),
        "learning_rate": tuning.ScheduleBetween(1e-5, 2e-2),
        "gamma": tuning.OneMinus(1e-4, 0.1),
        "policy": tuning.Networks(),
    }

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

    # Setting up

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """SB3's, which also takes Gymnasium's vector environments."""
        check_is_env(env)
        if isinstance(env, VectorEnv):
            env = VectorEnvAdapter(env)
        check_observation_space(env.observation_space)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

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
        if name == "engine":
            check_engine(self.engine, self.policy, self.rollout_buffer, self.loss())

    def after_assigning(self, name: str) -> None:
        """See `Arguments.after_assigning`. The rollout buffer waits until the next rollout begins."""
        super().after_assigning(name)
        if self.group_size is not None:
            vars(self)["n_episodes"] = self.n_groups * self.group_size
        if name in ("n_steps", "n_episodes", "n_groups", "group_size", "gamma", "gae_lambda"):
            self._buffer_is_dated = True
        if name == "engine":
            self._engine_in_use = None

    def _setup_model(self) -> None:
        with self.takes_all():
            self._set_up()

    def _set_up(self) -> None:
        if len(inspect.signature(self.objective).parameters) > 0:
            raise TypeError(
                f"`objective` of {type(self).__name__} must take no argument and return an Objective(value, weight): "
                "see pg_agents.contract.Objective."
            )
        self.check_arguments()
        self.complete_arguments()
        if self.group_size is not None:
            self.n_episodes = self.n_groups * self.group_size
        self._engine_in_use = None
        named = self.rollout_buffer_class or self._default_buffer_class()
        self._check_buffer_class(named)
        # A file names SB3's own buffer class, so that it loads in SB3; the class derived from it is used.
        self.rollout_buffer_class = OURS.get(named, named)
        kwargs, normalized = self.policy_kwargs or {}, self._normalizes_observations
        check_policy(self.policy_class, self.observation_space, kwargs, normalized=normalized)
        with self._spaces_of_policy():
            super()._setup_model()
        self.rollout_buffer_class = named
        if self.has_critic and isinstance(getattr(self.policy, "value_net", None), ZeroValue):
            raise ValueError(
                f"{type(self).__name__} learns a value function, but its policy {self.policy_class.__name__} has none."
            )
        if self.separate_critic:
            separate_critic(self.policy, self.lr_schedule(1))
        if self.prior is not None:
            self._take_prior()
        self._fill_in_buffer()
        self.episode_statistics = EpisodeStatistics(self.n_envs, self._stats_window_size)
        check_engine(self.engine, self.policy, self.rollout_buffer, self.loss())

    _buffer_is_dated = False  # whether arguments of the rollout buffer have been assigned since it was made

    def _renew_buffer(self) -> None:
        """Give the rollout buffer what was assigned since it was made."""
        if not self._buffer_is_dated:
            return
        del self._buffer_is_dated
        buffer, named = self.rollout_buffer, self.rollout_buffer_class
        assert named is not None, "set by `_setup_model`"
        cls = OURS.get(named, named)
        if buffer.buffer_size != self.n_steps and type(buffer) is cls:  # a caller's own stays
            self.rollout_buffer = cls(
                self.n_steps,
                self.policy.observation_space,
                self.policy.action_space,
                device=self.device,
                n_envs=self.n_envs,
                **(self.rollout_buffer_kwargs or {}),
            )
        self.rollout_buffer.gamma, self.rollout_buffer.gae_lambda = self.gamma, self.gae_lambda
        self._fill_in_buffer()

    def _fill_in_buffer(self) -> None:
        if isinstance(self.rollout_buffer, EstimatorMixin):
            self.rollout_buffer.estimator = self.estimate
        if isinstance(self.rollout_buffer, EpisodeMixin):
            assert self.n_episodes is not None
            self.rollout_buffer.n_episodes = self.n_episodes

    # The spaces in use, and the translation between them and the policy's.
    _translation_of: tuple[Any, Any, Translation | None] = None, None, None

    @property
    def translation(self) -> Translation | None:
        """Between the environment's spaces and the policy's; None where they are the same."""
        given = self.observation_space, self.action_space
        *known, translation = self._translation_of
        if known[0] is not given[0] or known[1] is not given[1]:
            made = Translation(*given, normalizes=self._normalizes_observations)
            translation = made if made.is_needed else None
            self._translation_of = *given, translation
        return translation

    @property
    def _normalizes_observations(self) -> bool:
        normalizer = self.get_vec_normalize_env()
        return normalizer is not None and normalizer.norm_obs

    @contextmanager
    def _spaces_of_policy(self) -> Iterator[None]:
        """SB3 makes policy and buffer for the agent's spaces, which are the policy's meanwhile."""
        translation, given = self.translation, (self.observation_space, self.action_space)
        if translation is not None:
            self.observation_space, self.action_space = translation.observation_space, translation.action_space
        try:
            yield
        finally:
            self.observation_space, self.action_space = given

    def _default_buffer_class(self) -> type[SB3RolloutBuffer]:
        if isinstance(self.observation_space, spaces.Dict):
            return SB3DictRolloutBuffer if self.n_episodes is None else DictEpisodeBuffer
        return SB3RolloutBuffer if self.n_episodes is None else EpisodeBuffer

    def _check_buffer_class(self, named: type[SB3RolloutBuffer]) -> None:
        estimates_itself = named not in OURS and not issubclass(named, EstimatorMixin)
        if estimates_itself and self._overrides("estimate"):
            raise ValueError(
                f"`rollout_buffer_class` is {named.__name__}, but must derive from pg_agents.buffers.RolloutBuffer or "
                f"DictRolloutBuffer, because {type(self).__name__} has its own way to estimate advantages."
            )
        if self.n_episodes is not None and not issubclass(named, EpisodeMixin):
            raise ValueError(
                f"`rollout_buffer_class` is {named.__name__}, but must derive from pg_agents.buffers.EpisodeBuffer or "
                f"DictEpisodeBuffer, because {type(self).__name__} learns from whole episodes."
            )

    def _overrides(self, method: str) -> bool:
        """Whether a subclass or the agent itself replaces a method of this class."""
        return method in vars(self) or getattr(type(self), method) is not getattr(PolicyGradient, method)

    def _excluded_save_params(self) -> list[str]:
        of_groups = [] if self.group_size is None else ["n_episodes"]  # their number may change on loading
        return [*super()._excluded_save_params(), *self.made_anew, *of_groups, "_own_generator", "episode_statistics"]

    def __getstate__(self) -> dict[str, Any]:
        """The state for `copy` and `pickle`: without the engine, which holds addresses, and without watchers."""
        if hasattr(self, "_logger"):
            self._lazy_log.write(self._logger)
        kept = {name: value for name, value in vars(self).items() if name not in self.made_anew}
        return kept | {"on_epoch": None, "current_run": None, "interrupted": None, "as_made": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with environments of its own. They share the logger.

        Raises:
            TypeError: The environments cannot be copied.
        """
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        if hasattr(self, "_logger"):
            memo[id(self._logger)] = self._logger
        if self.env is not None:
            copied_env(self.env, memo)  # into `memo`
        state = self.__getstate__()
        for tensor in tensors_of_graphs(state):
            memo[id(tensor)] = tensor.detach().clone()
        vars(copied).update(deepcopy(state, memo))
        return copied

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write SB3's zip file, for `load` here and in SB3. A file of that name is replaced when the new one is whole.

        Ctrl-C and SIGTERM wait until it is.

        Args:
            path: The file, with or without `.zip`, or an open file.
            exclude: Names of attributes that are not to be saved, besides those that never are.
            include: Names of attributes to be saved that otherwise are not.

        Raises:
            OSError: The file cannot be written; the old one is as it was.
        """
        with whole(path, "zip") as file:
            super().save(file, exclude, include)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a file that `save` has written, here or in SB3. Code in it does not run, unless you trust it.

        Args:
            path: The file, with or without `.zip`.
            env: The environment to go on training in; not needed to predict.
            device: Torch device of the policy.
            custom_objects: Objects that replace those of the same names in the file, which are not read then. Classes
                among them may be named anywhere in the file.
            print_system_info: Print the versions with which the file was written, and those of today.
            force_reset: Begin with a new episode.
            trust: Let the file run code, as SB3's `load` does: it may hold functions, and objects of any class.
            **kwargs: Constructor arguments to change.

        Raises:
            FileNotFoundError: There is no such file.
            NotAllowedError: The file names, calls or changes something that could run code. It is a ValueError.
            TypeError: A keyword is not an argument of the constructor.
            ValueError: An argument cannot change any more, or the file is not an agent's.
        """
        check_keywords(cls, constructor_arguments(cls), kwargs)
        for name in cls.fixed_on_load & kwargs.keys():
            raise ValueError(f"`{name}` cannot be changed on loading, because what is in the file depends on it.")
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        policy_kwargs = kwargs.pop("policy_kwargs", None)
        if not trust:
            known = cls.policy_aliases.values()
            instead = {} if policy_kwargs is None else {"policy_kwargs": policy_kwargs}
            file = read_agent(path, custom_objects=custom_objects, arguments=kwargs, classes=known, instead=instead)
            data = file.data or {}
            replaced = data.get("policy_kwargs") is policy_kwargs
            if policy_kwargs is not None and replaced:
                data["policy_kwargs"] = cls._completed(policy_kwargs, data)
            path, custom_objects = file.without_pickles(), file.data
        agent = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if policy_kwargs is not None:
            agent._check_same_policy(policy_kwargs)
        agent.as_made = as_made(agent)
        return agent

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3. The learning rate stays the agent's own; `model.learning_rate = ...` changes it.

        Raises:
            ValueError: The optimiser's state does not fit the parameters, or the file is not an agent's.
        """
        given: dict[str, Any] | str = load_path_or_dict
        if not isinstance(given, dict):
            given = read_agent(given, data=False).parameters(get_device(device))
        if "policy.optimizer" in given:
            check_optimizer(self.policy.optimizer, given["policy.optimizer"])
        super().set_parameters(given, exact_match, device)

    @classmethod
    def _completed(cls, policy_kwargs: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The policy's keyword arguments as an agent with these attributes stores them."""
        bare = cls.__new__(cls)
        vars(bare).update(cls.defaults() | data)
        given = {name: value for name, value in policy_kwargs.items() if name != "state_dependent_std"}
        return bare.complete_policy_kwargs(given)

    def _check_same_policy(self, policy_kwargs: dict[str, Any]) -> None:
        """SB3's check, of arguments as they were given to the constructor, which may have changed them since."""
        given = dict(policy_kwargs)
        has_own_std = self.policy_class in STATE_DEPENDENT_STD.values()
        same_std = bool(given.pop("state_dependent_std", has_own_std)) == has_own_std
        stored: dict[str, Any] = self.policy_kwargs or {}
        added = {name: stored[name] for name in self.complete_policy_kwargs({}) if name in stored}
        if not same_std or {**added, **given} != stored:
            raise ValueError(
                f"The specified policy kwargs do not equal the stored policy kwargs."
                f"Stored kwargs: {self.policy_kwargs}, specified kwargs: {policy_kwargs}"
            )

    # The engine, and its random generator

    _engine_in_use: Engine | None = None
    _engine_buffer: SB3RolloutBuffer | None = None  # for which it was made
    _own_generator: np.random.Generator | None = None

    @property
    def engine_in_use(self) -> str:
        """Name of the engine that acts and learns; chosen now if training has not begun."""
        return self._engine.name

    @property
    def _engine(self) -> Engine:
        """The engine, chosen anew for each `learn` and whenever the policy or the objective is replaced."""
        return self._engine_for(self.loss())

    def _engine_for(self, loss: Loss) -> Engine:
        engine = self._engine_in_use
        if engine is None or self.rollout_buffer is not self._engine_buffer or not engine.fits(self.policy, loss):
            engine = self._engine_in_use = self._make_engine(loss)
        return engine

    def _make_engine(self, loss: Loss) -> Engine:
        self._engine_buffer = self.rollout_buffer
        return make_engine(self.engine, self.policy, self.rollout_buffer, loss, verbose=self.verbose)

    # The predictor in use, if there is one, and the circumstances for which it was chosen.
    _predictor_of: tuple[tuple[Any, ...], Predictor | None] = (), None

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The policy's actions, as in SB3; from compiled code where that serves the policy and is loaded.

        It is loaded by training, or by reading `engine_in_use`.

        Args:
            observation: One observation, or a batch of them.
            state: Hidden states of a recurrent policy.
            episode_start: Where episodes begin, for a recurrent policy.
            deterministic: The most probable actions, not sampled ones.

        Returns:
            The actions as the environment takes them, and the next hidden states.
        """
        predictor, translation = self._predictor(), self.translation
        if translation is not None:
            observation = translation.observations(observation)
        actions = None if predictor is None else predictor.predict(observation, deterministic)
        if actions is None:
            actions, state = super().predict(observation, state, episode_start, deterministic)
        return actions if translation is None else translation.actions(actions), state

    def load_predictor(self) -> None:
        """Have `predict` answer from compiled code from now on, if that serves the policy and need not be compiled.

        Training does it anyway; `evaluate_policy` calls this when an evaluation becomes a long one.
        """
        load_predictor(self.engine, self.policy)

    def _predictor(self) -> Predictor | None:
        """The predictor of the policy as it is; None if the policy has to answer itself."""
        circumstances = self.policy, self._engine_in_use, kernels_are_loaded()
        known, predictor = self._predictor_of
        if circumstances != known or (predictor is not None and not predictor.fits()):
            predictor = make_predictor(self.engine, self._engine_in_use, self.policy)
            self._predictor_of = circumstances, predictor
        return predictor

    def action_generator(self) -> np.random.Generator:
        """The generator from which the compiled engine draws actions."""
        if self._own_generator is None:
            # Without a seed of its own, a run depends on the global one, as SB3's do.
            self._own_generator = np.random.default_rng(int(th.randint(2**62, ())))
        return self._own_generator

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random generators, the engine's included."""
        super().set_random_seed(seed)
        if seed is not None:
            # Environments seed the same kind of generator with the same number: theirs must be another stream.
            self._own_generator = np.random.default_rng([seed, _ACTION_STREAM])

    # The log

    @property
    def _lazy_log(self) -> LazyLog:
        log: LazyLog = vars(self).setdefault("_unlogged", LazyLog())
        return log

    @property
    def logger(self) -> Logger:
        """SB3's logger, complete: metrics that cost time are computed when the log is read."""
        self._lazy_log.write(self._logger)
        return self._logger

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; may be called at any time.

        Args:
            iteration: Number of updates so far; 0 to leave it out of the log.
        """
        if is_unread(self._logger):
            self._lazy_log.clear()
        if self.episode_statistics.finished:
            self.logger.record("rollout/ep_raw_rew_mean", safe_mean(self.episode_statistics.finished))
        super().dump_logs(iteration)

    # Training

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self.episode_statistics = EpisodeStatistics(self.n_envs, self._stats_window_size)
            self._in_mid_episode = False
        assert self.env is not None, "checked by `learn`"
        statistics = Statistics(self.env)
        prepare = statistics.watched(super()._setup_learn)  # which resets the environment
        with checked_as_given(self.env):
            prepared: tuple[int, BaseCallback] = prepare(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        if not self._custom_logger:
            close_when_unused(self._logger)
        statistics.check(self.num_timesteps)
        check_observations(self._last_obs, self.observation_space, self.n_envs, self.num_timesteps)
        check_callbacks(self, *prepared)
        check_storable(
            self._last_obs,
            self.policy.observation_space,
            self.num_timesteps,
            normalized=self._normalizes_observations,
        )
        if self.group_size is not None:
            check_restarts(self.env)
        self._engine_in_use = self._make_engine(self.loss())
        self._lazy_log.clear()
        record_hyperparameters(self, constructor_arguments(type(self)))
        return prepared

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | Default | None = DEFAULT,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        schedules_end: int | None = None,
    ) -> Self:
        """Train.

        Ctrl-C raises `KeyboardInterrupt` here and leaves a model that can be saved and trained on.

        Schedules run from 1 to 0 in every call, also in one with `reset_num_timesteps=False`. To train in pieces under
        one schedule, say where it ends:

            for piece in range(10):
                model.learn(10_000, reset_num_timesteps=piece == 0, schedules_end=100_000)

        Args:
            total_timesteps: Environment steps to take, over all environments; the last rollout is completed.
            callback: One callback, a list of them, or a function of `(locals, globals)`.
            log_interval: Log every so many updates; None never logs; by default the class's `default_log_interval`.
            tb_log_name: Name of the run in TensorBoard; by default the class's name.
            reset_num_timesteps: Count steps from 0 again, and begin with new episodes.
            progress_bar: Show a progress bar.
            schedules_end: `num_timesteps` at which schedules end; None for those at the end of this call.

        Returns:
            The agent itself.

        Raises:
            ValueError: A number of steps is below 0, or a callback does not fit the training.
        """
        check_steps("total_timesteps", total_timesteps, 0)
        if schedules_end is not None:
            check_steps("schedules_end", schedules_end, 1)
        self._schedules_end = schedules_end
        assert self.env is not None, (
            f"This {type(self).__name__} has no environment: give `load(..., env=...)` one, or call `set_env`."
        )
        warn_of_another_training(self, stacklevel=3)
        with threads.for_policy(self.policy), deferrable(), explained(self.env), announced(self.verbose):
            self._loop(
                total_timesteps,
                callback,
                self.default_log_interval if isinstance(log_interval, Default) else log_interval,
                type(self).__name__ if tb_log_name is None else tb_log_name,
                reset_num_timesteps,
                progress_bar,
            )
        self._lazy_log.write(self._logger)
        return self

    def _loop(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        log_interval: int | None,
        tb_log_name: str,
        reset_num_timesteps: bool,
        progress_bar: bool,
    ) -> None:
        """Collect and train until all steps are taken, in the order of events of SB3's `learn`."""
        iteration = 0  # as the next one, a local variable that callbacks may read
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        run = Run(total_timesteps, log_interval, callback, iteration)
        with in_progress(self, run):
            tell_of_boundary(callback)
            self._updates(run)

    def _updates(self, run: Run) -> None:
        """Rollouts and updates until all steps are taken.

        Args:
            run: Moves on. Its callback has been told of the beginning, and of the boundary before the next rollout.
        """
        go_through(self, run, self._before_rollout)
        self._check_ends()

    def _before_rollout(self, run: Run) -> None:
        if self._last_obs is None:  # an evaluation was here
            self._begin_episodes()
        self._check_ends()
        self._renew_buffer()
        self._advance_unwatched(run)

    def _advance_unwatched(self, run: Run) -> None:
        """Make updates that nobody watches in one compiled call, where that gives the same."""
        assert self.env is not None, "checked by `learn`"
        if self.reuses_samples or self.separate_critic or any(map(self._overrides, _OF_A_SPAN)):
            return
        buffer, n_updates = self.rollout_buffer, n_unwatched(self, run, self._logger)
        env = compiled_env(self.env) if n_updates else None
        if env is None or env.normalizer is not None or self.on_epoch is not None or not self.has_critic:
            return
        if type(buffer) not in OURS.values() or buffer.buffer_size != self.n_steps or buffer.n_envs != self.n_envs:
            return
        assert isinstance(buffer, EstimatorMixin), "as all of `OURS`"
        if buffer.estimator != self.estimate or not _BUFFERS_METHODS.isdisjoint(vars(buffer)):
            return
        engine, loop = self._engine, self.loop_into(buffer, env)
        # Now that the buffer is full, it is asked whether it can learn.
        if loop is None or engine is not self._engine:
            return
        self._lazy_log.clear()
        first_step, total = self.num_timesteps, run.total_timesteps
        parts = SpanParts(
            env=env,
            loop=loop,
            statistics=self.episode_statistics,
            generator=self.action_generator(),
            coefficients=lambda number: self.coefficients(number, first_step, total),
        )
        if not advance(self, run, parts, n_updates):
            self.train()  # raises the error

    def loop_into(self, buffer: EstimatorMixin, env: CompiledEnv) -> CompiledLoop | None:
        """Rollouts and updates in compiled code, if they would be those of this agent.

        Args:
            buffer: A buffer of one rollout, which the loop fills.
            env: The agent's environment.
        """
        make, loss = getattr(self._engine, "loop", None), self.loss()
        if make is None or env.successes() is not None or any(map(self._overrides, _OF_A_LOOP)):
            return None
        if self.translation is not None:
            return None
        if self.use_sde:
            return None  # its noise is the policy's, which draws it before and in a rollout
        if loss.objective.coefficients or loss.penalty is not None or loss.value_clip is not None:
            return None
        if loss.scale != 1 or self.reuses_samples:
            return None
        loop: CompiledLoop = make(env, buffer, loss, gamma=self.gamma, gae_lambda=self.gae_lambda)
        return loop

    def coefficients(self, n_updates: int, first_step: int, total_timesteps: int) -> np.ndarray:
        """Learning rate, `ent_coef` and `vf_coef` of the next updates, `(3, n_updates)`.

        Args:
            n_updates: Number of updates.
            first_step: Steps before the rollout of the first of them.
            total_timesteps: Of the training.
        """
        found = np.empty((3, n_updates))
        schedules = self.lr_schedule, self.ent_coef, self.vf_coef
        constant = all(constant_value(one) is not None for one in schedules)
        for update in range(1 if constant else n_updates):
            steps = first_step + (update + 1) * self.n_steps * self.n_envs
            self._update_current_progress_remaining(steps, total_timesteps)
            rate = value_of("learning_rate", self.lr_schedule, self._current_progress_remaining)
            found[:, update] = rate, self.coefficient("ent_coef"), self.coefficient("vf_coef")
        if constant:
            found[:] = found[:, :1]
        return found

    @classmethod
    def resume(
        cls, folder: str | pathlib.Path, env: Env = None, *, device: th.device | str = "auto", **given: Any
    ) -> Self:
        """The agent of a run with a `Checkpoint`, in the state of the newest whole checkpoint; `learn_on` goes on.

        No code from the folder is run. The agent is made from its arguments, and the environment from registered ids.

        Args:
            folder: Folder of the run.
            env: The environment, like the one of the run; None to make it again, where that is possible.
            device: Torch device of the policy.
            **given: Constructor arguments that a file cannot hold, such as a function as `learning_rate`, or that are
                to change.

        Raises:
            TypeError: A keyword is not an argument of the constructor.
            FileNotFoundError: There is no whole checkpoint; the message says what was tried.
            ValueError: The checkpoint is of another class, or the environment or an argument has to be given, or the
                environment does not go on as the one of the run did.

        Warns:
            UserWarning: A damaged checkpoint is skipped.
        """
        agent, interrupted = resumed(cls, folder, env, device, given)
        agent.interrupted, agent._prior_on_device = interrupted, (None, None)
        return agent

    def make_parts(self, stored: Mapping[str, Any]) -> None:
        """Make the attributes that a stored state goes into, where they are made only when needed.

        Args:
            stored: The states of the attributes, by name.
        """

    def learn_on(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | Default | None = DEFAULT,
        progress_bar: bool = False,
    ) -> Self:
        """Go on with the training that `resume` has read, as if it had not been interrupted.

        Args:
            total_timesteps: Steps at which it ends, those before the checkpoint included; by default as in the
                interrupted `learn`. Schedules end there.
            callback: The callbacks of that `learn` again, of the same classes in the same order; they get their
                counters back. The `Checkpoint` is made again. An empty list goes on without the others.
            log_interval: Log every so many updates; by default as in that `learn`.
            progress_bar: Show a progress bar.

        Returns:
            The agent itself.

        Raises:
            ValueError: The agent does not come from `resume`, the end is before that of the interrupted `learn`, or
                callbacks are missing.
        """
        interrupted = interrupted_run(self)
        if total_timesteps is not None:
            self._schedules_end = None
        with threads.for_policy(self.policy), deferrable(), explained(self.env), announced(self.verbose):
            self._engine_in_use = self._make_engine(self.loss())
            self._lazy_log.clear()
            run = prepared(self, interrupted, total_timesteps, callback, log_interval, progress_bar)
            if interrupted.records_hyperparameters:
                record_hyperparameters(self, constructor_arguments(type(self)))
            with in_progress(self, run):
                self._updates(run)
        self._lazy_log.write(self._logger)
        return self

    is_collecting = False
    """Whether a rollout is being collected: then nobody else may take steps in the environment."""

    made_anew: ClassVar[frozenset[str]] = frozenset(
        (
            "is_collecting",
            *("_engine_in_use", "_engine_buffer", "_predictor_of", "_prior_on_device", "_unlogged", "on_epoch"),
            *("current_run", "interrupted", "as_made", "_translation_of"),
        )
    )
    """Attributes that are made anew when they are needed, so that no file and no checkpoint has them."""

    def _check_ends(self) -> None:
        """Warn of episodes that do not end, or whose end `Monitor` does not see."""
        statistics, env = self.episode_statistics, self.env
        statistics.check_ends(self.num_timesteps)
        if not statistics.looks_at_monitor or statistics.n_finished < MANY:
            return
        statistics.looks_at_monitor = False
        assert env is not None, "checked by `learn`"
        if self.ep_info_buffer:
            return
        monitored = [False]
        with suppress(Exception):  # of environments that cannot say; a training does not end because of a warning
            monitored = env.env_is_wrapped(Monitor)
        if monitored[0]:
            warnings.warn(
                "Episodes end, but `Monitor` reports none, and there is no `rollout/ep_rew_mean`. It must be outside "
                "the wrapper that ends them: Monitor(TimeLimit(env, ...)).",
                stacklevel=2,
            )

    def _begin_episodes(self) -> None:
        """Reset the environment, and begin new episodes."""
        assert self.env is not None, "checked by `learn`"
        statistics = Statistics(self.env)
        self._last_obs = statistics.watched(self.env.reset)()
        statistics.check(self.num_timesteps)
        check_observations(self._last_obs, self.observation_space, self.n_envs, self.num_timesteps)
        self._last_episode_starts = np.ones((self.n_envs,), dtype=bool)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        self._in_mid_episode = False
        self.episode_statistics.running[:] = 0

    @property
    def collects_itself(self) -> bool:
        """Whether `learn` collects rollouts in this process, into the agent's own buffer."""
        return True

    def rollout(self, callback: MaybeCallback = None) -> SB3RolloutBuffer:
        """Collect one rollout without learning from it; `train` does that.

        The first call begins with new episodes, as `learn` does; the next ones go on where the last ended.

        Args:
            callback: As for `learn`.

        Returns:
            The agent's rollout buffer, filled, with advantages and returns.
        """
        assert self.env is not None, f"This {type(self).__name__} has no environment: call `set_env`."
        if not hasattr(self, "_logger"):
            _, prepared = self._setup_learn(self.n_steps * self.n_envs, callback)
        else:
            prepared = self._init_callback(callback)
        if self._last_obs is None:
            self._begin_episodes()
        self._renew_buffer()
        with threads.for_policy(self.policy), explained(self.env), announced(self.verbose):
            self.collect_rollouts(self.env, prepared, self.rollout_buffer, self.n_steps)
        return self.rollout_buffer

    def roll_episodes(
        self,
        env: VecEnv,
        n_episodes: np.ndarray,
        *,
        deterministic: bool = True,
        max_episode_steps: float = np.inf,
    ) -> list[tuple[float, int]] | None:
        """Play whole episodes in compiled code, from a reset on.

        Args:
            env: The environments, copies of a world.
            n_episodes: `(n_envs,)`, the number of episodes of each.
            deterministic: The most probable actions, not drawn ones.
            max_episode_steps: An episode with more steps is an error.

        Returns:
            Return and length of each episode, in the order of their ends; None, and nothing is done, if environment or
            policy are not served.

        Raises:
            EndlessEpisodeError: An episode does not end.
            NotFiniteError: An observation, a reward or the policy's output is not finite; the message names the
                environment and the step.
        """
        parts = compiled_env(env)
        same = (env.observation_space, env.action_space) == (self.observation_space, self.action_space)
        if parts is None or not parts.copies.address or not same or not self._acts_as_policy:
            return None
        play = getattr(self._engine, "episodes", None)
        if play is None:
            return None
        # As `predict`, it depends on torch's generator, and not on the training's.
        generator = np.random.default_rng(None if deterministic else int(th.randint(2**62, ())))
        statistics = Statistics(env)
        first = statistics.watched(env.reset)()
        statistics.check(0)
        limits = {"deterministic": deterministic, "max_episode_steps": max_episode_steps}
        episodes: list[tuple[float, int]] = play(self.policy, parts, first, n_episodes, generator, **limits)
        return episodes

    # The four slots

    @property
    def collector_class(self) -> type[Collector]:
        """Collects the rollouts: steps, whole episodes (`n_episodes`), or groups of them (`group_size`)."""
        if self.n_episodes is None:
            return Collector
        return EpisodeCollector if self.group_size is None else GroupCollector

    @property
    def _acts_as_policy(self) -> bool:
        """Whether the environment has the policy's spaces, and takes its actions as they are or clipped."""
        return self.translation is None and not self._overrides("environment_actions")

    def _rolling_collector(self, env: VecEnv) -> type[Collector] | None:
        """The collector with the results of `collector_class` whose steps are compiled, if there is one."""
        if not self._acts_as_policy or compiled_env(env) is None:
            return None
        return {
            Collector: RollingCollector,
            EpisodeCollector: RollingEpisodeCollector,
            GroupCollector: RollingGroupCollector,
        }.get(self.collector_class)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: SB3RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """First slot: act in the environment and fill the buffer, advantages included.

        Collects `n_rollout_steps` from each environment, or `n_episodes` whole episodes from each where the agent
        was built so. Callbacks find the local variables of SB3's loop.

        Returns:
            False if the callback stopped the training.

        Raises:
            ValueError: An observation or a reward is not finite or does not match its space, or an episode that
                should be whole does not end.
        """

        def on_filled() -> None:
            self.is_collecting = False
            if _has_samples(rollout_buffer):
                stored = rollout_buffer.advantages, rollout_buffer.actions
                trained_on = getattr(rollout_buffer, "trained_on", None)
                self._lazy_log.add("rollout", partial(rollout_metrics, *stored, trained_on, self.policy))

        setting = Setting(
            # A buffer that is not the agent's own can be of any kind.
            engine=(lambda: self._engine) if rollout_buffer is self.rollout_buffer else AutogradEngine,
            generator=self.action_generator,
            statistics=self.episode_statistics,
            bootstraps=self.has_critic,
            to_environment=None if self._acts_as_policy else self.environment_actions,
            to_policy=None if self.translation is None else self.translation.observations,
            max_episode_steps=self.max_episode_steps,
            group_size=self.group_size or 1,
            on_filled=on_filled,
            mid_episode=self._in_mid_episode,
            note_mid_episode=partial(setattr, self, "_in_mid_episode"),
        )
        own_buffer = rollout_buffer is self.rollout_buffer and isinstance(rollout_buffer, EstimatorMixin)
        collector = (self._rolling_collector(env) if own_buffer else None) or self.collector_class
        collects = collector(self, setting, env, callback, rollout_buffer, n_rollout_steps)
        self.is_collecting = True
        try:
            return collects.collect()
        finally:
            self.is_collecting = False

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """Second slot: how good was each action, and what should the critic have said?

        Here generalised advantage estimation, with Â + V as the critic's target. Called twice on one rollout, it
        gives the same answer: an estimator that learns does so in `update`.

        Args:
            rollout: Rewards, values and ends, as arrays of shape `(T, N)`.

        Returns:
            Advantages and returns, of the same shape.
        """
        advantages = gae(rollout.td_errors(self.gamma), rollout.ends, self.gamma, self.gae_lambda)
        return advantages, advantages + rollout.values

    def objective(self) -> Objective:
        """Third slot: the quantity to maximise, one number per sample, with the coefficients of this moment."""

        def undefined(batch: Minibatch) -> th.Tensor:
            raise NotImplementedError(f"{type(self).__name__} does not say what it maximises: define `objective`.")

        return Objective(undefined)

    def update(self, loss: Loss) -> Summary:
        """Fourth slot: move the parameters; here epochs over minibatches of a first-order optimiser.

        Args:
            loss: Minimised on the rollout buffer.

        Raises:
            NotFiniteError: A parameter, the loss or its gradient is not finite; the parameters are those before that
                step.
        """
        batches = Batches(self.n_epochs, self.batch_size)
        return self._engine_for(loss).update(self.policy, self.rollout_buffer, loss, batches, self.on_epoch)

    def train(self) -> None:
        """Make one `update` from the rollout buffer, and log it."""
        buffer = self.rollout_buffer
        if not _has_samples(buffer):
            return
        # Taken now, because engines may reorder the buffer's arrays. Transposed, to add up in SB3's order.
        values, returns = buffer.values.T, buffer.returns.T
        trained_on = getattr(buffer, "trained_on", None)
        samples = ... if trained_on is None else trained_on.T
        self._update_learning_rate(self.policy.optimizer)
        loss = self.loss(self.loss_scale)
        try:
            summary = self.update(loss)
        except NotFiniteError as error:
            self._n_updates += error.n_epochs
            estimated = {"advantages": buffer.advantages, "returns": buffer.returns}
            wrong = [f"`{name}`" for name, values in estimated.items() if not np.isfinite(values).all()]
            source = f"`estimate` has made {' and '.join(wrong)} that are not finite. " if wrong else ""
            raise FloatingPointError(
                f"{error} in the update after {self.num_timesteps} steps, so it was not applied: the parameters are "
                f"those before it. {source}Rewards or observations of very large size, or too large a `learning_rate`, "
                "are the usual causes; VecNormalize scales both."
            ) from None
        self._n_updates += summary.n_epochs
        if summary.stopped_by is not None and self.verbose >= 1:
            print(f"Early stopping at step {summary.n_epochs - 1} due to reaching max kl: {summary.stopped_by:.2f}")

        _, prior = self._prior_on_device  # that of this update, whenever the log is read

        def metrics() -> dict[str, float]:
            found = summary.metrics()
            if "policy_loss" in found:
                found[self.policy_loss_name] = found.pop("policy_loss")
            if self.has_critic:
                found["explained_variance"] = explained_variance(values[samples].flatten(), returns[samples].flatten())
            found |= loss.objective.settings
            if loss.penalty is not None:
                kind = "prior" if loss.penalty.reference is prior else "reference"
                if "reference_kl" in found:
                    found[f"{kind}_kl"] = found.pop("reference_kl")
                found["kl_coef" if kind == "reference" else "prior_kl_coef"] = loss.penalty.kl_coef
            return found if loss.value_clip is None else {**found, "clip_range_vf": loss.value_clip}

        self._lazy_log.add("train", metrics)
        self._logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # Parts of the slots

    def loss(self, scale: float = 1.0) -> Loss:
        """The loss with the coefficients of this moment.

        Args:
            scale: Factor of the whole loss.
        """
        objective = self.objective()
        if not isinstance(objective, Objective):
            raise TypeError(
                f"`objective` of {type(self).__name__} must return an Objective(value, weight), but returned "
                f"{objective!r}."
            )

        def metrics(batch: Minibatch) -> dict[str, th.Tensor]:
            found = {name: metric(batch, *objective.coefficients) for name, metric in objective.metrics.items()}
            return found | self.minibatch_metrics(batch)

        return Loss(
            objective=objective,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
            value_clip=self.value_clip(),
            trains_critic=self.has_critic,
            scale=scale,
            normalize_advantage=self.normalize_advantage,
            max_grad_norm=self.max_grad_norm,
            tracks_kl=self.reuses_samples,
            max_kl=None if self.target_kl is None else 1.5 * self.target_kl,
            value_prediction=self.value_prediction if self._overrides("value_prediction") else None,
            metrics=metrics,
            penalty=self.penalty(),
        )

    def penalty(self) -> Penalty | None:
        """The price of moving away from a reference policy, here `prior_kl_coef` KL(π || π_prior); None for none."""
        if self.prior is None:
            return None
        return Penalty(self._prior, self.coefficient("prior_kl_coef"), self.prior_kl_estimator)

    # The `prior`, and the same on the policy's device. `prior` stays on the CPU, so that files load everywhere.
    _prior_on_device: tuple[Any, ActorCriticPolicy | None] = None, None

    @property
    def _prior(self) -> ActorCriticPolicy:
        """The prior on the policy's device; `prior` may have been replaced."""
        known, here = self._prior_on_device
        return self._take_prior() if here is None or self.prior is not known else here

    def _take_prior(self) -> ActorCriticPolicy:
        """Replace `prior` by a frozen copy of the policy that it stands for."""
        prior = frozen_policy(self.prior)
        check_prior(prior, self.policy, self.prior_kl_estimator)
        here = prior if self.policy.device.type == "cpu" else deepcopy(prior).to(self.policy.device)
        self.prior, self._prior_on_device = prior, (prior, here)
        return here

    def value_clip(self) -> float | None:
        """How far the value may move from that of the rollout in the value loss; None for no limit."""
        return None

    def value_prediction(self, batch: Minibatch) -> th.Tensor:
        """The prediction that the value loss compares with the returns: V, or V_old + clip(V - V_old, -ε_v, ε_v)."""
        return predicted_values(batch, self.value_clip())

    def minibatch_metrics(self, batch: Minibatch) -> dict[str, th.Tensor]:
        """Further quantities of each sample, `(batch,)`, whose mean over minibatches is logged as `train/<name>`.

        The compiled engine calls this when the log is read: coefficients that change belong into the objective's
        `metrics`, which are given those of the update.
        """
        return {}

    def environment_actions(self, actions: np.ndarray) -> np.ndarray:
        """The policy's actions as the environment takes them: unscaled if squashed, else clipped; in its own space."""
        sent = environment_actions(self.policy, actions)
        return sent if self.translation is None else self.translation.actions(sent)

    @property
    def reuses_samples(self) -> bool:
        """Whether the policy moves while it is trained on one rollout: then its KL divergence from the old counts."""
        return self.n_epochs > 1 or self.batch_size is not None

    @property
    def loss_scale(self) -> float:
        """Turns the mean over samples into the sum over each episode's steps, where whole episodes are collected."""
        return self.rollout_buffer.mean_length if isinstance(self.rollout_buffer, EpisodeMixin) else 1

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """Draw hyperparameters for `pg-zoo tune` from the class's `search` and those of its parents.

        Args:
            trial: The Optuna trial to draw from.
            observation_space: Of one environment, before normalisation.
            action_space: Of one environment.

        Returns:
            The content of an entry of a hyperparameter file, except `n_timesteps` and `policy`.
        """
        return tuning.draw(tuning.search_of(cls), trial, observation_space, action_space)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        rate = value_of("learning_rate", self.lr_schedule, self._current_progress_remaining)
        self._logger.record("train/learning_rate", rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, rate)
        if self.separate_critic and self.value_learning_rate is not None:
            schedule = FloatSchedule(self.value_learning_rate)
            rate = value_of("value_learning_rate", schedule, self._current_progress_remaining)
            self.policy.optimizer.param_groups[1]["lr"] = rate
            self._logger.record("train/value_learning_rate", rate)


# The methods that a compiled loop carries out in its own way, and the others of a span.
_OF_A_LOOP = ("train", "estimate", "loss", "environment_actions", "value_prediction", "minibatch_metrics")
_BUFFERS_METHODS = frozenset(
    {"reset", "record", "add", "get", "draw_order", "compute_returns_and_advantage", "rollout"}
)
_OF_A_SPAN = (
    *("collect_rollouts", "update", "dump_logs", "coefficient", "coefficients", "action_generator", "collector_class"),
    *("_update_current_progress_remaining", "_update_learning_rate", "_engine_for"),
)


def _has_samples(buffer: SB3RolloutBuffer) -> bool:
    """Whether there is a step to train on; there is none in a short rollout of nothing but resets."""
    trained_on = getattr(buffer, "trained_on", None)
    return trained_on is None or bool(trained_on.any())
