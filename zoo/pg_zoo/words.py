"""Numbers and lists in words, for reports and messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def number(value: float) -> str:
    """A number with four significant digits, or with all digits before the point."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.4g}') + 0.0:g}"  # no -0


def digits_of(estimates: Sequence[Sequence[float]]) -> int:
    """Digits after the point for a column of `value, low, high`: two of the narrowest interval's, but not too many.

    Without intervals, the largest value gets four significant digits.
    """
    largest = max((abs(float(value)) for value, *_ in estimates), default=0)
    size = math.floor(math.log10(largest)) if largest else 0
    halves = [(float(high) - float(low)) / 2 for _, low, high in estimates]
    needed = [1 - math.floor(math.log10(half)) for half in halves if half > 0]
    return max(0, min(max(needed), 4 - size) if needed else 3 - size)


def rounded(value: float, digits: int) -> str:
    """A number with so many digits after the point."""
    return f"{round(float(value), digits) + 0.0:,.{digits}f}"  # no -0


def interval(estimate: Iterable[float], digits: int | None = None) -> str:
    """`value [low, high]`; the value alone without an interval.

    Args:
        estimate: The three numbers.
        digits: Digits after the point, as for a whole column; by default according to the interval's width.
    """
    numbers = [float(part) for part in estimate]
    value, low, high = numbers
    if digits is not None:
        shown = [rounded(part, digits) for part in numbers if math.isfinite(part)]
        return shown[0] if len(shown) == 1 else f"{shown[0]} [{shown[1]}, {shown[2]}]"
    if not math.isfinite(low):
        return number(value)
    if low == high:
        return f"{number(value)} [{number(low)}, {number(high)}]"
    digits = max(0, 1 - math.floor(math.log10((high - low) / 2)))
    # A bound that is not 0 must not look like 0, because its sign matters.
    while any(bound != 0 and round(bound, digits) == 0 for bound in (low, high)):
        digits += 1
    shown = [rounded(part, digits) for part in numbers]
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
