"""What models are, whether they fit together, and how far fine-tunes moved from their base."""
