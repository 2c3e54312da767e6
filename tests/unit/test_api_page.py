"""The API reference has what the packages export."""

import re
from pathlib import Path

import pytest

import pg_agents
from pg_agents import diagnostics, language, theory
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
