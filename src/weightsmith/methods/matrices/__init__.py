"""Merge methods that look at a weight matrix as a whole: at singular values and spaces of its rows and columns."""
