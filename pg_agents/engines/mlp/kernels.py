"""The compiled arithmetic of the `mlp` engine: acting, values, and whole updates of small networks.

Samples are columns: an array of a layer's outputs is (units, 64), a block of 64 samples. So a weight matrix multiplies
from the left as torch stores it, and what happens to one sample in a head happens to 16 at once. A minibatch passes
through a network block by block, forward and backward, and its activations stay in the processor's cache.

Arrays that live elsewhere (torch's parameters, the optimiser's state, the rollout buffer) are reached through their
addresses, so that all see the same memory. `mlp.py` fills the tables that hold them and keeps their owners alive.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit, types

from pg_agents.engines.mlp.memory import callable_from_python
from pg_agents.engines.mlp.simd import (
    LANES,
    call_weight,
    doubles,
    floats,
    give_way,
    inner,
    integers,
    make_function_caller,
    observe,
    product,
    publish,
    spin,
    transpose,
)

# SHA-256 of simd.py, its first 12 digits. A test compares them, so that whoever changes that file changes this one too,
# and Numba compiles anew.
SIMD = "22decbbaa0bb"

BLOCK = 64  # samples
FEW = 4  # samples, for which a matrix product would be mostly empty

IDENTITY, TANH, RELU, ELU, LEAKY_RELU, SILU, GELU = range(7)
CATEGORICAL, GAUSSIAN, BERNOULLI = range(3)
ADAM, RMSPROP, RMSPROP_TF = range(3)
DONE, NOT_FINITE, STOPPED, ABORTED = range(4)
NO_PENALTY, K1, K2, K3, EXACT = range(5)
LOG_STD_MIN, LOG_STD_MAX = -20.0, 20.0  # as in pg_agents.policies

_address, _integer, _number = np.int64, np.int64, np.float64

LAYER = np.dtype(
    [
        ("n_in", _integer),
        ("n_out", _integer),
        ("activation", _integer),
        ("slope_below_0", _number),  # ELU's and LeakyReLU's constant
        ("weight", _address),  # (n_out, n_in), torch's
        ("bias", _address),
        ("weight_grad", _address),  # (n_out, n_in rounded up to 16)
        ("bias_grad", _address),
        ("input", _address),  # (n_in, 64)
        ("input_rows", _address),  # (64, n_in rounded up to 16): its transpose
        ("output", _address),  # (n_out, 64)
        ("derivative", _address),  # (n_out, 64): of the activation
        ("zero", _address),
        ("delta", _address),  # (n_out, 64): of the loss, with respect to what the activation sees
    ],
    align=True,
)
TOWER = np.dtype(
    [
        ("first_layer", _integer),
        ("n_hidden", _integer),
        ("n_heads", _integer),  # 2 where a network gives σ too
        ("input", _address),
        ("input_rows", _address),
        ("first_tensor", _integer),
        ("n_tensors", _integer),
        ("gradient", _address),
        ("gradient_size", _integer),
    ],
    align=True,
)
TENSOR = np.dtype(
    [
        ("rows", _integer),
        ("columns", _integer),
        ("value", _address),
        ("gradient", _address),
        ("gradient_row", _integer),
        ("learning_rate", _number),
        ("step", _address),  # of the optimiser's own count, or 0
        ("mean", _address),  # of the gradient; Adam's
        ("square", _address),  # mean of its square
    ],
    align=True,
)
POLICY = np.dtype(
    [
        ("n_observation", _integer),  # numbers of a stored observation
        ("n_features", _integer),  # of the networks' input
        ("one_hot", _integer),  # some of the numbers stand for unit vectors
        ("categories", _address),  # (n_observation,) int64: of the unit vector, its length; else 0
        ("has_critic", _integer),
        ("distribution", _integer),
        ("n_actions", _integer),  # numbers of a stored action
        ("n_outputs", _integer),  # of the head
        ("sizes", _address),  # (n_actions,) choices of each categorical action
        ("log_std", _address),  # (n_outputs,), torch's; 0 where a network gives it
        ("log_std_grad", _address),
        ("log_stds", _address),  # (n_outputs, 64)
        ("noise", _address),  # of a row of `noise_kernels.NOISE`; 0 without gSDE
        ("n_latent", _integer),  # inputs of the head, which gSDE's noise is linear in
        ("find_deviations", _address),  # functions of `noise_kernels`
        ("find_changes", _address),
        ("add_gradient", _address),
        ("actions", _address),  # (n_actions, 64)
        ("log_prob", _address),  # (64,) from here on
        ("entropy", _address),
        ("scratch", _address),
        ("weights", _address),
        ("cross", _address),
        ("divergence", _address),
        ("reference", _address),  # (n_outputs, 64), twice for Gaussians: the reference policy's outputs
    ],
    align=True,
)
STEP = np.dtype(
    [
        ("n_envs", _integer),
        ("values_only", _integer),
        ("deterministic", _integer),  # the most probable actions
        ("observations", _address),  # (T, N, n_observation) float32
        ("noise", _address),  # (T, N, n_actions) float32: uniform, or normal for Gaussians
        ("noise_matrix", _address),  # (n_latent, n_actions), gSDE's
        ("noise_matrix_size", _integer),  # from one environment's matrix to the next; 0 where they share one
        ("actions", _address),  # (T, N, n_actions) int64 for categorical actions, else float32
        ("clipped", _address),  # (T, N, n_actions) float32, for Gaussians
        ("low", _address),  # (n_actions,)
        ("high", _address),
        ("values", _address),  # (T, N)
        ("log_probs", _address),
    ],
    align=True,
)
UPDATE = np.dtype(
    [
        ("n_samples", _integer),
        ("n_steps", _integer),  # T and N of the rollout
        ("n_envs", _integer),
        ("n_epochs", _integer),
        ("batch_size", _integer),
        ("observations", _address),  # (T, N, n_observation) float32
        ("actions", _address),  # (T, N, n_actions) float32
        ("old_log_probs", _address),  # (T, N), as the following three
        ("advantages", _address),
        ("returns", _address),
        ("old_values", _address),
        ("samples", _address),  # (epochs, n) int64: in which order they are learnt from
        ("coefficients", _address),  # of the objective's weight
        # Written: (epochs, n) for the log, (minibatches,) float64, and the state of the update.
        ("log_probs", _address),
        ("entropies", _address),
        ("values", _address),
        ("scaled_advantages", _address),
        ("norms", _address),
        ("progress", _address),  # int64: minibatches of either thread, the wish to give up, minibatches begun, the stop
        ("squares", _address),  # float64: of each tower's gradient, for minibatches of even and of odd number
        ("trains_critic", _integer),
        ("normalize_advantage", _integer),
        ("ent_coef", _number),
        ("vf_coef", _number),
        ("scale", _number),
        ("value_clip", _number),  # infinite for none
        ("max_grad_norm", _number),
        ("max_kl", _number),
        ("weight", _address),
        ("n_coefficients", _integer),
        ("penalty", _integer),  # NO_PENALTY, or how KL(π || π_ref) is found
        ("kl_coef", _number),
        # (T, N) log π_ref; for EXACT (T, N, n_outputs) log p, mean or logit, and for Gaussians as many log σ after them
        ("reference", _address),
        ("divergences", _address),  # written: (epochs, n) KL(π || π_ref)
        ("optimizer", _integer),
        ("beta_1", _number),  # Adam's β_1
        ("beta_2", _number),  # Adam's β_2 and RMSprop's α
        ("epsilon", _number),
    ],
    align=True,
)

# What Python calls is kept on disk; what it calls in turn is part of it, and needs no wrapper for Python.
kept = {"nogil": True, "cache": True, "fastmath": {"contract"}, "error_model": "numpy"}
compiled = {**kept, **inner, "cache": False}
inlined = {**compiled, "inline": "always"}  # of one use only: saves LLVM from optimising it twice
reassociated = {**compiled, "fastmath": {"contract", "reassoc", "nsz"}}


# Functions of one number, in float32


@njit(**compiled)
def exp32(x):
    """e^x, by 2^n e^r with |r| <= ln 2 / 2 (Cephes' expf)."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = math.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375)
    r -= n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**compiled)
def tanh32(x):
    """Tanh x, as a quotient of polynomials (the coefficients of Eigen's `ptanh_float`)."""
    x = min(max(x, np.float32(-7.90531111)), np.float32(7.90531111))
    s = x * x
    p = np.float32(-2.76076847742355e-16)
    p = p * s + np.float32(2.00018790482477e-13)
    p = p * s + np.float32(-8.60467152213735e-11)
    p = p * s + np.float32(5.12229709037114e-08)
    p = p * s + np.float32(1.48572235717979e-05)
    p = p * s + np.float32(6.37261928875436e-04)
    p = p * s + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * s + np.float32(1.18534705686654e-04)
    q = q * s + np.float32(2.26843463243900e-03)
    q = q * s + np.float32(4.89352518554385e-03)
    return x * p / q


@njit(**compiled)
def erf32(x):
    """Erf x, as a quotient of polynomials (the coefficients of Eigen's `erf_float`)."""
    x = min(max(x, np.float32(-4.0)), np.float32(4.0))
    s = x * x
    p = np.float32(-2.72614225801306e-10)
    p = p * s + np.float32(2.77068142495902e-08)
    p = p * s + np.float32(-2.10102402082508e-06)
    p = p * s + np.float32(-5.69250639462346e-05)
    p = p * s + np.float32(-7.34990630326855e-04)
    p = p * s + np.float32(-2.95459980854025e-03)
    p = p * s + np.float32(-1.60960333262415e-02)
    q = np.float32(-1.45660718464996e-05)
    q = q * s + np.float32(-2.13374055278905e-04)
    q = q * s + np.float32(-1.68282697438203e-03)
    q = q * s + np.float32(-7.37332916720468e-03)
    q = q * s + np.float32(-1.42647390514189e-02)
    return x * p / q


@njit(**compiled)
def _softplus(z):
    """log(1 + e^z), that neither overflows nor loses small e^z."""
    return max(z, np.float32(0)) + np.float32(math.log1p(exp32(-abs(z))))


# Networks


@njit(**compiled)
def _activate(layer, outputs, derivatives, biases, rows, columns):
    """Y = f(y + bias) and d = f'(y + bias), for rows of numbers that share a bias."""
    kind, constant = layer.activation, np.float32(layer.slope_below_0)
    one, zero, half = np.float32(1), np.float32(0), np.float32(0.5)
    for j in range(rows):
        y, d = floats(outputs + 4 * j * BLOCK), floats(derivatives + 4 * j * BLOCK)
        bias = biases[j]
        # Comparisons are written such that a NaN gets through.
        if kind == TANH:
            for i in range(columns):
                y[i] = tanh32(y[i] + bias)
                d[i] = one - y[i] * y[i]
        elif kind == RELU:
            for i in range(columns):
                z = y[i] + bias
                y[i] = zero if z <= zero else z
                d[i] = one if z > zero else zero
        elif kind == ELU:
            for i in range(columns):
                z = y[i] + bias
                below = constant * (exp32(min(z, zero)) - one)
                y[i] = below if z <= zero else z
                d[i] = one if z > zero else below + constant
        elif kind == LEAKY_RELU:
            for i in range(columns):
                z = y[i] + bias
                y[i] = constant * z if z <= zero else z
                d[i] = one if z > zero else constant
        elif kind == SILU:
            for i in range(columns):
                z = y[i] + bias
                sigmoid = one / (one + exp32(-z))
                y[i] = z * sigmoid
                d[i] = sigmoid * (one + z * (one - sigmoid))
        elif kind == GELU:
            for i in range(columns):
                z = y[i] + bias
                cumulative = half * (one + erf32(z * np.float32(0.70710678)))
                y[i] = z * cumulative
                d[i] = cumulative + z * np.float32(0.39894228) * exp32(-half * z * z)
        else:
            for i in range(columns):
                y[i] += bias
                d[i] = one


@njit(**compiled)
def rounded_up(size):
    """A number of float32 numbers, in whole vectors."""
    return (size + LANES - 1) // LANES * LANES


@njit(**compiled)
def lanes_of(rows):
    """How many columns of a block are computed for so many samples."""
    return LANES if rows <= LANES else BLOCK


# Numba compiles a function anew for each literal number that it is given, and for these once.
_ZERO, _ONE, _BLOCK = np.int64(0), np.int64(1), np.int64(BLOCK)


@njit(**compiled)
def forward(layers, tower, lanes):
    """Outputs and derivatives of all layers, given the tower's `input`."""
    for index in range(tower.first_layer, tower.first_layer + tower.n_hidden + tower.n_heads):
        layer = layers[index]
        product(
            layer.weight,
            layer.n_in,
            _ONE,
            layer.input,
            _BLOCK,
            layer.output,
            _BLOCK,
            layer.n_out,
            lanes,
            layer.n_in,
            _ZERO,
        )
        _activate(layer, layer.output, layer.derivative, floats(layer.bias), layer.n_out, lanes)


@njit(**reassociated)
def _dot(one, other, size):
    total = np.float32(0)
    for i in range(size):
        total += one[i] * other[i]
    return total


@njit(**compiled)
def _forward_row(layers, tower, row):
    """`forward` for one sample, with units in the place of samples: a column of 64 would be nearly empty."""
    last_hidden = tower.first_layer + tower.n_hidden - 1
    for index in range(tower.first_layer, last_hidden + 1 + tower.n_heads):
        layer = layers[index]
        inputs = floats(layer.input_rows + 4 * row * rounded_up(layer.n_in))
        biases = floats(layer.bias)
        if index <= last_hidden:
            outputs, stride = layers[index + 1].input_rows + 4 * row * rounded_up(layer.n_out), 1
        else:
            outputs, stride = layer.output + 4 * row, BLOCK
        y = floats(outputs)
        for j in range(layer.n_out):
            y[j * stride] = biases[j] + _dot(floats(layer.weight + 4 * j * layer.n_in), inputs, layer.n_in)
        if index <= last_hidden:
            # No literal 1, for which Numba would compile it anew.
            _activate(layer, outputs, layer.derivative, floats(layer.zero), np.int64(1), layer.n_out)


@njit(**compiled)
def _expand(n_observation, categories, observations, features, place, index):
    """Observation number `index` as features from `place` on, where there are zeros."""
    sizes = integers(categories)
    for j in range(n_observation):
        number, size = observations[index * n_observation + j], sizes[j]
        if size == 0:
            features[place] = number
            place += 1
        else:
            # A NaN, or a number outside the space, is no index: what it leads to is not finite, and is refused.
            if number >= 0 and number < size:
                features[place + np.int64(number)] = 1
            else:
                features[place] = np.nan
            place += size


@njit(**compiled)
def load_features(policy, tower, observations, row, index):
    """Observation number `index` as row `row` of the network's input."""
    width = rounded_up(policy.n_features)
    features = floats(tower.input_rows)
    if policy.one_hot:
        for j in range(width):
            features[row * width + j] = 0
        _expand(policy.n_observation, policy.categories, observations, features, row * width, index)
    else:
        first, n_features = index * policy.n_features, policy.n_features
        for j in range(n_features):
            features[row * width + j] = observations[first + j]


@njit(**compiled)
def _evaluate(policy, layers, tower, observations, start, rows):
    """The heads' outputs for some of the observations."""
    for row in range(rows):
        load_features(policy, tower, observations, row, start + row)
    if rows <= FEW:
        for row in range(rows):
            _forward_row(layers, tower, row)
    else:
        transpose(
            tower.input_rows, rounded_up(policy.n_features), tower.input, _BLOCK, lanes_of(rows), policy.n_features
        )
        forward(layers, tower, lanes_of(rows))


@njit(**reassociated)
def sum_of(numbers, size):
    """Σ of some numbers."""
    total = np.float32(0)
    for i in range(size):
        total += numbers[i]
    return total


@njit(**compiled)
def backward(layers, tower, rows, lanes):
    """Add a block's gradient, given the `delta` of the heads."""
    last_hidden = tower.first_layer + tower.n_hidden - 1
    for index in range(last_hidden + tower.n_heads, tower.first_layer - 1, -1):
        layer = layers[index]
        width = rounded_up(layer.n_in)
        delta = floats(layer.delta)
        if index <= last_hidden:
            derivative = floats(layer.derivative)
            for j in range(layer.n_out):
                for i in range(j * BLOCK, j * BLOCK + lanes):
                    delta[i] *= derivative[i]
        # Going down, the last head is the first to ask; they share their input.
        first_head = index == last_hidden + tower.n_heads
        if index > tower.first_layer and (first_head or index <= last_hidden):
            transpose(layer.input, _BLOCK, layer.input_rows, width, layer.n_in, lanes)
        product(
            layer.delta, _BLOCK, _ONE, layer.input_rows, width, layer.weight_grad, width, layer.n_out, width, rows, _ONE
        )
        bias_grad = floats(layer.bias_grad)
        for j in range(layer.n_out):
            bias_grad[j] += sum_of(floats(layer.delta + 4 * j * BLOCK), rows)
        below = index - 1 if index <= last_hidden else last_hidden
        if below >= tower.first_layer:
            product(
                layer.weight, _ONE, layer.n_in, layer.delta, _BLOCK, layers[below].delta, _BLOCK,
                layer.n_in, lanes, layer.n_out, _ZERO if first_head or index <= last_hidden else _ONE,
            )  # fmt: skip


# gSDE's, through their addresses: only users of gSDE compile them.
_find_deviations, call_noise = make_function_caller(3), make_function_caller(4)

# Distributions: of each kind, what is read from the head, drawn, and how its gradient comes about


@njit(**compiled)
def read_distribution(policy, head, std_head, lanes):
    """Logits to log p in place, with p in `delta`; for Gaussians, log σ to `log_stds`.

    gSDE's is ½ log(Σ_k φ_k² s_kj² + ε), with φ the head's inputs (arXiv:2005.05719, section 3.2).
    """
    outputs = floats(head.output)
    if policy.distribution == CATEGORICAL:
        p = floats(head.delta)
        sizes = integers(policy.sizes)
        largest, total = floats(policy.scratch), floats(policy.weights)
        first = 0
        for dimension in range(policy.n_actions):
            after = first + sizes[dimension]
            for i in range(lanes):
                largest[i] = outputs[first * BLOCK + i]
                total[i] = 0
            for j in range(first + 1, after):
                for i in range(lanes):
                    largest[i] = max(largest[i], outputs[j * BLOCK + i])
            for j in range(first, after):
                for i in range(lanes):
                    outputs[j * BLOCK + i] -= largest[i]
                    p[j * BLOCK + i] = exp32(outputs[j * BLOCK + i])
                    total[i] += p[j * BLOCK + i]
            for i in range(lanes):
                largest[i] = math.log(total[i])
                total[i] = np.float32(1) / total[i]
            for j in range(first, after):
                for i in range(lanes):
                    outputs[j * BLOCK + i] -= largest[i]
                    p[j * BLOCK + i] *= total[i]
            first = after
    elif policy.distribution == GAUSSIAN:
        log_stds = floats(policy.log_stds)
        if policy.noise != 0:
            _find_deviations(policy.find_deviations, policy.noise, head.input, lanes)
        elif policy.log_std != 0:
            log_std = floats(policy.log_std)
            for j in range(policy.n_outputs):
                for i in range(lanes):
                    log_stds[j * BLOCK + i] = log_std[j]
        else:
            given = floats(std_head.output)
            for j in range(policy.n_outputs * BLOCK):
                log_stds[j] = min(max(given[j], np.float32(LOG_STD_MIN)), np.float32(LOG_STD_MAX))


@njit(**compiled)
def _mode(policy, head, lanes_used):
    """The block's most probable actions: those of SB3's `mode`."""
    actions = floats(policy.actions)
    outputs = floats(head.output)
    if policy.distribution == CATEGORICAL:
        sizes = integers(policy.sizes)
        first = 0
        for dimension in range(policy.n_actions):
            for i in range(lanes_used):
                chosen = 0
                for j in range(1, sizes[dimension]):
                    if outputs[(first + j) * BLOCK + i] > outputs[(first + chosen) * BLOCK + i]:
                        chosen = j
                actions[dimension * BLOCK + i] = chosen
            first += sizes[dimension]
    else:
        for j in range(policy.n_actions):
            for i in range(lanes_used):
                output = outputs[j * BLOCK + i]
                if policy.distribution == BERNOULLI:
                    output = np.float32(1) if output > 0 else np.float32(0)
                actions[j * BLOCK + i] = output


@njit(**compiled)
def _sample(policy, head, noise, lanes_used):
    """Draw the block's actions; `noise` is (samples, n_actions)."""
    actions = floats(policy.actions)
    outputs = floats(head.output)
    if policy.distribution == CATEGORICAL:
        p = floats(head.delta)
        sizes = integers(policy.sizes)
        first = 0
        for dimension in range(policy.n_actions):
            for i in range(lanes_used):
                rest = noise[i * policy.n_actions + dimension]
                chosen = 0
                for j in range(sizes[dimension]):
                    probability = p[(first + j) * BLOCK + i]
                    if probability > 0:
                        # The last that is possible, should rounding leave something over.
                        chosen = j
                        rest -= probability
                        if rest < 0:
                            break
                actions[dimension * BLOCK + i] = chosen
            first += sizes[dimension]
    elif policy.distribution == GAUSSIAN:
        log_stds = floats(policy.log_stds)
        for j in range(policy.n_actions):
            for i in range(lanes_used):
                std = exp32(log_stds[j * BLOCK + i])
                actions[j * BLOCK + i] = outputs[j * BLOCK + i] + std * noise[i * policy.n_actions + j]
    else:
        for j in range(policy.n_actions):
            for i in range(lanes_used):
                p1 = np.float32(1) / (np.float32(1) + exp32(-outputs[j * BLOCK + i]))
                actions[j * BLOCK + i] = np.float32(1) if noise[i * policy.n_actions + j] < p1 else np.float32(0)


@njit(**compiled)
def _put_in_columns(head, rows):
    """The head's inputs as `forward` would leave them, after `_forward_row`."""
    columns, width = floats(head.input), rounded_up(head.n_in)
    for row in range(rows):
        inputs = floats(head.input_rows + 4 * row * width)
        for k in range(head.n_in):
            columns[k * BLOCK + row] = inputs[k]


@njit(**compiled)
def _explore(policy, head, step, start, lanes_used):
    """The block's actions with gSDE's noise: μ + φ times the environment's noise matrix."""
    actions, outputs, inputs = floats(policy.actions), floats(head.output), floats(head.input)
    n_actions = policy.n_actions
    for i in range(lanes_used):
        matrix = floats(step.noise_matrix + 4 * (start + i) * step.noise_matrix_size)
        for j in range(n_actions):
            noise = np.float32(0)
            for k in range(policy.n_latent):
                noise += inputs[k * BLOCK + i] * matrix[k * n_actions + j]
            actions[j * BLOCK + i] = outputs[j * BLOCK + i] + noise


@njit(**compiled)
def log_prob_and_entropy(policy, head, lanes):
    """Log π of the block's actions, and H(π), after `read_distribution`."""
    actions = floats(policy.actions)
    outputs = floats(head.output)
    log_prob, entropy = floats(policy.log_prob), floats(policy.entropy)
    for i in range(lanes):
        log_prob[i] = 0
        entropy[i] = 0
    if policy.distribution == CATEGORICAL:
        p = floats(head.delta)
        sizes = integers(policy.sizes)
        first = 0
        for dimension in range(policy.n_actions):
            for i in range(lanes):
                log_prob[i] += outputs[(first + np.int64(actions[dimension * BLOCK + i])) * BLOCK + i]
            for j in range(first, first + sizes[dimension]):
                for i in range(lanes):
                    entropy[i] -= p[j * BLOCK + i] * outputs[j * BLOCK + i]
            first += sizes[dimension]
    elif policy.distribution == GAUSSIAN:
        half_log_2_pi = np.float32(0.9189385332046727)
        log_stds = floats(policy.log_stds)
        for j in range(policy.n_actions):
            for i in range(lanes):
                log_std = log_stds[j * BLOCK + i]
                z = (actions[j * BLOCK + i] - outputs[j * BLOCK + i]) * exp32(-log_std)
                log_prob[i] += np.float32(-0.5) * z * z - log_std - half_log_2_pi
                entropy[i] += np.float32(0.5) + half_log_2_pi + log_std
    else:
        for j in range(policy.n_actions):
            for i in range(lanes):
                z = outputs[j * BLOCK + i]
                softplus = _softplus(z)
                p1 = np.float32(1) / (np.float32(1) + exp32(-z))
                log_prob[i] += actions[j * BLOCK + i] * z - softplus
                entropy[i] += softplus - z * p1


@njit(**reassociated)
def policy_delta(policy, head, std_head, ent_coef, factor, rows, lanes, has_reference, kl_coef):
    """`delta` of the actor's heads: of the loss -Σ factor (objective + ent_coef H - kl_coef KL), given ψ in `weights`.

    KL(π || π_ref) counts where there is a reference, whose outputs `divergence_from_reference` has seen.
    """
    reference, cross = floats(policy.reference), floats(policy.cross)
    actions = floats(policy.actions)
    outputs = floats(head.output)
    delta = floats(head.delta)
    weights = floats(policy.weights)
    one = np.float32(1)
    if policy.distribution == CATEGORICAL:
        # ∂log π/∂z_j = 1[j = a] - p_j, ∂H/∂z_j = -p_j (log p_j + H), with p_j in `delta`,
        # ∂KL/∂z_j = p_j (log p_j + H - log q_j + Σ p log q)
        sizes = integers(policy.sizes)
        entropy = floats(policy.scratch)
        first = 0
        for dimension in range(policy.n_actions):
            after = first + sizes[dimension]
            for i in range(lanes):
                entropy[i] = 0
            for j in range(first, after):
                for i in range(lanes):
                    entropy[i] -= delta[j * BLOCK + i] * outputs[j * BLOCK + i]
            for j in range(first, after):
                for i in range(lanes):
                    p = delta[j * BLOCK + i]
                    delta[j * BLOCK + i] = factor * p * (weights[i] + ent_coef * (outputs[j * BLOCK + i] + entropy[i]))
                    if has_reference:
                        gained = outputs[j * BLOCK + i] + entropy[i] - reference[j * BLOCK + i]
                        delta[j * BLOCK + i] += factor * kl_coef * p * (gained + cross[dimension * BLOCK + i])
            for i in range(rows):
                delta[(first + np.int64(actions[dimension * BLOCK + i])) * BLOCK + i] -= factor * weights[i]
            first = after
    elif policy.distribution == GAUSSIAN:
        # ∂log π/∂μ = (a - μ) / σ², ∂log π/∂log σ = ((a - μ) / σ)² - 1, ∂H/∂log σ = 1,
        # ∂KL/∂μ = (μ - μ_ref) / σ_ref², ∂KL/∂log σ = σ² / σ_ref² - 1
        log_stds = floats(policy.log_stds)
        for j in range(policy.n_actions):
            for i in range(lanes):
                inverse = exp32(-log_stds[j * BLOCK + i])
                mean = outputs[j * BLOCK + i]
                z = (actions[j * BLOCK + i] - mean) * inverse
                delta[j * BLOCK + i] = -factor * weights[i] * z * inverse
                # `outputs` is not needed any more: the gradient by log σ.
                outputs[j * BLOCK + i] = -factor * (weights[i] * (z * z - one) + ent_coef)
                if has_reference:
                    precision = exp32(np.float32(-2) * reference[(policy.n_outputs + j) * BLOCK + i])
                    delta[j * BLOCK + i] += factor * kl_coef * (mean - reference[j * BLOCK + i]) * precision
                    outputs[j * BLOCK + i] += factor * kl_coef * (precision / (inverse * inverse) - one)
        if policy.noise != 0:
            for j in range(policy.n_actions):
                for i in range(j * BLOCK, j * BLOCK + lanes):
                    outputs[i] *= exp32(np.float32(-2) * log_stds[i])
            call_noise(policy.add_gradient, policy.noise, head.output, rows, lanes)
        elif policy.log_std != 0:
            log_std_grad = floats(policy.log_std_grad)
            for j in range(policy.n_actions):
                log_std_grad[j] += sum_of(floats(head.output + 4 * j * BLOCK), rows)
        else:
            given = floats(std_head.output)
            std_delta = floats(std_head.delta)
            for j in range(policy.n_actions):
                for i in range(j * BLOCK, j * BLOCK + lanes):
                    inside = given[i] >= np.float32(LOG_STD_MIN) and given[i] <= np.float32(LOG_STD_MAX)
                    std_delta[i] = outputs[i] if inside else np.float32(0)
    else:
        # ∂log π/∂z = a - p, ∂H/∂z = -z p (1 - p), ∂KL/∂z = (z - z_ref) p (1 - p)
        for j in range(policy.n_actions):
            for i in range(lanes):
                z = outputs[j * BLOCK + i]
                p = one / (one + exp32(-z))
                of_log_prob = weights[i] * (actions[j * BLOCK + i] - p)
                delta[j * BLOCK + i] = -factor * (of_log_prob - ent_coef * z * p * (one - p))
                if has_reference:
                    delta[j * BLOCK + i] += factor * kl_coef * (z - reference[j * BLOCK + i]) * p * (one - p)


# Acting


@njit(**reassociated)
def _sum_of_zeros(numbers, size):
    """0, or NaN if a number is not finite."""
    total = np.float32(0)
    for i in range(size):
        total += numbers[i] * np.float32(0)
    return total


_layers, _towers, _tensors, _policies, _steps, _updates = (
    types.CPointer(numba.from_dtype(dtype)) for dtype in (LAYER, TOWER, TENSOR, POLICY, STEP, UPDATE)
)
ANY = 1 << 20  # rows: more than a table has


@njit(numba.boolean(numba.from_dtype(TENSOR)[::1]), **kept)
def are_finite(tensors):
    """Whether all parameters are finite."""
    total = np.float32(0)
    for number in range(len(tensors)):
        tensor = tensors[number]
        total += _sum_of_zeros(floats(tensor.value), tensor.rows * tensor.columns)
    return total == 0


# A C function, which compiled rollouts call through its address as well.
@numba.cfunc(numba.int64(_policies, _towers, _layers, _steps, numba.int64), **kept)
def act(policies_at, towers_at, layers_at, steps_at, t):
    """Draw step t's actions, and write them, their log π, and V.

    Args:
        policies_at: Address of one row of `POLICY`.
        towers_at: Of two rows of `TOWER`.
        layers_at: Of the rows of `LAYER`.
        steps_at: Of one row of `STEP`.
        t: The step.

    Returns:
        Whether the observations, and all that came of them, are finite.
    """
    policy, step = numba.carray(policies_at, 1)[0], numba.carray(steps_at, 1)[0]
    towers, layers = numba.carray(towers_at, 2), numba.carray(layers_at, ANY)
    n_envs = step.n_envs
    head = layers[towers[0].first_layer + towers[0].n_hidden]
    std_head = layers[towers[0].first_layer + towers[0].n_hidden + towers[0].n_heads - 1]
    size = n_envs * policy.n_observation
    observations = floats(step.observations + 4 * t * size)
    noise = step.noise + 4 * t * n_envs * policy.n_actions
    values = floats(step.values + 4 * t * n_envs)
    log_probs = floats(step.log_probs + 4 * t * n_envs)
    clipped = floats(step.clipped + 4 * t * n_envs * policy.n_actions)
    drawn_floats = floats(step.actions + 4 * t * n_envs * policy.n_actions)
    drawn_integers = integers(step.actions + 8 * t * n_envs * policy.n_actions)
    drawn = floats(policy.actions)
    log_prob = floats(policy.log_prob)
    low, high = floats(step.low), floats(step.high)
    check = _sum_of_zeros(observations, size)
    for start in range(0, n_envs, BLOCK):
        rows = min(BLOCK, n_envs - start)
        lanes = lanes_of(rows)
        if not step.values_only:
            _evaluate(policy, layers, towers[0], observations, start, rows)
            if policy.noise != 0 and rows <= FEW:
                _put_in_columns(head, rows)
            read_distribution(policy, head, std_head, lanes)
            if step.deterministic:
                _mode(policy, head, rows)
            elif policy.noise != 0:
                _explore(policy, head, step, start, rows)
            else:
                _sample(policy, head, floats(noise + 4 * start * policy.n_actions), rows)
            log_prob_and_entropy(policy, head, rows)
            for row in range(rows):
                log_probs[start + row] = log_prob[row]
                check += log_prob[row] * np.float32(0)
                for j in range(policy.n_actions):
                    place = (start + row) * policy.n_actions + j
                    action = drawn[j * BLOCK + row]
                    if policy.distribution == CATEGORICAL:
                        drawn_integers[place] = np.int64(action)
                    else:
                        drawn_floats[place] = action
                        check += action * np.float32(0)
                        if policy.distribution == GAUSSIAN:
                            clipped[place] = min(max(action, low[j]), high[j])
        if policy.has_critic:
            _evaluate(policy, layers, towers[1], observations, start, rows)
            value = floats(layers[towers[1].first_layer + towers[1].n_hidden].output)
            for row in range(rows):
                values[start + row] = value[row]
                check += value[row] * np.float32(0)
    return check == 0


# Learning


@njit(**compiled)
def _estimated_divergence(estimator, log_ratio):
    """An estimate of KL(π || π_ref) from log π - log π_ref, and its derivative: see `objectives.KL_ESTIMATORS`."""
    one = np.float32(1)
    if estimator == K1:
        return log_ratio, one
    if estimator == K2:
        return np.float32(0.5) * log_ratio * log_ratio, log_ratio
    inverse_ratio = exp32(-log_ratio)
    return inverse_ratio - one + log_ratio, one - inverse_ratio


@njit(**compiled)
def _load_reference(policy, update, first, rows, lanes):
    """The reference policy's outputs for a block of samples."""
    samples = integers(update.samples)
    width = 2 * policy.n_outputs if policy.distribution == GAUSSIAN else policy.n_outputs
    given, reference = floats(update.reference), floats(policy.reference)
    for row in range(rows):
        place = _stored(update, samples[first + row])
        for j in range(width):
            reference[j * BLOCK + row] = given[place * width + j]
    for j in range(width):
        for row in range(rows, lanes):
            reference[j * BLOCK + row] = 0


@njit(**compiled)
def divergence_from_reference(policy, head, lanes):
    """KL(π || π_ref) of a block; for categorical actions also Σ p log q of each, to `cross`."""
    outputs, reference = floats(head.output), floats(policy.reference)
    divergence, cross = floats(policy.divergence), floats(policy.cross)
    half, one = np.float32(0.5), np.float32(1)
    for i in range(lanes):
        divergence[i] = 0
    if policy.distribution == CATEGORICAL:
        p, sizes = floats(head.delta), integers(policy.sizes)
        first = 0
        for dimension in range(policy.n_actions):
            for i in range(lanes):
                cross[dimension * BLOCK + i] = 0
            for j in range(first, first + sizes[dimension]):
                for i in range(lanes):
                    cross[dimension * BLOCK + i] += p[j * BLOCK + i] * reference[j * BLOCK + i]
                    divergence[i] += p[j * BLOCK + i] * (outputs[j * BLOCK + i] - reference[j * BLOCK + i])
            first += sizes[dimension]
    elif policy.distribution == GAUSSIAN:
        # log σ_ref - log σ + (σ² + (μ - μ_ref)²) / 2 σ_ref² - 1/2
        log_stds = floats(policy.log_stds)
        for j in range(policy.n_outputs):
            for i in range(lanes):
                log_ratio = log_stds[j * BLOCK + i] - reference[(policy.n_outputs + j) * BLOCK + i]
                z = (outputs[j * BLOCK + i] - reference[j * BLOCK + i]) * exp32(
                    -reference[(policy.n_outputs + j) * BLOCK + i]
                )
                divergence[i] += half * (exp32(np.float32(2) * log_ratio) + z * z - one) - log_ratio
    else:
        # p (z - z_ref) - log(1 + e^z) + log(1 + e^z_ref)
        for j in range(policy.n_outputs):
            for i in range(lanes):
                z, other = outputs[j * BLOCK + i], reference[j * BLOCK + i]
                p1 = one / (one + exp32(-z))
                divergence[i] += p1 * (z - other) - _softplus(z) + _softplus(other)


@njit(**compiled)
def _stored(update, index):
    """Where sample `index` lies: they are numbered environment after environment, and stored step after step."""
    return index % update.n_steps * update.n_envs + index // update.n_steps


@njit(**compiled)
def mean_and_deviation(update, first, count):
    """What the advantages of a minibatch are shifted and divided by."""
    if not update.normalize_advantage or count == 1:
        return np.float32(0), np.float32(1)
    advantages, samples = floats(update.advantages), integers(update.samples + 8 * first)
    mean, square = 0.0, 0.0
    for i in range(count):
        mean += advantages[_stored(update, samples[i])]
    mean /= count
    for i in range(count):
        square += (advantages[_stored(update, samples[i])] - mean) ** 2
    return np.float32(mean), np.float32(math.sqrt(square / (count - 1))) + np.float32(1e-8)


@njit(**inlined)
def evaluate_samples(policy, tower, layers, update, first, rows):
    """Distributions and log π of a block of samples, from number `first` of their order on."""
    head = layers[tower.first_layer + tower.n_hidden]
    std_head = layers[tower.first_layer + tower.n_hidden + tower.n_heads - 1]
    samples, actions = integers(update.samples), floats(policy.actions)
    observations, taken = floats(update.observations), floats(update.actions)
    lanes = lanes_of(rows)
    for row in range(rows):
        place = _stored(update, samples[first + row])
        load_features(policy, tower, observations, row, place)
        for j in range(policy.n_actions):
            actions[j * BLOCK + row] = taken[place * policy.n_actions + j]
    transpose(tower.input_rows, rounded_up(policy.n_features), tower.input, _BLOCK, lanes, policy.n_features)
    forward(layers, tower, lanes)
    read_distribution(policy, head, std_head, lanes)
    log_prob_and_entropy(policy, head, rows)


@njit(**inlined)
def surrogate_delta(policy, head, std_head, update, first, rows, factor, mean, deviation):
    """`delta` of the actor's heads, of a block after `evaluate_samples`, and the samples' numbers for the log.

    Returns:
        Sum of (r - 1) - log r, which estimates KL(π_old || π).
    """
    samples = integers(update.samples)
    old_log_probs, advantages = floats(update.old_log_probs), floats(update.advantages)
    log_probs, entropies = floats(update.log_probs), floats(update.entropies)
    scaled, coefficients = floats(update.scaled_advantages), floats(update.coefficients)
    weights, log_prob, entropy = floats(policy.weights), floats(policy.log_prob), floats(policy.entropy)
    divergences, divergence_of = floats(update.divergences), floats(policy.divergence)
    reference, kl_coef = floats(update.reference), np.float32(update.kl_coef)
    lanes = lanes_of(rows)
    divergence = 0.0
    for row in range(rows):
        place = _stored(update, samples[first + row])
        log_ratio = log_prob[row] - old_log_probs[place]
        ratio = exp32(log_ratio)
        divergence += (ratio - np.float32(1)) - log_ratio
        advantage = (advantages[place] - mean) / deviation
        weights[row] = call_weight(update.weight, log_prob[row], ratio, advantage, coefficients, update.n_coefficients)
        if update.penalty != NO_PENALTY and update.penalty != EXACT:
            divergences[first + row], slope = _estimated_divergence(update.penalty, log_prob[row] - reference[place])
            weights[row] -= kl_coef * slope
        scaled[first + row] = advantage
        log_probs[first + row] = log_prob[row]
        entropies[first + row] = entropy[row]
    for row in range(rows, lanes):
        weights[row] = 0
    if update.penalty == EXACT:
        _load_reference(policy, update, first, rows, lanes)
        divergence_from_reference(policy, head, lanes)
        for row in range(rows):
            divergences[first + row] = divergence_of[row]
    ent_coef, exact = np.float32(update.ent_coef), update.penalty == EXACT
    policy_delta(policy, head, std_head, ent_coef, factor, rows, lanes, exact, kl_coef)
    return divergence


@njit(**inlined)
def _actor_gradient(policy, tower, layers, update, first, count):
    """Add the gradient of -E[objective + `ent_coef` H] of a minibatch, `count` samples from the `first` one.

    Returns:
        Mean of (r - 1) - log r, which estimates KL(π_old || π).
    """
    head = layers[tower.first_layer + tower.n_hidden]
    std_head = layers[tower.first_layer + tower.n_hidden + tower.n_heads - 1]
    factor = np.float32(update.scale / count)
    mean, deviation = mean_and_deviation(update, first, count)
    divergence = 0.0
    for start in range(first, first + count, BLOCK):
        rows = min(BLOCK, first + count - start)
        evaluate_samples(policy, tower, layers, update, start, rows)
        divergence += surrogate_delta(policy, head, std_head, update, start, rows, factor, mean, deviation)
        backward(layers, tower, rows, lanes_of(rows))
    return divergence / count


@njit(**inlined)
def _critic_gradient(policy, tower, layers, update, first, count):
    """Add the gradient of `vf_coef` E[(R - V)²] of a minibatch, with V clipped around the old value if asked for."""
    head = layers[tower.first_layer + tower.n_hidden]
    value, delta = floats(head.output), floats(head.delta)
    samples = integers(update.samples + 8 * first)
    observations, values = floats(update.observations), floats(update.values + 4 * first)
    returns, old_values = floats(update.returns), floats(update.old_values)
    factor = np.float32(2 * update.vf_coef * update.scale / count)
    clip = np.float32(update.value_clip)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        lanes = lanes_of(rows)
        for row in range(rows):
            load_features(policy, tower, observations, row, _stored(update, samples[start + row]))
        transpose(tower.input_rows, rounded_up(policy.n_features), tower.input, _BLOCK, lanes, policy.n_features)
        forward(layers, tower, lanes)
        for row in range(rows):
            place = _stored(update, samples[start + row])
            moved = value[row] - old_values[place]
            prediction = old_values[place] + min(max(moved, -clip), clip) if clip < np.inf else value[row]
            # A NaN is inside: it must reach the gradient, to be found.
            outside = moved > clip or moved < -clip
            delta[row] = np.float32(0) if outside else factor * (prediction - returns[place])
            values[start + row] = value[row]
        for row in range(rows, lanes):
            delta[row] = 0
        backward(layers, tower, rows, lanes)


@njit(**reassociated)
def _sum_of_squares(numbers, size):
    total = 0.0
    for start in range(0, size, 4096):
        part = np.float32(0)
        for i in range(start, min(start + 4096, size)):
            part += numbers[i] * numbers[i]
        total += part
    return total


@njit(**compiled)
def _step(update, tensor, shrinking):
    """One step of the optimiser on one tensor, by the formulas of torch.optim."""
    count = 0.0
    if tensor.step != 0:
        steps = floats(tensor.step)
        steps[0] += np.float32(1)
        count = steps[0]
    one = np.float32(1)
    epsilon, rate = np.float32(update.epsilon), np.float32(tensor.learning_rate)
    beta_2 = np.float32(update.beta_2)
    kept_1, kept_2 = np.float32(1 - update.beta_1), np.float32(1 - update.beta_2)
    root = one
    if update.optimizer == ADAM:
        rate = np.float32(tensor.learning_rate / (1 - update.beta_1**count))
        root = np.float32(1 / math.sqrt(1 - update.beta_2**count))
    columns = tensor.columns
    for row in range(tensor.rows):
        value = floats(tensor.value + 4 * row * columns)
        gradient = floats(tensor.gradient + 4 * row * tensor.gradient_row)
        square = floats(tensor.square + 4 * row * columns)
        if update.optimizer == ADAM:
            mean = floats(tensor.mean + 4 * row * columns)
            for i in range(columns):
                g = gradient[i] * shrinking
                mean[i] += kept_1 * (g - mean[i])
                square[i] = beta_2 * square[i] + kept_2 * g * g
                value[i] -= rate * mean[i] / (math.sqrt(square[i]) * root + epsilon)
        elif update.optimizer == RMSPROP:
            for i in range(columns):
                g = gradient[i] * shrinking
                square[i] = beta_2 * square[i] + kept_2 * g * g
                value[i] -= rate * g / (math.sqrt(square[i]) + epsilon)
        else:
            for i in range(columns):
                g = gradient[i] * shrinking
                square[i] = beta_2 * square[i] + kept_2 * g * g
                value[i] -= rate * g / math.sqrt(square[i] + epsilon)


@njit(**compiled)
def _wait(progress, other, minibatch):
    """Until the other thread has the gradient of this minibatch. Returns False if it gave up."""
    turns = 0
    while observe(progress + 8 * other) < minibatch:
        if observe(progress + 16) != 0:
            return False
        turns += 1
        if turns < 5000:
            spin()
        else:
            give_way()
    return True


@numba.cfunc(numba.int64(_policies, _towers, _layers, _tensors, _updates, numba.int64, numba.int64), **kept)
def train(policies_at, towers_at, layers_at, tensors_at, updates_at, first_tower, last_tower):
    """All epochs of an update: for each minibatch the gradient, its norm, and a step of the optimiser.

    Two threads may share the work, one with the actor (tower 0) and one with the critic (tower 1). They meet once per
    minibatch, to add up the norm, and do the same arithmetic as one thread with both.

    Args:
        policies_at: Address of one row, as for `updates_at`; the tables are described above.
        towers_at: Of actor and critic.
        layers_at: Of the layers of both.
        tensors_at: Of the parameters of both.
        updates_at: Of what to learn from, and how.
        first_tower: Of this thread.
        last_tower: And one beyond.

    Returns:
        DONE, NOT_FINITE, STOPPED (by `max_kl`) or ABORTED. The minibatches begun are in `progress[3]`.
    """
    policy, update = numba.carray(policies_at, 1)[0], numba.carray(updates_at, 1)[0]
    towers, layers = numba.carray(towers_at, 2), numba.carray(layers_at, ANY)
    tensors = numba.carray(tensors_at, ANY)
    progress, norms, squares = integers(update.progress), doubles(update.norms), doubles(update.squares)
    n_towers = 2 if update.trains_critic else 1
    shared = last_tower - first_tower < n_towers
    minibatch = 0
    for epoch in range(update.n_epochs):
        for start in range(0, update.n_samples, update.batch_size):
            count = min(update.batch_size, update.n_samples - start)
            first = epoch * update.n_samples + start
            parity = minibatch % 2
            minibatch += 1
            for index in range(first_tower, last_tower):
                tower = towers[index]
                gradient = floats(tower.gradient)
                for i in range(tower.gradient_size):
                    gradient[i] = 0
                if index == 0:
                    progress[3] = minibatch
                    if _actor_gradient(policy, tower, layers, update, first, count) > update.max_kl:
                        progress[4] = minibatch
                else:
                    _critic_gradient(policy, tower, layers, update, first, count)
                squares[2 * parity + index] = _sum_of_squares(gradient, tower.gradient_size)
            if shared:
                publish(update.progress + 8 * first_tower, minibatch)
                if not _wait(update.progress, 1 - first_tower, minibatch):
                    return ABORTED
            if progress[4] == minibatch:
                return STOPPED
            norm = 0.0
            for index in range(n_towers):
                norm += squares[2 * parity + index]
            norm = math.sqrt(norm)
            if first_tower == 0:
                norms[minibatch - 1] = norm
            if not math.isfinite(norm):
                return NOT_FINITE
            shrinking = np.float32(min(1.0, update.max_grad_norm / (norm + 1e-6)))
            for index in range(first_tower, last_tower):
                tower = towers[index]
                for number in range(tower.first_tensor, tower.first_tensor + tower.n_tensors):
                    _step(update, tensors[number], shrinking)
    return DONE


call_act, call_train = callable_from_python(act, 5), callable_from_python(train, 7)
