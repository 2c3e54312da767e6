"""The side of `peers.py` and `fastest.py` that is rejax; runs in rejax's own environment.

    python benchmarks/peer_rejax.py MODE WORK

WORK is a JSON object: `config` has the arguments of `rejax.PPO.create`, `steps` the environment steps of a training,
and `seed`, `interval` and `target` are those of `peer_sb3.py`, as are the modes and the reports. All evaluations take
the most probable actions; rejax's own would sample them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp
from rejax import PPO
from rejax.evaluate import evaluate


def make_algorithm(work: dict[str, Any], steps: int) -> Any:
    """PPO without evaluations within `train`."""
    algorithm = PPO.create(**work["config"], total_timesteps=steps, eval_freq=steps, skip_initial_evaluation=True)
    return algorithm.replace(eval_callback=lambda *_: ())


def mean_return(algorithm: Any, state: Any, random: Any, n_episodes: int) -> Any:
    def act(observation: Any, _: Any) -> Any:
        if algorithm.normalize_observations:
            observation = algorithm.normalize_obs(state.obs_rms_state, observation)
        policy = algorithm.actor.apply(state.actor_ts.params, observation[None], method="_action_dist")
        if algorithm.discrete:
            return policy.mode()[0]
        return jnp.clip(policy.mode()[0], algorithm.action_space.low, algorithm.action_space.high)

    limit = algorithm.env_params.max_steps_in_episode
    _, returns = evaluate(act, random, algorithm.env, algorithm.env_params, n_episodes, limit)
    return returns.mean()


def compiled_train(algorithm: Any) -> Callable[[Any], Any]:
    return jax.jit(algorithm.train).lower(jax.random.PRNGKey(0)).compile()


def rates(work: dict[str, Any]) -> None:
    """Train once for each seed in the input."""
    algorithm = make_algorithm(work, work["steps"])
    train = compiled_train(algorithm)
    score = jax.jit(lambda state, random: mean_return(algorithm, state, random, 100))
    jax.block_until_ready(train(jax.random.PRNGKey(0)))
    print("{}", flush=True)
    for line in sys.stdin:
        start, processor_start = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(train(jax.random.PRNGKey(int(line))))
        seconds, processor = time.perf_counter() - start, time.process_time() - processor_start
        mean = float(score(state, jax.random.PRNGKey(1_000)))
        report = {"steps": int(state.global_step), "seconds": seconds, "processor": processor, "return": mean}
        print(json.dumps(report), flush=True)


def run(work: dict[str, Any]) -> None:
    """Train."""
    train = compiled_train(make_algorithm(work, work["steps"]))
    state, _ = jax.block_until_ready(train(jax.random.PRNGKey(work["seed"])))
    print(json.dumps({"steps": int(state.global_step), "return": None}))


def reach(work: dict[str, Any]) -> None:
    """Train until the target is reached."""
    algorithm = make_algorithm(work, work["interval"])

    @jax.jit
    def part(state: Any, random: Any) -> Any:
        """Training until the next evaluation, and that evaluation."""
        rollouts = -(-work["interval"] // (algorithm.num_envs * algorithm.num_steps))
        state = jax.lax.fori_loop(0, rollouts, lambda _, state: algorithm.train_iteration(state), state)
        return state, mean_return(algorithm, state, random, 20)

    more = jax.jit(lambda state, random: mean_return(algorithm, state, random, 100))
    random = jax.random.PRNGKey(1_000 + work["seed"])
    state = jax.jit(algorithm.init_state)(jax.random.PRNGKey(work["seed"]))
    reached = False
    while not reached and int(state.global_step) < work["steps"]:
        random, first, second = jax.random.split(random, 3)
        state, mean = part(state, first)
        reached = float(mean) >= work["target"] and float(more(state, second)) >= work["target"]
    clock = time.time()
    report = {"steps": int(state.global_step), "clock": clock, "reached": reached}
    print(json.dumps(report | {"return": float(more(state, jax.random.PRNGKey(2_000)))}))


if __name__ == "__main__":
    {"rates": rates, "run": run, "reach": reach}[sys.argv[1]](json.loads(sys.argv[2]))
