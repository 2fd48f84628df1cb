"""The method cddpm: the mixture of conditional DDPMs."""
