"""The table of the scores of the zoo's entries, beside published scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pg_zoo.evidence.scored import Evidence, published
from pg_zoo.pages.tables import markdown_table
from pg_zoo.results import statistics
from pg_zoo.words import count, duration, interval, number

HIGHER, NOT_SHOWN, LOWER = "higher", "not shown", "lower"
OLDER, MORE_STEPS = "older environment", "more steps"
REACHED, NOT_REACHED = "reached", "not reached"

_STEPPED_IN = {"world": "in its world", "envpool": "trained in EnvPool's version"}


def comparison(evidence: Evidence, theirs: Mapping[str, Any] | None) -> str:
    """Whether a score is higher or lower than a published one, or why the two cannot be compared.

    The answer follows from Welch's 95 % interval of the difference. Our standard error is over seeds; theirs, of one
    run, is over evaluation episodes.

    Args:
        evidence: Our evidence.
        theirs: An entry of `published`, or None.
    """
    if theirs is None:
        return ""
    if evidence.n_timesteps > theirs["steps"]:
        return MORE_STEPS
    difference = statistics.welch(
        [evidence.mean, theirs["mean"]],
        [float(np.std(evidence.scores, ddof=1)), theirs["std"]],
        [len(evidence.scores), theirs["episodes"]],
        statistics.CONFIDENCE,
    )
    answer = HIGHER if difference.low > 0 else LOWER if difference.high < 0 else NOT_SHOWN
    return f"{answer} ({OLDER})" if "env" in theirs else answer


_HEAD = f"""\
<!-- Written by `pg-zoo evidence`. -->
# Scores of the zoo's hyperparameters

Each row is an entry of `<algo>.yml` in a folder of hyperparameters. Its score is the mean return of an evaluation after
training, averaged over training seeds that tuning did not see, with the 95 % interval of this mean over seeds
(Student's t). The scores of single seeds, versions, machine, date and command are in
`evidence/<algo>/<environment>.json` in the same folder.

- *seeds*: number of trainings. *episodes*: number of evaluation episodes after each training.
- *steps*: environment steps of a training. *time*: median time of a training on one core, evaluations excluded.
  It is an upper bound if other work ran on the machine at the same time.
- *random*: mean return of uniformly random actions, from the longest measurement available.
- *best known*: the exact optimum, a game's value, or a reference controller's score, if there is one; *solved*: the
  return at which Gymnasium calls the environment solved, and whether the interval of the score lies above it
  (*{REACHED}*), below it (*{NOT_REACHED}*), or contains it (*{NOT_SHOWN}*).
- *SB3 in rl_zoo3*: the score that rl_zoo3 [publishes]({{source}})
  for Stable-Baselines3's algorithm of the same name, or sb3-contrib's TRPO (one run, mean ± standard deviation over
  evaluation episodes), its steps, and the version of the environment if it was an older one.
- *than SB3's*: whether the score here is shown to be *{HIGHER}* or *{LOWER}*, by the 95 % interval of the difference
  (Welch). The standard error is over seeds here, and over the episodes of the one run there. If the interval
  contains 0, the difference is *{NOT_SHOWN}*; that is not evidence of equality. Trainings with *{MORE_STEPS}* than
  theirs are not compared. If the published score is for an *{OLDER}*, rewards and episodes differ, and the answer
  means little.
- *note*: *{_STEPPED_IN["world"]}* says that training and evaluation took place in the environment's world, which
  compiled code steps; *{_STEPPED_IN["envpool"]}*, that training took place there and evaluation in Gymnasium's.
"""
_NUMBERS = ("score", "seeds", "episodes", "steps", "time", "random", "best known")
_COLUMNS = ("environment", "algorithm", *_NUMBERS, "SB3 in rl_zoo3", "than SB3's", "note")


def table(all_evidence: Iterable[Evidence]) -> str:
    """The page of all scores, in Markdown."""
    scores = published()
    rows: list[tuple[str, ...]] = []
    answers = []
    shown = list(all_evidence)
    random = _random(shown)
    for evidence in shown:
        theirs = scores.get(evidence.algo, {}).get(evidence.env)
        answer = comparison(evidence, theirs)
        answers.append(answer)
        notes = [evidence.note] * bool(evidence.note) + [_NOT_FRESH] * (not evidence.fresh)
        notes += [_STEPPED_IN[kind] for kind in (evidence.vec_env,) if kind in _STEPPED_IN]
        note = " ".join("; ".join(notes).split())
        rows.append((*_row(evidence, random[_task(evidence)]), _published_score(theirs), answer, note))
    parts = [_HEAD.replace("{source}", scores["source"])]
    summary = []
    for suffix, where in (("", ""), (f" ({OLDER})", f" of an {OLDER}")):
        counts = {answer: answers.count(answer + suffix) for answer in (HIGHER, NOT_SHOWN, LOWER)}
        if n := sum(counts.values()):
            answered = ", ".join(f"{answer}: {number_of}" for answer, number_of in counts.items())
            summary.append(
                f"{count(n, 'score')} can be compared with SB3's in rl_zoo3{where}, with no more steps. {answered}."
            )
    if summary:
        parts.append("\n".join(summary) + "\n")
    right = [index for index, column in enumerate(_COLUMNS) if column in _NUMBERS]
    parts.append(markdown_table(_COLUMNS, rows, right) + "\n")
    return "\n".join(parts)


_NOT_FRESH = "an earlier version of the entry was scored with some of these seeds"


def _task(evidence: Evidence) -> tuple[str, str]:
    """An environment and its keyword arguments."""
    return evidence.env, json.dumps(evidence.hyperparams.get("env_kwargs") or {}, sort_keys=True)


def _random(all_evidence: Sequence[Evidence]) -> dict[tuple[str, str], float | None]:
    """The score of random actions on each task, from the evidence with the most episodes."""
    found: dict[tuple[str, str], float | None] = {}
    for evidence in sorted(all_evidence, key=lambda one: len(one.seeds) * one.final_episodes):
        if evidence.random is not None:
            found[_task(evidence)] = evidence.random
    return {_task(evidence): found.get(_task(evidence)) for evidence in all_evidence}


def _row(evidence: Evidence, random: float | None) -> tuple[str, ...]:
    best = ""
    if evidence.best is not None:
        value, kind = evidence.best
        best = number(value)
        if kind == "solved":
            low, high = evidence.interval
            best = f"solved: {best}, {REACHED if low >= value else NOT_REACHED if high < value else NOT_SHOWN}"
    return (
        evidence.env,
        evidence.algo,
        interval([evidence.mean, *evidence.interval]),
        str(len(evidence.seeds)),
        str(evidence.final_episodes),
        f"{evidence.n_timesteps:,}",
        duration(evidence.wall_time),
        "" if random is None else number(random),
        best,
    )


def _published_score(theirs: Mapping[str, Any] | None) -> str:
    if theirs is None:
        return ""
    older = f" ({theirs['env']})" if "env" in theirs else ""
    return f"{number(theirs['mean'])} ± {number(theirs['std'])}, {theirs['steps']:,} steps{older}"
