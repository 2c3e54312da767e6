"""Numbers and lists in words, for reports and messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def number(value: float) -> str:
    """A number with four significant digits, or with all digits before the point."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.4g}') + 0.0:g}"  # no -0


def interval(estimate: Iterable[float]) -> str:
    """`value [low, high]`, with digits according to the interval's width; the value alone without an interval."""
    numbers = [float(part) for part in estimate]
    value, low, high = numbers
    if not math.isfinite(low):
        return number(value)
    if low == high:
        return f"{number(value)} [{number(low)}, {number(high)}]"
    digits = max(0, 1 - math.floor(math.log10((high - low) / 2)))
    # A bound that is not 0 must not look like 0, because its sign matters.
    while any(bound != 0 and round(bound, digits) == 0 for bound in (low, high)):
        digits += 1
    shown = [f"{round(part, digits) + 0.0:,.{digits}f}" for part in numbers]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def count(n: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def different(values: Iterable[object]) -> list[str]:
    """The distinct values as texts, in order of appearance."""
    return list(dict.fromkeys(map(str, values)))


def ranges(seeds: Iterable[int]) -> str:
    """0, 1, 2, 5 as `0-2, 5`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)
