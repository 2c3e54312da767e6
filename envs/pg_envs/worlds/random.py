"""Random numbers for worlds: the generator MRG32k3a, in arithmetic that Python and compiled code share.

The state is six integers. P. L'Ecuyer, "Good parameters and implementations for combined multiple recursive random
number generators", Operations Research 47 (1999), table II:

    x_n = (1403580 x_{n-2} - 810728 x_{n-3}) mod m_1,    m_1 = 2³² - 209
    y_n = (527612 y_{n-1} - 1370589 y_{n-3}) mod m_2,    m_2 = 2³² - 22853
    u_n = ((x_n - y_n) mod m_1) / (m_1 + 1), with m_1 in the place of 0

No intermediate number exceeds 2⁵³, so integers of 64 bits are enough.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pg_envs.worlds.compiling import compiled

N_RANDOM = 6
M_1 = 4294967087
M_2 = 4294944443
NORM = 1 / (M_1 + 1)


def generator_state(seed: int) -> np.ndarray:
    """The first state of a generator: six integers, each from 1 to its modulus less 1.

    Args:
        seed: A non-negative integer.
    """
    words = np.random.SeedSequence(seed).generate_state(N_RANDOM, np.uint64)
    moduli = np.array([M_1] * 3 + [M_2] * 3, dtype=np.uint64)
    numbers: np.ndarray = (words % (moduli - np.uint64(1)) + np.uint64(1)).astype(np.int64)
    return numbers


@compiled
def _unit(random: Any) -> float:
    """A number uniform in (0, 1), a multiple of about 2⁻³²."""
    x = (1403580 * random[1] - 810728 * random[0]) % M_1
    random[0], random[1], random[2] = random[1], random[2], x
    y = (527612 * random[5] - 1370589 * random[3]) % M_2
    random[3], random[4], random[5] = random[4], random[5], y
    difference = (x - y) % M_1
    return float(difference if difference > 0 else M_1) * NORM


@compiled
def uniform(random: Any, low: float, high: float) -> float:
    """A number uniform in (`low`, `high`).

    Args:
        random: The copy's generator.
        low: Lower bound.
        high: Upper bound.
    """
    return low + (high - low) * _unit(random)


@compiled
def below(random: Any, n: int) -> int:
    """An integer uniform in 0, ..., n - 1, for n far below 2³².

    Args:
        random: The copy's generator.
        n: The number of possible values.
    """
    return int(n * _unit(random))


@compiled
def standard_normal(random: Any) -> float:
    """A number of the standard normal distribution: √(-2 log u) cos 2πv (G. E. P. Box and M. E. Muller, 1958).

    Args:
        random: The copy's generator.
    """
    radius = math.sqrt(-2.0 * math.log(_unit(random)))
    return radius * math.cos(2.0 * math.pi * _unit(random))
