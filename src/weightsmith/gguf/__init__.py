"""Models as GGUF files that llama.cpp runs."""
