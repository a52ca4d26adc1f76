"""Texts to vectors: sentence encoders and the embedding cache."""
