"""Scores of models on text, on questions and on benchmark suites, and whether they differ by more than chance."""
