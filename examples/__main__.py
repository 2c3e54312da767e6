"""Draw all figures of the examples: `python examples`, with the options `--scale`, `--jobs` and `--output`.

The figures of the studies in benchmarks/ take much longer. Their pages name their commands.
"""

import importlib
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent

if __name__ == "__main__":
    for name in sorted(path.stem for path in HERE.glob("[!_]*.py") if path.stem != "common"):
        print(f"{name}:", flush=True)
        importlib.import_module(name).main(sys.argv[1:])
    runpy.run_path(str(HERE.parent / "docs" / "images" / "make.py"), run_name="__main__")
