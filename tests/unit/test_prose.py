"""The tests' own test of what a message says."""

import re

import pytest
from prose import saying, says

MESSAGE = "`n_steps` must be an integer at least 1, but is 0.\nDid you mean 'n_epochs'? See 10,000 of -1.5."


@pytest.mark.parametrize(
    "facts", [("`n_steps`", "at least 1", 0), ("n_steps", "n_epochs"), ("10,000",), ("-1.5",), ("but is 0.",)]
)
def test_facts_in_their_order_are_said(facts):
    assert says(MESSAGE, *facts)
    assert re.search(saying(*facts), MESSAGE)


@pytest.mark.parametrize("facts", [("n_epochs", "n_steps"), ("n_step",), (10,), (1.5,), (5,), ("000",), ("teger",)])
def test_other_orders_and_parts_of_words_and_numbers_are_not(facts):
    assert not says(MESSAGE, *facts)
