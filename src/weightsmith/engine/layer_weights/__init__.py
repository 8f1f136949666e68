"""Weights for each layer, computed and written into a recipe."""
