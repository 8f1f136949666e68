"""What runs a model: llama.cpp a GGUF file, transformers everything else."""
