"""The policy-gradient family, from REINFORCE to TRPO, PPO and GRPO, as drop-in algorithms for Stable-Baselines3."""

from pg_agents.agent import PolicyGradient
from pg_agents.algorithms.a2c import A2C
from pg_agents.algorithms.a3c import A3C
from pg_agents.algorithms.actor_critic import ActorCritic
from pg_agents.algorithms.grpo import GRPO
from pg_agents.algorithms.npg import NPG
from pg_agents.algorithms.ppo import PPO
from pg_agents.algorithms.reinforce import REINFORCE
from pg_agents.algorithms.reinforce_baseline import ReinforceBaseline
from pg_agents.algorithms.rloo import RLOO
from pg_agents.algorithms.trpo import TRPO
from pg_agents.demonstrations import Demonstrations, collect_demonstrations
from pg_agents.envs.evaluation import EvalCallback, evaluate_policy
from pg_agents.envs.make import make_vec
from pg_agents.files.agents import load_agent, load_normalization, load_policy
from pg_agents.files.allowed import NotAllowedError
from pg_agents.files.saving import CheckpointCallback, save_normalization
from pg_agents.imitation import imitate
from pg_agents.registry import make
from pg_agents.resuming.checkpoint import Checkpoint
from pg_agents.resuming.folders import newest_checkpoint

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "A3C",
    "GRPO",
    "NPG",
    "PPO",
    "REINFORCE",
    "RLOO",
    "TRPO",
    "ActorCritic",
    "Checkpoint",
    "CheckpointCallback",
    "Demonstrations",
    "EvalCallback",
    "NotAllowedError",
    "PolicyGradient",
    "ReinforceBaseline",
    "__version__",
    "collect_demonstrations",
    "evaluate_policy",
    "imitate",
    "load_agent",
    "load_normalization",
    "load_policy",
    "make",
    "make_vec",
    "newest_checkpoint",
    "save_normalization",
]
