"""What models are given by text: collected by reading it with them, kept beside them."""
