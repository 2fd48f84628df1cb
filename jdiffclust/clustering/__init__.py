"""The mixture of conditional DDPMs, its E-step and its M-step."""
