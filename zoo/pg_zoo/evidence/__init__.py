"""Evidence for the zoo's entries, and the bundled agents."""
