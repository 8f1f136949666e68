"""Plans carried out: tensors in blocks, on threads, into an output that appears when it is whole."""
