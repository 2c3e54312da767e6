"""The comparison of our algorithms with those of the same name in SB3 and sb3-contrib."""
