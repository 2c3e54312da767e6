"""Trainings and evaluations: cells, grids of cells, backends that run them, and the provenance of results."""
