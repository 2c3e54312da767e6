"""NPG: the natural policy gradient."""

from __future__ import annotations

from typing import ClassVar

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.checks import warn_of_truncated_minibatch
from pg_agents.contract import Batches, Engine, FollowsNaturalGradient, Loss, NaturalStep, Objective, Summary
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.objectives import importance_weighted, importance_weighted_weight
from pg_agents.tuning import Choice, LogInteger, LogUniform, PowerOfTwo, SearchSpace, Uniform


class NPG(PolicyGradient):
    """Natural policy gradient: steps measured by the change of the policy, not of its parameters.

    θ += α (F + d I)⁻¹ g, g = ∇ E[Â r], F = E[∇ log π ∇ log πᵀ], r = π(a|s) / π_old(a|s)   (Kakade 2002, section 2)

    α is `step_size`, or √(2 δ / sᵀ (F + d I) s) for a step s that moves the policy by a KL divergence of δ =
    `target_kl`. Conjugate gradients find s = (F + d I)⁻¹ g from products of F with vectors, with d = `cg_damping`
    (arXiv:1502.05477, appendix C). The critic is then fitted to the returns, with the policy's optimiser. Parameters
    that actor and critic share move with the actor only.

    Raises:
        ValueError: An argument is out of range, or `engine` names an engine that cannot follow the natural gradient.
    """

    learning_rate: float | Schedule = argument(
        default=1e-3, doc="Step size of the critic's optimiser; a number or a function of the progress remaining."
    )
    n_steps: int = 2048
    batch_size: int | None = argument(
        default=128, doc="Minibatch size of the critic; None takes the whole rollout at once."
    )
    gamma: float = 0.99
    cg_max_steps: int = argument(
        default=15, doc="Largest number of conjugate gradient steps.", at_least=1, integer=True
    )
    cg_damping: float = argument(default=0.1, doc="d, added to the diagonal of the Fisher matrix.", at_least=0)
    n_critic_updates: int = argument(
        default=10, doc="Passes of the critic over each rollout.", at_least=1, integer=True
    )
    gae_lambda: float = 0.95
    normalize_advantage: bool = argument(
        default=True, doc="Shift and scale each rollout's advantages to mean 0 and standard deviation 1."
    )
    target_kl: float = argument(default=0.01, doc="δ, the KL divergence between two policies in succession.", above=0)
    sub_sampling_factor: int = argument(
        default=1, doc="The policy's step uses every so many-th sample.", at_least=1, integer=True
    )
    step_size: float | None = argument(
        default=None,
        doc="α; None for the step that moves the policy by `target_kl`.",
        above=0,
        optional=True,
        kw_only=True,
    )

    search: ClassVar[SearchSpace] = {
        "n_steps": PowerOfTwo(32, 2048),
        "batch_size": PowerOfTwo(32, 4096, at_most=("n_steps", "n_envs")),
        "gae_lambda": Uniform(0.8, 1.0),
        "normalize_advantage": Choice((True, False)),
        "target_kl": LogUniform(1e-3, 0.1),
        "cg_max_steps": LogInteger(5, 30),
        "cg_damping": LogUniform(1e-3, 0.3),
        "n_critic_updates": LogInteger(5, 30),
    }

    def objective(self) -> Objective:
        """Â r, with ψ = Â r."""
        return Objective(lambda batch: importance_weighted(batch.ratio, batch.advantages), importance_weighted_weight)

    def natural_step(self) -> NaturalStep:
        """The form of the policy's step."""
        return NaturalStep(
            step_size=self.step_size,
            target_kl=self.target_kl,
            cg_max_steps=self.cg_max_steps,
            cg_damping=self.cg_damping,
            line_search_max_iter=0,
            sub_sampling_factor=self.sub_sampling_factor,
        )

    def update(self, loss: Loss) -> Summary:
        """One natural step of the policy, then epochs over minibatches for the critic."""
        engine = self._engine_for(loss)
        assert isinstance(engine, FollowsNaturalGradient), "checked when it was made"
        critic = Batches(self.n_critic_updates, self.batch_size)
        return engine.natural_update(self.policy, self.rollout_buffer, loss, self.natural_step(), critic)

    def _make_engine(self, loss: Loss) -> Engine:
        engine = super()._make_engine(loss)
        if isinstance(engine, FollowsNaturalGradient):
            return engine
        if self.engine != "auto":
            raise ValueError(
                f"`engine` is {self.engine!r}, which has no `natural_update`, so that {type(self).__name__} cannot use "
                "it. engine='auto' takes autograd in its place."
            )
        return AutogradEngine()

    def check_arguments(self) -> None:
        """See `PolicyGradient.check_arguments`."""
        self.max_grad_norm = float("inf")  # no argument here: in files it is 0, which is out of its range elsewhere
        super().check_arguments()

    def complete_arguments(self) -> None:
        """No gradient is clipped, for which the attribute is 0 in sb3-contrib."""
        self.max_grad_norm = 0.0

    def warn_of_arguments(self) -> None:
        """Warn of a truncated minibatch, in SB3's words."""
        if self.env is not None:
            warn_of_truncated_minibatch(self.batch_size, self.n_steps, self.env.num_envs, stacklevel=5)
