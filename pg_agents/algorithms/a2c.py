"""A2C: synchronous advantage actor-critic."""

from __future__ import annotations

from dataclasses import InitVar
from typing import Any, ClassVar

import stable_baselines3
import torch as th
from stable_baselines3.common.type_aliases import Schedule

from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.contract import Objective
from pg_agents.objectives import score_function, score_function_weight
from pg_agents.tuning import Choice, LogUniform, PowerOfTwo, SearchSpace, Uniform


class A2C(PolicyGradient):
    """Advantage actor-critic: one gradient step after every few steps of several environments.

    maximise E[Â log π(a|s)] + `ent_coef` E[H(π)] - `vf_coef` E[(R - V)²]   (arXiv:1602.01783, eq. 2 and section 4)

    Â is generalised advantage estimation, which with the default λ = 1 is the n-step advantage of the paper. The
    synchronous form is https://openai.com/index/openai-baselines-acktr-a2c/. Arguments, their order and defaults are
    those of SB3's A2C, and so are, on the engine `"autograd"`, the parameters at the end of training.
    """

    same_order_as = stable_baselines3.A2C
    fixed_on_load = PolicyGradient.fixed_on_load | {"use_rms_prop", "rms_prop_eps"}
    default_log_interval = 100

    learning_rate: float | Schedule = 7e-4
    n_steps: int = 5
    gamma: float = 0.99
    gae_lambda: float = 1.0
    ent_coef: InitVar[float | Schedule] = 0.0
    vf_coef: InitVar[float | Schedule] = 0.5
    max_grad_norm: InitVar[float | None] = 0.5
    rms_prop_eps: float = argument(default=1e-5, above=0, doc="ε of RMSprop.")
    use_rms_prop: bool = argument(
        default=True, doc="RMSprop, as in the paper, instead of the policy's optimiser (Adam)."
    )
    normalize_advantage: bool = argument(default=False, kw_only=True)

    search: ClassVar[SearchSpace] = {
        "n_steps": PowerOfTwo(4, 256),
        "gae_lambda": Uniform(0.8, 1.0),
        "ent_coef": LogUniform(1e-6, 0.1),
        "vf_coef": Uniform(0.1, 1.0),
        "max_grad_norm": LogUniform(0.3, 5),
        "normalize_advantage": Choice((False, True)),
        "use_rms_prop": Choice((False, True)),
    }

    def objective(self) -> Objective:
        """Â log π(a|s), with ψ = Â."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)

    def complete_policy_kwargs(self, given: dict[str, Any]) -> dict[str, Any]:
        """RMSprop, unless the caller names an optimiser."""
        if not self.use_rms_prop or "optimizer_class" in given:
            return given
        rms_prop = {"alpha": 0.99, "eps": self.rms_prop_eps, "weight_decay": 0}
        return {**given, "optimizer_class": th.optim.RMSprop, "optimizer_kwargs": rms_prop}
