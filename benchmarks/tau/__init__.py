"""How tau is estimated, and how tight the bound is that it is chosen by."""
