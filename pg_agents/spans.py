"""Updates that nobody watches: rollouts and updates one after the other in one compiled call.

A span ends so early that the update before every look of a callback, before every log and at the end of the training is
made in the usual way. Whatever can be read afterwards is as it would have been without spans, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from pg_agents.collecting import EpisodeStatistics
from pg_agents.contract import CompiledLoop
from pg_agents.envs.compiled import CompiledEnv
from pg_agents.interrupts import deferred
from pg_agents.logs import records_unseen
from pg_agents.looking import next_look, sees_rollouts, skip
from pg_agents.resuming.run import Run, has_boundaries

SHORTEST = 4  # updates: the tables of a loop cost as much as one or two
# A call cannot be interrupted. Steps, and samples times parameters, of a call; the latter of an update too: above, the
# time between updates does not count, and two threads may share one.
LONGEST, MOST, LARGEST = 10_000, 1e9, 1e7


@dataclass(frozen=True)
class Parts:
    """The parts of an agent that a span needs beside SB3's attributes.

    Attributes:
        env: Its environment.
        loop: Fills the agent's own buffer.
        statistics: Of its episodes.
        generator: The random numbers for its actions.
        coefficients: The learning rate, `ent_coef` and `vf_coef` of so many updates, `(3, updates)`.
    """

    env: CompiledEnv
    loop: CompiledLoop
    statistics: EpisodeStatistics
    generator: np.random.Generator
    coefficients: Callable[[int], np.ndarray]


def n_unwatched(agent: OnPolicyAlgorithm, run: Run, logger: Logger) -> int:
    """The number of updates that a span may have now; 0 where there should be none.

    Args:
        agent: The agent, between an update and a rollout of `n_steps`.
        run: The training.
        logger: The agent's logger.
    """
    n_steps, callback = agent.n_steps, run.callback
    missing = -(-(run.total_timesteps - agent.num_timesteps) // (n_steps * agent.n_envs))
    most = min(missing - 1, LONGEST // n_steps)
    if run.log_interval is not None:
        # The log of a rollout has the metrics of the update before it.
        since = run.iteration % run.log_interval if run.log_interval else 0
        most = min(most, run.log_interval - since - 2)
    if most < SHORTEST:
        return 0
    look = next_look(callback, agent.n_envs)
    if look is None or look.at_ends:
        return 0
    most = int(min(most, (look.steps - 1) / n_steps - 1))
    if most < SHORTEST or sees_rollouts(callback) or has_boundaries(callback) or not records_unseen(logger):
        return 0
    work = n_steps * agent.n_envs * sum(parameter.numel() for parameter in agent.policy.parameters())
    most = min(most, int(MOST / work))
    return 0 if work > LARGEST or most < SHORTEST else most


def advance(agent: OnPolicyAlgorithm, run: Run, parts: Parts, n_updates: int) -> bool:
    """Make up to `n_updates` updates.

    Args:
        agent: The agent, whose state moves on as in as many rollouts and updates.
        run: The training; its `iteration` moves on.
        parts: Further parts of the agent.
        n_updates: A number from `n_unwatched`.

    Returns:
        False if the gradient of the update after the last one was refused. Its rollout is in the buffer.

    Raises:
        ValueError: An observation, a reward or the policy's output is not finite.
    """
    assert isinstance(agent._last_obs, np.ndarray), "a world has no Dict observations"
    assert agent._last_episode_starts is not None, "set by `learn`"
    assert agent.ep_info_buffer is not None, "made by `learn`"
    loop, size = parts.loop, agent.n_steps * agent.n_envs
    coefficients, parameters = parts.coefficients(n_updates), list(agent.policy.parameters())
    with deferred():
        n_made = loop.run(
            agent._last_obs, agent._last_episode_starts, parts.statistics.running, parts.generator,
            coefficients, parameters, np.zeros(1, np.int64), 0,
        )  # fmt: skip
        agent._last_obs, agent._last_episode_starts = loop.observations, loop.starts
        agent._n_updates += n_made
        n_rollouts = n_made + (loop.refused == "gradient")
        run.iteration += n_rollouts
        for *_, episode_return, stated_return, length in loop.episodes:
            agent.ep_info_buffer.append(parts.env.adapter.episode(episode_return, length))
            parts.statistics.finish(stated_return)
        before, agent.num_timesteps = agent.num_timesteps, agent.num_timesteps + n_rollouts * size
        if n_rollouts:
            agent._update_current_progress_remaining(agent.num_timesteps, run.total_timesteps)
            agent._update_learning_rate(agent.policy.optimizer)
            skip(run.callback, n_rollouts * agent.n_steps, agent.n_envs, len(loop.episodes))
        if loop.refused == "rollout":
            agent.num_timesteps += loop.n_transitions
            raise loop.refusal(before)
    return loop.refused != "gradient"
