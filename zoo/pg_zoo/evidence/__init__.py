"""What the zoo's entries score, and the trained agents that come with it."""
