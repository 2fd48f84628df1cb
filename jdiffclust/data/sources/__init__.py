"""Readers of images: a module for each kind of source."""
