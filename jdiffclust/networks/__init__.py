"""Denoising networks, in Flax Linen."""
