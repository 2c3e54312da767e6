"""`PolicyGradient`: the one loop that every algorithm of this package shares, with the four slots that it fills.

Every policy-gradient algorithm is `θ += α Σ_i ψ_i ∇ log π(a_i|s_i)` (+ entropy, + regression of the value), and
differs in four answers:

| slot                 | question                                  |
|----------------------|-------------------------------------------|
| `collect_rollouts`   | which experience?                         |
| `estimate`           | how good was each action?                 |
| `objective`          | which scalar of log π is maximised?       |
| `train`              | how do the parameters move?               |

A subclass declares the one that differs and inherits the others.
"""

from __future__ import annotations

import io
import pathlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.buffers import DictRolloutBuffer as SB3DictRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, safe_mean, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from pg_agents import registry, search
from pg_agents.buffers import (
    DictEpisodeBuffer,
    DictRolloutBuffer,
    EpisodeBuffer,
    EpisodeMixin,
    EstimatorMixin,
    Rollout,
    RolloutBuffer,
)
from pg_agents.checks import (
    LARGEST,
    check_finite,
    check_keywords,
    check_number,
    check_observations,
    constructor_arguments,
    explained,
)
from pg_agents.engines import Engine, check_engine, make_engine
from pg_agents.engines.autograd import AutogradEngine, Minibatch
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.stepping import adapter_of, stepper
from pg_agents.estimators import Floats, gae
from pg_agents.metrics import is_one_of_many, record_hyperparameters, rollout_metrics
from pg_agents.objectives import Weight, clipped_values
from pg_agents.policies import ACTOR_CRITIC_POLICIES, STATE_DEPENDENT_STD, ZeroValue, critic_parameters

if TYPE_CHECKING:
    from optuna import Trial

Env = GymEnv | VectorEnv[Any, Any, Any] | str | None

_ACTION_STREAM = 0x7067
SMALL_LAYER = 2**18  # numbers; larger ones gain from several threads


class CommonArguments(TypedDict, total=False):
    """The constructor arguments that all algorithms share and hand on as they are; see `PolicyGradient`.

    A2C and PPO spell theirs out all the same: that they take SB3's arguments by position is part of their contract.
    """

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
    _init_setup_model: bool


class PolicyGradient(OnPolicyAlgorithm):
    """Base of all algorithms: an SB3 `OnPolicyAlgorithm` whose loop has four slots.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a policy class.
        env: A Gymnasium environment, single or vector, an SB3 `VecEnv`, or a registered id.
        learning_rate: Step size of the optimiser; a number or a function of the progress remaining (1 to 0).
        gamma: Discount factor.
        n_steps: Steps per environment and update, when steps are collected.
        n_episodes: Whole episodes per environment and update, instead of `n_steps`.
        gae_lambda: λ of generalised advantage estimation, the default of the `estimate` slot.
        value_learning_rate: Step size for the parameters that only the value depends on, in a class with
            `separate_critic`; None for `learning_rate`.
        ent_coef: Coefficient of the entropy bonus; a number or a schedule.
        vf_coef: Coefficient of the value loss; a number or a schedule.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        n_epochs: Passes over the rollout per update.
        batch_size: Minibatch size; None takes the whole rollout at once.
        normalize_advantage: Shift and scale each minibatch's advantages to mean 0 and standard deviation 1.
        target_kl: Stop an update early when the KL divergence from the old policy exceeds 1.5 times this.
        engine: What acts and learns: `"mlp"` (compiled, for MLP policies on the CPU), `"autograd"` (torch, for all),
            or `"auto"` for the first where it serves this agent, else the second.
        use_sde: Generalised state-dependent exploration instead of independent action noise (Box actions).
        sde_sample_freq: Draw new gSDE noise every so many steps; -1: at the start of each rollout only.
        rollout_buffer_class: Buffer class; None chooses by the observation space.
        rollout_buffer_kwargs: Its further keyword arguments.
        stats_window_size: Number of episodes that `rollout/` means are taken over.
        tensorboard_log: Folder for TensorBoard; None writes none.
        monitor_wrapper: Wrap a single environment in SB3's `Monitor`.
        policy_kwargs: Keyword arguments of the policy. `state_dependent_std=True` makes σ of a Gaussian policy an
            output of its network.
        verbose: 0 prints nothing, 1 progress, 2 debugging information.
        seed: Seed of all random generators.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        _init_setup_model: Build the networks now.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: An argument is out of range.
        AssertionError: The action space is not supported (in SB3's words).
    """

    policy_aliases = ACTOR_CRITIC_POLICIES
    has_critic = True
    separate_critic = False  # whether what only the value depends on may have a step size of its own
    policy_loss_name = "policy_loss"  # in the log; SB3 has two names for it
    settled = frozenset({"policy"})  # arguments that a saved agent cannot change
    added_policy_kwargs: frozenset[str] = frozenset()  # what the constructor adds to `policy_kwargs` by itself
    # Nothing is learnt from an episode before its end, so one that never ends must not go unnoticed.
    max_episode_steps = 100_000

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the keywords' names before anything else is done."""
        check_keywords(cls, CommonArguments, kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Env,
        *,
        learning_rate: float | Schedule,
        gamma: float,
        n_steps: int = 512,
        n_episodes: int | None = None,
        gae_lambda: float = 1.0,
        value_learning_rate: float | Schedule | None = None,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.0,
        max_grad_norm: float | None = None,
        n_epochs: int = 1,
        batch_size: int | None = None,
        normalize_advantage: bool = False,
        target_kl: float | None = None,
        engine: str = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[SB3RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        monitor_wrapper: bool = True,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        registry.find_env(env)
        # A copy: what algorithms and policies add must not show up in the caller's own dictionary.
        policy_kwargs = dict(policy_kwargs or {})
        state_dependent_std = policy_kwargs.pop("state_dependent_std", False)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type] # None is what `load` passes
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,  # type: ignore[arg-type]
            vf_coef=vf_coef,  # type: ignore[arg-type]
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            monitor_wrapper=monitor_wrapper,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.n_episodes = n_episodes
        if self.separate_critic:
            self.value_learning_rate = value_learning_rate
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.engine = engine
        self._in_mid_episode = False
        self._n_threads = 1
        if state_dependent_std:
            self.policy_class = _with_state_dependent_std(self.policy_class)
        if _init_setup_model:
            self._setup_model()

    # Setting up

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """SB3's, which also takes Gymnasium's vector environments."""
        if isinstance(env, VectorEnv):
            env = VectorEnvAdapter(env)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _check_arguments(self) -> None:
        """Refuse arguments out of range; also after loading."""
        check_number("n_steps", self.n_steps, at_least=1, integer=True)
        check_number("n_episodes", self.n_episodes, at_least=1, integer=True, optional=True)
        check_number("n_epochs", self.n_epochs, at_least=1, integer=True)
        check_number("batch_size", self.batch_size, at_least=1, integer=True, optional=True)
        check_number("learning_rate", self.learning_rate, at_least=0, schedule=True)
        if self.separate_critic:
            check_number("value_learning_rate", self.value_learning_rate, at_least=0, optional=True, schedule=True)
        check_number("gamma", self.gamma, at_least=0, at_most=1)
        check_number("gae_lambda", self.gae_lambda, at_least=0, at_most=1)
        check_number("ent_coef", self.ent_coef, at_least=0, schedule=True)
        check_number("vf_coef", self.vf_coef, at_least=0, schedule=True)
        check_number("max_grad_norm", self.max_grad_norm, above=0, infinite=True, optional=True)
        check_number("target_kl", self.target_kl, above=0, optional=True)
        check_number("stats_window_size", self._stats_window_size, at_least=1, integer=True)
        if self.normalize_advantage and self.n_episodes is None:
            n_envs = getattr(self, "n_envs", 2)  # not known yet for a model built without an environment
            assert self.n_steps * n_envs > 1, (
                f"`n_steps * n_envs` must be greater than 1. Currently n_steps={self.n_steps} and n_envs={n_envs}"
            )

    def _setup_model(self) -> None:
        self._check_arguments()
        self._engine_in_use = None
        named = self.rollout_buffer_class or self._default_buffer_class()
        self._check_buffer_class(named)
        # SB3's own buffer classes are what a file names, so that it loads in SB3; ours, derived from them, are used.
        self.rollout_buffer_class = _OUR_BUFFERS.get(named, named)
        super()._setup_model()
        self.rollout_buffer_class = named
        if self.has_critic and isinstance(getattr(self.policy, "value_net", None), ZeroValue):
            raise ValueError(
                f"{type(self).__name__} learns a value function, but its policy {self.policy_class.__name__} has none."
            )
        if self.separate_critic:
            self._separate_critic()
        if isinstance(self.rollout_buffer, EstimatorMixin):
            self.rollout_buffer.estimator = self.estimate
        if isinstance(self.rollout_buffer, EpisodeMixin):
            assert self.n_episodes is not None
            self.rollout_buffer.n_episodes = self.n_episodes
        self._episode_returns = np.zeros(self.n_envs)
        self._raw_returns: deque[float] = deque(maxlen=self._stats_window_size)
        check_engine(self.engine, self)

    def _separate_critic(self) -> None:
        """Give the optimiser two groups of parameters, also where they move alike, so that `load` may change that."""
        policy = self.policy
        critic = critic_parameters(policy)
        actor = [parameter for parameter in policy.parameters() if all(parameter is not other for other in critic)]
        # Not with the old optimiser's `defaults`: some optimisers (AdamW) have defaults that they do not take.
        policy.optimizer = policy.optimizer_class(
            [{"params": actor}, {"params": critic}],
            lr=self.lr_schedule(1),  # type: ignore[call-arg]
            **policy.optimizer_kwargs,
        )

    def _default_buffer_class(self) -> type[SB3RolloutBuffer]:
        if isinstance(self.observation_space, spaces.Dict):
            return SB3DictRolloutBuffer if self.n_episodes is None else DictEpisodeBuffer
        return SB3RolloutBuffer if self.n_episodes is None else EpisodeBuffer

    def _check_buffer_class(self, named: type[SB3RolloutBuffer]) -> None:
        estimates_itself = named not in _OUR_BUFFERS and not issubclass(named, EstimatorMixin)
        if estimates_itself and type(self).estimate is not PolicyGradient.estimate:
            raise ValueError(
                f"`rollout_buffer_class` is {named.__name__}, but must derive from pg_agents.buffers.RolloutBuffer or "
                f"DictRolloutBuffer, because {type(self).__name__} has its own way to estimate advantages."
            )
        if self.n_episodes is not None and not issubclass(named, EpisodeMixin):
            raise ValueError(
                f"`rollout_buffer_class` is {named.__name__}, but must derive from pg_agents.buffers.EpisodeBuffer or "
                f"DictEpisodeBuffer, because {type(self).__name__} learns from whole episodes."
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_engine_in_use", "_own_generator", "_unlogged", "_on_epoch"]

    def __getstate__(self) -> dict[str, Any]:
        """What `copy` and `pickle` take along: not the engine, which holds addresses and is made anew, nor watchers."""
        self._log_unlogged()
        of_this_process = "_engine_in_use", "_unlogged", "_on_epoch"
        return {name: value for name, value in vars(self).items() if name not in of_this_process}

    # The engine, and what it needs

    _engine_in_use: Engine | None = None
    # For diagnostics: what engines call before each epoch of an update.
    _on_epoch: Callable[[], None] | None = None
    _own_generator: np.random.Generator | None = None

    @property
    def _engine(self) -> Engine:
        """What acts and learns, chosen anew for each `learn` and whenever the policy is replaced."""
        if self._engine_in_use is None or not self._engine_in_use.fits(self):
            self._engine_in_use = make_engine(self.engine, self)
        return self._engine_in_use

    @property
    def _generator(self) -> np.random.Generator:
        """What the compiled engine draws actions from."""
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

    _unlogged: Mapping[str, Callable[[], dict[str, float]]] = MappingProxyType({})

    @property
    def logger(self) -> Logger:
        """SB3's logger, complete: what costs time to know is worked out when somebody looks."""
        self._log_unlogged()
        return self._logger

    def _log_unlogged(self) -> None:
        unlogged, self._unlogged = self._unlogged, {}
        for prefix, metrics in unlogged.items():
            for name, value in metrics().items():
                exclude = "stdout" if is_one_of_many(name) else None
                self._logger.record(f"{prefix}/{name}", value, exclude=exclude)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self._episode_returns = np.zeros(self.n_envs)
            self._raw_returns = deque(maxlen=self._stats_window_size)
            self._in_mid_episode = False
        try:
            prepared = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        except (ValueError, KeyError, TypeError) as error:
            raise explained(error, self.observation_space, self.num_timesteps)  # noqa: B904 - the cause is set there
        check_observations(self._last_obs, self.observation_space, self.n_envs, self.num_timesteps)
        self._engine_in_use = make_engine(self.engine, self)
        self._unlogged = {}
        record_hyperparameters(self, constructor_arguments(type(self), CommonArguments) or [])
        return prepared

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a file that `save` has written, here or in SB3. It is unpickled: load only files that you trust.

        Args:
            path: The file, with or without `.zip`.
            env: The environment to go on training in; not needed to predict.
            device: Where to.
            custom_objects: Instead of what the file holds under these names.
            print_system_info: Print the versions with which the file was written, and those of today.
            force_reset: Begin with a new episode.
            **kwargs: Constructor arguments to change.

        Raises:
            TypeError: A keyword is not an argument of the constructor.
            ValueError: An argument cannot change any more.
        """
        check_keywords(cls, CommonArguments, kwargs)
        for name in cls.settled & kwargs.keys():
            raise ValueError(f"`{name}` cannot be changed on loading, because what is in the file depends on it.")
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        policy_kwargs = kwargs.pop("policy_kwargs", None)
        agent = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if policy_kwargs is not None:
            agent._check_same_policy(policy_kwargs)
        return agent

    def _check_same_policy(self, policy_kwargs: dict[str, Any]) -> None:
        """SB3's check, of arguments as they were given to the constructor, which may have changed them since."""
        given = dict(policy_kwargs)
        has_own_std = self.policy_class in STATE_DEPENDENT_STD.values()
        same_std = bool(given.pop("state_dependent_std", has_own_std)) == has_own_std
        added = {name: self.policy_kwargs[name] for name in self.added_policy_kwargs if name in self.policy_kwargs}
        if not same_std or {**added, **given} != self.policy_kwargs:
            raise ValueError(
                f"The specified policy kwargs do not equal the stored policy kwargs."
                f"Stored kwargs: {self.policy_kwargs}, specified kwargs: {policy_kwargs}"
            )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train.

        Ctrl-C raises `KeyboardInterrupt` here and leaves a model that can be saved and trained on.

        Args:
            total_timesteps: Environment steps to take, over all environments; the last rollout is completed.
            callback: One callback, a list of them, or a function of `(locals, globals)`.
            log_interval: Log every so many updates; None never logs.
            tb_log_name: Name of the run in TensorBoard; by default the class's name.
            reset_num_timesteps: Count steps from 0 again, and begin with new episodes.
            progress_bar: Show a progress bar.

        Returns:
            The agent itself.
        """
        assert self.env is not None, (
            f"This {type(self).__name__} has no environment: give `load(..., env=...)` one, or call `set_env`."
        )
        tb_log_name = type(self).__name__ if tb_log_name is None else tb_log_name
        with self._few_threads():
            super().learn(
                total_timesteps,
                callback,
                log_interval,  # type: ignore[arg-type] # SB3 takes None too
                tb_log_name,
                reset_num_timesteps,
                progress_bar,
            )
        self._log_unlogged()
        return self

    @contextmanager
    def _few_threads(self) -> Iterator[None]:
        """One thread for torch where networks are small: more would wait for each other longer than they compute."""
        before = self._n_threads = th.get_num_threads()
        # A convolution has few parameters and much to compute.
        small = self.device.type == "cpu" and all(
            parameter.numel() <= SMALL_LAYER and parameter.dim() <= 2 for parameter in self.policy.parameters()
        )
        if small and before > 1:
            th.set_num_threads(1)
        try:
            yield
        finally:
            if small and before > 1:
                th.set_num_threads(before)

    # The four slots

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: SB3RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """First slot: act in the environment and fill the buffer, advantages included.

        Collects `n_rollout_steps` from each environment, or `n_episodes` whole episodes from each where the agent
        was built so. Local variables have the names that SB3's callbacks read.

        Returns:
            False if the callback stopped the training.

        Raises:
            ValueError: An observation or a reward is not finite or does not match its space, or an episode that
                should be whole does not end.
        """
        assert self._last_obs is not None, "No previous observation was provided"
        n_steps, n_envs = 0, env.num_envs
        rollout_buffer.reset()
        whole_episodes = self.n_episodes is not None
        length_limit = self.max_episode_steps if whole_episodes else np.inf
        began = np.zeros(n_envs, dtype=int)
        if whole_episodes:
            self._begin_episodes(env)
        if self.use_sde:
            self.policy.reset_noise(n_envs)
        callback.on_rollout_start()
        # A buffer that is not the agent's own can be of any kind.
        engine = self._engine if rollout_buffer is self.rollout_buffer else AutogradEngine()
        act, step, native = engine.actor(self), stepper(env), adapter_of(env)
        knows_ends = isinstance(rollout_buffer, EstimatorMixin)
        if native is not None and not knows_ends:
            raise ValueError(
                f"The vector environment resets in steps of their own, which {type(rollout_buffer).__name__} cannot "
                "leave out of training: `rollout_buffer_class` must derive from pg_agents.buffers.RolloutBuffer."
            )
        # SB3's stand-in for no callback does nothing and shows nobody the local variables.
        watched = not (type(callback) is ConvertCallback and callback.callback is None)
        policy, shape = self.policy, getattr(self._last_obs, "shape", None)

        while not rollout_buffer.full if whole_episodes else n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(n_envs)

            actions, clipped_actions = act(self._last_obs)
            try:
                new_obs, rewards, dones, infos = step(clipped_actions)
            except (ValueError, KeyError, TypeError) as error:
                raise explained(error, self.observation_space, self.num_timesteps)  # noqa: B904 - the cause is set
            self.num_timesteps += n_envs
            if not act.checks or getattr(new_obs, "shape", None) != shape:
                check_observations(new_obs, self.observation_space, n_envs, self.num_timesteps)
            # The sum shows whether one is not finite, at a tenth of NumPy's price for so few.
            if not abs(sum(np.asarray(rewards).tolist())) <= LARGEST:
                check_finite("reward", np.asarray(rewards), self.num_timesteps)

            if watched or not act.writes:
                obs_tensor, values, log_probs = act.tensors()
            if watched:
                callback.update_locals(locals())
                if not callback.on_step():
                    return False
            else:
                callback.n_calls += 1
                callback.num_timesteps = self.num_timesteps

            n_steps += 1
            starts = dones
            if native is not None and native.reset_rows.any():
                starts = dones | native.reset_rows
                rollout_buffer.add_resets(native.reset_rows)  # type: ignore[attr-defined]
            self._update_statistics(rollout_buffer, infos, dones)
            normalised = self._vec_normalize_env
            self._episode_returns += rewards if normalised is None else normalised.get_original_reward()
            if knows_ends:
                rollout_buffer.add_env_rewards(rewards)  # type: ignore[attr-defined]
            if np.count_nonzero(dones):
                began[np.asarray(dones, dtype=bool)] = n_steps
                self._end_episodes(engine, rollout_buffer, rewards, dones, infos)
            if act.writes:
                act.finish()
                rollout_buffer.store(rewards, self._last_episode_starts)  # type: ignore[attr-defined]
            else:
                rollout_buffer.add(
                    self._last_obs,  # type: ignore[arg-type]
                    actions.reshape(-1, 1) if isinstance(self.action_space, spaces.Discrete) else actions,
                    rewards,
                    self._last_episode_starts,  # type: ignore[arg-type]
                    values,
                    log_probs,
                )
            self._last_obs = new_obs
            self._last_episode_starts = starts
            if self.policy is not policy or not act.is_current():  # a callback's doing
                policy, engine = self.policy, self._engine
                act = engine.actor(self)
            if n_steps >= length_limit:
                self._check_length(n_steps - began)

        self._in_mid_episode = False
        # Nobody has acted on it yet.
        check_observations(new_obs, self.observation_space, n_envs, self.num_timesteps)
        values = engine.values(self, new_obs)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        stored = rollout_buffer.advantages, rollout_buffer.actions
        if _learns_from(rollout_buffer):
            self._log_later("rollout", partial(rollout_metrics, self, *stored, _counted(rollout_buffer)))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """Second slot: how good was each action, and what should the critic have said?

        Here generalised advantage estimation, with Â + V as the critic's target.

        Args:
            rollout: Rewards, values and ends, as arrays of shape `(T, N)`.

        Returns:
            Advantages and returns, of the same shape.
        """
        advantages = gae(rollout.td_errors(self.gamma), rollout.ends, self.gamma, self.gae_lambda)
        return advantages, advantages + rollout.values

    def objective(self, batch: Minibatch) -> th.Tensor:
        """Third slot: what is maximised, one number per sample.

        Args:
            batch: log π, old log π, advantages and the rest, as tensors of shape `(batch,)`.

        Returns:
            Tensor of shape `(batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it maximises: define `objective`.")

    def train(self) -> None:
        """Fourth slot: move the parameters; here epochs over minibatches of a first-order optimiser."""
        buffer = self.rollout_buffer
        if not _learns_from(buffer):
            return
        counted = ... if _counted(buffer) is ... else _counted(buffer).T
        # Of this moment: engines may reorder what the buffer holds. Transposed, to add up in SB3's order.
        values, returns, settings = buffer.values.T, buffer.returns.T, self.update_settings()
        self._update_learning_rate(self.policy.optimizer)
        summary, progress = self._engine.update(self), self._current_progress_remaining

        def metrics() -> dict[str, float]:
            # Schedules as they were in the update.
            now, self._current_progress_remaining = self._current_progress_remaining, progress
            try:
                found = summary()
            finally:
                self._current_progress_remaining = now
            found[self.policy_loss_name] = found.pop("policy_loss")
            if self.has_critic:
                found["explained_variance"] = explained_variance(values[counted].flatten(), returns[counted].flatten())
            return {**found, **settings}

        self._log_later("train", metrics)
        self._logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # What slots, engines and the tuner ask

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """Hyperparameters that are worth a try, for `pg-zoo tune`; here those that every algorithm has.

        A subclass adds its own to what `super().search_space(...)` gives, or replaces it.

        Args:
            trial: The Optuna trial to draw from; `pg_agents.search` has what is usual.
            observation_space: Of one environment, before normalisation.
            action_space: Of one environment.

        Returns:
            What an entry of a hyperparameter file says, except `n_timesteps` and `policy`.
        """
        return {
            "n_envs": search.power_of_two(trial, "n_envs", 1, 32),
            **search.normalisation(trial, observation_space),
            "learning_rate": search.schedule(trial, "learning_rate", 1e-5, 2e-2),
            "gamma": search.one_minus(trial, "gamma", 1e-4, 0.1),
            **search.policy(trial, action_space),
        }

    def coefficient(self, name: str) -> float:
        """The current value of an argument that may be a number or a schedule."""
        value = getattr(self, name)
        # The last rollout can end after `total_timesteps`, with a progress below 0.
        return float(value(max(self._current_progress_remaining, 0.0))) if callable(value) else value

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        if self.n_episodes is not None:
            # Whole episodes can overshoot by far; a learning rate below 0 would unlearn. (Steps: as SB3 has it.)
            self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def weight(self) -> Weight | None:
        """ψ = ∂ objective / ∂ log π in closed form, which the compiled engine needs; None leaves it to autograd.

        Whoever redefines `objective` must redefine this too, or the compiled engine is not used.
        """
        return None

    def value_clip(self) -> float | None:
        """How far the value may move from that of the rollout in the value loss; None does not limit it."""
        return None

    def value_prediction(self, batch: Minibatch) -> th.Tensor:
        """What is compared with the returns in the value loss: V, or V_old + clip(V - V_old, -ε_v, ε_v)."""
        value_clip = self.value_clip()
        return batch.values if value_clip is None else clipped_values(batch.values, batch.old_values, value_clip)

    def minibatch_metrics(self, batch: Minibatch) -> dict[str, th.Tensor]:
        """Further quantities of each sample, `(batch,)`, whose mean over minibatches is logged as `train/<name>`."""
        return {}

    def update_settings(self) -> dict[str, float]:
        """Coefficients in force in an update, to log as `train/<name>`."""
        return {}

    @property
    def reuses_samples(self) -> bool:
        """Whether the policy moves while it is trained on one rollout: then its KL divergence from the old counts."""
        return self.n_epochs > 1 or self.batch_size is not None

    @property
    def loss_scale(self) -> float:
        """Turns the mean over samples into the sum over each episode's steps, where whole episodes are collected."""
        return self.rollout_buffer.mean_length if isinstance(self.rollout_buffer, EpisodeMixin) else 1

    # Parts of the loop

    def _environment_actions(self, actions: np.ndarray) -> np.ndarray:
        """The policy's actions as the environment takes them: unscaled if squashed, else clipped."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        clipped: np.ndarray = np.clip(actions, self.action_space.low, self.action_space.high)
        return clipped

    def _end_episodes(
        self,
        engine: Engine,
        rollout_buffer: SB3RolloutBuffer,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Note which episodes ended and how; complete the reward of a time limit by the value of the state it cut."""
        terminated = np.array(dones, dtype=np.bool_)
        truncated = np.zeros_like(terminated)
        final_values = np.zeros(len(terminated), dtype=np.float32)
        waiting = _waiting(rollout_buffer)
        for index in np.flatnonzero(terminated):
            if not waiting[index]:
                self._raw_returns.append(float(self._episode_returns[index]))
            self._episode_returns[index] = 0
            cut = infos[index].get("TimeLimit.truncated", False)
            if cut and infos[index].get("terminal_observation") is not None:
                terminated[index], truncated[index] = False, True
        if self.has_critic and truncated.any():
            cut_off = np.flatnonzero(truncated)
            values = engine.final_values(self, [infos[index]["terminal_observation"] for index in cut_off])
            for index, value in zip(cut_off, values, strict=True):
                if not th.isfinite(value):
                    raise ValueError(
                        f"The value of the last observation of environment {index} is {value.item()}, after "
                        f"{self.num_timesteps} steps in all. The observation: {infos[index]['terminal_observation']}"
                    )
                final_values[index] = value
                # A tensor, as in SB3: NumPy's and torch's rounding of a float64 reward differ.
                rewards[index] += self.gamma * value
        if isinstance(rollout_buffer, EstimatorMixin):
            rollout_buffer.add_ends(terminated, truncated, final_values)

    def _log_later(self, prefix: str, metrics: Callable[[], dict[str, float]]) -> None:
        """Have metrics recorded as `<prefix>/<name>` as soon as somebody looks at the log."""
        self._unlogged = {**self._unlogged, prefix: metrics}

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        rate = self.lr_schedule(self._current_progress_remaining)
        self._logger.record("train/learning_rate", rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, rate)
        if self.separate_critic and self.value_learning_rate is not None:
            # Of ours, so unlike SB3's it ends at its last value: see `coefficient`.
            rate = FloatSchedule(self.value_learning_rate)(max(self._current_progress_remaining, 0.0))
            self.policy.optimizer.param_groups[1]["lr"] = rate
            self._logger.record("train/value_learning_rate", rate)

    def _begin_episodes(self, env: VecEnv) -> None:
        """Start all environments at the beginning of an episode, unless they are there already."""
        assert self._last_episode_starts is not None
        if self._in_mid_episode or not np.all(self._last_episode_starts):
            try:
                self._last_obs = env.reset()  # type: ignore[assignment]
            except (ValueError, KeyError, TypeError) as error:
                raise explained(error, self.observation_space, self.num_timesteps)  # noqa: B904 - the cause is set
            check_observations(self._last_obs, self.observation_space, env.num_envs, self.num_timesteps)
            self._last_episode_starts = np.ones((env.num_envs,), dtype=bool)
            self._episode_returns[:] = 0
        # Until the rollout is complete: whoever stops in it leaves episodes that began and were not stored.
        self._in_mid_episode = True

    def _check_length(self, episode_lengths: np.ndarray) -> None:
        if episode_lengths.max() >= self.max_episode_steps:
            raise ValueError(
                f"The episode of environment {episode_lengths.argmax()} has not ended after {self.max_episode_steps} "
                f"steps, but {type(self).__name__} learns from whole episodes. Give the environment a time limit "
                "(gymnasium.wrappers.TimeLimit), or raise the agent's `max_episode_steps`."
            )

    def _update_statistics(
        self, rollout_buffer: SB3RolloutBuffer, infos: list[dict[str, Any]], dones: np.ndarray
    ) -> None:
        """Episode statistics; of an environment that waits for others, none: it would end more of its short ones."""
        for info in infos:
            if "episode" in info or "is_success" in info:
                break
        else:
            return
        if self.n_episodes is None:
            self._update_info_buffer(infos, dones)
        else:
            counted = np.flatnonzero(~_waiting(rollout_buffer))
            self._update_info_buffer([infos[index] for index in counted], np.asarray(dones)[counted])

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; may be called at any time.

        Args:
            iteration: Number of updates so far, if it is to be logged.
        """
        if self._raw_returns:
            self.logger.record("rollout/ep_raw_rew_mean", safe_mean(self._raw_returns))
        super().dump_logs(iteration)


_OUR_BUFFERS: dict[type[SB3RolloutBuffer], type[SB3RolloutBuffer]] = {
    SB3RolloutBuffer: RolloutBuffer,
    SB3DictRolloutBuffer: DictRolloutBuffer,
}


def _waiting(buffer: SB3RolloutBuffer) -> np.ndarray:
    """Which environments have contributed their whole episodes and wait for the others."""
    if isinstance(buffer, EpisodeMixin):
        waiting: np.ndarray = buffer.n_finished >= buffer.n_episodes
        return waiting
    return np.zeros(buffer.n_envs, dtype=np.bool_)


def _counted(buffer: SB3RolloutBuffer) -> Any:
    """Index of the steps that are trained on, in a buffer that is filled and not yet read."""
    counted = getattr(buffer, "counted", None)
    return ... if counted is None else counted


def _learns_from(buffer: SB3RolloutBuffer) -> bool:
    """Whether there is a step to learn from: not in a short rollout of nothing but resets."""
    counted = _counted(buffer)
    return counted is ... or bool(counted.any())


def _with_state_dependent_std(policy_class: type[BasePolicy]) -> type[BasePolicy]:
    if policy_class not in STATE_DEPENDENT_STD:
        raise ValueError(
            f"`policy_kwargs['state_dependent_std']` is known for the policies "
            f"{', '.join(known.__name__ for known in STATE_DEPENDENT_STD)}, not for {policy_class.__name__}."
        )
    return STATE_DEPENDENT_STD[policy_class]
