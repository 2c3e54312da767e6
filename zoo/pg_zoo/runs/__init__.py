"""Trainings: recipes, benchmark cells, and the folders that `pg-zoo train` writes."""
