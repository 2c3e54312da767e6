"""Conclusions from results: the pairs of algorithms to compare, their scales, and the verdicts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pg_agents import registry
from pg_zoo.errors import UserError, one_line
from pg_zoo.lookup import plugin_warnings
from pg_zoo.results import statistics
from pg_zoo.results.scales import Mark, Scale, find_scale
from pg_zoo.results.statistics import MIN_SEEDS, Difference, Estimate
from pg_zoo.results.storage import COMMIT, RANDOM
from pg_zoo.results.tables import Results
from pg_zoo.words import count, different, interval, listed, number, ranges

CONCLUSIONS = ("better", "worse", "equal scores", "no difference shown", "nothing can be concluded")
# Normalised scores are clipped to these limits before they are averaged over environments. Otherwise, the noise of one
# run would dominate where random actions are nearly optimal.
LIMITS = (-1.0, 2.0)

# Origins, in the words of `pg_zoo.recipes.files`, of values that were not tuned for the environment.
_UNTUNED = re.compile(r"'default' in \S+ of (?P<whose>\S+)|the algorithm's own defaults")
_UNEQUAL_STEPS = 1.1  # a comparison mentions larger ratios of steps
# Hyperparameters that are no arguments of the algorithm, and what an entry without them has.
_WITHOUT = {"n_envs": 1, "normalize": False, "env_kwargs": {}, "monitor_kwargs": {}}
_WITHOUT |= dict.fromkeys(("callback", "env_wrapper", "frame_stack", "vec_env_wrapper"))


def pairs(algos: Sequence[str], baseline: str | None = None, *, has_random: bool = False) -> list[tuple[str, str]]:
    """The pairs of algorithms to compare.

    With a baseline, all others are compared with it. Without one, each algorithm is compared with the reference of the
    same name (`ppo` with `sb3/ppo`), or with all references if there is none of that name. Without references, all
    algorithms are compared with each other, and a single one with random actions.

    Args:
        algos: The trained algorithms.
        baseline: One of them, or `"random"`.
        has_random: Whether random actions are among the results.

    Raises:
        UserError: The baseline is not among the results.
    """
    known = [*algos, *[RANDOM] * has_random]
    if baseline is not None:
        if baseline not in known:
            raise UserError(f"--baseline: {registry.unknown_name('algorithm', baseline, known)}")
        return [(algo, baseline) for algo in algos if algo != baseline]
    if len(algos) == 1:
        return [(algos[0], RANDOM)] * has_random
    references = [algo for algo in algos if algo.partition("/")[0] in registry.REFERENCES]
    chosen = []
    for algo in algos:
        if algo not in references:
            own = [reference for reference in references if reference.partition("/")[2] == algo]
            chosen += [(algo, reference) for reference in own or references]
    return chosen or list(itertools.combinations(algos, 2))


def scale_of(results: Results, env: str) -> Scale:
    """The scale of an environment; its substitute is the highest mean score in the results.

    Args:
        results: The results.
        env: A Gymnasium id, registered or not.
    """
    means = {algo: float(results.scores(algo, env).mean()) for algo in results.algos_on(env)}
    algo = max(means, key=means.__getitem__, default=None)
    substitute = None if algo is None else Mark(means[algo], f"the mean score of `{algo}`, the best here")
    return find_scale(env, env_kwargs(results, env)[0], [*results.scores(RANDOM, env)], substitute)


def env_kwargs(results: Results, env: str) -> list[dict[str, Any]]:
    """The distinct keyword arguments of an environment in the results; more than one means more than one task."""
    found: list[dict[str, Any]] = []
    for detail in results.details:
        kwargs = detail["hyperparams"].get("env_kwargs") or {}
        if detail["env"] == env and kwargs not in found:
            found.append(kwargs)
    return found


@dataclass(frozen=True)
class Comparison:
    """A comparison of two algorithms on one environment, or on several with normalised scores.

    Attributes:
        algo: The first algorithm.
        baseline: The algorithm that it is compared with.
        envs: The environments.
        n_seeds: Numbers of seeds of the two; with several environments, on each.
        means: Mean scores of the two.
        difference: Difference of the means; None if nothing can be concluded.
        further: Additional remarks for the sentence; without a difference, the reason.
        equal: Whether the scores are the same bit for bit, seed by seed.
    """

    algo: str
    baseline: str
    envs: tuple[str, ...]
    n_seeds: tuple[int, int]
    means: tuple[float, float]
    difference: Difference | None
    further: str = ""
    equal: bool = False

    @property
    def conclusion(self) -> str:
        """One of `CONCLUSIONS`."""
        if self.difference is None:
            return CONCLUSIONS[-1]
        return "equal scores" if self.equal else self.difference.conclusion

    @property
    def where(self) -> str:
        """The environment, or the number of them."""
        return self.envs[0] if len(self.envs) == 1 else f"{len(self.envs)} environments together"

    def after_correction(self, adjusted: float | None) -> str:
        """`holds` or `does not hold`; empty where there is nothing to correct.

        Args:
            adjusted: Holm's p-value, if there is more than one comparison.
        """
        if adjusted is None or self.conclusion not in ("better", "worse"):
            return ""
        return "holds" if adjusted < 1 - statistics.CONFIDENCE else "does not hold"

    def sentence(self, adjusted: float | None = None) -> str:
        """The result as a sentence, with interval and number of seeds.

        Args:
            adjusted: Holm's p-value, if there is more than one comparison.
        """
        first, second, n = f"`{self.algo}`", f"`{self.baseline}`", self.n_seeds[0]
        where = self.where
        if self.difference is None:
            return f"**{where}**: nothing can be concluded about {first} and {second}: {self.further}."
        measure = "mean score" if len(self.envs) == 1 else "mean normalised score"
        if self.equal:
            return (
                f"**{where}**: {first} and {second} have **equal scores**, bit for bit, with each of {n} seeds: "
                f"{measure} {number(self.means[0])}{self.further}."
            )
        said = (
            f"no difference shown between {first} and {second}"
            if self.conclusion == "no difference shown"
            else f"{first} is **{self.conclusion}** than {second}"
        )
        text = (
            f"**{where}**: {said}: {measure} {number(self.means[0])} against {number(self.means[1])}, "
            f"difference {interval(Estimate(*self.difference[:3]))}, {n} seeds each{self.further}."
        )
        if answer := self.after_correction(adjusted):
            text += f" It {answer} after Holm's correction."
        return text


@dataclass(frozen=True)
class Selection:
    """The environments over which scores can be averaged.

    Attributes:
        envs: Their ids.
        n_seeds: Number of seeds of each algorithm on each of them.
        left_out: The other environments, each with the reason.
    """

    envs: tuple[str, ...]
    n_seeds: int
    left_out: dict[str, str]


@dataclass(frozen=True)
class Findings:
    """The conclusions from results.

    Attributes:
        results: The results.
        pairs: The pairs of algorithms to compare.
        thresholds: Scores to be reached, by environment; elsewhere, the return at which it counts as solved.
    """

    results: Results
    pairs: list[tuple[str, str]]
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def threshold(self, env: str) -> float | None:
        """The score whose time is told; None without one."""
        return self.thresholds.get(env, self.scales[env].threshold)

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """The scale of each environment."""
        with plugin_warnings(), one_line(registry.PluginError):
            registry.register_envs()
        return {env: scale_of(self.results, env) for env in self.results.envs}

    @cached_property
    def unlike(self) -> dict[str, list[dict[str, Any]]]:
        """Environments whose keyword arguments differ between cells, with these arguments."""
        found = {env: env_kwargs(self.results, env) for env in self.results.envs}
        return {env: kwargs for env, kwargs in found.items() if len(kwargs) > 1}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The comparisons of each pair: first over all environments, if there are several, then on each."""
        return [comparison for pair in self.pairs for comparison in self._compare(*pair)]

    def select(self, algos: Sequence[str]) -> Selection:
        """The environments with the same seeds of all these algorithms, and with scores that can be normalised."""
        seeds = {env: [[*self.results.scores(algo, env).index] for algo in algos] for env in self.results.envs}
        counts = {env: [*map(len, found)] for env, found in seeds.items()}
        n_seeds = max(map(min, counts.values()))
        most = next((found[0] for env, found in seeds.items() if set(counts[env]) == {n_seeds}), None)
        left_out = {}
        for env, numbers in counts.items():
            if env in self.unlike:
                left_out[env] = "not the same task for all"
            elif n_seeds < MIN_SEEDS:
                left_out[env] = f"fewer than {MIN_SEEDS} seeds of all algorithms"
            elif set(numbers) != {n_seeds}:
                short = [f"{n} of `{algo}`" for n, algo in zip(numbers, algos, strict=True) if n != n_seeds]
                left_out[env] = f"{n_seeds} seeds of each are needed, but there are {listed(short)}"
            elif any(found != most for found in seeds[env]):
                left_out[env] = "not the same seeds of all"
            elif any(self.results.n_failed(algo, env) for algo in algos):
                left_out[env] = "a training failed, and the remaining ones may be the better ones"
            elif self.scales[env].one is None:
                left_out[env] = self.scales[env].why
        return Selection(tuple(env for env in counts if env not in left_out), n_seeds, left_out)

    def normalised(self, algo: str, envs: Sequence[str]) -> np.ndarray:
        """Normalised scores of shape (seeds, environments), none outside `LIMITS`."""
        columns = [self.scales[env].normalise(self.results.scores(algo, env).to_numpy()) for env in envs]
        scores: np.ndarray = np.clip(np.stack(columns, axis=1), *LIMITS)
        return scores

    def sentences(self, algo: str, baseline: str) -> list[str]:
        """The results of a pair's comparisons, one sentence each."""
        return [comparison.sentence(self.corrected(comparison)) for comparison in self._of(algo, baseline)]

    def corrected(self, comparison: Comparison) -> float | None:
        """Holm's p-value of a comparison; None if it is the only one, or has no difference."""
        return self.adjusted.get(comparison) if len(self.adjusted) > 1 else None

    def unlike_hyperparams(self, algo: str, baseline: str) -> dict[str, list[str]]:
        """The hyperparameters whose values differ between two algorithms, defaults included, by environment."""
        found: dict[str, list[str]] = {}
        for env in self.results.envs:
            first, second = (self._detail(name, env) for name in (algo, baseline))
            if first is not None and second is not None and RANDOM not in (algo, baseline):
                names = _unlike(first, second)
                found |= {env: names} if names else {}
        return found

    def hides_defaults(self, algo: str, baseline: str) -> bool:
        """Whether the defaults of one of two algorithms are not among the results."""
        details = [self._detail(name, env) for name in (algo, baseline) for env in self.results.envs]
        return not all(detail.get("defaults") for detail in details if detail is not None)

    def _detail(self, algo: str, env: str) -> dict[str, Any] | None:
        """The record of the first seed."""
        return next((one for one in self.results.details if (one["algo"], one["env"]) == (algo, env)), None)

    def untuned(self, algo: str, baseline: str) -> list[str]:
        """Descriptions of environments on which only one of two algorithms had tuned hyperparameters."""
        found: dict[str, list[str]] = {}
        for env in self.results.envs:
            origins = {name: [*self.results.of(name, env).origin] for name in (algo, baseline) if name != RANDOM}
            untuned = {name: _UNTUNED.match(origin[0]) for name, origin in origins.items() if origin}
            if len(untuned) == 2 and len([*filter(None, untuned.values())]) == 1:
                ((name, match),) = ((name, match) for name, match in untuned.items() if match)
                whose = f"{match['whose']}'s untuned default" if match["whose"] else "its class's untuned defaults"
                found.setdefault(f"`{name}` had {whose}", []).append(env)
        return [f"{what} on {listed(envs)}" for what, envs in found.items()]

    def tally(self, algo: str, baseline: str) -> str:
        """The number of environments with each conclusion about a pair, in words."""
        drawn = [comparison.conclusion for comparison in self._of(algo, baseline) if len(comparison.envs) == 1]
        numbers = [f"{kind} on {drawn.count(kind)}" for kind in CONCLUSIONS if kind in drawn]
        return f"{', '.join(numbers)} of {count(len(drawn), 'environment')}" if drawn else "no environment has both"

    @cached_property
    def adjusted(self) -> dict[Comparison, float]:
        """Holm's p-values of all comparisons that have a difference."""
        p_values = {
            comparison: comparison.difference.p_value for comparison in self.comparisons if comparison.difference
        }
        return dict(zip(p_values, statistics.holm([*p_values.values()]).tolist(), strict=True))

    @property
    def first_look(self) -> str:
        """The warning of `pg-zoo benchmark --quick`; empty for full trainings."""
        short = {(one["algo"], one["env"]): one for one in self.results.details if one.get("full_steps")}
        if not short:
            return ""
        made, full = (_span([int(one[name]) for one in short.values()]) for name in ("n_timesteps", "full_steps"))
        n_seeds = len({one["seed"] for one in short.values()} | {*self.results.cells.seed})
        return (
            f"**A first look** (`--quick`): trainings ended after {made} of {full} steps, with "
            f"{count(n_seeds, 'seed')}. This page cannot tell which algorithm is better after a full training, nor "
            "whether one that has learned little so far will; and only large differences are shown with so few seeds. "
            "Verdicts are about these short trainings. The command without `--quick`, in another folder, decides."
        )

    def notes(self) -> list[str]:
        """Caveats: missing and failed cells, different tasks, code or package versions."""
        results = self.results
        notes = []
        if results.missing:
            total = count(len(results.missing) + len(results.cells), "cell")
            notes.append(f"{len(results.missing)} of {total} are missing; `{results.command}` continues with them.")
        if results.failed:
            notes.append(f"{count(len(results.failed), 'cell')} failed: see “What was run”.")
        for env, kwargs in self.unlike.items():
            notes.append(
                f"{env} was not the same task for all algorithms and is left out of comparisons: its arguments were "
                f"{listed([str(arguments) for arguments in kwargs])}."
            )
        commits = different(detail["versions"].get(COMMIT, "unknown") for detail in results.details)
        if len(commits) > 1:
            notes.append(f"Not all cells were trained by the same code; commits of pg-agents: {listed(commits)}.")
        for name, numbers in results.versions.items():
            if len(numbers) > 1 and name != COMMIT:
                notes.append(f"Not all cells were trained with the same version of {name}: {listed(numbers)}.")
        return notes

    def _of(self, algo: str, baseline: str) -> list[Comparison]:
        return [one for one in self.comparisons if (one.algo, one.baseline) == (algo, baseline)]

    def _compare(self, algo: str, baseline: str) -> Iterator[Comparison]:
        chosen = self.select([algo, baseline])
        if len(chosen.envs) > 1:
            first, second = (self.normalised(name, chosen.envs) for name in (algo, baseline))
            yield Comparison(
                algo,
                baseline,
                chosen.envs,
                (chosen.n_seeds, chosen.n_seeds),
                (float(first.mean()), float(second.mean())),
                statistics.difference(first, second),
                f"; difference of the IQMs {interval(statistics.iqm_difference(first, second))}, probability of "
                f"improvement {interval(statistics.probability_of_improvement(first, second))}"
                f"{self._unequal_somewhere(algo, baseline, chosen.envs)}",
                np.array_equal(first, second),
            )
        # Environments without results of one of the two are included: it may have failed with every seed.
        of_both = ({env for name, env in self.results.asked_for if name == one} for one in (algo, baseline))
        for env in sorted(set.intersection(*of_both)):
            if env not in self.unlike:
                scores, others = (self.results.scores(name, env) for name in (algo, baseline))
                why = self._why_nothing(algo, baseline, env)
                yield Comparison(
                    algo,
                    baseline,
                    (env,),
                    (len(scores), len(others)),
                    (scores.mean(), others.mean()),
                    None if why else statistics.difference(scores.to_numpy(), others.to_numpy()),
                    why or self._unequal_steps(algo, baseline, env),
                    not why and np.array_equal(scores.to_numpy(), others.to_numpy()),
                )

    def _unequal_somewhere(self, algo: str, baseline: str, envs: Sequence[str]) -> str:
        unequal = [env for env in envs if self._unequal_steps(algo, baseline, env)]
        return f"; with unequal steps on {listed(unequal)}" if unequal else ""

    def _why_nothing(self, algo: str, baseline: str, env: str) -> str:
        """The reason why nothing can be concluded about two algorithms; empty if something can."""
        seeds, others = ([*self.results.scores(name, env).index] for name in (algo, baseline))
        if not (seeds and others):
            absent = [name for name, there in ((algo, seeds), (baseline, others)) if not there]
            return listed([self._why_absent(name, env) for name in absent])
        if len(seeds) != len(others):
            return (
                f"{count(len(seeds), 'seed')} of `{algo}` but {len(others)} of `{baseline}`; the missing ones may be "
                "the worse ones"
            )
        if seeds != others:
            return f"`{algo}` has the seeds {ranges(seeds)}, but `{baseline}` has {ranges(others)}; both need the same"
        if len(seeds) < MIN_SEEDS:
            return f"{count(len(seeds), 'seed')} of each, but at least {MIN_SEEDS} are needed"
        for name in (algo, baseline):
            if self.results.n_failed(name, env):
                return f"a training of `{name}` failed, and the remaining ones may be the better ones"
        return ""

    def _why_absent(self, algo: str, env: str) -> str:
        n_asked = sum(key[:2] == (algo, env) for key in self.results.missing)
        n_failed = self.results.n_failed(algo, env)
        verb = "failed" if n_failed >= n_asked else "failed or are missing" if n_failed else "are missing"
        return f"all trainings of `{algo}` {verb}"

    def _unequal_steps(self, algo: str, baseline: str, env: str) -> str:
        steps = [float(self.results.of(name, env).n_timesteps.mean()) for name in (algo, baseline)]
        if 0 < min(steps) * _UNEQUAL_STEPS < max(steps):
            return f", after {steps[0]:,.0f} and {steps[1]:,.0f} steps"
        return ""


def _span(numbers: Sequence[int]) -> str:
    low, high = f"{min(numbers):,}", f"{max(numbers):,}"
    return low if low == high else f"{low} to {high}"


def _unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The hyperparameters that differ between two cells. A default counts only if the other has that argument too."""
    names = []
    for name in sorted({*_all_values(first), *_all_values(second)}):
        there = [name in _all_values(detail) or name in _WITHOUT for detail in (first, second)]
        said = name in first["hyperparams"] or name in second["hyperparams"]
        if all(there):
            one, other = (_all_values(detail).get(name, _WITHOUT.get(name)) for detail in (first, second))
            names += [name] * (one != other)
        else:
            names += [name] * said
    return names


def _all_values(detail: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's hyperparameters with the algorithm's defaults for the others, if they are stored."""
    return {**(detail.get("defaults") or {}), **detail["hyperparams"]}
