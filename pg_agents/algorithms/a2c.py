"""A2C: synchronous advantage actor-critic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from typing_extensions import Self

from pg_agents import search
from pg_agents.agent import Env, PolicyGradient
from pg_agents.checks import check_number
from pg_agents.engines.autograd import Minibatch
from pg_agents.objectives import Weight, score_function, score_function_weight

if TYPE_CHECKING:
    from optuna import Trial


class A2C(PolicyGradient):
    """Advantage actor-critic: one gradient step after every few steps of several environments.

    maximise E[Â log π(a|s)] + `ent_coef` E[H(π)] - `vf_coef` E[(R - V)²]   (arXiv:1602.01783, eq. 2 and section 4)

    Â is generalised advantage estimation, which with the default λ = 1 is the n-step advantage of the paper. The
    synchronous form is https://openai.com/index/openai-baselines-acktr-a2c/. Arguments, their order and defaults are
    those of SB3's A2C, and so are, on the engine `"autograd"`, the parameters that it arrives at.

    Args:
        policy: As for `PolicyGradient`, like all that is not listed here.
        env: The environment, or several.
        learning_rate: Step size.
        n_steps: Steps per environment and update.
        gamma: Discount factor.
        gae_lambda: λ of generalised advantage estimation.
        ent_coef: Coefficient of the entropy bonus; a number or a schedule.
        vf_coef: Coefficient of the value loss; a number or a schedule.
        max_grad_norm: The gradient is scaled down to this norm.
        rms_prop_eps: ε of RMSprop.
        use_rms_prop: RMSprop, as in the paper, instead of the policy's optimiser (Adam).
        use_sde: Generalised state-dependent exploration.
        sde_sample_freq: Draw new gSDE noise every so many steps.
        rollout_buffer_class: Buffer class.
        rollout_buffer_kwargs: Its further keyword arguments.
        normalize_advantage: Normalise the advantages of each update.
        stats_window_size: Number of episodes that `rollout/` means are taken over.
        tensorboard_log: Folder for TensorBoard.
        policy_kwargs: Keyword arguments of the policy.
        verbose: 0, 1 or 2.
        seed: Seed of all random generators.
        device: Torch device.
        _init_setup_model: Build the networks now.
        engine: What acts and learns: `"mlp"` (compiled, for MLP policies on the CPU), `"autograd"` (torch, for all),
            or `"auto"` for the first where it serves this agent, else the second.
    """

    settled = PolicyGradient.settled | {"use_rms_prop", "rms_prop_eps"}
    added_policy_kwargs = frozenset({"optimizer_class", "optimizer_kwargs"})

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Env,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        engine: str = "auto",
    ) -> None:
        check_number("rms_prop_eps", rms_prop_eps, above=0)
        if use_rms_prop and "optimizer_class" not in (policy_kwargs or {}):
            rms_prop = {"alpha": 0.99, "eps": rms_prop_eps, "weight_decay": 0}
            policy_kwargs = {
                **(policy_kwargs or {}),
                "optimizer_class": th.optim.RMSprop,
                "optimizer_kwargs": rms_prop,
            }
        self.use_rms_prop = use_rms_prop
        self.rms_prop_eps = rms_prop_eps
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            engine=engine,
            _init_setup_model=_init_setup_model,
        )

    def objective(self, batch: Minibatch) -> th.Tensor:
        """Â log π(a|s)."""
        return score_function(batch.log_prob, batch.advantages)

    def weight(self) -> Weight:
        """Â."""
        return Weight(score_function_weight)

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """As `PolicyGradient.search_space`, with short rollouts, the loss's coefficients and the optimiser."""
        shared = super().search_space(trial, observation_space, action_space)
        return {
            **shared,
            "n_steps": search.power_of_two(trial, "n_steps", 4, 256),
            "gae_lambda": search.uniform(trial, "gae_lambda", 0.8, 1.0),
            "ent_coef": search.log_uniform(trial, "ent_coef", 1e-6, 0.1),
            "vf_coef": search.uniform(trial, "vf_coef", 0.1, 1.0),
            "max_grad_norm": search.log_uniform(trial, "max_grad_norm", 0.3, 5),
            "normalize_advantage": trial.suggest_categorical("normalize_advantage", [False, True]),
            "use_rms_prop": trial.suggest_categorical("use_rms_prop", [False, True]),
        }

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; as `PolicyGradient.learn`, logging every 100 updates by default."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
