"""Write the table of docs/questions/which_algorithm.md from the zoo's evidence: `python docs/questions/scores.py`."""

from __future__ import annotations

import re
from pathlib import Path

from pg_zoo.evidence.scored import Evidence, collect
from pg_zoo.words import interval

PAGE = Path(__file__).with_name("which_algorithm.md")
BEGIN, END = "<!-- Written by docs/questions/scores.py. -->\n", "<!-- End of what it writes. -->\n"
ALGORITHMS = ("ppo", "trpo", "a2c", "actor_critic", "reinforce_baseline", "reinforce")
ENVIRONMENTS = {
    "CartPole-v1": "discrete, short",
    "Acrobot-v1": "discrete",
    "MountainCar-v0": "discrete, a reward that random play hardly ever sees",
    "LunarLander-v3": "discrete, longer",
    "Pendulum-v1": "continuous",
    "LunarLanderContinuous-v3": "continuous",
    "pg/TorqueArm-v0": "continuous, 2 joints",
    "pg/TorqueLQR-v0": "continuous, optimum known",
    "pg/AliasedGridworld-v0": "the best policy is random",
    "HalfCheetah-v5": "continuous, MuJoCo",
}


def table() -> str:
    """Scores with their intervals, and the steps of the training, of the tasks and algorithms above."""
    scores = {(one.env, one.algo): one for one in collect()}
    lines = ["| environment | " + " | ".join(ALGORITHMS) + " |", "| --- |" + " ---: |" * len(ALGORITHMS)]
    for env, kind in ENVIRONMENTS.items():
        cells = [_cell(scores.get((env, algo))) for algo in ALGORITHMS]
        lines.append(f"| {env} ({kind}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    score = interval([evidence.mean, *evidence.interval])
    return f"{score.replace(' [', '<br>[')}<br>{evidence.n_timesteps:,}"


def main() -> None:
    text = PAGE.read_text()
    PAGE.write_text(re.sub(f"(?s)({BEGIN}).*({END})", lambda found: f"{found[1]}\n{table()}\n{found[2]}", text))


if __name__ == "__main__":
    main()
