"""The compiled arithmetic of generalised state-dependent exploration (gSDE, arXiv:2005.05719).

With φ(s) the inputs of the actor's last layer, and s_kj the standard deviations of the noise matrix,

    σ_j² = Σ_k φ_k² s_kj² + ε   and   ∂log σ_j / ∂log_std_kj = φ_k² s_kj ∂s_kj / σ_j²

where φ counts as no function of the parameters, as in Stable-Baselines3.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit, types

from pg_agents.engines.mlp.kernels import BLOCK, compiled, exp32, kept, rounded_up
from pg_agents.engines.mlp.simd import floats, product, transpose

# SHA-256 of kernels.py, its first 12 digits: see natural_kernels.py.
KERNELS = "230f18a050a1"

_address, _integer, _number = np.int64, np.int64, np.float64

NOISE = np.dtype(
    [
        ("n_latent", _integer),
        ("n_outputs", _integer),
        ("columns", _integer),  # of `log_std`: n_outputs, or 1 that all outputs share
        ("use_expln", _integer),
        ("epsilon", _number),
        ("log_std", _address),  # (n_latent, columns), torch's, and its gradient
        ("log_std_grad", _address),
        ("log_stds", _address),  # (n_outputs, 64): log σ
        ("variances", _address),  # (n_latent, columns): s²
        ("slopes", _address),  # (n_latent, columns): s ∂s/∂log_std
        ("squares", _address),  # (n_latent, 64): φ²
        ("square_rows", _address),  # (64, n_latent rounded up to 16): its transpose
        ("sums", _address),  # (n_outputs, n_latent rounded up to 16)
    ],
    align=True,
)
_ZERO, _ONE, _BLOCK = np.int64(0), np.int64(1), np.int64(BLOCK)  # see kernels.py
_noises = types.CPointer(numba.from_dtype(NOISE))


@njit(**compiled)
def _read(noise):
    """Write `variances` and `slopes`."""
    log_std, epsilon, one = floats(noise.log_std), np.float32(noise.epsilon), np.float32(1)
    variances, slopes = floats(noise.variances), floats(noise.slopes)
    for i in range(noise.n_latent * noise.columns):
        # A NaN gets through.
        deviation = exp32(log_std[i]) + log_std[i] * np.float32(0)
        slope = deviation
        if noise.use_expln and log_std[i] > 0:
            deviation = np.float32(math.log1p(log_std[i] + epsilon)) + one
            slope = one / (one + log_std[i] + epsilon)
        variances[i] = deviation * deviation
        slopes[i] = deviation * slope


@njit(**compiled)
def _sum_over_latents(noise, inputs_at, lanes):
    """Σ_k φ_k² A_kj to `log_stds`, with A in `variances`."""
    inputs, squares = floats(inputs_at), floats(noise.squares)
    for k in range(noise.n_latent):
        for i in range(k * BLOCK, k * BLOCK + lanes):
            squares[i] = inputs[i] * inputs[i]
    column = _ONE if noise.columns > 1 else _ZERO
    product(
        noise.variances, column, noise.columns, noise.squares, _BLOCK, noise.log_stds, _BLOCK,
        noise.n_outputs, lanes, noise.n_latent, _ZERO,
    )  # fmt: skip


@numba.cfunc(numba.int64(_noises, *[numba.int64] * 2), **kept)
def find_deviations(noises_at, inputs_at, lanes):
    """Log σ of a block.

    Args:
        noises_at: Address of one row of `NOISE`.
        inputs_at: Of φ, (n_latent, 64).
        lanes: Columns that are computed.
    """
    noise = numba.carray(noises_at, 1)[0]
    _read(noise)
    _sum_over_latents(noise, inputs_at, lanes)
    log_stds, epsilon = floats(noise.log_stds), np.float32(noise.epsilon)
    for j in range(noise.n_outputs):
        for i in range(j * BLOCK, j * BLOCK + lanes):
            log_stds[i] = np.float32(0.5) * math.log(log_stds[i] + epsilon)
    return 0


@numba.cfunc(numba.int64(_noises, *[numba.int64] * 3), **kept)
def find_changes(noises_at, inputs_at, vector_at, lanes):
    """The derivative of log σ² along a vector, times σ², to `log_stds`: 2 Σ_k φ_k² s_kj ∂s_kj v_kj.

    Args:
        noises_at: Address of one row of `NOISE`.
        inputs_at: Of φ, (n_latent, 64).
        vector_at: Of v, as `log_std` is laid out.
        lanes: Columns that are computed.
    """
    noise = numba.carray(noises_at, 1)[0]
    _read(noise)
    variances, slopes, vector = floats(noise.variances), floats(noise.slopes), floats(vector_at)
    for i in range(noise.n_latent * noise.columns):
        variances[i] = np.float32(2) * slopes[i] * vector[i]
    _sum_over_latents(noise, inputs_at, lanes)
    return 0


@numba.cfunc(numba.int64(_noises, *[numba.int64] * 3), **kept)
def add_gradient(noises_at, deltas_at, rows, lanes):
    """Add Σ_i φ_k² δ_ij s_kj ∂s_kj to the gradient by `log_std`, after one of the two functions above.

    Args:
        noises_at: Address of one row of `NOISE`.
        deltas_at: Of δ, (n_outputs, 64): the derivative by log σ, divided by σ².
        rows: Samples.
        lanes: Columns that are computed.
    """
    noise = numba.carray(noises_at, 1)[0]
    width, columns = rounded_up(noise.n_latent), noise.columns
    transpose(noise.squares, _BLOCK, noise.square_rows, width, noise.n_latent, lanes)
    product(deltas_at, _BLOCK, _ONE, noise.square_rows, width, noise.sums, width, noise.n_outputs, width, rows, _ZERO)
    gradient, slopes = floats(noise.log_std_grad), floats(noise.slopes)
    for j in range(noise.n_outputs):
        sums, column = floats(noise.sums + 4 * j * width), j if columns > 1 else 0
        for k in range(noise.n_latent):
            gradient[k * columns + column] += slopes[k * columns + column] * sums[k]
    return 0
