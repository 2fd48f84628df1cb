"""The training loop, checkpoints, progress and metrics."""
