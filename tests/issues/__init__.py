"""One file for each bug that was found: what it was, and that it stays away."""
