"""Stored results, and the statistics and findings from them."""
