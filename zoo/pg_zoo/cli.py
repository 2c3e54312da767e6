"""The `pg-zoo` command."""
