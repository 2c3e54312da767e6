"""The API reference has what the packages export."""

import inspect
import re
from pathlib import Path

import pytest

import pg_agents
from pg_agents import diagnostics, language, theory
from pg_agents.arguments import Arguments
from pg_envs import worlds

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()


@pytest.mark.parametrize(
    "module", [pg_agents, diagnostics, language, theory, worlds], ids=lambda module: module.__name__
)
def test_every_exported_name_is_documented(module):
    by_itself = set(re.findall(rf"^::: {re.escape(module.__name__)}\.(\w+)$", PAGE, re.MULTILINE))
    members = re.search(rf"^::: {re.escape(module.__name__)}\n.*members: \[([^\]]*)\]", PAGE, re.MULTILINE)
    among_others = set(re.findall(r"\w+", members[1])) if members else set()
    assert by_itself | among_others >= set(module.__all__) - {"__version__"}


def test_every_public_method_of_the_base_class_is_documented_whatever_file_it_is_in():
    lineage = inspect.getmro(pg_agents.PolicyGradient)
    parts = lineage[: lineage.index(Arguments)]
    public = {
        name
        for part in parts
        for name, member in vars(part).items()
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    }
    listed = re.search(r"^::: pg_agents\.PolicyGradient\n.*?members: \[([^\]]*)\]", PAGE, re.MULTILINE | re.DOTALL)
    assert {*re.findall(r"\w+", listed[1])} - {"is_collecting", "made_anew"} == public
