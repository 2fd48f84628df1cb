"""What was tried: options, and ideas that are not in the project."""
