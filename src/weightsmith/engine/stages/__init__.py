"""Recipes of several documents: each one's result is a model that others use."""
