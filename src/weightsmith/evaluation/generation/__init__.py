"""Answers, token by token, many at a time."""
