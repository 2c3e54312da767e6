"""Hyperparameters and the command line of pg-agents."""
