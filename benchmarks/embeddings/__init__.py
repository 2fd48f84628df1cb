"""Clusters by embeddings that other networks made of images."""
