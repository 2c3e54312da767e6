"""Hyperparameter files: reading, trust and writing."""
