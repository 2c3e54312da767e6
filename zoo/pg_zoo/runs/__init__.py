"""Trainings and evaluations: one cell, a grid of them, where they run and what made them."""
