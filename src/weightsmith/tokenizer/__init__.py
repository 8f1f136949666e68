"""Vocabularies and their alignment, tokenizer files, chat templates, tokenizers rebuilt from GGUF metadata."""
