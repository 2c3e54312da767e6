"""The compiled arithmetic of a natural step: the Fisher matrix times a vector, and the trials of a line search.

With z(θ) the numbers that a distribution is made from, J = ∂z/∂θ, and M(z) the distribution's own Fisher matrix,

    F v = 1/n Σ Jᵀ M J v   (arXiv:1502.05477, appendix C)

J v goes forward through the network beside its outputs, M J v is a few operations, and Jᵀ u is what `backward` adds up
anyway. Each block of 64 samples has layers of its own, whose outputs and derivatives stay as the first pass left them:
the parameters do not move while conjugate gradients ask for one product after the other.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit

from pg_agents.engines.mlp.kernels import (
    BLOCK,
    CATEGORICAL,
    GAUSSIAN,
    LAYER,
    LOG_STD_MAX,
    LOG_STD_MIN,
    POLICY,
    TOWER,
    UPDATE,
    backward,
    call_noise,
    compiled,
    divergence_from_reference,
    evaluate_samples,
    exp32,
    inlined,
    kept,
    lanes_of,
    mean_and_deviation,
    rounded_up,
    sum_of,
    surrogate_delta,
)
from pg_agents.engines.mlp.simd import floats, integers, product

# SHA-256 of kernels.py, its first 12 digits: Numba compiles this file anew when kernels.py, which follows simd.py, has
# changed. A test compares them.
KERNELS = "230f18a050a1"

LINEARISE, PRODUCT, TRIAL = range(3)

_address, _integer, _number = np.int64, np.int64, np.float64

NATURAL = np.dtype(
    [
        ("old", _address),  # (blocks, 2, n_outputs, 64): log p, μ or logits, and log σ; written by LINEARISE
        ("vector", _address),  # laid out as the gradient is
        ("kl_scale", _number),  # of a sample's KL divergence and of F
    ],
    align=True,
)

_policies = numba.from_dtype(POLICY)[::1]
_towers = numba.from_dtype(TOWER)[::1]
_layers = numba.from_dtype(LAYER)[::1]
_updates = numba.from_dtype(UPDATE)[::1]
_naturals = numba.from_dtype(NATURAL)[::1]


@njit(**compiled)
def _heads(tower, layers):
    """The two heads, or twice the only one."""
    first = tower.first_layer + tower.n_hidden
    return layers[first], layers[first + tower.n_heads - 1]


@njit(**inlined)
def _tangents(layers, tower, vector, lanes):
    """`delta` of all layers: the derivative of their outputs along the vector, dy = f'(.) (W dx + dW x + db)."""
    last_hidden = tower.first_layer + tower.n_hidden - 1
    for index in range(tower.first_layer, last_hidden + 1 + tower.n_heads):
        layer = layers[index]
        width = rounded_up(layer.n_in)
        weights = vector + layer.weight_grad - tower.gradient
        product(weights, width, 1, layer.input, BLOCK, layer.delta, BLOCK, layer.n_out, lanes, layer.n_in, 0)
        below = min(index - 1, last_hidden)
        if below >= tower.first_layer:
            product(
                layer.weight, layer.n_in, 1, layers[below].delta, BLOCK, layer.delta, BLOCK,
                layer.n_out, lanes, layer.n_in, 1,
            )  # fmt: skip
        biases = floats(vector + layer.bias_grad - tower.gradient)
        delta, derivative = floats(layer.delta), floats(layer.derivative)
        for j in range(layer.n_out):
            bias = biases[j]
            for i in range(j * BLOCK, j * BLOCK + lanes):
                delta[i] = (delta[i] + bias) * derivative[i]


@njit(**inlined)
def _multiply_by_fisher(policy, head, std_head, old, vector, factor, rows, lanes):
    """`delta` of the heads: u = J v becomes M u, times a factor. Of gSDE's `log_std`, Jᵀ M J v goes to the gradient.

    Args:
        policy: The policy's row.
        head: Of the outputs.
        std_head: Of log σ, where a network gives it.
        old: The distributions.
        vector: Address of the part of v that belongs to `log_std`.
        factor: Of the product.
        rows: Samples.
        lanes: Columns that are computed.
    """
    delta = floats(head.delta)
    size = policy.n_outputs * BLOCK
    one = np.float32(1)
    if policy.distribution == CATEGORICAL:
        # M = diag(p) - p pᵀ, for each dimension
        sizes = integers(policy.sizes)
        mean = floats(policy.scratch)
        first = 0
        for dimension in range(policy.n_actions):
            after = first + sizes[dimension]
            for i in range(lanes):
                mean[i] = 0
            for j in range(first, after):
                for i in range(lanes):
                    mean[i] += exp32(old[j * BLOCK + i]) * delta[j * BLOCK + i]
            for j in range(first, after):
                for i in range(lanes):
                    p = exp32(old[j * BLOCK + i])
                    delta[j * BLOCK + i] = factor * p * (delta[j * BLOCK + i] - mean[i])
            first = after
    elif policy.distribution == GAUSSIAN:
        # 1 / σ² for μ, 2 for log σ
        for j in range(policy.n_outputs):
            for i in range(j * BLOCK, j * BLOCK + lanes):
                inverse = exp32(-old[size + i])
                delta[i] *= factor * inverse * inverse
        if policy.noise != 0:
            call_noise(policy.find_changes, policy.noise, head.input, vector, lanes)
            changes = floats(policy.log_stds)
            for j in range(policy.n_outputs):
                for i in range(j * BLOCK, j * BLOCK + lanes):
                    changes[i] *= factor * exp32(np.float32(-4) * old[size + i])
            call_noise(policy.add_gradient, policy.noise, policy.log_stds, rows, lanes)
        elif policy.log_std == 0:
            given, std_delta = floats(std_head.output), floats(std_head.delta)
            for j in range(policy.n_outputs):
                for i in range(j * BLOCK, j * BLOCK + lanes):
                    inside = given[i] >= np.float32(LOG_STD_MIN) and given[i] <= np.float32(LOG_STD_MAX)
                    std_delta[i] *= 2 * factor if inside else np.float32(0)
    else:
        # p (1 - p)
        for j in range(policy.n_outputs):
            for i in range(j * BLOCK, j * BLOCK + lanes):
                p = one / (one + exp32(-old[i]))
                delta[i] *= factor * p * (one - p)


@njit(numba.float64(_policies, _towers, _layers, _updates, _naturals, numba.int64), **kept)
def natural_pass(policies, towers, layers, updates, naturals, task):
    """One pass over all samples, for one of three tasks.

    LINEARISE: log π, the distributions, and the gradient of the loss. Outputs and derivatives stay in the layers.
    PRODUCT: F times `vector`, where the gradient was; the layers are as LINEARISE left them.
    TRIAL: log π, and the KL divergence from the distributions that LINEARISE found.

    One function, because LLVM would optimise what they share once for each.

    Args:
        policies: One row, as for `updates` and `naturals`.
        towers: The actor, once for each block of samples.
        layers: Of all of them.
        updates: The samples, and the loss.
        naturals: What a natural step needs besides.
        task: Which.

    Returns:
        E[KL(π || π_old)] of a trial; else 0.
    """
    policy, update, natural = policies[0], updates[0], naturals[0]
    gradient, size = floats(towers[0].gradient), policy.n_outputs * BLOCK
    reference, log_stds = floats(policy.reference), floats(policy.log_stds)
    for i in range(towers[0].gradient_size):
        gradient[i] = 0
    factor, scale = np.float32(1 / update.n_samples), np.float32(natural.kl_scale)
    mean, deviation = mean_and_deviation(update, 0, update.n_samples)
    of_log_std = natural.vector + policy.log_std_grad - towers[0].gradient
    total = 0.0
    for start in range(0, update.n_samples, BLOCK):
        rows = min(BLOCK, update.n_samples - start)
        lanes = lanes_of(rows)
        tower = towers[start // BLOCK]
        head, std_head = _heads(tower, layers)
        outputs, old = floats(head.output), floats(natural.old + 8 * size * (start // BLOCK))
        if task == PRODUCT:
            _tangents(layers, tower, natural.vector, lanes)
            _multiply_by_fisher(policy, head, std_head, old, of_log_std, scale * factor, rows, lanes)
        else:
            evaluate_samples(policy, tower, layers, update, start, rows)
            if task == LINEARISE:
                for i in range(size):
                    old[i] = outputs[i]
                    old[size + i] = log_stds[i]
            else:
                for i in range(2 * size):
                    reference[i] = old[i]
                divergence_from_reference(policy, head, lanes)
                total += sum_of(floats(policy.divergence), rows)
            surrogate_delta(policy, head, std_head, update, start, rows, factor, mean, deviation)
        if task != TRIAL:
            backward(layers, tower, rows, lanes)
    if task == PRODUCT and policy.distribution == GAUSSIAN and policy.log_std != 0 and policy.noise == 0:
        log_std_grad, along = floats(policy.log_std_grad), floats(of_log_std)
        for j in range(policy.n_outputs):
            log_std_grad[j] = 2 * scale * along[j]
    return natural.kl_scale * total / update.n_samples
