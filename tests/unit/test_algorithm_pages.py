"""Each algorithm's page explains every argument that is the algorithm's own, with the default that it really has."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from pg_agents import A2C, PPO, REINFORCE, ActorCritic, ReinforceBaseline
from pg_agents.agent import CommonArguments

PAGES = Path(__file__).parents[2] / "docs" / "algorithms"
ALGORITHMS = {
    "a2c": A2C,
    "actor_critic": ActorCritic,
    "ppo": PPO,
    "reinforce": REINFORCE,
    "reinforce_baseline": ReinforceBaseline,
}


def listed(page):
    """Arguments and defaults in the table of a page."""
    (table,) = re.findall(r"^\| argument \| default \| why \|\n(.*?)\n\n", page, re.DOTALL | re.MULTILINE)
    found = {}
    for row in table.splitlines()[1:]:
        arguments, defaults, why = (cell.strip() for cell in row.strip("|").split("|"))
        assert why, row
        names = re.findall(r"`(\w+)`", arguments)
        values = ast.literal_eval(f"[{defaults.strip('`')}]")
        found |= dict(zip(names, values if len(values) > 1 else values * len(names), strict=True))
    return found


def test_every_algorithm_has_a_page():
    assert {path.stem for path in PAGES.glob("*.md")} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_page_lists_each_argument_with_its_default(name):
    parameters = inspect.signature(ALGORITHMS[name].__init__).parameters.values()
    common = {"self", "policy", "env", "common", *CommonArguments.__annotations__}
    own = {parameter.name: parameter.default for parameter in parameters if parameter.name not in common}
    page = (PAGES / f"{name}.md").read_text()
    found = listed(page)
    if elsewhere := re.search(r"\]\((\w+)\.md\), like every argument that is not listed here", page):
        found = {**listed((PAGES / f"{elsewhere[1]}.md").read_text()), **found}
        found = {argument: default for argument, default in found.items() if argument in own}
    assert found == own
