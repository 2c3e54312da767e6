"""One module for each command of `pg-zoo`."""
