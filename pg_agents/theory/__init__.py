"""Exact solutions of small problems, and a study of how well the algorithms of this package estimate them."""

from pg_agents.theory.linear_quadratic import GaussianSolution, LinearQuadratic
from pg_agents.theory.mdp import Solution, TabularMDP
from pg_agents.theory.natural import ascend, two_states
from pg_agents.theory.policies import LinearActorCritic, LinearPolicy
from pg_agents.theory.study import Estimate, GradientStudy, gradient_study

__all__ = [
    "Estimate",
    "GaussianSolution",
    "GradientStudy",
    "LinearActorCritic",
    "LinearPolicy",
    "LinearQuadratic",
    "Solution",
    "TabularMDP",
    "ascend",
    "gradient_study",
    "two_states",
]
