r"""How good was each action? Return and advantage estimators, as pure functions on `(T, N)` arrays.

`T` is the number of steps of a rollout and `N` the number of environments. Every function takes and returns NumPy
arrays of that shape and knows nothing of policies, buffers or environments. Episodes may begin and end anywhere in
the rollout:

* `rewards[t, n]`: r_t, received for the action of step t.
* `values[t, n]`: V(s_t).
* `next_values[t, n]`: V(s_{t+1}), where s_{t+1} is the state that the action led to. At the end of an episode that
  is the episode's last state, not the first of the next one. What stands there at a terminated step is not used.
* `terminated[t, n]`: the task ended in s_{t+1}; nothing is to be gained from there on.
* `truncated[t, n]`: the episode was cut in s_{t+1} by a time limit; the task would have gone on.
* `ends[t, n]`: either of the two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def td_target(rewards: Floats, next_values: Floats, terminated: Bools, gamma: float) -> Floats:
    """One-step target: the reward and the discounted value of where it led.

    y_t = r_t + γ (1 - terminated_t) V(s_{t+1})   (Sutton & Barto, 2nd ed., eq. 6.2)
    """
    continues = 1 - terminated.astype(rewards.dtype)
    return rewards + gamma * next_values * continues


def td_error(rewards: Floats, values: Floats, next_values: Floats, terminated: Bools, gamma: float) -> Floats:
    """Temporal-difference error, the one-step advantage estimate.

    δ_t = r_t + γ (1 - terminated_t) V(s_{t+1}) - V(s_t)   (Sutton & Barto, 2nd ed., eq. 6.5)
    """
    return td_target(rewards, next_values, terminated, gamma) - values


def gae(td_errors: Floats, ends: Bools, gamma: float, gae_lambda: float) -> Floats:
    """Generalised advantage estimation, an exponential average over all n-step advantages.

    Â_t = Σ_l (γλ)^l δ_{t+l} = δ_t + γλ (1 - end_t) Â_{t+1}   (arXiv:1506.02438, eq. 16)

    λ = 0 is the TD error, λ = 1 the Monte-Carlo return minus V. The sum stops at the end of the episode and of the
    rollout.
    """
    single = td_errors.dtype == np.float32
    same_episode = 1 - ends.astype(np.float32 if single else np.result_type(td_errors, np.float32))
    return _discounted_sums(td_errors, gamma * gae_lambda * same_episode)


_scan: Callable[[Floats, Floats, Floats], None] | None = None


def use_scan(scan: Callable[[Floats, Floats, Floats], None]) -> None:
    """Have `(T, N)` arrays of float32 scanned by another function, which must round as NumPy does.

    Args:
        scan: `scan(terms, decays, sums)` fills sums_t = terms_t + decays_t sums_{t+1}; all arrays are contiguous.
    """
    global _scan
    _scan = scan


def _discounted_sums(terms: Floats, decays: Floats) -> Floats:
    """S_t = terms_t + decays_t S_{t+1}."""
    sums = np.empty(terms.shape, decays.dtype)
    if _scan is not None and terms.ndim == 2 and terms.dtype == decays.dtype == np.float32:
        _scan(_laid_out(terms), _laid_out(decays), sums)
        return sums
    following = np.zeros(terms.shape[1:], decays.dtype)
    for t in reversed(range(len(terms))):
        following = terms[t] + decays[t] * following
        sums[t] = following
    return sums


def _laid_out(array: Floats) -> Floats:
    """The array as a scan takes it: contiguous and writeable."""
    return array if array.flags.carray else array.copy()


def reward_to_go(rewards: Floats, ends: Bools, gamma: float) -> Floats:
    """Return from each step to the end of its episode, with no value in it.

    G_t = Σ_{k>=t} γ^{k-t} r_k = r_t + γ (1 - end_t) G_{t+1}   (Sutton & Barto, 2nd ed., eq. 3.9)

    An episode that the rollout cuts off counts up to the cut; hand in whole episodes to have G_t itself.
    """
    return gae(rewards, ends, gamma, 1.0)


def total_return(rewards: Floats, ends: Bools, gamma: float) -> Floats:
    """Return of the whole episode, given to each of its steps: the weight of the naive policy gradient.

    R(τ) = Σ_k γ^k r_k, with k counted from the episode's first step   (Williams 1992)
    """
    returns = reward_to_go(rewards, ends, gamma)
    for t in range(1, len(returns)):
        returns[t] = np.where(ends[t - 1], returns[t], returns[t - 1])
    return returns


def monte_carlo(rewards: Floats, next_values: Floats, terminated: Bools, truncated: Bools, gamma: float) -> Floats:
    """Discounted return, completed by the value of the state in which a time limit or the rollout's end cut it.

    R_t = r_t + γ R_{t+1}, with R_{t+1} = 0 after a termination and V(s_{t+1}) after a cut
    (arXiv:1602.01783, algorithm S3)
    """
    returns = np.empty(rewards.shape, np.result_type(rewards, np.float32))
    following = next_values[-1]
    for t in reversed(range(len(rewards))):
        following = np.where(terminated[t], 0, np.where(truncated[t], next_values[t], following))
        following = (rewards[t] + gamma * following).astype(returns.dtype)
        returns[t] = following
    return returns


def n_step(
    rewards: Floats, next_values: Floats, terminated: Bools, truncated: Bools, gamma: float, n_steps: int
) -> Floats:
    """Return of n steps, completed by the value of the state after them.

    R_t^{(n)} = Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n})   (Sutton & Barto, 2nd ed., eq. 7.1)

    Fewer than n steps are summed where the episode or the rollout ends sooner; V completes the sum unless the
    episode terminated. n = 1 is `td_target`, n >= T is `monte_carlo`.

    Raises:
        ValueError: `n_steps` is less than 1.
    """
    if n_steps < 1:
        raise ValueError(f"`n_steps` must be at least 1, but is {n_steps}.")
    ends = terminated | truncated
    one_step = td_target(rewards, next_values, terminated, gamma)
    returns = one_step
    for _ in range(min(n_steps, len(rewards)) - 1):
        longer = one_step.copy()
        longer[:-1] = np.where(ends[:-1], one_step[:-1], rewards[:-1] + gamma * returns[1:])
        returns = longer
    return returns
