"""Files: their safe writing, and the restrictions on their reading."""
