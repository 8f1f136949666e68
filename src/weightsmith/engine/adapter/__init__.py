"""A merge whose result is a LoRA adapter on the base model."""
