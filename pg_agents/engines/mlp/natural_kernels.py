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
    EXACT,
    GAUSSIAN,
    LAYER,
    LOG_STD_MAX,
    LOG_STD_MIN,
    NO_PENALTY,
    POLICY,
    TOWER,
    backward,
    compiled,
    divergence_from,
    estimated_divergence,
    exp32,
    forward,
    inlined,
    kept,
    lanes_of,
    load_features,
    load_reference,
    log_prob_and_entropy,
    policy_delta,
    read_distribution,
    rounded_up,
    sum_of,
)
from pg_agents.engines.mlp.simd import call_weight, floats, integers, product, transpose

# SHA-256 of kernels.py, its first 12 digits: Numba compiles this file anew when kernels.py, which follows simd.py, has
# changed. A test compares them.
KERNELS = "a9310f2c3a6a"

LINEARISE, PRODUCT, TRIAL = range(3)

_address, _integer, _number = np.int64, np.int64, np.float64

NATURAL = np.dtype(
    [
        ("n_samples", _integer),
        ("observations", _address),  # (T, N, n_observation) float32
        ("actions", _address),  # (T, N, n_actions) float32
        ("places", _address),  # (n,) int64: where the samples lie
        ("old_log_probs", _address),  # (n,) from here on
        ("advantages", _address),  # as the objective takes them
        ("log_probs", _address),  # written, as the next two
        ("entropies", _address),
        ("old", _address),  # (blocks, 2, n_outputs, 64): log p, μ or logits, and log σ; written by LINEARISE
        ("vector", _address),  # laid out as the gradient is
        ("weight", _address),
        ("coefficients", _address),
        ("n_coefficients", _integer),
        ("kl_scale", _number),  # of a sample's KL divergence and of F
        ("penalty", _integer),  # as UPDATE has it, and the next two
        ("kl_coef", _number),
        ("reference", _address),
        ("divergences", _address),  # (n,) written: KL(π || π_ref)
    ],
    align=True,
)

_policies = numba.from_dtype(POLICY)[::1]
_towers = numba.from_dtype(TOWER)[::1]
_layers = numba.from_dtype(LAYER)[::1]
_naturals = numba.from_dtype(NATURAL)[::1]


@njit(**inlined)
def _evaluate(policy, tower, layers, natural, start, rows):
    """Distribution and log π of a block of samples, from the network on."""
    head, std_head = _heads(tower, layers)
    lanes = lanes_of(rows)
    observations, taken = floats(natural.observations), floats(natural.actions)
    places = integers(natural.places)
    log_probs, entropies = floats(natural.log_probs), floats(natural.entropies)
    actions, log_prob, entropy = floats(policy.actions), floats(policy.log_prob), floats(policy.entropy)
    for row in range(rows):
        place = places[start + row]
        load_features(policy, tower, observations, row, place)
        for j in range(policy.n_actions):
            actions[j * BLOCK + row] = taken[place * policy.n_actions + j]
    transpose(tower.input_rows, rounded_up(policy.n_features), tower.input, BLOCK, lanes, policy.n_features)
    forward(layers, tower, lanes)
    read_distribution(policy, head, std_head, lanes)
    log_prob_and_entropy(policy, head, rows)
    for row in range(rows):
        log_probs[start + row] = log_prob[row]
        entropies[start + row] = entropy[row]


@njit(**compiled)
def _penalise(policy, head, natural, start, rows):
    """KL(π || π_ref) of a block of samples; an estimate's slope is subtracted from ψ in `weights`."""
    places, divergences = integers(natural.places), floats(natural.divergences)
    reference, kl_coef = floats(natural.reference), np.float32(natural.kl_coef)
    log_prob, weights, divergence = floats(policy.log_prob), floats(policy.weights), floats(policy.divergence)
    if natural.penalty == EXACT:
        for row in range(rows):
            load_reference(policy, natural.reference, row, places[start + row])
        divergence_from(policy, head, policy.reference, rows)
        for row in range(rows):
            divergences[start + row] = divergence[row]
    elif natural.penalty != NO_PENALTY:
        for row in range(rows):
            log_ratio = log_prob[row] - reference[places[start + row]]
            divergences[start + row], slope = estimated_divergence(natural.penalty, log_ratio)
            weights[row] -= kl_coef * slope


@njit(**compiled)
def _heads(tower, layers):
    """The two heads, or twice the only one."""
    first = tower.first_layer + tower.n_hidden
    return layers[first], layers[first + tower.n_heads - 1]


@njit(**inlined)
def _surrogate_delta(policy, head, std_head, natural, start, old_address, rows, lanes):
    """`delta` of the heads: of -E[objective] + β E[KL(π || π_ref)]; keeps the distributions."""
    size = policy.n_outputs * BLOCK
    old, outputs, log_stds = floats(old_address), floats(head.output), floats(policy.log_stds)
    for i in range(size):
        old[i] = outputs[i]
        old[size + i] = log_stds[i]
    old_log_probs, advantages = floats(natural.old_log_probs), floats(natural.advantages)
    coefficients, weights, log_prob = floats(natural.coefficients), floats(policy.weights), floats(policy.log_prob)
    for row in range(rows):
        ratio = exp32(log_prob[row] - old_log_probs[start + row])
        weights[row] = call_weight(
            natural.weight, log_prob[row], ratio, advantages[start + row], coefficients, natural.n_coefficients
        )
    for row in range(rows, lanes):
        weights[row] = 0
    _penalise(policy, head, natural, start, rows)
    factor, kl_coef = np.float32(1 / natural.n_samples), np.float32(natural.kl_coef)
    policy_delta(policy, head, std_head, np.float32(0), factor, rows, lanes, natural.penalty == EXACT, kl_coef)


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
def _multiply_by_fisher(policy, head, std_head, old_address, factor, lanes):
    """`delta` of the heads: u = J v becomes M u, times a factor."""
    delta = floats(head.delta)
    size = policy.n_outputs * BLOCK
    old, log_stds = floats(old_address), floats(old_address + 4 * size)
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
                inverse = exp32(-log_stds[i])
                delta[i] *= factor * inverse * inverse
        if policy.log_std == 0:
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


@njit(numba.float64(_policies, _towers, _layers, _naturals, numba.int64), **kept)
def natural_pass(policies, towers, layers, naturals, task):
    """One pass over all samples, for one of three tasks.

    LINEARISE: log π, the distributions, and the gradient of -E[objective] + β E[KL(π || π_ref)]. Outputs and
    derivatives stay in the layers.
    PRODUCT: F times `vector`, where the gradient was; the layers are as LINEARISE left them.
    TRIAL: log π, the reference's KL divergence, and that from the distributions that LINEARISE found.

    One function, because LLVM would optimise what they share once for each.

    Args:
        policies: One row, as for `naturals`.
        towers: The actor, once for each block of samples.
        layers: Of all of them.
        naturals: The samples.
        task: Which.

    Returns:
        E[KL(π || π_old)] of a trial; else 0.
    """
    policy, natural = policies[0], naturals[0]
    factor = np.float32(natural.kl_scale / natural.n_samples)
    gradient = floats(towers[0].gradient)
    for i in range(towers[0].gradient_size):
        gradient[i] = 0
    total = 0.0
    for start in range(0, natural.n_samples, BLOCK):
        rows = min(BLOCK, natural.n_samples - start)
        lanes = lanes_of(rows)
        tower = towers[start // BLOCK]
        head, std_head = _heads(tower, layers)
        old = natural.old + 8 * policy.n_outputs * BLOCK * (start // BLOCK)
        if task == PRODUCT:
            _tangents(layers, tower, natural.vector, lanes)
            _multiply_by_fisher(policy, head, std_head, old, factor, lanes)
        else:
            _evaluate(policy, tower, layers, natural, start, rows)
        if task == LINEARISE:
            _surrogate_delta(policy, head, std_head, natural, start, old, rows, lanes)
        if task == TRIAL:
            _penalise(policy, head, natural, start, rows)
            divergence_from(policy, head, old, rows)
            total += sum_of(floats(policy.divergence), rows)
        else:
            backward(layers, tower, rows, lanes)
    if task == PRODUCT and policy.distribution == GAUSSIAN and policy.log_std != 0:
        of_log_std = floats(policy.log_std_grad)
        log_std = floats(natural.vector + policy.log_std_grad - towers[0].gradient)
        for j in range(policy.n_outputs):
            of_log_std[j] = np.float32(2 * natural.kl_scale) * log_std[j]
    return natural.kl_scale * total / natural.n_samples
