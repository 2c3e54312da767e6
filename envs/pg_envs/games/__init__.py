"""Games whose optimum is a stochastic policy."""
