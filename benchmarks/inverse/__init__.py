"""How well images are restored."""
