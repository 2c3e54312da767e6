"""The compiled recursion behind every return and advantage."""

from __future__ import annotations

import numba
import numpy as np
from numba import njit


@njit(numba.void(numba.float32[:, ::1], numba.float32[:, ::1], numba.float32[:, ::1]), nogil=True, cache=True)
def discounted_sums(terms, decays, sums):
    """sums_t = terms_t + decays_t sums_{t+1}, backwards in time, on arrays of (T, N).

    Without contraction, so that it rounds as NumPy does.
    """
    for n in range(terms.shape[1]):
        following = np.float32(0)
        for t in range(len(terms) - 1, -1, -1):
            following = terms[t, n] + decays[t, n] * following
            sums[t, n] = following
