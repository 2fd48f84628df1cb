"""Which method clusters images best: one table of ours and of others."""
