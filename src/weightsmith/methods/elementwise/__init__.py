"""Merge methods that decide element by element what of each model is kept."""
