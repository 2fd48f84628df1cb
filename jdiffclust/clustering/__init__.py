"""Mixtures of diffusion models: the methods, and what they share."""
