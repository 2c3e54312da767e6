"""A seeded slice of the random cases of `memory_fuzz.py`; the long run is in benchmarks/results/memory_fuzz.md."""

import memory_fuzz
import pytest

pytest.importorskip("numba")


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_a_random_replacement_ends_as_with_autograd(seed):
    verdict, said = memory_fuzz.run_case(seed)
    assert verdict in ("same", "both raise", "refused by name"), said
