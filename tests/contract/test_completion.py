"""Completion of the command line in a shell, asked as the shell asks."""

import shutil
import subprocess

import pytest

from pg_zoo import completion

ASK = """
eval "$(register-python-argcomplete pg-zoo)"
while read -r line; do
    COMP_LINE="$line" COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete pg-zoo
    echo "${COMPREPLY[*]}"
done
"""
EXPECTED = {
    "pg-zoo cros": ["crosscheck"],
    "pg-zoo train --algo rein": ["reinforce", "reinforce_baseline"],
    "pg-zoo benchmark --algos ppo sb3/t": ["sb3/td3"],
    "pg-zoo train --env pg/Short": ["pg/ShortCorridor-v0"],
    "pg-zoo enjoy --load-": ["--load-best", "--load-checkpoint", "--load-last-checkpoint"],
    "pg-zoo train --vec-env w": ["world"],
    "pg-zoo report re": ["results/"],
    "pg-zoo train -n re": [],
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_algorithms_environments_options_and_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    asked = "".join(f"{line}\n" for line in EXPECTED)
    found = subprocess.run(["bash", "-c", ASK], input=asked, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    answers = [sorted(line.replace("\v", " ").split()) for line in found.stdout.splitlines()]
    assert dict(zip(EXPECTED, answers, strict=True)) == EXPECTED


def test_names_are_found_again_when_a_package_has_come(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = iter("abc")
    monkeypatch.setattr(completion, "_find", lambda: {"algorithms": [next(found)], "envs": []})
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert [completion.names()["algorithms"] for _ in range(2)] == [["a"], ["a"]]
    (tmp_path / "site/new.dist-info").mkdir()
    assert completion.names()["algorithms"] == ["b"]
    (tmp_path / "pg-agents/names.json").write_text("{damaged")
    assert completion.names()["algorithms"] == ["c"]
