"""How the starting partition is found, and how many clusters."""
