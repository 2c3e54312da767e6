"""Gymnasium's classic control and toy text as worlds."""
