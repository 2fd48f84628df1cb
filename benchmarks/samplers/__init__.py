"""How good the samplers are, and whether they are right."""
