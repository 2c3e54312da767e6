"""Whether LLVM can compile the compiled code for a 64-bit Arm processor, without having one.

    python benchmarks/cross_compile.py                       # generic 64-bit Arm (NEON)
    python benchmarks/cross_compile.py --cpu apple-m1

The kernels are compiled for this machine as if it were an Arm (no x86 instruction is written by hand, and tiles are
those of few registers). Their optimised LLVM code is then compiled for the Arm, and the sizes of the machine code are
printed. This shows that the code can be generated, not that it runs.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from unittest.mock import patch

TRIPLE = "aarch64-unknown-linux-gnu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", default="generic", help="LLVM's name of the processor (default generic)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache  # what is loaded from a cache has no LLVM code
        compile_all(args.cpu)


def abs_of(number: int) -> int:
    return abs(number)


def compile_all(cpu: str) -> None:
    import llvmlite.binding as llvm
    import numba

    numba.njit("int64(int64)")(abs_of)  # Numba has looked at this machine
    with patch.object(llvm, "get_default_triple", lambda: TRIPLE), patch.object(llvm, "get_host_cpu_features", dict):
        from pg_agents.engines.mlp import simd  # noqa: F401 - it looks at the machine once
    from pg_agents.engines.mlp import kernels, rolling, scan
    from pg_envs.classic import cartpole
    from pg_envs.worlds import kernels as worlds

    step = worlds.compile_function(cartpole.step, "step", True)
    functions = {
        "act": kernels.act,
        "train": kernels.train,
        "roll": rolling.roll,
        "discounted_sums": scan.discounted_sums,
        "advance": worlds.advance,
        "CartPole's step": step,
    }
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=cpu, opt=3, reloc="pic")
    print(f"| function | machine code for {cpu}, bytes |\n|---|---|")
    for name, function in functions.items():
        library = (
            function._library if hasattr(function, "_library") else next(iter(function.overloads.values())).library
        )
        lines = library.get_llvm_str().splitlines()
        kept = [line for line in lines if not line.startswith(("target triple", "target datalayout"))]
        # Numba's reference counts, which these functions do not use, have already been written for this machine.
        kept = [re.sub(r"(tail )?call i8 @llvm\.x86\.atomic.*", "add i8 0, 0", line) for line in kept]
        module = llvm.parse_assembly("\n".join(kept))
        module.triple, module.data_layout = TRIPLE, str(machine.target_data)
        module.verify()
        print(f"| {name} | {len(machine.emit_object(module)):,} |")


if __name__ == "__main__":
    main()
