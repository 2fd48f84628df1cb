"""Diffusion processes and samplers; knows nothing of clusters."""
