"""The comparison of our PPO and A2C with SB3's own."""
