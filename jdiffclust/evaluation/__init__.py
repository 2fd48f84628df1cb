"""Scores that compare the groups found with labels the fit never saw."""
