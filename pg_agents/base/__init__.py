"""What `PolicyGradient` has beside its slots, one trade to a file."""
