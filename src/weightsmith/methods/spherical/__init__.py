"""Merge methods that go by angles: tensors, or task vectors, as points on a sphere."""
