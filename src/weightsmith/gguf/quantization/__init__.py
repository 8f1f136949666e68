"""Quantization by llama.cpp's own quantizer, and the importance matrices that it takes."""
