"""Blocks of tensors and the compiled loops over them. Arrays in, arrays out: nothing here knows of files or names."""
