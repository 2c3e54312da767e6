"""Hyperparameters that come with pg-agents: one `<algorithm>.yml` each, in rl_zoo3's schema."""
