"""REINFORCE with a learned baseline. The task is in README.md beside this file."""


def objective(log_prob, values, returns):
    """The quantity to be maximised: the actor's part minus the critic's error.

    The gradient of the actor's part is Σ_t (G_t - V(s_t)) ∇ log π(a_t|s_t), and it does not move V. The critic's error
    is (G_t - V(s_t))².

    Args:
        log_prob: log π(a_t|s_t), a tensor of shape (T,).
        values: V(s_t), a tensor of shape (T,), through which gradients flow into the critic.
        returns: G_t, a tensor of shape (T,).

    Returns:
        A tensor of shape (T,), one number for each step.
    """
    # Your four lines.
    return ...
