"""Bytes on disk and on the hub: list the tensors of a checkpoint, read any range of one, write shards."""
