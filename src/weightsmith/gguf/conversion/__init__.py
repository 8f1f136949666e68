"""Conversion to an unquantized GGUF file, by llama.cpp's own converter."""
