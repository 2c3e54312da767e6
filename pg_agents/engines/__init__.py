"""Engines: they act for an agent, and turn a filled rollout buffer into an update of its parameters."""
