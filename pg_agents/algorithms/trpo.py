"""TRPO: trust region policy optimisation."""

from __future__ import annotations

from dataclasses import replace

from pg_agents.algorithms.npg import NPG
from pg_agents.arguments import argument
from pg_agents.contract import NaturalStep


class TRPO(NPG):
    """Trust region policy optimisation: the largest natural step within a trust region that improves the policy.

    maximise E[Â r] subject to E[KL(π || π_old)] ≤ δ, with r = π(a|s) / π_old(a|s)   (arXiv:1502.05477, eq. 14)

    A line search tries the natural gradient's step for a KL divergence of δ = `target_kl`, then this step times c, c²,
    ..., until the objective has grown and the divergence is below δ, with c = `line_search_shrinking_factor`. If no
    step does both, the policy stays as it is, to the last bit. The critic is fitted in either case.

    Arguments, their order and defaults are those of sb3-contrib's TRPO, and so are, on the engine `"autograd"`, the
    parameters at the end of training.

    Raises:
        ValueError: An argument is out of range, or `engine` names an engine that cannot follow the natural gradient.
    """

    # By name, because sb3-contrib is not needed here and takes its time to import.
    same_order_as = (
        "policy",
        "env",
        "learning_rate",
        "n_steps",
        "batch_size",
        "gamma",
        "cg_max_steps",
        "cg_damping",
        "line_search_shrinking_factor",
        "line_search_max_iter",
        "n_critic_updates",
        "gae_lambda",
        "use_sde",
        "sde_sample_freq",
        "rollout_buffer_class",
        "rollout_buffer_kwargs",
        "normalize_advantage",
        "target_kl",
        "sub_sampling_factor",
        "stats_window_size",
        "tensorboard_log",
        "policy_kwargs",
        "verbose",
        "seed",
        "device",
        "_init_setup_model",
    )

    line_search_shrinking_factor: float = argument(
        default=0.8, doc="c, by which the line search shortens the step after each trial.", above=0, at_most=1
    )
    line_search_max_iter: int = argument(
        default=10, doc="Number of steps that the line search tries.", at_least=1, integer=True
    )

    def natural_step(self) -> NaturalStep:
        """The form of the policy's step, with the divergence as sb3-contrib takes it."""
        return replace(
            super().natural_step(),
            line_search_max_iter=self.line_search_max_iter,
            line_search_shrinking_factor=self.line_search_shrinking_factor,
            mean_over_dimensions=True,
        )
