"""Each algorithm's page explains every argument that is the algorithm's own, with the default that it really has."""

import ast
import inspect
import re
from pathlib import Path

import griffe
import pytest

from pg_agents import A2C, A3C, GRPO, NPG, PPO, REINFORCE, RLOO, TRPO, ActorCritic, PolicyGradient, ReinforceBaseline
from pg_agents.agent import CommonArguments
from pg_agents.language import LanguageAlgorithm, LanguageGRPO, LanguagePPO

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "algorithms"
ALGORITHMS = {
    "a2c": A2C,
    "a3c": A3C,
    "actor_critic": ActorCritic,
    "npg": NPG,
    "ppo": PPO,
    "reinforce": REINFORCE,
    "reinforce_baseline": ReinforceBaseline,
    "grpo": GRPO,
    "rloo": RLOO,
    "trpo": TRPO,
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


# The site


@pytest.fixture(scope="module")
def read_statically():
    extension = griffe.load_extensions(ROOT / "docs/arguments.py")
    return griffe.load("pg_agents", search_paths=[ROOT], extensions=extension, docstring_parser="google")


ON_THE_SITE = [PolicyGradient, *ALGORITHMS.values(), LanguageAlgorithm, LanguagePPO, LanguageGRPO]


@pytest.mark.parametrize("cls", ON_THE_SITE)
def test_the_site_shows_the_arguments_that_a_class_takes_with_their_defaults(cls, read_statically):
    at_run_time = [one for one in inspect.signature(cls.__init__).parameters.values() if one.name != "self"]
    shown = [one for one in read_statically[canonical(cls)].parameters if one.name != "self"]
    assert {one.name for one in shown} == {one.name for one in at_run_time}
    # SB3's order, which the site's builder cannot read, can put more of them at a position.
    by_position = [one.name for one in shown if one.kind.value != "keyword-only"]
    assert by_position == [one.name for one in at_run_time][: len(by_position)]
    defaults = {one.name: one.default for one in at_run_time if one.default is not one.empty}
    assert {one.name: ast.literal_eval(str(one.default)) for one in shown if one.default is not None} == defaults


@pytest.mark.parametrize("cls", ON_THE_SITE)
def test_the_site_shows_the_documentation_that_the_fields_have(cls, read_statically):
    sections = {one.kind.value: one.value for one in read_statically[canonical(cls)].docstring.parsed}
    shown = {one.name: one.description for one in sections["parameters"]}
    assert shown == {name: cls.declared[name].doc for name in cls.taken}


def canonical(cls):
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("pg_agents.")
