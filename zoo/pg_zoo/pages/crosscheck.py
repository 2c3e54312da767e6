"""The page of `pg-zoo crosscheck`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version

import numpy as np

from pg_zoo.crosscheck.parameters import MIN_STEPS, ParameterCheck
from pg_zoo.crosscheck.scores import PACKAGES, ScoreCheck
from pg_zoo.evidence.entries import Entry
from pg_zoo.options import CrosscheckOptions
from pg_zoo.pages.tables import markdown_table
from pg_zoo.results.statistics import EQUIVALENCE_CONFIDENCE
from pg_zoo.runs.provenance import command_line


@dataclass
class Row:
    """What is found out about one entry."""

    entry: Entry
    parameters: ParameterCheck
    scores: ScoreCheck | None = None

    @property
    def contradicts(self) -> bool:
        """Whether it speaks against the claim."""
        return self.parameters.contradicts or (self.scores is not None and self.scores.contradicts)


_HEAD = """\
<!-- Written by `{command}`. -->
# The cross-check with Stable-Baselines3

Is our PPO Stable-Baselines3's PPO, our A2C its A2C, and our TRPO sb3-contrib's? For each of these entries of the zoo,
both are trained with the entry's hyperparameters, wrappers and normalisation, and compared.

- date: {date}
- command: `{command}`
- versions: {versions}
- exit status: {status}. 0 means that no comparison contradicted the claim and nothing failed; how many were conclusive
  is listed below.

{tallies}

## Parameters

Both start from the same seed, ours on the engine `"autograd"`, and are compared after {updates} updates, or more until
there were {min_steps:,} steps. *equal*: the parameters, the state of the optimiser and the statistics of the
normalisation are the same bit for bit.

"""
_SCORES = """
## Scores

Both are trained with {seeds} seeds, ours on the default engine, for as many steps as the entry says, but at most
{max_steps:,}. So this says whether the two do the same, not what the entry reaches. The score of a training is the
mean return of {episodes} episodes after it. Where our engine is `autograd`, which also
gSDE takes, both draw the same random numbers, and their scores repeat what the parameters say. Random actions are
measured over 100 episodes.

Scores are *equivalent* where the {confidence:.0%} interval of the difference of their means (Welch) lies within ± the
margin: two one-sided tests at 5 % then show that they are no further apart. They are *different* where the whole
interval lies beyond the margin. Otherwise neither is shown. The margin was fixed beforehand: {margin:g} of the range
from random actions to the best known score, or else to the return at which the environment counts as solved, or else
to the score that rl_zoo3 publishes of SB3. *speed*: our steps per second over SB3's, in the same run.

"""
_PARAMETER_COLUMNS = ("environment", "algorithm", "updates", "parameters")
_SCORE_COLUMNS = (
    "environment",
    "algorithm",
    "steps",
    "ours",
    "SB3",
    "difference",
    "margin",
    "scores are",
    "engine",
    "speed",
)


def document(rows: Sequence[Row], args: CrosscheckOptions) -> str:
    """The page.

    Args:
        rows: What was found out.
        args: The options of the command.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    text = _HEAD.format(
        command=command_line(),
        date=datetime.now(timezone.utc).date(),
        versions=versions,
        updates=args.updates,
        min_steps=MIN_STEPS,
        status=int(any(row.contradicts for row in rows)),
        tallies="\n\n".join(f"**{line}.**" for line in tallies(rows)),
    )
    compared = [(*_key(row), str(row.parameters.updates or ""), str(row.parameters)) for row in rows]
    text += markdown_table(_PARAMETER_COLUMNS, compared) + "\n"
    if args.seeds:
        text += _SCORES.format(
            seeds=args.seeds,
            max_steps=args.max_steps,
            episodes=args.final_episodes,
            margin=args.margin,
            confidence=EQUIVALENCE_CONFIDENCE,
        )
        scored = [_score_row(row, row.scores) for row in rows if row.scores]
        text += markdown_table(_SCORE_COLUMNS, scored) + "\n"
    return text


def tallies(rows: Sequence[Row]) -> list[str]:
    """How often which answer was given: of parameters, and of scores if there are any."""
    parameters = [row.parameters.answer for row in rows]
    scores = [row.scores.answer for row in rows if row.scores]
    lines = [_tally("Parameters", parameters, ("equal", "different", "not compared", "failed"))]
    if scores:
        lines.append(_tally("Scores", scores, ("equivalent", "not shown", "different", "no margin", "failed")))
    return lines


def _tally(what: str, answers: Sequence[str], known: Sequence[str]) -> str:
    # The first answers always: that none was different is what one wants to know.
    counts = {answer: answers.count(answer) for answer in known}
    return f"{what}: {', '.join(f'{a} {n}' for i, (a, n) in enumerate(counts.items()) if n or a in _ALWAYS_TOLD)}"


_ALWAYS_TOLD = ("equal", "equivalent", "not shown", "different")


def _score_row(row: Row, scores: ScoreCheck) -> tuple[str, ...]:
    result = scores.result
    return (
        *_key(row),
        f"{scores.steps:,}",
        *(_mean_and_std(group) for group in (scores.ours, scores.theirs)),
        f"{_number(result.difference)} [{_number(result.low)}, {_number(result.high)}]" if result else "",
        f"{_number(result.margin)} ({scores.end})" if result else "",
        scores.verdict,
        scores.engine,
        "" if np.isnan(scores.speedup) else f"{scores.speedup:.1f}x",
    )


def _key(row: Row) -> tuple[str, str]:
    return row.entry.env, row.entry.algo


def _mean_and_std(scores: Sequence[float]) -> str:
    return f"{_number(float(np.mean(scores)))} ± {_number(float(np.std(scores, ddof=1)))}" if len(scores) > 1 else ""


def _number(value: float) -> str:
    return f"{value:.{2 if abs(value) < 100 else 1}f}"
