"""Exact resuming: checkpoints from which an interrupted training continues bit for bit."""
