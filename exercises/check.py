"""Check an exercise.

    python exercises/check.py reinforce                 # exercises/reinforce/exercise.py
    python exercises/check.py reinforce mine.py         # another file
    python exercises/check.py reinforce --train         # then train on CartPole with your lines
    python exercises/check.py all

It prints one sentence, and exits with 1 if something is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from agents import AGENTS, train
from grading import HERE, NAMES, load, verdict


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exercise", choices=[*NAMES, "all"])
    parser.add_argument("file", type=Path, nargs="?", help="your file; by default exercise.py in the exercise's folder")
    parser.add_argument("--train", action="store_true", help=f"train on CartPole afterwards: {', '.join(AGENTS)}")
    options = parser.parse_args(given)
    names = NAMES if options.exercise == "all" else [options.exercise]
    if options.file is not None and (options.exercise == "all" or not options.file.is_file()):
        parser.error(f"there is no file {options.file}" if options.exercise != "all" else "a file is for one exercise")
    if options.train and options.exercise not in AGENTS:
        parser.error(f"--train is for {', '.join(AGENTS)}; not for {options.exercise}")
    passed = [_check(name, options.file or HERE / name / "exercise.py") for name in names]
    if options.train and all(passed):
        print(train(options.exercise, load(options.file or HERE / options.exercise / "exercise.py")))
    return 0 if all(passed) else 1


def _check(name: str, path: Path) -> bool:
    passed, said = verdict(name, path.resolve())
    print(f"{name}: {'passed' if passed else 'not yet'}. {said}")
    return passed


if __name__ == "__main__":
    raise SystemExit(main())
