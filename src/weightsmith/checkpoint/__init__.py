"""Bytes on disk: list the tensors of a checkpoint, read any range of one, write shards."""
