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
    """The results of one entry."""

    entry: Entry
    parameters: ParameterCheck
    scores: ScoreCheck | None = None

    @property
    def contradicts(self) -> bool:
        """Whether a result contradicts the claim."""
        return self.parameters.contradicts or (self.scores is not None and self.scores.contradicts)


_HEAD = """\
<!-- Written by `{command}`. -->
# The cross-check with Stable-Baselines3

Are our PPO and A2C the same as Stable-Baselines3's, and is our TRPO the same as sb3-contrib's? For each of these
entries of the zoo, both implementations are trained with the entry's hyperparameters, wrappers and normalisation, and
compared.

- date: {date}
- command: `{command}`
- versions: {versions}
- exit status: {status}. 0 means that no comparison contradicted the claim and nothing failed; how many were conclusive
  is listed below.

{tallies}

## Parameters

Both start from the same seed, ours on the engine `"autograd"`, and are compared after at least {updates} updates and at
least {min_steps:,} steps. *equal*: the parameters, the optimiser's state and the normalisation statistics are the same
bit for bit.

"""
_SCORES = """
## Scores

Both are trained with {seeds} seeds, ours on the default engine, for the entry's number of steps, but at most
{max_steps:,}. The scores therefore show whether the two agree, not how good the entry can get. The score of a training
is the mean return of {episodes} episodes after it. Where our engine is `autograd`, both draw the same random numbers,
and the scores add nothing to the comparison of parameters. The score of random actions is the mean over 100 episodes.

Scores are *equivalent* if the {confidence:.0%} interval of the difference of their means (Welch) lies within ± the
margin: two one-sided tests at 5 % then show that the means differ by less. They are *different* if the whole interval
lies beyond the margin. Otherwise, neither is shown. The margin was fixed beforehand: {margin:g} of the range from
random actions to the best known score. If no such score is known, the range ends at the return at which the environment
counts as solved, or else at the score that rl_zoo3 publishes for SB3. *speed*: our steps per second divided by SB3's,
in the same run.

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
        rows: The results of the entries.
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
    """The number of entries with each answer: one line for parameters, and one for scores if there are any."""
    parameters = [row.parameters.answer for row in rows]
    scores = [row.scores.answer for row in rows if row.scores]
    lines = [_tally("Parameters", parameters, ("equal", "different", "not compared", "failed"))]
    if scores:
        lines.append(_tally("Scores", scores, ("equivalent", "not shown", "different", "no margin", "failed")))
    return lines


def _tally(what: str, answers: Sequence[str], known: Sequence[str]) -> str:
    # The main answers are shown even with a count of 0: "different 0" is the result that matters.
    counts = {answer: answers.count(answer) for answer in known}
    return f"{what}: {', '.join(f'{a} {n}' for a, n in counts.items() if n or a in _ALWAYS_SHOWN)}"


_ALWAYS_SHOWN = ("equal", "equivalent", "not shown", "different")


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
