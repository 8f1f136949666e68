"""Models seen through one naming: a reference becomes an opened model with its configuration."""
