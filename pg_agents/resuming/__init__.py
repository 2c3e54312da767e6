"""Exact resuming: checkpoints from which an interrupted training goes on bit for bit."""
