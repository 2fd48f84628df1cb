"""How well images are restored from what is seen of them."""
