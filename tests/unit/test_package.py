"""What the package exports, and what importing it costs."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pg_agents
from pg_agents.engines.mlp import kernels, looping, natural_kernels, noise_kernels, rolling


def test_the_exported_names_are_these():
    assert set(pg_agents.__all__) == {
        "A2C",
        "A3C",
        "GRPO",
        "NPG",
        "PPO",
        "REINFORCE",
        "RLOO",
        "TRPO",
        "ActorCritic",
        "Checkpoint",
        "CheckpointCallback",
        "Demonstrations",
        "EvalCallback",
        "NotAllowedError",
        "PolicyGradient",
        "ReinforceBaseline",
        "__version__",
        "collect_demonstrations",
        "evaluate_policy",
        "imitate",
        "load_agent",
        "load_normalization",
        "load_policy",
        "make",
        "make_vec",
        "newest_checkpoint",
        "save_normalization",
    }
    assert all(hasattr(pg_agents, name) for name in pg_agents.__all__)


def test_compiled_kernels_are_renewed_when_simd_changes():
    source = Path(kernels.__file__).with_name("simd.py").read_bytes()
    assert hashlib.sha256(source).hexdigest()[:12] == kernels.SIMD == rolling.SIMD == looping.SIMD


def test_compiled_natural_steps_and_gsde_are_renewed_when_the_other_kernels_change():
    source = Path(kernels.__file__).read_bytes()
    assert hashlib.sha256(source).hexdigest()[:12] == natural_kernels.KERNELS == noise_kernels.KERNELS


def test_the_kernels_of_natural_steps_and_gsde_are_not_compiled_for_other_agents():
    code = (
        "import sys; from pg_agents.engines.mlp import engine, tables; tables.load_kernels(); "
        "print(*{name for name in sys.modules if name.endswith('kernels')})"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["pg_agents.engines.mlp.kernels"]


def test_importing_it_imports_nothing_that_sb3_does_not():
    code = (
        "import sys, stable_baselines3; before = set(sys.modules); import pg_agents; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    # Of the standard library, what finds entry points; of SB3 and Gymnasium, further modules.
    assert set(output.split()) - set(sys.stdlib_module_names) <= {"pg_agents", "stable_baselines3", "gymnasium"}


def test_registering_worlds_imports_none_of_them_and_no_compiler():
    code = (
        "import sys, gymnasium, pg_envs; gymnasium.spec('pg/CartPole-v1'); "
        "print(*{'numba', 'llvmlite', 'pg_envs.classic'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == []
