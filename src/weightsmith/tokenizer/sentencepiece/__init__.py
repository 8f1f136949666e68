"""tokenizer.model files, read and rebuilt."""
