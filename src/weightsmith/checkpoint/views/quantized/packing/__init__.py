"""How codes and scales lie in tensors, whatever the format is called."""
