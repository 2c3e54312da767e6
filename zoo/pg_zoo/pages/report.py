"""The report on a stored benchmark: sentences, tables and figures."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pg_zoo.errors import UserError
from pg_zoo.pages import figures
from pg_zoo.pages.document import (
    Block,
    Bullets,
    Details,
    Heading,
    Pictures,
    Table,
    Text,
    markdown,
    numbered,
    page,
    pictures,
)
from pg_zoo.pages.hparams import hparams
from pg_zoo.pages.latex import latex
from pg_zoo.results import statistics
from pg_zoo.results.findings import Comparison, Findings, Selection, pairs
from pg_zoo.results.scales import Scale
from pg_zoo.results.storage import RANDOM, write_whole, writing
from pg_zoo.results.tables import Results, read
from pg_zoo.words import count, different, digits_of, duration, interval, listed, number, ranges, rounded

FORMATS = {"html": "report.html", "markdown": "report.md", "latex": "report.tex"}
_STEPPED = {"dummy": "one by one", "native": "vector version", "world": "world", "envpool": "EnvPool"}
_FEW = 5  # seeds, up to which each has a line of its own in a figure


def write_report(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    baseline: str | None = None,
    formats: Collection[str] = ("html", "markdown"),
    thresholds: Mapping[str, float] | float | None = None,
    tensorboard: bool = False,
) -> list[str]:
    """Write the report, `figures/*.png` and `figures/*.pdf`, `cells.csv`, `curves.csv` and `evaluations.csv`.

    Args:
        folder: The results of `pg-zoo benchmark`.
        output: The folder to write into; by default the results' own.
        baseline: The algorithm that all others are compared with; by default, see `pg_zoo.results.findings.pairs`.
        formats: Some of `FORMATS`.
        thresholds: The score whose time is told, or one for each environment; by default, the return at which an
            environment counts as solved.
        tensorboard: Write `tensorboard/` too, for TensorBoard's HParams.

    Returns:
        Lines for the user: caveats, one line for each comparison, and the paths of the report.

    Raises:
        UserError: There are no readable results, or the baseline or an environment is not among them.
        OSError: A file cannot be written; it is left unchanged.
    """
    results = read(folder)
    compared = pairs(results.all_algos, baseline, has_random=RANDOM in {*results.cells.algo})
    findings = Findings(results, compared, _by_env(thresholds, results.envs))
    blocks = numbered(_blocks(findings))
    tables = {"cells": results.cells, "curves": results.curves, "evaluations": results.evaluations}
    files = {f"figures/{name}": data for name, data in pictures(blocks).items()}
    files |= {f"{name}.csv": table.to_csv(index=False).encode() for name, table in tables.items()}
    files |= hparams(findings) if tensorboard else {}
    title = _title(results)
    written = {
        "html": lambda: page(title, blocks),
        "markdown": lambda: markdown(blocks),
        "latex": lambda: latex(title, blocks),
    }
    reports = [name for name in FORMATS if name in formats]
    files |= {FORMATS[name]: written[name]().encode() for name in reports}
    target = Path(output or folder)
    with writing(target, "-o/--output"):
        for name, data in files.items():
            write_whole(target / name, data)
    first_look = findings.first_look.replace("*", "").replace("`", "")
    return [
        *[first_look] * bool(first_look),
        *(note.replace("`", "") for note in findings.notes()),
        *(f"{algo} against {baseline}: {findings.tally(algo, baseline)}." for algo, baseline in findings.pairs),
        *different(f"{what.replace('`', '')}." for pair in findings.pairs for what in findings.untuned(*pair)),
        *(f"Report: {target / FORMATS[name]}" for name in reports if name != "markdown" or reports == ["markdown"]),
        *[f"TensorBoard: tensorboard --logdir {target / 'tensorboard'}, HParams"] * tensorboard,
    ]


def _by_env(thresholds: Mapping[str, float] | float | None, envs: Sequence[str]) -> dict[str, float]:
    if thresholds is None:
        return {}
    if not isinstance(thresholds, Mapping):
        return dict.fromkeys(envs, thresholds)
    for env in thresholds:
        if env not in envs:
            raise UserError(f"--threshold: the results have no environment {env!r}, but {listed(envs)}.")
    return dict(thresholds)


def _title(results: Results) -> str:
    seeds = {len(results.of(algo, env)) for algo in results.algos or [RANDOM] for env in results.envs} - {0}
    n = str(min(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    envs = listed(results.envs) if len(results.envs) <= 3 else count(len(results.envs), "environment")
    return f"{listed(results.algos or [RANDOM])} on {envs}, {n} seed{'' if n == '1' else 's'}"


def _blocks(findings: Findings) -> list[Block]:
    results = findings.results
    look = figures.Look(results.algos)
    blocks = [Heading(1, _title(results)), *_verdicts(findings), *_summary(findings)]
    if results.algos:
        blocks += _together(findings, look)
    for env in results.envs:
        blocks += _environment(findings, env, look)
    if results.algos:
        blocks += _speed(results, look)
    return [*blocks, *_what_was_run(results), *_method()]


def _verdicts(findings: Findings) -> list[Block]:
    first_look: list[Block] = [Text(findings.first_look)] * bool(findings.first_look)
    if not findings.comparisons:
        return first_look
    several = len(findings.adjusted) > 1
    columns = ["environment", "algorithm", "verdict", "against", "difference [95 %]", "n"]
    columns += ["Holm"] * several
    rows = [_verdict(findings, comparison)[: len(columns)] for comparison in findings.comparisons]
    caption = (
        "Verdicts on each algorithm, from the difference of its mean score and that of the algorithm it is compared "
        "with, Student's 95 % interval of this difference, paired by seed, and the number n of seeds"
    )
    if several:
        caption += "; Holm: whether the verdict holds after the correction for all comparisons"
    return [Heading(2, "Verdicts"), *first_look, Table(columns, rows, numbers=False, caption=f"{caption}.")]


def _verdict(findings: Findings, comparison: Comparison) -> list[str]:
    difference, n = comparison.difference, comparison.n_seeds
    verdict = comparison.conclusion
    return [
        comparison.where,
        f"`{comparison.algo}`",
        f"**{verdict}**" if verdict in ("better", "worse") else verdict,
        f"`{comparison.baseline}`",
        "" if difference is None else interval(difference[:3]),
        str(n[0]) if n[0] == n[1] else f"{n[0]} and {n[1]}",
        comparison.after_correction(findings.corrected(comparison)),
    ]


def _summary(findings: Findings) -> list[Block]:
    blocks: list[Block] = [Heading(2, "In plain words")]
    if notes := findings.notes():
        blocks.append(Bullets([f"**Note**: {note}" for note in notes]))
    if not findings.pairs:
        blocks.append(Text("There is only one algorithm, so there is nothing to compare."))
    for pair in findings.pairs:
        blocks += [Heading(3, "`{}` against `{}`".format(*pair)), Text(f"{findings.tally(*pair).capitalize()}.")]
        if sentences := findings.sentences(*pair):
            blocks.append(Bullets(sentences))
        if untuned := findings.untuned(*pair):
            blocks.append(
                Text(
                    f"**Tuned against untuned**: {'; '.join(untuned)}. A difference there may be due to tuning alone. "
                    "Tune both, or, if they take the same hyperparameters, compare them with `--same-hyperparams`."
                )
            )
        if unlike := findings.unlike_hyperparams(*pair):
            names = "; ".join(f"{', '.join(names)} on {env}" for env, names in unlike.items())
            omitted = "Values that an entry omits are the algorithm's defaults, which may differ too. "
            omitted = omitted if findings.hides_defaults(*pair) else ""
            blocks.append(
                Text(
                    f"**Trained with different hyperparameters**: they differ in {names}. {omitted}Scores and speeds "
                    "therefore compare algorithms including their hyperparameters; `--same-hyperparams` gives both "
                    "the same entry."
                )
            )
    n = len(findings.adjusted)
    if n:
        blocks.append(
            Text(
                "A score is the mean return of the episodes after training. The brackets after a difference are its "
                "95 % interval: of 100 such intervals from new seeds, about 95 would contain the true difference. An "
                "algorithm is called better or worse only if the interval excludes 0. “No difference shown” is not "
                "evidence of equality: the width of the interval shows how large a difference may be."
            )
        )
    if n > 1:
        blocks.append(
            Text(
                f"This page judges {n} differences. If none of them existed, about 1 in 20 would still be called "
                "better or worse. Holm's correction keeps the risk of even one such mistake below 5 %."
            )
        )
    return blocks


def _together(findings: Findings, look: figures.Look) -> list[Block]:
    algos = findings.results.algos
    chosen = findings.select(algos)
    blocks: list[Block] = [Heading(2, "All environments together")]
    if chosen.envs:
        scales = [(env, findings.scales[env]) for env in chosen.envs]
        blocks += [
            Text(
                f"{count(len(chosen.envs), 'environment')}, {chosen.n_seeds} seeds of each algorithm on each. Scores "
                "are normalised and limited to the range from -1 to 2. 0 is the score of random actions; 1 is"
            ),
            Bullets([f"on {env}: {scale.why}, {number(scale.one or 0)}" for env, scale in scales]),
            *_aggregates(findings, chosen, look),
        ]
    else:
        blocks.append(Text("No environment qualifies."))
    if chosen.left_out:
        blocks += [Text("Left out:"), Bullets([f"{env}: {why}" for env, why in chosen.left_out.items()])]
    return blocks


def _aggregates(findings: Findings, chosen: Selection, look: figures.Look) -> list[Block]:
    algos = findings.results.algos
    scores = {algo: findings.normalised(algo, chosen.envs) for algo in algos}
    estimates = {algo: statistics.aggregates(matrix) for algo, matrix in scores.items()}
    values = np.stack([*scores.values()])
    thresholds = np.linspace(min(0, values.min()), max(1, values.max()), 101)
    profiles = {algo: statistics.performance_profile(matrix, thresholds) for algo, matrix in scores.items()}
    shown = {"performance_profiles": figures.performance_profiles(look, thresholds, profiles)}
    caption = "Performance profiles: the share of runs that score above τ; higher is better"
    improvements = {
        (x, y): statistics.probability_of_improvement(scores[x], scores[y]) for x, y in itertools.combinations(algos, 2)
    }
    if improvements:
        shown["probability_of_improvement"] = figures.improvement(algos, improvements)
        caption += (
            ". Probability of improvement: how often a run of X scores higher than one of Y on the same environment, "
            "ties counted half"
        )
    if findings.select([*algos, RANDOM]).envs == chosen.envs:  # with the same seeds as the others
        by_chance = findings.normalised(RANDOM, chosen.envs)
        improvements |= {
            (algo, RANDOM): statistics.probability_of_improvement(scores[algo], by_chance) for algo in algos
        }
    rows = [[f"`{x}`", f"`{y}`", interval(estimate)] for (x, y), estimate in improvements.items()]
    chance = "Probability that a run of X scores higher than one of Y on the same environment."
    scales = [findings.scales[env] for env in chosen.envs]
    has_optima = all(scale.best and scale.best_name == "optimal" for scale in scales)
    # Scores and optimality gaps of the two ends, by definition.
    ends = [(f"`{RANDOM}`", "0", "1"), ("optimal (known)" if has_optima else "upper end", "1", "0")]
    how = (
        f"95 % intervals from {statistics.N_RESAMPLES} stratified bootstrap resamples; "
        f"n = {chosen.n_seeds} seeds on each of {count(len(chosen.envs), 'environment')}"
    )
    return [
        Table(
            ["algorithm", *(f"{name} [95 %]" for name in statistics.AGGREGATES)],
            _evenly(estimates)
            + [[name, *[value] * (len(statistics.AGGREGATES) - 1), gap] for name, value, gap in ends],
            caption=f"Normalised scores; {how}.",
        ),
        Pictures(
            {"aggregates": figures.aggregates(look, estimates)},
            f"Normalised scores with {how}. Higher is better, except for the optimality gap.",
        ),
        Pictures(shown, f"{caption}. Bands and brackets: {how}."),
        *[Table(["X", "Y", "P(X > Y) [95 %]"], rows, numbers=False, caption=chance)] * bool(rows),
    ]


def _evenly(estimates: Mapping[str, Mapping[str, statistics.Estimate]]) -> list[list[str]]:
    """A row for each algorithm, with the same number of digits in all of them."""
    digits = digits_of([estimate for of_one in estimates.values() for estimate in of_one.values()])
    return [[f"`{algo}`", *(interval(one, digits) for one in of_one.values())] for algo, of_one in estimates.items()]


def _environment(findings: Findings, env: str, look: figures.Look) -> list[Block]:
    results, scale = findings.results, findings.scales[env]
    facts = [f"random actions score {number(scale.random)}"] if scale.random is not None else []
    facts += [f"{scale.best.words} is {number(scale.best.value)}"] if scale.best else []
    facts += [f"solved at {number(scale.threshold)}"] if scale.threshold is not None else []
    facts.append(f"1 after normalisation is {scale.why}" if scale.one is not None else f"not normalised: {scale.why}")
    text = "; ".join(facts)
    columns = ["algorithm", "seeds", "mean [95 %]", "IQM [95 %]", "worst seed", "best seed", "normalised [95 %]"]
    blocks: list[Block] = [
        Heading(2, env),
        Text(f"{text[0].upper()}{text[1:]}."),
        *_about_price(scale),
        Table(columns, _scores(results, env, scale), caption=_about_scores(results, env)),
    ]
    if results.algos_on(env):
        columns = ["algorithm", "steps", "training time", "steps/s (range)", "memory (MiB)"]
        rows = [[f"`{algo}`", *_cost(results, algo, env)] for algo in _measured(results, env)]
        caption = f"Cost of a training on {env}: means of steps, medians of time, speed and memory over seeds."
        blocks.append(Table(columns, rows, caption=caption))
    return [*blocks, *_times(findings, env), *_curves(findings, env, look)]


def _about_scores(results: Results, env: str) -> str:
    options = next(detail["options"] for detail in results.details if detail["env"] == env)
    return (
        f"Scores on {env}: the mean return of {count(options['final_episodes'], 'episode')} after training, over "
        "seeds, with its 95 % interval."
    )


def _times(findings: Findings, env: str) -> list[Block]:
    """Steps and seconds until the threshold, if there is one and curves have been measured."""
    results, threshold = findings.results, findings.threshold(env)
    algos = [algo for algo in results.algos_on(env) if results.curves_of(algo, env, "timesteps")]
    if threshold is None or not algos:
        return []
    found = {
        unit: {algo: statistics.mean_time_to(threshold, results.curves_of(algo, env, unit)) for algo in algos}
        for unit in ("timesteps", "wall_time")
    }
    digits = digits_of([one.time for one in found["wall_time"].values()])
    rows = []
    for algo in algos:
        steps, seconds = (by_algo[algo] for by_algo in found.values())
        sign = "≥ " if steps.reached < steps.n else ""
        times = [one.time if one.reached else _without_interval(one.time) for one in (steps, seconds)]
        shown = [f"{sign}{interval(times[0], 0)}", f"{sign}{interval(times[1], digits)}"]
        rows.append([f"`{algo}`", f"{steps.reached} of {steps.n}", *shown])
    goal = number(threshold)
    caption = (
        f"Steps and seconds of training on {env} until the first evaluation with a mean return of at least {goal}: "
        "mean over seeds with Student's 95 % interval, cut at 0. Runs that never got there are censored: they count "
        "with their end; a mean marked ≥ is therefore a lower bound. Times are those of evaluations."
    )
    return [Table(["algorithm", f"reached {goal}", "steps [95 %]", "seconds [95 %]"], rows, caption=caption)]


def _without_interval(estimate: statistics.Estimate) -> statistics.Estimate:
    """The value alone: where every run is censored, it says only how long they were."""
    return statistics.Estimate(estimate.value, np.nan, np.nan)


def _about_price(scale: Scale) -> list[Block]:
    if scale.objective is None:
        return []
    text = (
        "**The score is not everything**: training may charge a price for the KL divergence from a reference policy. "
        "It then maximises J = mean return - `kl_coef` × KL divergence. The largest J is "
        f"{number(scale.objective)}, for the policy whose return is the best known score. A policy with the same "
        "return further away from the reference is worse. Algorithms that charge the price log J as "
        "`rollout/objective`, which `--tensorboard` keeps."
    )
    return [Text(text)]


def _measured(results: Results, env: str) -> list[str]:
    """The algorithms with results on an environment; random actions come last."""
    return results.algos_on(env) + [RANDOM] * (len(results.of(RANDOM, env)) > 0)


def _scores(results: Results, env: str, scale: Scale) -> list[list[str]]:
    measured = _measured(results, env)
    scores = {algo: results.scores(algo, env).to_numpy() for algo in measured}
    means = {algo: statistics.mean(values) for algo, values in scores.items()}
    normal = {
        algo: statistics.mean(scale.normalise(values)) for algo, values in scores.items() if scale.one is not None
    }
    digits, fine = digits_of([*means.values()]), digits_of([*normal.values()])
    rows = []
    for algo, values in scores.items():
        middle = statistics.interquartile_mean(values[:, None])
        shown = [interval(means[algo], digits), interval(middle, digits)]
        ends = [rounded(values.min(), digits), rounded(values.max(), digits)]
        rows.append([f"`{algo}`", str(len(values)), *shown, *ends, interval(normal[algo], fine) if normal else ""])
    known = [] if RANDOM in measured or scale.random is None else [("random (known)", scale.random)]
    known += [("reference (known)", scale.reference)] if scale.reference is not None else []
    known += [(f"{scale.best_name} (known)", scale.best.value)] if scale.best else []
    for name, value in known:
        exact = number(float(scale.normalise(value))) if scale.one is not None else ""
        rows.append([name, "", number(value), "", "", "", exact])
    return rows


def _cost(results: Results, algo: str, env: str) -> list[str]:
    cells = results.of(algo, env)
    speed, memory = cells.steps_per_second.astype(float), cells.peak_memory_mib.astype(float)
    has_trained = speed.notna().any()
    return [
        f"{cells.n_timesteps.mean():,.0f}",
        duration(cells.wall_time.median()) if has_trained else "",
        f"{speed.median():,.0f} ({speed.min():,.0f} to {speed.max():,.0f})" if has_trained else "",
        f"{memory.median():,.0f}" if memory.notna().any() else "",
    ]


def _curves(findings: Findings, env: str, look: figures.Look) -> list[Block]:
    results, scale = findings.results, findings.scales[env]
    n_curves = {algo: len(results.curves_of(algo, env, "timesteps")) for algo in results.algos_on(env)}
    algos = [algo for algo, n in n_curves.items() if n]
    if not algos:
        return []
    best = {scale.best_name: scale.best.value} if scale.best else {}
    goal = {"threshold": findings.thresholds[env]} if env in findings.thresholds else {"solved": scale.threshold}
    known = {"random": scale.random, **best, **goal}
    lines = {name: value for name, value in known.items() if value is not None}
    name = "".join(character if character.isalnum() else "-" for character in env)
    shown = {}
    for column, unit in (("timesteps", "steps"), ("wall_time", "seconds")):
        single = {algo: results.curves_of(algo, env, column) for algo in algos}
        curves = {algo: statistics.learning_curve(curves) for algo, curves in single.items()}
        seeds = {algo: curves for algo, curves in single.items() if 1 < len(curves) <= _FEW}
        shown[f"{name}_{unit}"] = figures.learning_curves(look, curves, lines, seconds=unit == "seconds", seeds=seeds)
    if len({n_curves[algo] for algo in algos}) == 1:
        n = f"{count(n_curves[algos[0]], 'seed')} of each"
    else:
        n = listed([f"{count(n_curves[algo], 'seed')} of `{algo}`" for algo in algos])
    thin = "Thin lines: single seeds. " if any(1 < n_curves[algo] <= _FEW for algo in algos) else ""
    caption = (
        f"{env}, evaluations during training, {n}. Lines: mean over seeds of each evaluation, at the mean time (in "
        f"steps or seconds of training). {thin}Bands: Student's 95 % interval of this mean, for each evaluation "
        "separately."
    )
    return [Pictures(shown, caption)]


def _speed(results: Results, look: figures.Look) -> list[Block]:
    speeds = {
        env: {algo: results.of(algo, env).steps_per_second.to_numpy(float) for algo in results.algos_on(env)}
        for env in results.envs
        if results.algos_on(env)
    }
    seeds = [len(values) for by_algo in speeds.values() for values in by_algo.values()]
    n = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else f"{min(seeds)}"
    caption = (
        f"Environment steps per second of training, evaluations excluded: median and range, n = {n} seeds. "
        "Trainings that run at the same time slow each other down, and speed depends on hyperparameters such as "
        "n_envs and batch_size. Only with equal hyperparameters does the figure compare the algorithms themselves."
    )
    return [Heading(2, "Speed"), Pictures({"throughput": figures.throughput(look, speeds)}, caption)]


def _what_was_run(results: Results) -> list[Block]:
    details = results.details
    days = sorted(str(detail["date"])[:10] for detail in details)
    facts = {
        "Command": listed([f"`{command}`" for command in different(detail["command"] for detail in details)]),
        "Date": days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        "Machine": listed(different(f"{d['machine']['cpu']}, {d['machine']['cores']} cores" for d in details)),
        "Versions": ", ".join(f"{name} {listed(numbers)}" for name, numbers in results.versions.items()),
        "Evaluation": listed(different(_evaluation(detail["options"]) for detail in details)),
    }
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for detail in details:
        groups.setdefault((detail["algo"], detail["env"]), []).append(detail)
    rows = [
        [
            f"`{algo}`",
            env,
            ranges(cell["seed"] for cell in cells),
            listed(different(f"{cell['n_timesteps']:,}" for cell in cells)),
            listed(different(cell["engine"] for cell in cells)),
            listed(different(cell["device"] for cell in cells)),
            listed(different(_STEPPED.get(cell.get("vec_env", ""), "") for cell in cells)),
            "most probable" if cells[0]["deterministic"] else "drawn",
            cells[0]["origin"],
        ]
        for (algo, env), cells in groups.items()
    ]
    columns = ["algorithm", "environment", "seeds", "steps", "engine", "device", "environments"]
    columns += ["actions in evaluation", "values from"]
    entries = {key: _entry(cells[0]) for key, cells in groups.items() if key[0] != RANDOM}
    blocks: list[Block] = [
        Heading(2, "What was run"),
        Bullets([f"**{name}**: {fact}" for name, fact in facts.items()]),
        Table(columns, rows, numbers=False, caption="What was trained, and how it was evaluated."),
    ]
    if entries:
        blocks += [Heading(3, "Hyperparameters"), Text("In the format of `pg-zoo train --conf-file`:")]
        blocks += [Details(f"{algo} on {env}", entry) for (algo, env), entry in entries.items()]
    if results.failed:
        failed = [f"{failure.name}: {failure.error} (`{failure.path.as_posix()}`)" for failure in results.failed]
        blocks += [Heading(3, "Failed"), Bullets(failed)]
    if results.missing:
        missing: dict[tuple[str, str], list[int]] = {}
        for algo, env, seed in results.missing:
            missing.setdefault((algo, env), []).append(seed)
        items = [f"`{algo}` on {env}: seeds {ranges(seeds)}" for (algo, env), seeds in missing.items()]
        blocks += [Heading(3, "Missing"), Bullets(items)]
    return blocks


def _entry(cell: dict[str, Any]) -> str:
    """The hyperparameters of a cell as YAML, with the algorithm's defaults for all others as comments."""
    lines = yaml.safe_dump({cell["env"]: cell["hyperparams"]})
    if defaults := cell.get("defaults"):
        comments = ["The algorithm's defaults:", *yaml.safe_dump(defaults).splitlines()]
        lines += "".join(f"  # {line}\n" for line in comments)
    return lines


def _evaluation(options: dict[str, int]) -> str:
    return (
        f"{options['final_episodes']} episodes after training; {options['eval_points']} evaluations of "
        f"{options['eval_episodes']} episodes during training"
    )


def _method() -> list[Block]:
    return [
        Heading(2, "How the numbers are made"),
        Bullets(
            [
                "**Difference**: the mean over seeds of the difference between two algorithms' scores with the same "
                "seed, with Student's t interval. Over several environments, normalised scores are averaged first. "
                "This interval alone decides between “better”, “worse” and “no difference shown”. In simulations of 3 "
                "to 10 seeds with similar spread, it contained the true difference in 95 to 98 of 100 cases. If one "
                "algorithm fails occasionally and the other never does, no interval from so few seeds is reliable: it "
                "contained the true difference in 72 to 94 of 100 cases. Look at the worst seeds too.",
                "Intervals are valid for a number of seeds **chosen beforehand**. Adding seeds until a result turns "
                "significant produces false positives: confirm it with fresh seeds (`--first-seed`) in a new folder.",
                "**Mean**: over seeds, with Student's t interval.",
                "**IQM**: mean of the middle half of the runs. **Median**: median of the environments' means. "
                "**Optimality gap**: 1 minus the mean score, where scores above 1 count as 1. **Probability of "
                "improvement** and **performance profile** are explained at their figures. Their intervals are the "
                f"2.5 % and 97.5 % percentiles of {statistics.N_RESAMPLES} stratified bootstrap resamples, made with "
                "rliable (Agarwal et al. 2021, “Deep reinforcement learning at the edge of the statistical "
                "precipice”); with few seeds they are too narrow. The mean over all environments has such an interval "
                "too, which differs from Student's even with a single environment. With 2 or 3 runs, the middle half "
                "is all of them, and the IQM is their mean.",
                "**Steps**: environment steps taken. The last rollout is completed, even beyond the requested number.",
                f"With fewer than {statistics.MIN_SEEDS} seeds, there is no interval and no conclusion. With different "
                "seeds or failed trainings, there is no conclusion, because the missing scores may be the bad ones.",
                "**Steps and seconds to a return**: until the first evaluation during training that reached it, as a "
                "mean over seeds with Student's t interval, cut at 0. No time lies below, so that cutting takes "
                "nothing from its coverage. A run that never reached it counts with its length: this is the mean "
                "restricted to the length of the trainings, a lower bound of the mean time. "
                "**Training time**: median, evaluations excluded. **Memory**: median of the peak that a training adds "
                "to the libraries, which all trainings share.",
                "**Equal scores**: with each seed, the two scores are the same number down to the last bit. The "
                "trainings were the same, or all scores are at a limit of the environment.",
                "The numbers behind this page are in `cells.csv`, `curves.csv` and `evaluations.csv`.",
            ]
        ),
    ]
