"""Naming schemes: where each canonical tensor lies in a layout that models have been published in."""
