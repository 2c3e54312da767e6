"""The combinations that parametrised tests are run with leave nothing out that they promise."""

import itertools

from combinations import each_pair, each_value
from hypothesis import given
from hypothesis import strategies as st

# From 2 to 5 parameters of 1 to 5 values, all different.
parameters = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(
    lambda sizes: [[f"{name}{number}" for number in range(size)] for name, size in zip("abcde", sizes, strict=False)]
)


@given(parameters)
def test_each_value_occurs(parameters):
    rows = [row.values for row in each_value(*parameters)]
    assert len(rows) == max(map(len, parameters))
    for place, values in enumerate(parameters):
        assert {row[place] for row in rows} == set(values)


@given(parameters)
def test_each_pair_of_values_of_any_two_parameters_occurs_and_each_row_brings_one(parameters):
    rows = [row.values for row in each_pair(*parameters)]
    found = set()
    for row in rows:
        pairs = set(itertools.combinations(row, 2))
        assert not pairs <= found
        found |= pairs
    wanted = [itertools.product(one, other) for one, other in itertools.combinations(parameters, 2)]
    assert found == set(itertools.chain(*wanted))


def test_of_four_parameters_of_three_values_nine_to_twelve_rows_of_81_have_all_pairs():
    # Nine is the least there can be, as any two parameters have nine pairs.
    assert 9 <= len(each_pair(*[range(3)] * 4)) <= 12


def test_names_are_those_of_the_dictionaries_and_else_the_values():
    assert [row.id for row in each_value({"one": 1, "two": 2}, ["x"])] == ["one-x", "two-x"]
    assert [row.id for row in each_pair({"one": 1}, [3, 4])] == ["one-3", "one-4"]
