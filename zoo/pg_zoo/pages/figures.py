"""The figures of a report. Each function takes numbers and returns a matplotlib figure; nothing is shown."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pg_zoo.results.statistics import Estimate

Arguments = ParamSpec("Arguments")

WIDTH = (
    4.6  # inches, of every figure: as wide as a phone's screen, where its text is as large as the page's small print
)
_SMALL = 9

# Colours that differ for colour-blind readers too, each with a contrast of at least 3 to white and to the dark page.
_COLORS = (
    *("#0072B2", "#C77F00", "#009E73", "#CC79A7", "#D55E00", "#3A96D0"),
    *("#8C62C4", "#858500", "#A5673F", "#008C9E", "#C8384B", "#7F7F7F"),
)
_MARKERS = "os^Dv*PX<>hp"
# Algorithms that often meet in one figure have colours of their own; others get one by their names.
_KNOWN: tuple[str, ...] = (
    "ppo",
    "sb3/ppo",
    "a2c",
    "sb3/a2c",
    "reinforce",
    "reinforce_baseline",
    "trpo",
    "contrib/trpo",
)
_KNOWN += ("actor_critic", "npg", "grpo", "rloo")
# Text and axes; `svg` replaces exactly this colour by the page's own.
_INK = "#33363a"
_GRID = "#8a8f98"

_STYLE: dict[Any, Any] = {
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    # Names of algorithms and environments are shown as they are, dollar signs included.
    "text.parse_math": False,
    # The same ids each time, so that the same numbers give the same file.
    "svg.hashsalt": "pg-zoo",
    "pdf.fonttype": 42,  # publishers refuse matplotlib's default, type 3
}


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def _styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    @wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with _style():
            figure = draw(*args, **kwargs)
            # Once: a layout engine of the figure's own would be run for each of its files.
            ConstrainedLayoutEngine().execute(figure)
        return figure

    return styled


class Look:
    """The colour, marker and line of each algorithm, the same in all figures and all reports; references are dashed.

    They follow from the name. Only if two algorithms of one report would share a colour, the later one gets another.

    Args:
        algos: Their names.
    """

    def __init__(self, algos: Sequence[str]) -> None:
        self.algos = list(algos)
        self._places: dict[str, int] = {algo: _KNOWN.index(algo) for algo in algos if algo in _KNOWN}
        for algo in algos:
            if algo not in self._places:
                self._places[algo] = self._free(algo)

    def _free(self, algo: str) -> int:
        """The place of a name among the colours, or else the next that is free."""
        first, n = zlib.crc32(algo.encode()), len(_COLORS)
        places = [(first + step) % n for step in range(n)]
        return next((place for place in places if place not in self._places.values()), places[0])

    def color(self, algo: str) -> str:
        """The colour of an algorithm."""
        return _COLORS[self._places[algo]]

    def line(self, algo: str) -> dict[str, Any]:
        """Arguments of `Axes.plot`."""
        return {
            "label": algo,
            "color": self.color(algo),
            "marker": _MARKERS[self._places[algo]],
            "linestyle": "--" if "/" in algo else "-",
        }


def png(figure: Figure) -> bytes:
    """A figure as PNG on white, for Markdown and slides."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """A figure as PDF, for LaTeX."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG for a page: transparent, with text in the page's colour and unique ids.

    Args:
        figure: The figure.
        name: A word that is unique on the page.
    """
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The metadata contain the date, which would make every file different, and URLs that are of no use.
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace(_INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)


@_styled
def learning_curves(
    look: Look,
    curves: Mapping[str, tuple[np.ndarray, Estimate]],
    lines: Mapping[str, float],
    *,
    seconds: bool,
    seeds: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> Figure:
    """Mean return of the evaluations during training, with 95 % bands.

    Args:
        look: Colours and markers of the algorithms.
        curves: By algorithm: times, and means with the bounds of the bands.
        lines: Scores to compare with, by name.
        seconds: Whether the times are seconds, not steps.
        seeds: By algorithm: curves of single seeds, rows of time and return, to be drawn as thin lines.
    """
    figure = Figure((WIDTH, 3.5))
    axes = figure.subplots()
    for algo in look.algos:
        if algo in curves:
            times, returns = curves[algo]
            axes.plot(times, returns.value, **look.line(algo))
            axes.fill_between(times, returns.low, returns.high, color=look.color(algo), alpha=0.18, linewidth=0)
            for curve in (seeds or {}).get(algo, ()):
                axes.plot(*curve.T, color=look.color(algo), linewidth=0.7, alpha=0.55)
    # The limits follow the lines: a band may extend beyond any possible return.
    single = [curve[:, 1] for of_one in (seeds or {}).values() for curve in of_one]
    shown = np.concatenate([*(returns.value for _, returns in curves.values()), *single, list(lines.values())])
    room = 0.08 * (shown.max() - shown.min() or 1)
    axes.set_ylim(shown.min() - room, shown.max() + room)
    for (name, value), dashes in zip(lines.items(), (":", "-.", (0, (6, 2)), (0, (1, 3))), strict=False):
        axes.axhline(value, color=_GRID, linestyle=dashes, linewidth=1.3, label=name, zorder=1)
    ends = [times[-1] for times, _ in curves.values()]
    if seconds and max(ends) > 5 * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
        axes.set_xlabel("training time (s, logarithmic)")
    else:
        axes.set_xlim(left=0)
        axes.set_xlabel("training time (s)" if seconds else "environment steps")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if not seconds:
            axes.xaxis.set_major_formatter(lambda steps, _: _short(steps))
    axes.set_ylabel("mean return of an episode")
    _legend(figure, axes)
    return figure


@_styled
def aggregates(look: Look, estimates: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Aggregates with 95 % intervals, one panel for each.

    Args:
        look: Colours of the algorithms.
        estimates: By algorithm, by name of the aggregate.
    """
    algos = [algo for algo in look.algos if algo in estimates][::-1]
    names = list(estimates[algos[0]])
    rows = -(-len(names) // 2)
    figure = Figure((WIDTH, 0.5 + rows * (0.6 + 0.28 * len(algos))))
    for axes, name in zip(np.ravel(figure.subplots(rows, 2, sharey=True)), names, strict=False):
        for row, algo in enumerate(algos):
            estimate = estimates[algo][name]
            axes.barh(row, estimate.high - estimate.low, left=estimate.low, color=look.color(algo), alpha=0.55)
            axes.plot([estimate.value] * 2, [row - 0.4, row + 0.4], color=_INK, linewidth=2)
        axes.set_title(name)
        axes.margins(x=0.08)
        axes.use_sticky_edges = False
        axes.set_yticks(range(len(algos)), algos)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(visible=False, axis="y")
    figure.supxlabel("normalised score", fontsize=10)
    return figure


@_styled
def performance_profiles(look: Look, thresholds: np.ndarray, profiles: Mapping[str, Estimate]) -> Figure:
    """The share of runs above each normalised score, with 95 % bands."""
    figure = Figure((WIDTH, 3.5))
    axes = figure.subplots()
    for algo, profile in profiles.items():
        line = {**look.line(algo), "markevery": max(1, len(thresholds) // 8)}
        axes.plot(thresholds, profile.value, **line)
        axes.fill_between(thresholds, profile.low, profile.high, color=look.color(algo), alpha=0.18, linewidth=0)
    axes.set(xlabel="normalised score τ", ylabel="share of runs with score > τ", ylim=(-0.03, 1.03))
    _legend(figure, axes)
    return figure


@_styled
def improvement(algos: Sequence[str], probabilities: Mapping[tuple[str, str], Estimate]) -> Figure:
    """The probability that a run of the row's algorithm beats one of the column's.

    Args:
        algos: Names of rows and columns.
        probabilities: For each pair, the probability that the first beats the second.
    """
    square = np.full((len(algos), len(algos)), np.nan)
    for (first, second), probability in probabilities.items():
        row, column = algos.index(first), algos.index(second)
        square[row, column], square[column, row] = probability.value, 1 - probability.value
    size = min(WIDTH, 2.0 + 0.62 * len(algos))
    figure = Figure((size, size))
    axes = figure.subplots()
    edges = np.arange(len(algos) + 1) - 0.5
    axes.pcolormesh(edges, edges, np.ma.masked_invalid(square), cmap="PuOr", vmin=0, vmax=1)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for (row, column), value in np.ndenumerate(square):
        if np.isfinite(value):
            color = "white" if abs(value - 0.5) > 0.3 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(algos)), algos, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(algos)), algos)
    axes.set(xlabel="Y", ylabel="X", title="P(X > Y)")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


@_styled
def throughput(look: Look, speeds: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Steps per second of training: median and range over seeds.

    Args:
        look: Colours of the algorithms.
        speeds: By environment, by algorithm: one number for each seed.
    """
    columns = min(2, len(speeds))
    rows = -(-len(speeds) // columns)
    algos = look.algos[::-1]
    figure = Figure((WIDTH, 0.3 + rows * (0.65 + 0.28 * len(algos))))
    panels = np.ravel(figure.subplots(rows, columns, sharey=True, squeeze=False))
    for axes, (env, by_algo) in zip(panels, speeds.items(), strict=False):
        for row, algo in enumerate(algos):
            if algo in by_algo:
                values = by_algo[algo]
                middle = np.median(values)
                spread = [[middle - values.min()], [values.max() - middle]]
                axes.barh(row, middle, color=look.color(algo), xerr=spread, ecolor=_INK, capsize=3)
        axes.set_title(env, fontsize=_SMALL)
        axes.set_yticks(range(len(algos)), algos)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(lambda number, _: _short(number))
        axes.grid(visible=False, axis="y")
    for axes in panels[len(speeds) :]:
        axes.set_visible(False)
    figure.supxlabel("environment steps per second", fontsize=10)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(3, len(labels), _ROOM // (max(map(len, labels)) + 6)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.2)


_ROOM = 56  # letters of a legend's line, where the mark of an entry takes six


def _short(number: float) -> str:
    """100000 as 100k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
