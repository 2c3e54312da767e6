"""The side of `peers.py` and `fastest.py` that has SB3's interface: this package, or Stable-Baselines3 itself.

    python benchmarks/peer_sb3.py LIBRARY MODE WORK

LIBRARY is `pg_agents` or `stable_baselines3`, WORK a JSON object:

| key                | what                                                                                   |
|--------------------|----------------------------------------------------------------------------------------|
| `env`              | Gymnasium's id                                                                         |
| `n_envs`           | number of copies in training                                                           |
| `ppo`              | arguments of PPO; a string `"lin_<number>"` is a schedule that falls linearly to 0       |
| `normalize`        | true for `VecNormalize(norm_reward=False)`                                             |
| `steps`            | environment steps of a training                                                        |
| `seed`             | for the modes `run` and `reach`                                                        |
| `interval`, `target` | for the mode `reach`: steps between evaluations, and the mean return to reach        |

The modes print one JSON object a line:

* `rates`: trains for one rollout, prints an empty object, and then trains once for each seed that it reads from its
  input. Prints steps, seconds and processor seconds of `learn`, and the mean return of 100 episodes afterwards.
* `run`: trains, and with `episodes` in WORK evaluates that many. Prints steps and mean return.
* `reach`: trains with evaluations until the target is reached. Prints steps, Unix time, and the mean return of 100
  more episodes.

All evaluations take the most probable actions.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

LIBRARY = sys.argv[1]
module = importlib.import_module(LIBRARY)
if LIBRARY == "pg_agents":
    from pg_agents import EvalCallback, evaluate_policy
else:
    import torch
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)  # SB3 is faster so with networks of this size; `pg_agents` sees to it itself

WORLD = "world" in inspect.signature(getattr(module, "make_vec", make_vec_env)).parameters


def make(work: dict[str, Any], n_envs: int, seed: int, training: bool = True) -> VecEnv:
    """Copies of the environment: a compiled world where the library has them, else SB3's `DummyVecEnv`."""
    env = (
        module.make_vec(work["env"], n_envs, seed=seed, world=True)
        if WORLD
        else make_vec_env(work["env"], n_envs, seed)
    )
    return VecNormalize(env, training=training, norm_reward=False) if work.get("normalize") else env


def make_agent(work: dict[str, Any], seed: int) -> Any:
    arguments = {name: schedule(value) for name, value in work["ppo"].items()}
    if "activation" in arguments:
        arguments["policy_kwargs"] = {
            "activation_fn": getattr(importlib.import_module("torch.nn"), arguments.pop("activation"))
        }
    return module.PPO("MlpPolicy", make(work, work["n_envs"], seed), seed=seed, device="cpu", **arguments)


def schedule(value: Any) -> Any:
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    first = float(value[len("lin_") :])
    return lambda progress_remaining: progress_remaining * first


def mean_return(agent: Any, env: VecEnv, n_episodes: int) -> float:
    sync_envs_normalization(agent.get_env(), env)
    return float(evaluate_policy(agent, env, n_episodes, deterministic=True, warn=False)[0])


class Confirm(BaseCallback):
    """Called after each evaluation: ends the training if its mean and that of 100 more episodes reach the target."""

    parent: EvalCallback
    reached = False

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = target

    def _on_step(self) -> bool:
        if self.parent.last_mean_reward >= self.target:
            self.reached = mean_return(self.model, self.parent.eval_env, 100) >= self.target
        return not self.reached


def rates(work: dict[str, Any]) -> None:
    """Train once for each seed in the input."""
    eval_env = make(work, 20, seed=1_000, training=False)
    make_agent(work, seed=0).learn(1)
    print("{}", flush=True)
    for line in sys.stdin:
        agent = make_agent(work, seed=int(line))
        start, processor_start = time.perf_counter(), time.process_time()
        agent.learn(work["steps"])
        seconds, processor = time.perf_counter() - start, time.process_time() - processor_start
        score = mean_return(agent, eval_env, 100)
        report = {
            "steps": agent.num_timesteps,
            "seconds": seconds,
            "processor": processor,
            "return": score,
            "world": WORLD,
        }
        print(json.dumps(report), flush=True)


def run(work: dict[str, Any]) -> None:
    """Train, and evaluate if asked to."""
    agent = make_agent(work, work["seed"])
    agent.learn(work["steps"])
    n_episodes = work.get("episodes", 0)
    score = mean_return(agent, make(work, n_episodes, 1_000, training=False), n_episodes) if n_episodes else None
    print(json.dumps({"steps": agent.num_timesteps, "return": score, "world": WORLD}))


def reach(work: dict[str, Any]) -> None:
    """Train until the target is reached."""
    agent = make_agent(work, work["seed"])
    eval_env, confirm = make(work, 20, seed=1_000, training=False), Confirm(work["target"])
    counted = 1 if LIBRARY == "pg_agents" else work["n_envs"]  # steps of what the callback counts, steps or calls
    watch = EvalCallback(
        eval_env,
        callback_after_eval=confirm,
        n_eval_episodes=20,
        eval_freq=work["interval"] // counted,
        deterministic=True,
        verbose=0,
        warn=False,
    )
    agent.learn(work["steps"], callback=watch)
    clock = time.time()
    score = mean_return(agent, make(work, 100, 2_000, training=False), 100)
    report = {"steps": agent.num_timesteps, "clock": clock, "reached": confirm.reached, "return": score, "world": WORLD}
    print(json.dumps(report))


if __name__ == "__main__":
    {"rates": rates, "run": run, "reach": reach}[sys.argv[2]](json.loads(sys.argv[3]))
