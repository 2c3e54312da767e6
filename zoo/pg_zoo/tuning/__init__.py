"""The hyperparameter search of `pg-zoo tune`."""
