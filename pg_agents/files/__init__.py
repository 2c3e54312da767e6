"""Files: how they are written, and what is read from them."""
