"""Combinations of parameters in place of their product: far fewer tests that find nearly as many faults.

Each parameter is a dictionary, whose keys name the tests, or a list of values.
"""

import itertools

import pytest


def each_value(*parameters):
    """Every value of every parameter at least once, in as many rows as the longest parameter has values."""
    lists = [_named(values) for values in parameters]
    n_rows = max(map(len, lists))
    return [_row([values[number % len(values)] for values in lists]) for number in range(n_rows)]


def each_pair(*parameters):
    """Every pair of values of any two parameters at least once.

    Most faults that depend on more than one parameter depend on two. Each row begins with the first missing pair; the
    other parameters take the values that complete most of the missing pairs.
    """
    lists = [_named(values) for values in parameters]
    positions = [[(place, number) for number in range(len(values))] for place, values in enumerate(lists)]
    missing = dict.fromkeys(
        pair for one, other in itertools.combinations(positions, 2) for pair in itertools.product(one, other)
    )
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for place, choices in enumerate(positions):
            if place not in row:
                _, number = max(choices, key=lambda choice: len(_pairs({**row, **dict([choice])}) & missing.keys()))
                row[place] = number
        for pair in _pairs(row):
            missing.pop(pair, None)
        rows.append(_row([values[row[place]] for place, values in enumerate(lists)]))
    return rows


def _pairs(row):
    return set(itertools.combinations(sorted(row.items()), 2))


def _named(values):
    if isinstance(values, dict):
        return list(values.items())
    return [(getattr(value, "__name__", str(value)), value) for value in values]


def _row(chosen):
    names, values = zip(*chosen, strict=True)
    return pytest.param(*values, id="-".join(names))
