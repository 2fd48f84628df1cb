"""The method cluster_ddpm: a DDPM conditioned on latents of a Gaussian mixture."""
