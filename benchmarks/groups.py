"""Does GRPO help on control? Groups of episodes against critics and baselines, at equal steps and in equal time.

    python benchmarks/groups.py

GRPO and RLOO of this package against PPO, A2C, REINFORCE with each of its baselines, and REINFORCE with a learned
baseline, with the zoo's tuned values, on worlds where there are worlds. Each method trains twice: for the same number
of steps, and for as many steps as it takes in the time in which the fastest method takes its steps, with its learning
rate falling over these. Times are processor times, of training alone.
"""

from __future__ import annotations

import json
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import study
from gymnasium import spaces

from pg_envs.classic import pendulum
from pg_envs.worlds import World, register_world

STEPS = {
    "CartPole-v1": 50_000,
    "Acrobot-v1": 100_000,
    "Pendulum-v1": 300_000,
    "pg/ShortCorridor-v0": 30_000,
    "pg/TorqueLQR-v0": 100_000,
}
OWN_STARTS = "GRPO, own starts"
BASELINES = ("none", "constant", "time", "leave_one_out")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "GRPO": ("grpo", {}),
    "GRPO, per episode": ("grpo", {"credit": "episode", "gamma": 1.0}),
    OWN_STARTS: ("grpo", {}),
    "RLOO": ("rloo", {}),
    "PPO": ("ppo", {}),
    "A2C": ("a2c", {}),
    **{f"REINFORCE, {name}": ("reinforce", {"baseline": name}) for name in BASELINES},
    "ReinforceBaseline": ("reinforce_baseline", {}),
}
N_POINTS = 10
N_EPISODES = 50
RUNS = Path("runs/groups-study")
N_TORQUES = 11
BINNED = "groups/BinnedPendulum-v0"
WORLDS = {"Pendulum-v1": BINNED}
LEFT_OUT = {"Pendulum-v1": ("env_wrapper", "use_sde", "sde_sample_freq")}  # bins are in the world
# Tuned here, where the zoo has no entry.
_GROUPS = {"normalize": True, "n_envs": 8, "policy": "MlpPolicy", "group_size": 4, "credit": "step", "gamma": 0.97}
OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("grpo", "Pendulum-v1"): {**_GROUPS, "n_epochs": 10, "learning_rate": "lin_1e-3"},
    ("rloo", "Pendulum-v1"): {**_GROUPS, "learning_rate": "lin_1e-2"},
}


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Gymnasium's pendulum with a choice of torques, evenly spaced in [-2, 2]."""
    angle, speed = state[0], state[1]
    torque = 4.0 * action[0] / (N_TORQUES - 1) - 2.0
    normalised = (angle + math.pi) % (2.0 * math.pi) - math.pi
    cost = normalised * normalised + 0.1 * speed * speed + 0.001 * torque * torque
    speed = min(max(speed + (constants[0] * math.sin(angle) + 3.0 * torque) * 0.05, -8.0), 8.0)
    state[0], state[1], state[2] = angle + speed * 0.05, speed, torque
    return -cost, False


def binned() -> World:
    """The world of this step."""
    gymnasiums = pendulum.pendulum()
    return World(
        *(pendulum.start, step, pendulum.observe, 3, gymnasiums.observation_space, spaces.Discrete(N_TORQUES)),
        constants=gymnasiums.constants,
    )


register_world(BINNED, binned, max_episode_steps=200)


def world(env: str) -> str:
    """The world of an environment, if it has one."""
    return WORLDS.get(env, env if env.startswith("pg/") else f"pg/{env}")


@cache
def entry(method: str, env: str) -> dict[str, Any]:
    """The zoo's hyperparameters of a method, without those that keep an environment from being a world; or its own."""
    import yaml

    import pg_zoo.hyperparams

    algo, changes = METHODS[method]
    with open(Path(pg_zoo.hyperparams.__path__[0]) / f"{algo}.yml") as file:
        found = OWN.get((algo, env)) or yaml.safe_load(file)[env]
    return {name: value for name, value in found.items() if name not in LEFT_OUT.get(env, ())} | changes


def run(task: tuple[str, str, int], seed: int) -> dict[str, Any]:
    """One training, unless a file in `runs` has it: what was stopped goes on there."""
    method, env, n_steps = task
    path = RUNS / f"{method}-{env.replace('/', '-')}-{n_steps}-{seed}.json".replace(" ", "")
    if not path.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(trained(method, env, n_steps, seed)))
    return json.loads(path.read_text())


def trained(method: str, env: str, n_steps: int, seed: int) -> dict[str, Any]:
    """One training: steps, seconds of the processor and mean return after each tenth of it."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import sync_envs_normalization

    from pg_zoo.runs.cell import Cell
    from pg_zoo.runs.evaluating import run_evaluation
    from pg_zoo.runs.training import built, resolved

    algo, _ = METHODS[method]
    hyperparams = {**entry(method, env), "n_timesteps": n_steps}
    cell = resolved(Cell(algo, world(env), 100 + seed, hyperparams, final_episodes=N_EPISODES))

    class Curve(BaseCallback):
        rows: list[tuple[int, float, float]]

        def _on_training_start(self) -> None:
            self.rows, self.seconds, self.resumed = [], 0.0, time.process_time()

        def next_look(self) -> int | None:
            missing = n_steps * (len(self.rows) + 1) / N_POINTS - self.model.num_timesteps
            return max(1, math.ceil(missing / self.training_env.num_envs))

        def _on_step(self) -> bool:
            if self.num_timesteps >= n_steps * (len(self.rows) + 1) / N_POINTS and len(self.rows) < N_POINTS - 1:
                self.look()
            return True

        def look(self, last: bool = False) -> None:
            self.seconds += time.process_time() - self.resumed
            number = 0 if last else len(self.rows) + 1
            returns, _ = run_evaluation(cell, model, envs, number, N_EPISODES if last else 20, deterministic)
            self.rows.append((model.num_timesteps, self.seconds, float(np.mean(returns))))
            self.resumed = time.process_time()

    with built(cell) as warm:  # compiled code is loaded before the clock starts
        warm.model.learn(1)
    set_random_seed(cell.seed)
    with built(cell) as training:
        model, envs = training.model, training.eval_envs
        if method == OWN_STARTS:
            model.__class__ = _own_starts()
        deterministic = training.recipe.deterministic_evaluation and _deterministic(envs)
        curve = Curve()
        if model.get_vec_normalize_env() is not None:
            look = curve.look
            curve.look = lambda last=False: (sync_envs_normalization(model.get_env(), envs), look(last))[1]
        model.learn(training.recipe.n_timesteps, [*training.recipe.callbacks, curve])
        curve.look(last=True)
    return {"score": curve.rows[-1][2], "seconds": curve.rows[-1][1], "steps": curve.rows[-1][0], "curve": curve.rows}


@cache
def _own_starts() -> type[Any]:
    """GRPO whose episodes start as they please, so that a group has no common start."""
    from pg_agents import GRPO
    from pg_agents.collecting import EpisodeCollector

    return type("OwnStarts", (GRPO,), {"collector_class": EpisodeCollector})


def _deterministic(envs: Any) -> bool:
    from pg_agents.envs.evaluation import deterministic_evaluation

    return deterministic_evaluation(envs)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores, seconds and steps of each run, as lists in a line each, and the mean curve."""
    numbers = {name: " ".join(f"{one[name]:.6g}" for one in runs) for name in ("score", "seconds", "steps")}
    curve = np.mean([one["curve"] for one in runs], axis=0)
    return numbers | {"curve": "; ".join(" ".join(f"{number:.5g}" for number in row) for row in curve)}


def figure(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Any:
    """Mean return by steps, and by seconds on a logarithmic axis, a column for each environment."""
    import matplotlib.pyplot as plt

    envs = [env for env in STEPS if any(env == other for _, other in results)]
    picture, axes = plt.subplots(2, len(envs), figsize=(4 * len(envs), 7), squeeze=False)
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for column, env in enumerate(envs):
        for number, method in enumerate(METHODS):
            if (method, env) not in results:
                continue
            curves = np.array([one["curve"] for one in results[method, env]])  # (seeds, points, 3)
            steps, seconds, returns = curves.mean(axis=0).T
            for row, x in enumerate((steps, seconds)):
                axes[row, column].plot(x, returns, color=colours[number], label=method, lw=2.5 if number < 3 else 1.2)
        axes[0, column].set(title=env, xlabel="environment steps")
        axes[1, column].set(xlabel="seconds of the processor", xscale="log")
    axes[0, 0].set_ylabel("mean return")
    axes[1, 0].set_ylabel("mean return")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    picture.tight_layout()
    return picture


def table(results: dict[tuple[str, str], list[dict[str, Any]]], shown: str) -> str:
    """Mean and interval of each method on each environment."""
    envs = [env for env in STEPS if any(env == other for _, other in results)]
    lines = ["| method | " + " | ".join(envs) + " |", "|---|" + "---:|" * len(envs)]
    for method in METHODS:
        cells = []
        for env in envs:
            found = results.get((method, env), [])
            if shown == "score":
                digits = 0 if max((abs(one["score"]) for one in found), default=0) >= 20 else 2
                cells.append(study.mean_and_interval([one["score"] for one in found], digits) if found else "")
            else:
                cells.append(f"{np.median([one[shown] for one in found]):,.3g}" if found else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = study.arguments(__doc__, seeds=10).parse_args()
    envs = [env for env in STEPS if options.only in env]
    tasks = [(method, env, STEPS[env]) for env in envs for method in METHODS]
    by_steps = study.run_seeds(run, tasks, options.seeds, options.jobs)
    rates = {
        task: float(np.median([one["steps"] / one["seconds"] for one in found])) for task, found in by_steps.items()
    }
    limits = {
        env: min(float(np.median([one["seconds"] for one in by_steps[method, env, STEPS[env]]])) for method in METHODS)
        for env in envs
    }
    in_time = [(method, env, min(n, int(rates[method, env, n] * limits[env]))) for method, env, n in tasks]
    by_time = study.run_seeds(run, in_time, options.seeds, options.jobs)
    equal_steps, equal_time = (
        {(method, env): found for (method, env, _), found in each.items()} for each in (by_steps, by_time)
    )
    text = TEXT.format(
        seeds=options.seeds,
        steps=", ".join(f"{STEPS[env]:,} on {env}" for env in envs),
        scores=table(equal_steps, "score"),
        seconds=table(equal_steps, "seconds"),
        limits=", ".join(f"{limits[env]:.2g} s on {env}" for env in envs),
        in_time=table(equal_time, "score"),
        steps_in_time=table(equal_time, "steps"),
    )
    raw = {
        name: [{"method": method, "env": env, **summary(found)} for (method, env), found in each.items()]
        for name, each in (("equal_steps", equal_steps), ("equal_time", equal_time))
    }
    study.write("groups", "Groups against critics and baselines", text, raw, figure(equal_steps), options.output)


TEXT = """\
Mean return of {seeds} trainings with the 95 % bootstrap interval of the mean over seeds. Each training is evaluated in
50 episodes after its last update. All methods have the zoo's tuned values. On Pendulum all choose among 11 torques, as
the zoo's Monte-Carlo methods do, so PPO and A2C have no gSDE there. This favours GRPO and RLOO somewhat on Pendulum:
their values there were tuned on this very task, and those of the others for the zoo's.

GRPO and RLOO compare returns from each step. "GRPO, per episode" has the paper's credit, one return for all steps of an
episode. "GRPO, own starts" is GRPO whose episodes do not share a start within a group; all else is equal.

## Equal steps

{steps}.

{scores}

Seconds of the processor for these steps, without evaluations (median):

{seconds}

## Equal time

The time in which the fastest method takes the steps above: {limits}. Each method takes as many steps as it can in
this time, and its learning rate falls over these.

{in_time}

Steps (median):

{steps_in_time}
"""


if __name__ == "__main__":
    main()
