"""Restoring images: draws from p(x | y) of y = A x + sigma_y n, under any denoiser."""
