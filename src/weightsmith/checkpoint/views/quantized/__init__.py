"""Quantized checkpoints, decoded for the blocks asked for: one file per format."""
