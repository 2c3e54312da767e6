"""`LanguageAlgorithm`: the base of all policy gradients on language models.

An update is the same four slots as everywhere: completions are collected, `estimate` tells how good each token was,
`objective` is maximised, and `update` moves the parameters. A completion is an episode, a column of a `(T, N)` rollout.
"""

from __future__ import annotations

import io
import pathlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import InitVar
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, get_system_info
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from typing_extensions import Self

from pg_agents import tuning
from pg_agents.arguments import Arguments, argument, check_keywords, constructor_arguments
from pg_agents.checks import check_steps
from pg_agents.contract import Batches, Loss, NotFiniteError, Objective, Rollout, Summary
from pg_agents.engines import threads
from pg_agents.envs.text import TextEnv
from pg_agents.estimators import Floats
from pg_agents.interrupts import deferrable
from pg_agents.language import files
from pg_agents.language.generation import draw
from pg_agents.language.material import Material
from pg_agents.language.models import check_positions
from pg_agents.language.objectives import KL_IN_LOSS, averaged
from pg_agents.language.policy import LanguagePolicy, Scored
from pg_agents.language.rewards import rewards_of
from pg_agents.language.texts import Completions, encode_prompts, padded
from pg_agents.language.updating import TextRollout, update
from pg_agents.logs import DEFAULT, Default, record_hyperparameters
from pg_agents.objectives import KL_ESTIMATORS
from pg_agents.resuming.resume import Interrupted, interrupted_run, prepared, resumed, warn_of_another_training
from pg_agents.resuming.run import Run, go_through, in_progress, tell_of_boundary
from pg_agents.tuning import LogInteger, PowerOfTwo, ScheduleBetween, SearchSpace

if TYPE_CHECKING:
    from optuna import Trial


class LanguageAlgorithm(Arguments):
    """Base of the policy gradients on language models, an SB3 algorithm whose steps are tokens.

    maximise E[r(prompt, completion)] - β KL(π || π_ref)   (arXiv:1909.08593, eq. 2; arXiv:2203.02155, eq. 2)

    π_ref is the model as it was given. In an update `n_episodes` completions are written, from prompts in random order;
    `learn(total_timesteps)` counts their tokens, and callbacks are asked once for each batch of completions.

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    has_critic = False
    mean: ClassVar[str] = "token"  # of the loss over a minibatch, a name in `objectives.MEANS`
    default_log_interval: ClassVar[int] = 1
    asks_callbacks_once_for_each: ClassVar[str] = "batch"  # of completions, not step as SB3's algorithms do
    engine_in_use: ClassVar[str] = "autograd"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"small_gpt2": LanguagePolicy}
    policy_loss_name: ClassVar[str] = "policy_gradient_loss"
    goes_on_from_file: ClassVar[bool] = True  # as `pg_agents.resuming.agents` says
    collects_itself: ClassVar[bool] = True

    policy: InitVar[Any] = argument(
        doc="The language model: a `SupervisedFineTuning`, a Hugging Face causal language model, or a folder that "
        '`save_pretrained` has written. It is copied, and is the reference too. `"small_gpt2"` learns the language of '
        "the `env`."
    )
    tokenizer: Any = argument(default=None, doc="Its tokenizer; None for that of the `SupervisedFineTuning` or folder.")
    prompts: Sequence[str] | None = argument(default=None, doc="The prompts, as texts; None only to load and generate.")
    reward: Any = argument(
        default=None,
        doc="A function of (prompt, completion) that returns a number, a `RewardModel`, or a list of these, which are "
        "added up. A completion that was not cut ends with the end's word. None only to load and generate.",
    )
    n_episodes: int | None = argument(
        default=128, kw_only=True, doc="Completions of an update.", at_least=1, integer=True
    )
    max_new_tokens: int = argument(
        default=24, kw_only=True, doc="Longest completion, the end included.", at_least=1, integer=True
    )
    batch_size: int | None = argument(
        default=64,
        kw_only=True,
        doc="Completions of a minibatch; None takes all of an update at once.",
        at_least=1,
        integer=True,
        optional=True,
    )
    batch_tokens: int | None = argument(
        default=None,
        kw_only=True,
        doc="Largest number of tokens, padding included, whose gradient is computed at once: those of the parts of a "
        "minibatch add up. None for no limit.",
        at_least=1,
        integer=True,
        optional=True,
    )
    kl_coef: float = argument(
        default=0.1,
        kw_only=True,
        doc="Price β of a nat of KL divergence from the reference; it changes if `kl_target` is given. The default is "
        "that of the `env`, if it states one.",
        at_least=0,
    )
    kl_target: float | None = argument(
        default=None,
        kw_only=True,
        doc="KL divergence, in nats for a text, that `kl_coef` is adapted to; None leaves it fixed.",
        above=0,
        optional=True,
    )
    kl_in: Literal["reward", "loss"] = argument(
        default="reward",
        kw_only=True,
        doc='The price is subtracted from each token\'s `"reward"`, or added to the `"loss"`.',
        choices=("reward", "loss"),
    )
    kl_estimator: Literal["k1", "k2", "k3", "k2_sequence"] = argument(
        default="k1",
        kw_only=True,
        doc='Estimate of the KL divergence from the tokens written: `"k1"`, log π/π_ref, whose gradient in the reward '
        'is exact; `"k2"` and `"k3"`; `"k2_sequence"`, ½ (log π/π_ref)² of the whole text, whose gradient in the loss '
        'is exact, unless the mean of the loss weights texts by their length, as `variant="grpo"` does. `"k1"` is for '
        'the reward only, `"k2_sequence"` for the loss only.',
        choices=(*KL_ESTIMATORS, "k2_sequence"),
    )
    missing_eos_penalty: float = argument(
        default=0.0, kw_only=True, doc="Subtracted from the reward of a completion that was cut.", at_least=0
    )
    mask_cut: bool = argument(
        default=False,
        kw_only=True,
        doc="Leave completions that were cut out of the loss (arXiv:2503.14476, section 3.4); baselines count them.",
    )
    n_samples: int = argument(
        default=3, kw_only=True, doc="Completions shown in TensorBoard with each log.", at_least=0, integer=True
    )
    lora: Any = argument(
        default=None,
        kw_only=True,
        doc="Train low-rank additions only: a `peft.LoraConfig`, or its arguments as a dictionary.",
    )
    gamma: float = argument(default=1.0, kw_only=True)
    ent_coef: InitVar[float | Schedule] = argument(
        default=0.0,
        kw_only=True,
        doc="Coefficient of the entropy of the next token, a mean over tokens whatever the mean of the objective is.",
    )
    max_grad_norm: InitVar[float | None] = argument(default=1.0, kw_only=True)
    env: InitVar[Any] = argument(
        default=None,
        kw_only=True,
        doc="An environment that states a `text_task`, such as `pg/Reviews-v0`, instead of prompts and reward.",
    )
    n_examples: int = argument(
        default=20_000,
        kw_only=True,
        doc='Texts of the `env`\'s corpus from which `"small_gpt2"` learns its language.',
        at_least=1,
        integer=True,
    )
    stats_window_size: InitVar[int] = argument(
        default=100,
        kw_only=True,
        doc="Number of completions over which `rollout/ep_rew_mean` and `ep_len_mean` are taken.",
        at_least=1,
        integer=True,
    )
    tensorboard_log: str | None = argument(default=None, kw_only=True, doc="Folder for TensorBoard; None writes none.")
    verbose: int = argument(default=0, kw_only=True, doc="0 prints nothing, 1 progress, 2 debugging information.")
    seed: int | None = argument(default=None, kw_only=True, doc="Seed of all random generators.")
    device: InitVar[th.device | str] = argument(default="auto", kw_only=True, doc='`"auto"`, `"cpu"`, `"cuda"`, ...')
    _init_setup_model: InitVar[bool] = argument(default=True, kw_only=True, doc="Build the policy now.")

    # Not `kl_coef`: it belongs to the task.
    search: ClassVar[SearchSpace] = {
        "learning_rate": ScheduleBetween(5e-5, 2e-3),
        "n_epochs": LogInteger(1, 8),
        "n_episodes": PowerOfTwo(64, 512),
        "batch_size": PowerOfTwo(32, 512, at_most=("n_episodes",)),
    }

    def __init__(self, policy: Any, **arguments: Any) -> None:
        check_keywords(type(self), self.declared, arguments)
        values = {**self.defaults(), **arguments}
        for name in set(self.declared) - {"policy", *values}:
            raise TypeError(f"{type(self).__name__}() needs the argument {name!r}.")
        for name, field in self.declared.items():
            if name in values:
                field.check(name, values[name])
        material = Material.of(policy, values)
        if material.kl_coef is not None and "kl_coef" not in arguments:
            values["kl_coef"] = material.kl_coef
        values |= {name: getattr(material, name) for name in ("tokenizer", "prompts", "reward", "max_new_tokens")}
        for name in values.keys() - {"policy", "env", "device", "stats_window_size", "_init_setup_model"}:
            setattr(self, name, values[name])
        self._given: Any = material.model
        self.current_run: Run | None = None  # the last `learn`, with its callbacks
        self.interrupted: Interrupted | None = None  # what `resume` has read, for `learn_on`
        super().__init__(
            LanguagePolicy,  # type: ignore[arg-type] # a policy of SB3's, without its actor-critic's parts
            self._text_env(),
            learning_rate=self.learning_rate,
            n_steps=self.max_new_tokens,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            ent_coef=values["ent_coef"],
            vf_coef=values["vf_coef"],
            max_grad_norm=values["max_grad_norm"],
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=values["stats_window_size"],
            tensorboard_log=self.tensorboard_log,
            verbose=self.verbose,
            seed=self.seed,
            device=values["device"],
            _init_setup_model=False,
        )
        self.check_arguments()
        self._generator = th.Generator(self.device)  # of tokens
        self._order_generator = th.Generator()  # of prompts and minibatches, on the CPU
        if values["_init_setup_model"]:
            self._setup_model()

    # Setting up

    def check_arguments(self) -> None:
        """Refuse arguments that contradict each other.

        Raises:
            ValueError: They do.
        """
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError(
                "`kl_coef` must be above 0 for a `kl_target`, but is 0: it is multiplied until the divergence is on "
                "target."
            )
        if self.kl_in == "loss" and self.kl_coef and self.kl_estimator not in KL_IN_LOSS:
            raise ValueError(
                f"`kl_estimator` must be one of {', '.join(map(repr, KL_IN_LOSS))} for kl_in='loss', but is "
                f"{self.kl_estimator!r}, whose gradient is 0 in the mean."
            )
        if self.kl_in == "reward" and self.kl_estimator not in KL_ESTIMATORS:
            raise ValueError(
                f"`kl_estimator` must be one of {', '.join(map(repr, KL_ESTIMATORS))} for kl_in='reward', but is "
                f"{self.kl_estimator!r}."
            )

    def _text_env(self) -> VecEnv:
        """The task token by token, for `predict` and for SB3's functions that play it."""
        prompts = self._encoded_prompts()
        return DummyVecEnv(
            [
                lambda: Monitor(
                    TextEnv(
                        prompts,
                        self._reward_of_tokens,
                        n_tokens=self._given.config.get_text_config().vocab_size,
                        max_new_tokens=self.max_new_tokens,
                        eos=self.tokenizer.eos_token_id,
                        pad=self.tokenizer.pad_token_id,
                    )
                )
            ]
        )

    def _encoded_prompts(self) -> list[list[int]]:
        if self.prompts:
            return encode_prompts(self.tokenizer, self.prompts)
        # A loaded policy is only used: texts may have as many tokens as the model has positions.
        n_positions = getattr(self._given.config, "max_position_embeddings", None) or self.max_new_tokens + 1
        return [[self.tokenizer.eos_token_id] * (n_positions - self.max_new_tokens)]

    def _reward_of_tokens(self, prompt: list[int], completion: list[int]) -> float:
        batch = padded([prompt], [completion], self.tokenizer.pad_token_id)
        prompts, completions = batch.texts(self.tokenizer)
        if self.prompts is not None:
            prompts = [self.prompts[self._encoded.index(prompt)]]
        return float(self.rewards(batch, (prompts, completions))[0])

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._encoded = self._encoded_prompts()
        policy = LanguagePolicy(
            self._given,
            has_critic=self.has_critic,
            lora=self.lora,
            pad=self.tokenizer.pad_token_id,
            generator=self._generator,
            observation_space=self.observation_space,
            action_space=self.action_space,
        ).to(self.device)
        policy.optimizer = th.optim.Adam(policy.trained, lr=self.lr_schedule(1), eps=1e-5, fused=True)
        self.policy = policy  # type: ignore[assignment] # no actor-critic of SB3's
        self.rollout_buffer = None  # type: ignore[assignment] # until the first rollout

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random generators, that of the tokens included."""
        super().set_random_seed(seed)
        self._generator.manual_seed(int(th.randint(2**62, ())) if seed is None else seed)
        self._order_generator.manual_seed(int(th.randint(2**62, ())) if seed is None else seed + 1)
        self._waiting: list[int] = []

    def random_state(self) -> dict[str, th.Tensor]:
        """The state that determines the next draws: the generators' states, and the next prompts."""
        return {
            "generator": self._generator.get_state(),
            "order_generator": self._order_generator.get_state(),
            "waiting": th.tensor(self._waiting, dtype=th.int64),
        }

    def set_random_state(self, state: dict[str, th.Tensor]) -> None:
        """Draw as after `state`, which `random_state` of an agent with the same prompts has given."""
        self._generator.set_state(state["generator"])
        self._order_generator.set_state(state["order_generator"])
        self._waiting = state["waiting"].tolist()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Train on the task of an environment: its prompts, its reward, and completions no longer than its longest.

        Args:
            env: An environment that states a `text_task`.
            force_reset: Of SB3's signature; True, as nothing lasts from one completion to the next.

        Raises:
            ValueError: It states none, or does not fit the model.
        """
        check_force_reset(force_reset)
        values = {name: getattr(self, name) for name in ("tokenizer", "max_new_tokens", "seed")}
        material = Material.of(self._given, {**values, "env": env, "prompts": None, "reward": None})
        self.prompts, self.reward, self.max_new_tokens = material.prompts, material.reward, material.max_new_tokens
        self.n_steps, self._waiting, self._encoded = self.max_new_tokens, [], self._encoded_prompts()
        self.env = self._text_env()
        self.observation_space = self.policy.observation_space = self.env.observation_space
        self._last_obs = None

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The next token of texts, as SB3 has it for actions.

        Args:
            observation: One text or several, as tokens with padding at the end, of any length up to the agent's own.
            state: Of SB3's signature, and without an effect.
            episode_start: Of SB3's signature, and without an effect.
            deterministic: Take the most probable token.
        """
        tokens = np.asarray(observation)
        n_missing = max(self.observation_space.shape[0] - tokens.shape[-1], 0)  # type: ignore[index] # a MultiDiscrete
        widths = [(0, 0)] * (tokens.ndim - 1) + [(0, n_missing)]
        tokens = np.pad(tokens, widths, constant_values=self.tokenizer.pad_token_id)
        return super().predict(tokens, state, episode_start, deterministic)

    # Generating

    def generate(
        self, prompts: Sequence[str], *, deterministic: bool = False, max_new_tokens: int | None = None
    ) -> list[str]:
        """Completions of prompts.

        Args:
            prompts: The prompts.
            deterministic: Take the most probable token each time, and draw nothing.
            max_new_tokens: Longest completion; None for the agent's.

        Raises:
            ValueError: There is no prompt, or the model has too few positions.
        """
        return self.write(prompts, deterministic=deterministic, max_new_tokens=max_new_tokens).texts(self.tokenizer)[1]

    def write(
        self, prompts: Sequence[str], *, deterministic: bool = False, max_new_tokens: int | None = None
    ) -> Completions:
        """As `generate`, with the completions as tokens."""
        encoded = encode_prompts(self.tokenizer, prompts)
        longest = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        check_positions(self._given, max(map(len, encoded)), longest)
        return self._draw(encoded, longest, deterministic)

    def _draw(self, encoded: Sequence[Sequence[int]], max_new_tokens: int, deterministic: bool = False) -> Completions:
        return draw(
            self.policy.model,
            padded(encoded, [[]] * len(encoded), self.tokenizer.pad_token_id),
            eos=self.tokenizer.eos_token_id,
            pad=self.tokenizer.pad_token_id,
            max_new_tokens=max_new_tokens,
            generator=self._generator,
            deterministic=deterministic,
        )

    def rewards(self, completions: Completions, texts: tuple[list[str], list[str]] | None = None) -> np.ndarray:
        """Rewards of completions, `(N,)`, less `missing_eos_penalty` where one was cut.

        Args:
            completions: The completions.
            texts: Prompts and completions as words, if they are known.

        Raises:
            ValueError: A reward is not a finite number; the message names prompt and completion.
        """
        assert self.reward is not None, "checked before"
        found = rewards_of(self.reward, completions, self.tokenizer, texts)
        cut = ~completions.ended(self.tokenizer.eos_token_id).cpu().numpy()
        return found - self.missing_eos_penalty * cut

    # Training

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        schedules_end: int | None = None,
    ) -> Self:
        """Train.

        Schedules run from 1 to 0 in every call. To train in pieces under one schedule, say with `schedules_end` where
        it ends.

        Args:
            total_timesteps: Tokens to write; the last batch is completed.
            callback: One callback, a list of them, or a function of `(locals, globals)`, asked once for each batch.
            log_interval: Log every so many updates; None never logs.
            tb_log_name: Name of the run in TensorBoard; by default the class's name.
            reset_num_timesteps: Count tokens from 0 again.
            progress_bar: Show a progress bar.
            schedules_end: `num_timesteps` at which schedules end; None for those at the end of this call.

        Returns:
            The agent itself.

        Raises:
            ValueError: There are no prompts or no reward, a reward is not a finite number, or a number of tokens is
                below 0.
            FloatingPointError: The loss or its gradient is not finite.
        """
        check_steps("total_timesteps", total_timesteps, 0)
        if schedules_end is not None:
            check_steps("schedules_end", schedules_end, 1)
        self._schedules_end = schedules_end
        for name in ("prompts", "reward"):
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` is needed to learn, but is None: give it to `load` or the constructor.")
        warn_of_another_training(self, stacklevel=3)
        tb_log_name = type(self).__name__ if tb_log_name is None else tb_log_name
        with threads.for_policy(self.policy), deferrable():
            iteration = 0  # as the next one, a local variable that callbacks may read
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            callback.on_training_start(locals(), globals())
            run = Run(total_timesteps, log_interval, callback, iteration)
            with in_progress(self, run):
                tell_of_boundary(callback)
                go_through(self, run)
        return self

    @classmethod
    def resume(
        cls, folder: str | pathlib.Path, env: Any = None, *, device: th.device | str = "auto", **given: Any
    ) -> Self:
        """The agent of a run with a `Checkpoint`, in the state of the newest whole checkpoint; `learn_on` goes on.

        Args:
            folder: Folder of the run.
            env: An environment that states a `text_task`, instead of `reward`.
            device: Torch device of the policy.
            **given: `reward`, other arguments that are functions, and constructor arguments to change.

        Raises:
            TypeError: A keyword is not an argument of the constructor.
            FileNotFoundError: There is no whole checkpoint; the message says what was tried.
            ValueError: The checkpoint is of another class, or an argument has to be given again.

        Warns:
            UserWarning: A damaged checkpoint is skipped.
        """
        agent, interrupted = resumed(cls, folder, env, device, given)
        agent.interrupted = interrupted
        return agent

    def learn_on(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | Default | None = DEFAULT,
        progress_bar: bool = False,
    ) -> Self:
        """Go on with the training that `resume` has read, as if it had not been interrupted.

        Args:
            total_timesteps: Tokens at which it ends, those before the checkpoint included; by default as in the
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
            FloatingPointError: The loss or its gradient is not finite.
        """
        interrupted = interrupted_run(self)
        if total_timesteps is not None:
            self._schedules_end = None
        with threads.for_policy(self.policy), deferrable():
            run = prepared(self, interrupted, total_timesteps, callback, log_interval, progress_bar)
            if interrupted.records_hyperparameters:
                self._record_hyperparameters()
            with in_progress(self, run):
                go_through(self, run)
        return self

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        is_set_up = super()._setup_learn(*args, **kwargs)
        self._record_hyperparameters()
        return is_set_up

    def _record_hyperparameters(self) -> None:
        material = {"tokenizer", "prompts", "reward", "lora"}
        record_hyperparameters(self, [name for name in constructor_arguments(type(self)) if name not in material])

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if progress_bar:
            given = [] if callback is None else callback if isinstance(callback, list) else [callback]
            asked = [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given]
            callback = [*asked, _TokenBar()]
        return super()._init_callback(callback, progress_bar=False)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """First slot: write completions, have them judged, and tell how good each token was.

        Callbacks find `completions`, `rewards`, `dones` and `infos` among the local variables, one entry for each
        completion; an info has the texts, and an `episode` as SB3's `Monitor` writes it.

        Returns:
            False if the callback stopped the training.
        """
        callback.on_rollout_start()
        assert self.prompts is not None, "learn has asked for them"
        chosen = self._next_prompts()
        completions = self._draw([self._encoded[i] for i in chosen], self.max_new_tokens)
        texts = [self.prompts[i] for i in chosen], completions.texts(self.tokenizer)[1]
        rewards = self.rewards(completions, texts)
        lengths = completions.lengths.cpu().numpy()
        dones = np.ones(len(completions), dtype=np.bool_)
        infos = [
            {"prompt": prompt, "completion": text, "episode": {"r": float(r), "l": int(n), "t": 0.0}}
            for prompt, text, r, n in zip(*texts, rewards, lengths, strict=True)
        ]
        self.num_timesteps += int(lengths.sum())
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        self._update_info_buffer(infos, dones)
        policy: Any = self.policy
        scored = policy.score(completions, self.batch_tokens)
        self.rollout_buffer = self.rollout(completions, rewards, scored)  # type: ignore[assignment]
        self._record(completions, rewards, scored, infos)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _next_prompts(self) -> list[int]:
        """Numbers of the prompts to complete: all in random order, again and again."""
        assert self.n_episodes is not None
        while len(self._waiting) < self.n_episodes:
            self._waiting += self._permutation()
        chosen, self._waiting = self._waiting[: self.n_episodes], self._waiting[self.n_episodes :]
        return chosen

    def _permutation(self) -> list[int]:
        order: list[int] = th.randperm(len(self._encoded), generator=self._order_generator).tolist()
        return order

    def rollout(self, completions: Completions, rewards: np.ndarray, scored: Scored) -> TextRollout:
        """Completions with their advantages.

        Args:
            completions: The completions.
            rewards: Their rewards, `(N,)`.
            scored: The quantities of policy and reference at their tokens.
        """
        device = completions.tokens.device
        known = as_rollout(
            completions, rewards, scored, self.kl_coef if self.kl_in == "reward" else 0.0, self.kl_estimator
        )
        advantages, returns = (th.as_tensor(found.T.copy(), device=device) for found in self.estimate(known))
        trained_on = th.ones(len(completions), dtype=th.bool, device=device)
        if self.mask_cut:
            trained_on = completions.ended(self.tokenizer.eos_token_id)
        return TextRollout(
            completions,
            rewards,
            scored.log_prob,
            scored.reference_log_prob,
            scored.values,
            advantages,
            returns,
            trained_on,
        )

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """Draw hyperparameters for `pg-zoo tune` from the class's `search` and those of its parents.

        Args:
            trial: The Optuna trial to draw from.
            observation_space: Of one environment.
            action_space: Of one environment.

        Returns:
            The content of an entry of a hyperparameter file, except `n_timesteps` and `policy`.
        """
        return tuning.draw(tuning.search_of(cls), trial, observation_space, action_space)

    @abstractmethod
    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """Second slot: how good was each token, and what should the critic have said?

        Args:
            rollout: Rewards and values as arrays of shape `(T, N)`: a completion is a column.

        Returns:
            Advantages and returns, of the same shape.
        """

    @abstractmethod
    def objective(self) -> Objective:
        """Third slot: the quantity to maximise, one number per token."""

    def update(self, loss: Loss) -> Summary:
        """Fourth slot: epochs over minibatches of completions.

        Args:
            loss: Minimised on the last rollout.

        Raises:
            NotFiniteError: The loss or its gradient is not finite; the parameters are those before that step.
        """
        assert isinstance(self.rollout_buffer, TextRollout)
        return update(
            self.policy,
            self.policy.optimizer,
            self.rollout_buffer,
            loss,
            Batches(self.n_epochs, self.batch_size),
            batch_tokens=self.batch_tokens,
            generator=self._order_generator,
        )

    def train(self) -> None:
        """Make one `update` from the last rollout, log it, and adapt `kl_coef` if it has a target.

        Raises:
            FloatingPointError: The loss or its gradient is not finite.
        """
        rollout = self.rollout_buffer
        assert isinstance(rollout, TextRollout), "a rollout was collected"
        self._update_learning_rate(self.policy.optimizer)
        if rollout.trained_on.any():
            loss = self.loss()
            try:
                summary = self.update(loss)
            except NotFiniteError as error:
                raise FloatingPointError(
                    f"{error} in the update after {self.num_timesteps} tokens, so it was not applied: the parameters "
                    "are those before it. Very large rewards, or too large a `learning_rate`, are the usual causes."
                ) from None
            self._n_updates += summary.n_epochs
            found = {**summary.metrics(), **loss.objective.settings}
            found[self.policy_loss_name] = found.pop("policy_loss")
            if self.has_critic:
                alive = rollout.completions.alive.cpu().numpy()
                values, returns = rollout.values.cpu().numpy()[alive], rollout.returns.cpu().numpy()[alive]
                found["explained_variance"] = float(explained_variance(values, returns))
            for name, value in found.items():
                self.logger.record(f"train/{name}", value, exclude="stdout" if name.startswith("approx_kl_") else None)
        self.logger.record("train/kl_coef", self.kl_coef)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.kl_target is not None:
            self.kl_coef = adapted(self.kl_coef, self._kl, self.kl_target)

    def loss(self) -> Loss:
        """The loss with the coefficients of this moment."""
        in_loss = self.kl_coef if self.kl_in == "loss" else 0.0
        objective = averaged(
            self.objective(),
            self.mean,
            self.max_new_tokens,
            in_loss,
            self.kl_estimator if in_loss else "k3",
        )
        return Loss(
            objective=objective,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
            trains_critic=self.has_critic,
            normalize_advantage=self.normalize_advantage,
            max_grad_norm=self.max_grad_norm,
            tracks_kl=True,
            max_kl=None if self.target_kl is None else 1.5 * self.target_kl,
            metrics=lambda batch: {
                name: metric(batch, *objective.coefficients) for name, metric in objective.metrics.items()
            },
        )

    # The log

    _kl = 0.0

    def _record(
        self, completions: Completions, rewards: np.ndarray, scored: Scored, infos: list[dict[str, Any]]
    ) -> None:
        lengths = completions.lengths
        self._kl = float(scored.kl.sum(dim=1).mean())
        found = {
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "sequence_kl": self._kl,
            "sequence_kl_k1": float((scored.log_prob - scored.reference_log_prob).sum(dim=1).mean()),
            "objective": float(rewards.mean()) - self.kl_coef * self._kl,
            "entropy": float(scored.entropy.sum() / lengths.sum()),
            "length_mean": float(lengths.float().mean()),
            "length_std": float(lengths.float().std(correction=0)),
            "ended": float(completions.ended(self.tokenizer.eos_token_id).float().mean()),
        }
        for name, value in found.items():
            self.logger.record(f"rollout/{name}", value)
        if self.n_samples:
            shown = [
                # As code, in which `<eos>` is no tag of HTML.
                f"**`{_code(info['prompt'])}`** `{_code(info['completion'])}` ({info['episode']['r']:.2f})"
                for info in infos[: self.n_samples]
            ]
            self.logger.record("samples/completions", "\n\n".join(shown), exclude=("stdout", "log", "json", "csv"))

    # Files

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Any = None,
        include: Any = None,
    ) -> None:
        """Write the agent to a folder, or to a zip file of it if the path ends in `.zip`; nothing is pickled.

        The folder holds the model as `save_pretrained` writes it, so that `AutoModelForCausalLM.from_pretrained` reads
        it, its tokenizer, the reference, and the optimiser's and the generators' state. Prompts, rewards and schedules
        are not saved. Where an adapter was trained, the model has it added to its weights; the adapter and the model
        below it are in the folders `adapter` and `base`. Older agents are replaced, and nothing else is.

        Args:
            path: The folder, or the zip file.
            exclude: Of SB3's signature; None, as all of an agent is needed to go on.
            include: Of SB3's signature; None.

        Raises:
            ValueError: `path` is an open file, or something else than an agent stands there.
            OSError: The agent cannot be written; an older one is as it was.
        """
        for name, value in (("exclude", exclude), ("include", include)):
            if value is not None:
                raise ValueError(
                    f"`{name}` must be None, but is {value!r}: all of an agent is saved but prompts, reward, schedules "
                    "and environment, which `load` is given."
                )
        files.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load what `save` has written. Training goes on as it would have, with the same prompts and reward.

        Args:
            path: The folder, or the zip file.
            env: An environment that states a `text_task`, instead of `prompts` and `reward`.
            device: Torch device.
            custom_objects: Arguments that replace those of the file, as `kwargs` do.
            print_system_info: Print what SB3 says of the system.
            force_reset: Of SB3's signature; True, as nothing lasts from one completion to the next.
            trust: Of the other algorithms' signature; these files hold no code that it could let run.
            **kwargs: `prompts`, `reward`, and constructor arguments to change.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError: A keyword is not an argument of the constructor.
            ValueError: The file holds no agent, arguments that the class does not take, or lacks a schedule that it
                had.
        """
        check_force_reset(force_reset)
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            get_system_info()
        return files.load(cls, path, {**(custom_objects or {}), **kwargs, "env": env, "device": device})


def check_force_reset(force_reset: bool) -> None:
    """Refuse to keep an episode that is not there.

    Raises:
        ValueError: `force_reset` is False.
    """
    if not force_reset:
        raise ValueError("`force_reset` must be True, but is False: nothing lasts from one completion to the next.")


def _code(text: str) -> str:
    return text.replace("`", "'")


def as_rollout(
    completions: Completions, rewards: np.ndarray, scored: Scored, kl_coef: float, kl_estimator: str
) -> Rollout:
    """Completions as columns of a rollout: the reward comes with the last token, the price of KL with each.

    Args:
        completions: The completions.
        rewards: Their rewards, `(N,)`.
        scored: The quantities of policy and reference at their tokens.
        kl_coef: Price of the KL divergence in the reward; 0 for none.
        kl_estimator: Its estimate from a token, a name in `pg_agents.objectives.KL_ESTIMATORS`.
    """
    alive = completions.alive.T.cpu().numpy()  # (T, N)
    lengths = completions.lengths.cpu().numpy()
    columns = np.arange(len(lengths))
    found = np.zeros(alive.shape, dtype=np.float32)
    if kl_coef:
        log_ratio = scored.log_prob - scored.reference_log_prob
        found -= kl_coef * th.where(completions.alive, KL_ESTIMATORS[kl_estimator](log_ratio), 0.0).T.cpu().numpy()
    found[lengths - 1, columns] += rewards
    values = scored.values.T.cpu().numpy()
    # Behind its end, a column is a row of episodes of one step each, which nothing flows from.
    terminated = np.arange(len(alive))[:, None] >= lengths - 1
    return Rollout(
        rewards=found,
        values=values,
        next_values=np.concatenate([values[1:], np.zeros_like(values[:1])]),
        terminated=terminated,
        truncated=np.zeros_like(terminated),
        bootstrapped_rewards=found,
        trained_on=alive,
    )


def adapted(kl_coef: float, kl: float, kl_target: float) -> float:
    """The price of KL divergence, moved towards the one at which the divergence is on target.

    β ← β (1 + .1 clip(KL / KL_target - 1, -.2, .2))   (arXiv:1909.08593, section 2.2)
    """
    return kl_coef * (1 + 0.1 * float(np.clip(kl / kl_target - 1, -0.2, 0.2)))


class _TokenBar(ProgressBarCallback):
    """SB3's progress bar, in tokens."""

    _shown = 0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._shown = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.pbar.update(self.num_timesteps - self._shown)
        self._shown = self.num_timesteps
        return True
