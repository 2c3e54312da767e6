"""The compiled engine for MLP policies on the CPU."""
