"""Readers fed with bytes that nobody would write: `make fuzz` looks for new ones, the tests run those that were kept."""
