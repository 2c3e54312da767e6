"""The one-step actor-critic. The task is in README.md beside this file."""


def objective(log_prob, value, next_value, reward, terminated, gamma):
    """The quantity to be maximised after a step: the actor's part minus the critic's error.

    With the target y = r + γ V(s'), where V(s') is 0 if the task has ended, and δ = y - V(s), the gradient of the
    actor's part is δ ∇ log π(a|s), and the critic's error is (y - V(s))². The target is a number: no gradient flows
    into V(s').

    Args:
        log_prob: log π(a|s), a tensor of shape (N,), one number for each environment.
        value: V(s), a tensor of shape (N,), through which gradients flow into the critic.
        next_value: V(s'), likewise.
        reward: r, a tensor of shape (N,).
        terminated: 1 where the task has ended in s', otherwise 0, a tensor of shape (N,).
        gamma: γ.

    Returns:
        A tensor of shape (N,).
    """
    # Your four lines.
    return ...
